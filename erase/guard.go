package erase

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/teeth-metal/teeth/blockdev"
)

// open opens the disk at path for erasing if nothing speaks against it, and
// notes in r which disk it is.
func open(path string, opt Options, r *Report) (*blockdev.Device, error) {
	refuse := func(err error) (*blockdev.Device, error) {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	info, err := blockdev.Stat(path)
	if err != nil {
		return refuse(err)
	}
	r.Disk = info
	switch {
	case info.Parent != "":
		err = fmt.Errorf("disk %s: a partition of %s; name the whole disk", path, info.Parent)
	case info.Size == 0:
		err = fmt.Errorf("disk %s: its size is zero, there is no medium", path)
	case info.ReadOnly:
		err = fmt.Errorf("disk %s: read-only", path)
	case opt.Expect.IsZero() && !opt.AnyDisk:
		err = fmt.Errorf("disk %s: the command names no disk; give its serial number, WWN or size", path)
	default:
		err = info.Match(opt.Expect)
	}
	if err != nil {
		return refuse(err)
	}
	for _, p := range opt.Protected {
		same, err := sameDisk(path, info, p)
		if err != nil {
			return refuse(fmt.Errorf("disk %s: whether it is the protected disk %s: %w", path, p, err))
		}
		if same {
			return refuse(fmt.Errorf("disk %s: protected (%s)", path, p))
		}
	}
	if err := blockdev.CheckFree(path); err != nil {
		return refuse(err)
	}
	dev, err := blockdev.Open(path, true)
	if err != nil {
		return refuse(err)
	}
	// Open looked again; a disk swapped for another since the checks shows here.
	if dev.Info != info {
		dev.Close()
		return refuse(fmt.Errorf("disk %s: changed while it was opened: %w", path, blockdev.ErrMismatch))
	}
	return dev, nil
}

// sameDisk reports whether protected is the disk at path, a partition of it or,
// for plain files, the same file.
func sameDisk(path string, info blockdev.Info, protected string) (bool, error) {
	st, err := os.Stat(protected)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Transport == blockdev.File {
		own, err := os.Stat(path)
		if err != nil {
			return false, err
		}
		return os.SameFile(own, st), nil
	}
	if st.Mode().IsRegular() {
		return false, nil
	}
	other, err := blockdev.Stat(protected)
	if err != nil {
		return false, err
	}
	return other.Name == info.Name || other.Parent == info.Name, nil
}
