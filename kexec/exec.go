package kexec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// flushTime is how long Flush waits for one disk. A disk that cannot write its
// cache in this time has failed.
const flushTime = 30 * time.Second

// ErrNotLoaded is returned by Exec where no kernel is loaded.
var ErrNotLoaded = errors.New("no kernel is loaded to kexec into")

// Exec flushes every disk (see Flush) and jumps into the kernel that Load has
// loaded. It does not return where it succeeds. Stop everything else that runs
// on the machine first. After an error the machine runs on, with nothing
// mounted for writing, and should be rebooted.
func Exec(ctx context.Context) error {
	if !Loaded() {
		return ErrNotLoaded
	}
	if err := Flush(ctx); err != nil {
		return fmt.Errorf("kexec: %w", err)
	}
	return jump()
}

func jump() error {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC); err != nil {
		return fmt.Errorf("kexec: reboot: %w", err)
	}
	return errors.New("kexec: the kernel did not jump")
}

// Flush brings everything that was written onto the disks: it syncs, unmounts
// what is mounted from disks (or makes it read-only), and has every disk empty
// its own write cache. An image writer's data has been lost for lack of this,
// since kexec resets no disk. Call it before a reboot, too. It returns an error
// where data may be lost, and when ctx ends.
func Flush(ctx context.Context) error {
	if err := within(ctx, flushTime, func() error { unix.Sync(); return nil }); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := unmountDisks(); err != nil {
		return err
	}
	dirs, err := filepath.Glob("/sys/class/block/*")
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		// device: only what stands for hardware has that link; loop, ram and zram
		// have none.
		if _, err := os.Stat(filepath.Join(dir, "device")); err != nil {
			continue
		}
		if n, err := readNumber(filepath.Join(dir, "size")); err != nil || n == 0 {
			continue // an empty drive
		}
		if n, err := readNumber(filepath.Join(dir, "ro")); err == nil && n != 0 {
			continue
		}
		node := "/dev/" + strings.ReplaceAll(filepath.Base(dir), "!", "/")
		if err := within(ctx, flushTime, func() error { return flushDisk(node) }); err != nil {
			errs = append(errs, fmt.Errorf("flush %s: %w", node, err))
		}
	}
	return errors.Join(errs...)
}

func flushDisk(node string) error {
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOMEDIUM) || errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	// fsync of a block device sends it a cache flush even where nothing is dirty.
	if err := f.Sync(); err != nil {
		return err
	}
	// Whatever stays cached of it is stale for nobody; the ioctl also waits for
	// writes under way.
	return unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
}

// unmountDisks unmounts the file systems that lie on block devices, the last
// mounted first. One that is in use is made read-only.
func unmountDisks() error {
	all, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("mount table: %w", err)
	}
	var errs []error
	for i := len(all) - 1; i >= 0; i-- {
		m := all[i]
		if !strings.HasPrefix(m.Source, "/dev/") || m.FSType == "devtmpfs" {
			continue
		}
		if unix.Unmount(m.Mountpoint, 0) == nil {
			continue
		}
		if writable(m) {
			if err := unix.Mount("", m.Mountpoint, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				errs = append(errs, fmt.Errorf("%s on %s can neither be unmounted nor made read-only: %w", m.Source, m.Mountpoint, err))
			}
		}
	}
	return errors.Join(errs...)
}

// writable tells by the options of the mount and of the file system below it.
func writable(m *mountinfo.Info) bool {
	ro := func(options string) bool { return strings.HasPrefix(options+",", "ro,") }
	return !ro(m.Options) && !ro(m.VFSOptions)
}

// within runs f, which cannot be cancelled, and waits for it no longer than d
// and ctx allow.
func within(ctx context.Context, d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("gave up waiting: %w", ctx.Err())
	}
}
