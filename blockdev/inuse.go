package blockdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// ErrInUse is wrapped by errors about a disk that something holds.
var ErrInUse = errors.New("disk is in use")

// CheckFree returns nil when neither the disk at path nor one of its partitions
// is mounted, used as swap, or part of a device-mapper, MD or other device
// above it. Otherwise the error wraps ErrInUse and says by what. A plain file
// is free unless a loop device is backed by it.
func CheckFree(path string) error { return Sysfs{}.CheckFree(path) }

// CheckFree is like the function CheckFree, reading below s.Root.
func (s Sysfs) CheckFree(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	if st.Mode().IsRegular() {
		return s.checkLoop(path)
	}
	dir, err := sysDir(s, st.Sys())
	if err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	numbers := map[string]string{attr(filepath.Join(dir, "dev")): filepath.Base(dir)}
	holders := []string{filepath.Join(dir, "holders")}
	parts, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
	if err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	for _, p := range parts {
		part := filepath.Dir(p)
		numbers[attr(filepath.Join(part, "dev"))] = filepath.Base(part)
		holders = append(holders, filepath.Join(part, "holders"))
	}
	for _, h := range holders {
		entries, err := os.ReadDir(h)
		if err == nil && len(entries) > 0 {
			return fmt.Errorf("disk %s: held by %s: %w", path, entries[0].Name(), ErrInUse)
		}
	}
	return s.checkMounts(path, numbers)
}

func (s Sysfs) checkMounts(path string, numbers map[string]string) error {
	f, err := os.Open(s.path("proc/self/mountinfo"))
	if err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, nil)
	if err != nil {
		return fmt.Errorf("disk %s: mount table: %w", path, err)
	}
	for _, m := range mounts {
		if name, ok := numbers[fmt.Sprintf("%d:%d", m.Major, m.Minor)]; ok {
			return fmt.Errorf("disk %s: %s is mounted on %s: %w", path, name, m.Mountpoint, ErrInUse)
		}
	}
	swaps, err := os.ReadFile(s.path("proc/swaps"))
	if err != nil {
		return nil // a kernel without swap has no such file
	}
	for line := range strings.Lines(string(swaps)) {
		dev, _, _ := strings.Cut(line, " ")
		var st unix.Stat_t
		if !strings.HasPrefix(dev, "/") || unix.Stat(dev, &st) != nil {
			continue
		}
		if name, ok := numbers[fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))]; ok {
			return fmt.Errorf("disk %s: %s is swap space: %w", path, name, ErrInUse)
		}
	}
	return nil
}

func (s Sysfs) checkLoop(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	backing, err := filepath.Glob(s.path("sys/class/block/loop*/loop/backing_file"))
	if err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	for _, b := range backing {
		if attr(b) == abs {
			return fmt.Errorf("disk %s: backs %s: %w", path, filepath.Base(filepath.Dir(filepath.Dir(b))), ErrInUse)
		}
	}
	return nil
}
