// Package backup copies a control plane's data directory into one file, while the
// server runs, and back.
//
// The file is a tar archive compressed with Zstandard: the database as it was at
// one moment, the keys and tokens, the images if wanted, and at the end a manifest
// with the SHA-256 of each. A file without its manifest was cut off. It holds
// everything by which the control plane proves who it is, so it is to be kept as
// safe as the data directory.
package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	// Database is the file that the database is in, here and in the data directory.
	Database = "teeth.db"
	// Records is the file in the data directory that logs, telemetry and commands are in.
	// It is no part of a backup: it may be a hundred times as large as all the rest.
	Records = "records.db"
	// Images is the folder of image files, here and in the data directory.
	Images = "images"

	manifestName = "manifest.json"
	snapshot     = ".backup-"
)

// Manifest says what a backup holds.
type Manifest struct {
	Format   int       `json:"format"`  // 1
	Version  string    `json:"version"` // of the server's software
	Created  time.Time `json:"created"`
	Database string    `json:"database"` // "sqlite", or why there is none
	Images   bool      `json:"images"`   // whether they are part of it
	Records  string    `json:"records"`  // where logs, telemetry and commands are, which are no part of it
	Files    []File    `json:"files"`
}

// File is one file of a backup.
type File struct {
	Name   string `json:"name"` // with slashes
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Source is what a backup is made of.
type Source struct {
	Dir     string                                       // the data directory
	Version string                                       // of the server's software
	Save    func(ctx context.Context, path string) error // copies the database to a new file; nil: it is kept elsewhere
	NoSave  string                                       // why Save is nil, for the manifest
	Images  bool                                         // with the image files
	Records string                                       // where logs, telemetry and commands are, for the manifest
	Others  []string                                     // files in Dir of other databases, which are no part of it
}

// private are files of the data directory that belong to the server that runs there,
// or are made anew when one starts.
func private(name string) bool {
	return name == "lock" || name == "client.json" || name == Images || strings.HasPrefix(name, ".") || ofDatabase(name, Database) || ofDatabase(name, Records)
}

// ofDatabase reports whether a file is one of a SQLite database's: to read them one
// after the other while it is written gives none.
func ofDatabase(name, database string) bool { return strings.HasPrefix(name, database) }

// Clean removes what a backup that was killed has left in a data directory.
func Clean(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, snapshot+"*"))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// Write writes a backup to w. If it fails, what w has got is no backup.
func Write(ctx context.Context, w io.Writer, src Source) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("back up %s: %w", src.Dir, err)
		}
	}()
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	a := &archive{ctx: ctx, tar: tar.NewWriter(z), others: src.Others}
	a.manifest = Manifest{Format: 1, Version: src.Version, Created: time.Now().UTC(), Database: src.NoSave, Images: src.Images, Records: src.Records}
	if src.Save != nil {
		a.manifest.Database = "sqlite"
		if err := a.addDatabase(src); err != nil {
			return err
		}
	}
	// The files are read after the database: one that it speaks of is there, unless
	// it was removed meanwhile.
	if err := a.addFolder(src.Dir, ""); err != nil {
		return err
	}
	if src.Images {
		if err := a.addFolder(filepath.Join(src.Dir, Images), Images+"/"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	b, err := json.MarshalIndent(a.manifest, "", "\t")
	if err != nil {
		return err
	}
	if _, err := a.entry(manifestName, int64(len(b)), bytes.NewReader(b)); err != nil {
		return err
	}
	return errors.Join(a.tar.Close(), z.Close())
}

type archive struct {
	ctx      context.Context
	tar      *tar.Writer
	others   []string
	manifest Manifest
}

func (a *archive) addDatabase(src Source) error {
	// Beside the database, where there is room for one, if anywhere, and nobody
	// else may read.
	path := filepath.Join(src.Dir, fmt.Sprintf("%s%d", snapshot, time.Now().UnixNano()))
	defer os.Remove(path)
	if err := src.Save(a.ctx, path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	os.Remove(path) // its blocks last as long as it is open
	return a.add(Database, f)
}

// addFolder adds the plain files of a folder, not of those within.
func (a *archive) addFolder(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || private(e.Name()) || !nameAllowed(prefix+e.Name()) ||
			prefix == "" && slices.ContainsFunc(a.others, func(db string) bool { return ofDatabase(e.Name(), db) }) {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // an image that was removed just now
		}
		if err != nil {
			return err
		}
		err = a.add(prefix+e.Name(), f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) add(name string, f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	digest, err := a.entry(name, st.Size(), f)
	if err != nil {
		return err
	}
	a.manifest.Files = append(a.manifest.Files, File{Name: name, Size: st.Size(), SHA256: digest})
	return nil
}

func (a *archive) entry(name string, size int64, r io.Reader) (digest string, err error) {
	if err := a.ctx.Err(); err != nil {
		return "", err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: a.manifest.Created, Format: tar.FormatPAX}
	if err := a.tar.WriteHeader(h); err != nil {
		return "", err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(a.tar, sum), io.LimitReader(r, size))
	if err == nil && n != size {
		err = fmt.Errorf("became shorter while it was read: %d of %d bytes", n, size)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// nameAllowed reports whether a backup may hold a file of this name.
func nameAllowed(name string) bool {
	base := strings.TrimPrefix(name, Images+"/")
	if base == "" || len(base) > 200 || base[0] == '.' || base != name && private(base) {
		return false
	}
	return !strings.ContainsFunc(base, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	})
}

// same reports whether what was read is what the manifest says, and all of it.
func (m Manifest) same(read []File) error {
	if m.Format != 1 {
		return fmt.Errorf("its format is %d, this program knows 1", m.Format)
	}
	named := make(map[string]File, len(read))
	for _, f := range read {
		named[f.Name] = f
	}
	for _, f := range m.Files {
		r, ok := named[f.Name]
		switch {
		case !ok:
			return fmt.Errorf("%.200q is missing, or named twice", f.Name)
		case r != f:
			return fmt.Errorf("%s is not what was backed up: its SHA-256 is %s, expected %.64q", f.Name, r.SHA256, f.SHA256)
		}
		delete(named, f.Name)
	}
	if len(named) > 0 {
		return fmt.Errorf("it holds %d files that its manifest does not name", len(named))
	}
	return nil
}
