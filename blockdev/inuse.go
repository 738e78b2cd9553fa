package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
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
		file, ok := st.Sys().(*unixStat)
		if !ok {
			return fmt.Errorf("disk %s: no inode number", path)
		}
		return s.checkLoop(path, func(st *unixStat) bool { return st.Dev == file.Dev && st.Ino == file.Ino })
	}
	dir, err := sysDir(s, st.Sys())
	if err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	return s.checkDir(path, dir)
}

// checkDir checks the disk or partition whose sysfs directory is dir.
func (s Sysfs) checkDir(path, dir string) error {
	devs := devices{attr(filepath.Join(dir, "dev")): filepath.Base(dir)}
	holders := []string{filepath.Join(dir, "holders")}
	parts, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
	if err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	for _, p := range parts {
		part := filepath.Dir(p)
		devs[attr(filepath.Join(part, "dev"))] = filepath.Base(part)
		holders = append(holders, filepath.Join(part, "holders"))
	}
	for _, h := range holders {
		entries, err := os.ReadDir(h)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("disk %s: who holds it: %w", path, err)
		}
		if len(entries) > 0 {
			return fmt.Errorf("disk %s: held by %s: %w", path, entries[0].Name(), ErrInUse)
		}
	}
	if err := s.checkMounts(path, devs); err != nil {
		return err
	}
	if err := s.checkSwap(path, devs); err != nil {
		return err
	}
	return s.checkLoop(path, func(st *unixStat) bool { return devs.has(st) })
}

// devices are a disk and its partitions: kernel names by "major:minor".
type devices map[string]string

func devNumber(major, minor uint64) string { return fmt.Sprintf("%d:%d", major, minor) }

func (d devices) has(st *unixStat) bool {
	_, ok := d.name(st)
	return ok
}

func (d devices) name(st *unixStat) (string, bool) {
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", false
	}
	name, ok := d[devNumber(uint64(unix.Major(uint64(st.Rdev))), uint64(unix.Minor(uint64(st.Rdev))))]
	return name, ok
}

func (s Sysfs) checkMounts(path string, devs devices) error {
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
		name, ok := devs[devNumber(uint64(m.Major), uint64(m.Minor))]
		if !ok {
			// Btrfs mounts have a device number of their own; only the source names the disk.
			name, ok = devs.at(m.Source)
		}
		if ok {
			return fmt.Errorf("disk %s: %s is mounted on %s: %w", path, name, m.Mountpoint, ErrInUse)
		}
	}
	return nil
}

// at returns the device of d that the node at path is.
func (d devices) at(path string) (string, bool) {
	if !filepath.IsAbs(path) {
		return "", false
	}
	fi, err := os.Stat(path)
	if err != nil {
		return "", false
	}
	st, ok := fi.Sys().(*unixStat)
	if !ok {
		return "", false
	}
	return d.name(st)
}

func (s Sysfs) checkSwap(path string, devs devices) error {
	swaps, err := os.ReadFile(s.path("proc/swaps"))
	if errors.Is(err, fs.ErrNotExist) { // a kernel without swap
		return nil
	}
	if err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	for line := range strings.Lines(string(swaps)) {
		dev, _, _ := strings.Cut(line, " ")
		if name, ok := devs.at(dev); ok {
			return fmt.Errorf("disk %s: %s is swap space: %w", path, name, ErrInUse)
		}
	}
	return nil
}

// checkLoop looks for a loop device whose backing file is the one that is(st)
// knows.
func (s Sysfs) checkLoop(path string, is func(*unixStat) bool) error {
	backing, err := filepath.Glob(s.path("sys/class/block/loop*/loop/backing_file"))
	if err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	for _, b := range backing {
		raw, err := readBounded(b)
		if err != nil {
			continue
		}
		fi, err := os.Stat(strings.TrimSuffix(string(raw), "\n"))
		if err != nil { // deleted, or in another mount namespace
			continue
		}
		if st, ok := fi.Sys().(*unixStat); ok && is(st) {
			return fmt.Errorf("disk %s: backs %s: %w", path, filepath.Base(filepath.Dir(filepath.Dir(b))), ErrInUse)
		}
	}
	return nil
}
