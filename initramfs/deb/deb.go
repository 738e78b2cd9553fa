// Package deb unpacks Debian packages, deb(5): an ar archive that holds
// debian-binary, control.tar.* and data.tar.*.
//
// Only regular files and symbolic links of the data are unpacked, without
// owners or special modes: what a builder that never runs the package needs.
package deb

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	"github.com/teeth-metal/teeth/internal/ar"
)

const maxDict = 128 << 20 // memory of the decompressor; dpkg uses 8 MiB, Ubuntu's zstd 128

// Unpack writes the files of the package r that keep wants below dir, which it
// creates. keep is given clean relative paths ("lib/modules/…"); nil keeps all.
//
// No path and no link of the package leads out of dir, and its unpacked data is
// at most limit bytes. On error dir may hold a part of the files.
func Unpack(ctx context.Context, r io.Reader, dir string, limit int64, keep func(name string) bool) error {
	data, err := dataMember(r)
	if err != nil {
		return fmt.Errorf("not a Debian package: %w", err)
	}
	defer data.Close()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	limited := &limitedReader{r: data, left: limit}
	tr := tar.NewReader(limited)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read Debian package: %w", err)
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		if !fs.ValidPath(name) {
			return fmt.Errorf("package has a file %q outside of its root", h.Name)
		}
		if keep != nil && !keep(name) {
			continue
		}
		if err := unpackEntry(root, name, h, tr); err != nil {
			return fmt.Errorf("unpack %s to %s: %w", name, dir, err)
		}
	}
}

func unpackEntry(root *os.Root, name string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeLink, tar.TypeSymlink:
	default:
		return nil // directories come with their files; devices are none of ours
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(path.Clean(strings.TrimPrefix(h.Linkname, "./")), name)
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, r)
	if err == nil && n != h.Size {
		err = io.ErrUnexpectedEOF
	}
	return errors.Join(err, f.Close())
}

// dataMember reads r up to the member data.tar.* and returns it unpacked.
func dataMember(r io.Reader) (io.ReadCloser, error) {
	magic := make([]byte, len(ar.Magic))
	if _, err := io.ReadFull(r, magic); err != nil {
		return nil, err
	}
	if string(magic) != ar.Magic {
		return nil, errors.New("no ar archive")
	}
	for first := true; ; first = false {
		name, size, err := arHeader(r)
		if err != nil {
			return nil, err
		}
		if first && name != "debian-binary" {
			return nil, fmt.Errorf("first member is %q, not debian-binary", name)
		}
		if comp, ok := strings.CutPrefix(name, "data.tar"); ok {
			return decompress(comp, io.LimitReader(r, size))
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, fmt.Errorf("member %s: %w", name, err)
		}
	}
}

// arHeader reads what is in front of a member.
func arHeader(r io.Reader) (name string, size int64, err error) {
	var h [ar.HeaderLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return "", 0, fmt.Errorf("no data.tar member: %w", err)
	}
	return ar.Header(h)
}

func decompress(suffix string, r io.Reader) (io.ReadCloser, error) {
	switch suffix {
	case "":
		return io.NopCloser(r), nil
	case ".gz":
		return gzip.NewReader(r)
	case ".xz":
		x, err := xz.NewReader(r, maxDict)
		return io.NopCloser(x), err
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxDict))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("data.tar%s: unknown compression", suffix)
}

// limitedReader fails, rather than ends, when more than left bytes are read.
type limitedReader struct {
	r    io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errors.New("unpacked data is larger than expected")
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	return n, err
}
