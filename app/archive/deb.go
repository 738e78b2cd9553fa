package archive

import (
	"archive/tar"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/teeth-metal/teeth/internal/ar"
)

// maxControl bounds the file control, and what precedes it.
const maxControl = 1 << 20 // bytes

// openDeb reads an archive of debian-binary, control.tar.* and data.tar.*, in this
// order, other members whose names begin with _ aside.
func (a *Reader) openDeb(r io.ReaderAt, size int64) error {
	var control, data *io.SectionReader
	for off, n := int64(len(ar.Magic)), 0; data == nil; n++ {
		name, length, err := arHeader(r, off)
		if err != nil {
			return fmt.Errorf("%w: deb: %w", ErrFormat, err)
		}
		off += ar.HeaderLen
		if length > size-off {
			return fmt.Errorf("%w: deb: member %.16q of %d bytes, and the file ends after %d", ErrFormat, name, length, size-off)
		}
		member := io.NewSectionReader(r, off, length)
		switch {
		case n == 0:
			version := make([]byte, 2)
			if _, err := io.ReadFull(member, version); name != "debian-binary" || err != nil || string(version) != "2." {
				return fmt.Errorf("%w: an ar archive, but not a Debian package of version 2", ErrFormat)
			}
		case strings.HasPrefix(name, "control.tar") && control == nil:
			control = member
		case strings.HasPrefix(name, "data.tar") && control != nil:
			data = member
		case strings.HasPrefix(name, "_"):
		default:
			return fmt.Errorf("%w: deb: unexpected member %.16q", ErrFormat, name)
		}
		if n > 16 {
			return fmt.Errorf("%w: deb: more than 16 members", ErrFormat)
		}
		off += length + length%2
	}
	if err := a.control(control); err != nil {
		return err
	}
	z, err := a.decompress(data)
	if err != nil {
		return err
	}
	return a.tar(z)
}

// arHeader reads what is in front of a member.
func arHeader(r io.ReaderAt, off int64) (name string, size int64, err error) {
	var h [ar.HeaderLen]byte
	if _, err := r.ReadAt(h[:], off); err != nil {
		return "", 0, fmt.Errorf("no data.tar member: %w", unexpected(err))
	}
	return ar.Header(h)
}

// control reads the fields of deb-control(5) that matter.
func (a *Reader) control(r io.Reader) error {
	z, err := a.decompress(r)
	if err != nil {
		return fmt.Errorf("deb: control: %w", err)
	}
	tr := tar.NewReader(io.LimitReader(z, maxControl))
	for {
		h, err := tr.Next()
		if err != nil {
			return fmt.Errorf("%w: deb: control: %w", ErrFormat, unexpected(err))
		}
		if name, err := cleanName(h.Name); err != nil || name != "control" {
			continue
		}
		if h.Size > maxControl {
			return fmt.Errorf("%w: deb: control has %d bytes", ErrFormat, h.Size)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			return fmt.Errorf("%w: deb: control: %w", ErrFormat, unexpected(err))
		}
		a.fields(string(text))
		if a.Name == "" || a.Version == "" || a.Arch == "" {
			return fmt.Errorf("%w: deb: control lacks Package, Version or Architecture", ErrFormat)
		}
		return nil
	}
}

func (a *Reader) fields(text string) {
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(line, ":")
		v = strings.TrimSpace(v)
		switch strings.ToLower(k) {
		case "package":
			a.Name = v
		case "version":
			a.Version = v
		case "architecture":
			a.Arch = v
		case "installed-size": // KiB
			if n, err := strconv.ParseInt(v, 10, 64); err == nil && n > 0 && n <= math.MaxInt64>>10 {
				a.Installed = n << 10
			}
		}
	}
}
