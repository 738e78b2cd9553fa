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
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

const (
	maxFiles    = 100_000
	maxManifest = 32 << 20
	// maxKey bounds files other than the database and images: keys, tokens.
	maxKey = 1 << 20
	// part is the folder in which a data directory grows until all of it is verified.
	part = ".restore"
)

// Check reads a backup to its end and reports whether it is whole.
func Check(ctx context.Context, r io.Reader) (Manifest, error) {
	return read(ctx, r, func(string, int64) (io.WriteCloser, error) { return nowhere{}, nil })
}

type nowhere struct{}

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) Close() error                { return nil }

// Restore makes a data directory from a backup. The directory must be empty or
// absent. Nothing is in it, but a hidden folder, before all of the backup has been
// read and found whole. Files belong to the owner of the directory.
func Restore(ctx context.Context, r io.Reader, dir string) (m Manifest, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return m, fmt.Errorf("restore: %w", err)
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return m, fmt.Errorf("restore: %w", err)
	}
	if len(there) > 0 {
		return m, fmt.Errorf("restore to %s: it is not empty (%s): move what is there away first", dir, there[0].Name())
	}
	temp := filepath.Join(dir, part)
	if err := os.Mkdir(temp, 0o700); err != nil {
		return m, fmt.Errorf("restore: %w", err)
	}
	defer os.RemoveAll(temp)
	folders := map[string]bool{}
	m, err = read(ctx, r, func(name string, size int64) (io.WriteCloser, error) {
		if free, err := room(temp); err != nil {
			return nil, err
		} else if size > free {
			return nil, fmt.Errorf("it is %d bytes long and %s has %d free: restore to a larger disk", size, dir, free)
		}
		path := filepath.Join(temp, filepath.FromSlash(name)) // of two components at most, neither ".."
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		folders[filepath.Dir(path)] = true
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		return durable{f}, nil
	})
	if err != nil {
		return m, err
	}
	folders[temp] = true
	for folder := range folders {
		if err := sync(folder); err != nil {
			return m, fmt.Errorf("restore: %w", err)
		}
	}
	if err := own(dir); err != nil {
		return m, fmt.Errorf("restore: %w", err)
	}
	ready, err := os.ReadDir(temp)
	if err != nil {
		return m, fmt.Errorf("restore: %w", err)
	}
	for _, e := range ready {
		if err := os.Rename(filepath.Join(temp, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return m, fmt.Errorf("restore: %w", err)
		}
	}
	return m, sync(dir)
}

// own gives what is in a directory to the directory's owner, if root may: the
// server mostly is another user.
func own(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	uid, gid, err := owner(dir)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

// durable is a file that is on disk when it is closed.
type durable struct{ *os.File }

func (d durable) Close() error { return errors.Join(d.Sync(), d.File.Close()) }

func sync(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// read reads a backup, of which nothing is trusted, gives each file to a writer,
// and compares them with the manifest.
func read(ctx context.Context, r io.Reader, create func(name string, size int64) (io.WriteCloser, error)) (m Manifest, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("backup: %w", err)
		}
	}()
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return m, err
	}
	defer z.Close()
	t := tar.NewReader(z)
	var files []File
	seen := map[string]bool{}
	for {
		if err := ctx.Err(); err != nil {
			return m, err
		}
		h, err := t.Next()
		if err == io.EOF {
			return m, errors.New("it ends before its manifest: it was cut off while it was made")
		}
		if err != nil {
			return m, err
		}
		switch {
		case h.Typeflag != tar.TypeReg:
			return m, fmt.Errorf("%.80q is not a plain file", h.Name)
		case sparse(h):
			return m, fmt.Errorf("%.80q is a file of holes, which no backup has", h.Name)
		case !nameAllowed(h.Name) || private(h.Name) && h.Name != Database:
			return m, fmt.Errorf("a file of the name %.80q is no part of one", h.Name)
		case seen[h.Name]:
			return m, fmt.Errorf("%s is there twice", h.Name)
		case len(files) >= maxFiles:
			return m, fmt.Errorf("it holds more than %d files", maxFiles)
		case h.Name == manifestName:
			return m, manifest(t, h.Size, &m, files)
		case h.Name != Database && !strings.HasPrefix(h.Name, Images+"/") && h.Size > maxKey:
			return m, fmt.Errorf("%s: %d bytes long, at most %d are allowed", h.Name, h.Size, maxKey)
		}
		seen[h.Name] = true
		f := File{Name: h.Name, Size: h.Size}
		if f.SHA256, err = extract(ctx, t, h, create); err != nil {
			return m, fmt.Errorf("%s: %w", h.Name, err)
		}
		files = append(files, f)
	}
}

// sparse reports whether an entry may be longer than what is in the archive.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// room is how many bytes can be written to a folder's file system.
func room(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(min(st.Bavail, uint64(math.MaxInt64)/uint64(st.Bsize)) * uint64(st.Bsize)), nil
}

func extract(ctx context.Context, t *tar.Reader, h *tar.Header, create func(name string, size int64) (io.WriteCloser, error)) (digest string, err error) {
	out, err := create(h.Name, h.Size)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), &cancellable{ctx, t})
	if err == nil && n != h.Size {
		err = fmt.Errorf("%d of %d bytes", n, h.Size)
	}
	return hex.EncodeToString(sum.Sum(nil)), err
}

type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancellable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// manifest reads the manifest, which is the last entry.
func manifest(t *tar.Reader, size int64, m *Manifest, files []File) error {
	if size > maxManifest {
		return fmt.Errorf("its manifest is %d bytes long, at most %d are allowed", size, maxManifest)
	}
	b, err := io.ReadAll(t)
	if err != nil {
		return fmt.Errorf("its manifest: %w", err)
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(m); err != nil {
		return fmt.Errorf("its manifest: %w", err)
	}
	if _, err := t.Next(); err != io.EOF {
		return errors.New("it goes on after its manifest")
	}
	return m.same(files)
}
