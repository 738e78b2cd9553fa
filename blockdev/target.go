package blockdev

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrProtected is wrapped by errors about a disk that must not be written, such
// as the boot medium or the image cache.
var ErrProtected = errors.New("disk is protected")

// OpenTarget opens the disk at path for writing after every check that comes
// before destroying data: it is the disk that expect names, it is none of the
// protected paths, it can be written, and nobody uses it. The errors wrap
// ErrMismatch, ErrProtected or ErrInUse.
func OpenTarget(path string, expect Identity, protected []string) (*Device, error) {
	info, err := Stat(path)
	if err != nil {
		return nil, err
	}
	if err := info.Match(expect); err != nil {
		return nil, err
	}
	for _, p := range protected {
		same, err := samePath(path, p)
		if err != nil {
			return nil, err
		}
		if same {
			return nil, fmt.Errorf("disk %s: %w", path, ErrProtected)
		}
	}
	if info.ReadOnly {
		return nil, fmt.Errorf("disk %s: %w: it is read-only", path, ErrProtected)
	}
	if err := CheckFree(path); err != nil {
		return nil, err
	}
	d, err := Open(path, true)
	if err != nil {
		return nil, err
	}
	// The path may have been replaced since it was compared.
	if err := d.Info.Match(expect); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// samePath reports whether two paths lead to one disk or file. A path that no
// longer exists protects nothing.
func samePath(a, b string) (bool, error) {
	sa, err := os.Stat(a)
	if err != nil {
		return false, fmt.Errorf("disk %s: %w", a, err)
	}
	sb, err := os.Stat(b)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("protected disk %s: %w", b, err)
	}
	if os.SameFile(sa, sb) {
		return true, nil
	}
	// Two nodes may have one device number.
	ra, oka := sa.Sys().(*syscall.Stat_t)
	rb, okb := sb.Sys().(*syscall.Stat_t)
	return oka && okb && sa.Mode()&os.ModeDevice != 0 && sb.Mode()&os.ModeDevice != 0 && ra.Rdev == rb.Rdev, nil
}
