// Package archive reads the packages that apps come in, rpm, deb and tar, as one
// stream of entries, and unpacks it into a directory.
//
// A package is hostile until proven otherwise: every length in it is checked before
// anything of that size is allocated, the bytes and entries of what it unpacks to are
// bounded, names that lead out of the directory are refused, and special files are
// left out.
package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/teeth-metal/teeth/internal/ar"
)

// Format is the kind of a package.
type Format string

// The formats known. A tar may be plain or compressed by gzip, zstd, xz or bzip2.
const (
	RPM Format = "rpm" // lead, signature, header, cpio: versions 3 and 4
	Deb Format = "deb" // deb(5), 2.x
	Tar Format = "tar"
)

// ErrFormat is wrapped by errors about a file that is not a package, or a broken one.
var ErrFormat = errors.New("not a valid package")

// Kind is what an entry is.
type Kind int

// Kinds of entries. Others (devices, pipes, sockets) are left out and counted by
// Reader.Special.
const (
	File Kind = iota
	Dir
	Symlink
	HardLink // to an earlier entry
)

// Entry is a file of a package.
type Entry struct {
	Name string // relative, clean, with /
	Kind Kind
	Perm fs.FileMode // the permission bits; setuid, setgid and sticky are dropped
	Size int64       // of a File, bytes; as declared, until it was read
	// Target of a Symlink as it is, which may lead anywhere; of a HardLink a clean
	// relative name.
	Target string
}

// maxName bounds names and targets, in bytes: PATH_MAX.
const maxName = 4096

// Reader is a stream of entries. It is not safe for concurrent use.
type Reader struct {
	Format Format
	// What the package says about itself; empty in a tar.
	Name, Version, Arch string
	// Installed is how many bytes the package says it unpacks to; 0 unknown.
	Installed int64
	// Special is how many special files were left out so far.
	Special int

	ctx  context.Context
	max  Bounds
	next func() (Entry, error)
	data io.Reader
	done []func() error
}

// Bounds of what a package may unpack to.
type Bounds struct {
	Bytes   int64 // of all files, in whole pages of 4096
	Entries int
}

// ErrTooLarge is wrapped by errors about a package that exceeds its Bounds.
var ErrTooLarge = errors.New("package unpacks to more than it may")

// New opens the package in r, whose size is in bytes. What it is, its contents decide.
// Digests in an rpm's headers are verified here, which reads all of it. Reading ends
// with ctx.
func New(ctx context.Context, r io.ReaderAt, size int64, max Bounds) (*Reader, error) {
	head := make([]byte, 8)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read package: %w", err)
	}
	head = head[:n]
	a := &Reader{ctx: ctx, max: max}
	switch {
	case strings.HasPrefix(string(head), rpmMagic):
		a.Format, err = RPM, a.openRPM(r, size)
	case string(head) == ar.Magic:
		a.Format, err = Deb, a.openDeb(r, size)
	default:
		a.Format, err = Tar, a.openTar(io.NewSectionReader(r, 0, size))
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// Next goes to the next entry; io.EOF is the regular end, after all checks that the
// format has.
func (a *Reader) Next() (Entry, error) { return a.next() }

// Read reads the contents of the current File.
func (a *Reader) Read(b []byte) (int, error) {
	n, err := a.data.Read(b)
	if err == io.ErrUnexpectedEOF {
		err = fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return n, err
}

// Close releases decompressors; the file remains the caller's.
func (a *Reader) Close() error {
	var errs []error
	for _, f := range a.done {
		errs = append(errs, f())
	}
	a.done = nil
	return errors.Join(errs...)
}

func (a *Reader) openTar(r io.Reader) error {
	z, err := a.decompress(r)
	if err != nil {
		return err
	}
	return a.tar(z)
}

// tar makes the entries those of an uncompressed tar.
func (a *Reader) tar(r io.Reader) error {
	tr := tar.NewReader(r)
	first := true
	a.data = tr
	a.next = func() (Entry, error) {
		for {
			h, err := tr.Next()
			if err == io.EOF {
				if first {
					return Entry{}, fmt.Errorf("%w: it is neither rpm nor deb, and as a tar it is empty", ErrFormat)
				}
				// What follows the end must still be sound: a decompressor's
				// checksum is there.
				if _, err := io.Copy(io.Discard, r); err != nil {
					return Entry{}, fmt.Errorf("%w: %w", ErrFormat, err)
				}
				return Entry{}, io.EOF
			}
			if err != nil {
				if first {
					return Entry{}, fmt.Errorf("%w: it is none of rpm, deb, tar (plain, gzip, zstd, xz, bzip2): %w", ErrFormat, unexpected(err))
				}
				return Entry{}, fmt.Errorf("%w: tar: %w", ErrFormat, unexpected(err))
			}
			first = false
			e, err := tarEntry(h)
			if err == errSpecial {
				a.Special++
				continue
			}
			if e.Name == "." && err == nil {
				continue
			}
			return e, err
		}
	}
	return nil
}

// errSpecial says that an entry is a special file.
var errSpecial = errors.New("special file")

func tarEntry(h *tar.Header) (Entry, error) {
	name, err := cleanName(h.Name)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Name: name, Perm: fs.FileMode(h.Mode) & fs.ModePerm}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		e.Kind, e.Size = File, h.Size
	case tar.TypeDir:
		e.Kind = Dir
	case tar.TypeSymlink:
		e.Kind, e.Target = Symlink, h.Linkname
		return e, checkTarget(name, h.Linkname)
	case tar.TypeLink:
		e.Kind = HardLink
		if e.Target, err = cleanName(h.Linkname); err != nil {
			return Entry{}, err
		}
	default:
		return e, errSpecial
	}
	return e, nil
}

// cleanName makes the name of an entry relative. One that could mean another place
// than it shows is refused, rather than mended.
func cleanName(s string) (string, error) {
	bad := func(why string) (string, error) {
		return "", fmt.Errorf("%w: file name %.200q %s", ErrFormat, s, why)
	}
	switch {
	case len(s) > maxName:
		return bad("is too long")
	case strings.ContainsRune(s, 0):
		return bad("has a NUL")
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == ".." {
			return bad("leads out of its directory")
		}
		if len(part) > 255 {
			return bad("has too long a part")
		}
	}
	return path.Clean(strings.TrimLeft(path.Clean("/"+s), "/")), nil
}

func checkTarget(name, target string) error {
	if target == "" || len(target) > maxName || strings.ContainsRune(target, 0) {
		return fmt.Errorf("%w: symbolic link %.200q has a bad target", ErrFormat, name)
	}
	return nil
}

// stream is what a decompressor gives, with an end to the work that a small package
// can make: skipping over what nobody wants takes time, too.
type stream struct {
	io.Reader
	ctx  context.Context
	left int64
}

func (s *stream) Read(b []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	if s.left <= 0 {
		return 0, fmt.Errorf("%w: its archive is longer than all of its files may be", ErrTooLarge)
	}
	n, err := s.Reader.Read(b[:min(int64(len(b)), s.left)])
	s.left -= int64(n)
	return n, err
}

// unexpected turns the end of a file where more must come into an error that nobody
// takes for success.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
