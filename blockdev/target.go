package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// ErrProtected is wrapped by errors about a disk that must not be written, such
// as the boot medium or the image cache.
var ErrProtected = errors.New("disk is protected")

// OpenTarget opens the whole disk or plain file at path for writing after every
// check that comes before destroying data: it is the disk that expect names, it
// is on none of the protected paths (disks, partitions of disks or files; one
// that does not exist protects nothing), it can be written, and nobody uses it.
// The errors wrap ErrMismatch, ErrProtected or ErrInUse.
func OpenTarget(path string, expect Identity, protected []string) (*Device, error) {
	info, err := Stat(path)
	if err != nil {
		return nil, err
	}
	switch {
	case info.Parent != "":
		return nil, fmt.Errorf("disk %s: a partition of %s, name the whole disk: %w", path, info.Parent, ErrMismatch)
	case info.Size == 0:
		return nil, fmt.Errorf("disk %s: its size is zero, there is no medium", path)
	}
	if err := info.Match(expect); err != nil {
		return nil, err
	}
	for _, p := range protected {
		same, err := info.on(p)
		if err != nil {
			return nil, fmt.Errorf("disk %s: whether it is the protected disk %s: %w", path, p, err)
		}
		if same {
			return nil, fmt.Errorf("disk %s: %w (%s)", path, ErrProtected, p)
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
	// The path may have come to mean another disk since the checks.
	if d.Info != info {
		d.Close()
		return nil, fmt.Errorf("disk %s: changed while it was opened: %w", path, ErrMismatch)
	}
	return d, nil
}

// on reports whether the path other leads to the whole disk or plain file i, or
// to a partition of it. Disks are compared by device number, since several nodes
// may have the same.
func (i Info) on(other string) (bool, error) {
	st, err := os.Stat(other)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if i.Transport == File {
		own, err := os.Stat(i.Path)
		if err != nil {
			return false, err
		}
		return os.SameFile(own, st), nil
	}
	if st.Mode().IsRegular() {
		return false, nil
	}
	o, err := Stat(other)
	if err != nil {
		return false, err
	}
	return o.Name == i.Name || o.Parent == i.Name, nil
}
