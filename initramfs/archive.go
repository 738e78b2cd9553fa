package initramfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"runtime/debug"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

// archive collects the entries of one cpio archive. Nothing of the file system
// it is built on gets in: modes are what add is told, owner is root, times are
// zero, order is by name.
type archive struct {
	records map[string]cpio.Record
	sums    map[string]string // content, hex SHA-256
	bytes   int64             // content of the regular files
}

func newArchive() *archive {
	a := &archive{records: make(map[string]cpio.Record), sums: make(map[string]string)}
	// The kernel gives "/" the mode of this record.
	a.records["."] = cpio.Directory(".", 0o755)
	return a
}

// add puts in a record and the directories it needs. Adding a name twice is an
// error: the kernel would unpack both, and one of them for nothing.
func (a *archive) add(r cpio.Record, sum string) error {
	if !fs.ValidPath(r.Name) || r.Name == "." {
		return fmt.Errorf("image entry %q: not a clean relative path", r.Name)
	}
	if _, ok := a.records[r.Name]; ok {
		return fmt.Errorf("image entry %s: there twice", r.Name)
	}
	for dir := path.Dir(r.Name); dir != "."; dir = path.Dir(dir) {
		if p, ok := a.records[dir]; !ok {
			a.records[dir] = cpio.Directory(dir, 0o755)
		} else if p.Mode&cpio.S_IFMT != cpio.S_IFDIR {
			return fmt.Errorf("image entry %s: %s is no directory", r.Name, dir)
		}
	}
	r.NLink = 1
	a.records[r.Name] = r
	a.sums[r.Name] = sum
	if r.Mode&cpio.S_IFMT == cpio.S_IFREG {
		a.bytes += int64(r.FileSize)
	}
	return nil
}

// file adds a regular file and returns what the manifest says about it.
func (a *archive) file(name string, content []byte, perm uint64) (File, error) {
	f := fileOf(name, content)
	return f, a.add(cpio.StaticFile(name, string(content), perm), f.SHA256)
}

func (a *archive) dir(name string, perm uint64) error {
	return a.add(cpio.Directory(name, perm), "")
}

func (a *archive) symlink(name, target string) error {
	return a.add(cpio.Symlink(name, target), target)
}

func (a *archive) has(name string) bool {
	_, ok := a.records[name]
	return ok
}

// names are in the order of writing: parents before children. "." sorts before
// every other name but hidden ones, which start with the same byte, after it.
func (a *archive) names() []string { return slices.Sorted(maps.Keys(a.records)) }

// key identifies the bytes that write will give: the same input to the same
// version of the compressor.
func (a *archive) key() string {
	h := sha256.New()
	fmt.Fprintln(h, "newc, zstd best, 1,", compressorVersion())
	for _, name := range a.names() {
		r := a.records[name]
		fmt.Fprintf(h, "%q %o %d %d %d %q\n", name, r.Mode, r.Rmajor, r.Rminor, r.FileSize, a.sums[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// compressorVersion is that of the module of package zstd in this program.
func compressorVersion() string {
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, m := range bi.Deps {
			if m.Path == "github.com/klauspost/compress" {
				return m.Version + " " + m.Sum
			}
		}
	}
	return "unknown"
}

// write writes the archive as one zstd frame.
func (a *archive) write(ctx context.Context, w io.Writer) error {
	z, err := zstd.NewWriter(w,
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1)) // more would make the bytes depend on timing
	if err != nil {
		return err
	}
	rw := cpio.Newc.Writer(z)
	for _, name := range a.names() {
		if err := ctx.Err(); err != nil {
			return errors.Join(err, z.Close())
		}
		if err := rw.WriteRecord(a.records[name]); err != nil {
			return errors.Join(fmt.Errorf("write image entry %s: %w", name, err), z.Close())
		}
	}
	if err := cpio.WriteTrailer(rw); err != nil {
		return errors.Join(err, z.Close())
	}
	return z.Close()
}

func fileOf(name string, content []byte) File {
	sum := sha256.Sum256(content)
	return File{Name: name, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
}

// compressed is write into memory.
func (a *archive) compressed(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	err := a.write(ctx, &b)
	return b.Bytes(), err
}
