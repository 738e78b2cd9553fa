package kexec

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/kexec/internal/rootfs"
)

// maxPartitions is how many partitions of a disk are looked at.
const maxPartitions = 64

// Options say how Find works. The zero value is fine.
type Options struct {
	// MountDir is where temporary mount points are made; "/run/teeth" if empty.
	MountDir string
	// LoadModule, if set, is called with "ext4", "vfat", "xfs" or "btrfs" before
	// a file system of that type is mounted, and loads that with what it needs
	// (crc32c for ext4; nls_cp437 and nls_ascii for vfat): a ramdisk has no
	// modprobe for the kernel to call.
	LoadModule func(ctx context.Context, name string) error
}

// Find looks for what the disk (a block device, not a partition) would boot. It
// makes the kernel read the partition table again, mounts what it can read-only
// and returns the target with those mounts; the caller closes it after Load.
// Where there is nothing to boot the error wraps ErrNoTarget.
func Find(ctx context.Context, disk string, opt Options) (t *Target, err error) {
	nodes, err := partitionNodes(ctx, disk)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", disk, err)
	}
	m := &mounts{dir: opt.MountDir}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	var parts []Partition
	var passed []string
	for _, p := range nodes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := m.mount(ctx, &p, opt.LoadModule); err != nil {
			passed = append(passed, err.Error())
			continue
		}
		parts = append(parts, p)
	}
	t, err = FindIn(ctx, parts)
	if err != nil {
		if len(passed) > 0 && errors.Is(err, ErrNoTarget) {
			return nil, fmt.Errorf("disk %s: %w; %s", disk, err, joinReasons(passed))
		}
		return nil, fmt.Errorf("disk %s: %w", disk, err)
	}
	t.Skipped = append(passed, t.Skipped...)
	t.close = m.close
	return t, nil
}

// partitionNodes re-reads the partition table and returns the disk's partitions
// by number, or the disk itself where it has none.
func partitionNodes(ctx context.Context, disk string) ([]Partition, error) {
	node, err := filepath.EvalSymlinks(disk)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sector, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return nil, fmt.Errorf("not a block device: %w", err)
	}
	if err := dropCache(f); err != nil {
		return nil, err
	}
	if err := reread(ctx, f); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	sys, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(sys, "partition")); err == nil {
		return nil, errors.New("is a partition; name the whole disk")
	}
	ids, err := readTable(f, sector)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(sys, "*", "partition"))
	if err != nil {
		return nil, err
	}
	var parts []Partition
	for _, file := range files {
		n, err := readNumber(file)
		if err != nil {
			return nil, err
		}
		id := ids[n]
		parts = append(parts, Partition{
			// The kernel writes "!" for the slash of such names as cciss/c0d0p1.
			Device: "/dev/" + strings.ReplaceAll(filepath.Base(filepath.Dir(file)), "!", "/"),
			Number: n, Table: id.table, PartUUID: id.uuid, PartType: id.kind,
		})
	}
	if len(parts) == 0 {
		return []Partition{{Device: node}}, nil
	}
	slices.SortFunc(parts, func(a, b Partition) int { return cmp.Compare(a.Number, b.Number) })
	return parts[:min(len(parts), maxPartitions)], nil
}

// dropCache makes the kernel write and forget what it has cached of a disk or
// partition. Each has a cache of its own: what was written through the disk's
// node may not be what the partition's still holds.
func dropCache(f *os.File) error {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("flush the kernel's cache: %w", err)
	}
	return nil
}

// reread makes the kernel read the partition table, which an image writer has
// just changed below it. A disk with a mounted partition keeps what it has.
func reread(ctx context.Context, f *os.File) error {
	for try := 0; ; try++ {
		err := unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
		switch {
		case err == nil, err == unix.EINVAL, err == unix.ENOTTY: // a device without partitions
			return nil
		case err != unix.EBUSY:
			return fmt.Errorf("re-read partition table: %w", err)
		case try == 5:
			return nil
		}
		// Whoever wrote the disk may have it open for a moment still.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func readNumber(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(bytes.TrimSpace(b)))
}

// mounts are the file systems that one Find has mounted.
type mounts struct {
	dir    string   // below which mount points are made
	points []string // mounted
	roots  []*rootfs.FS
}

// readOnly keeps the journal from being replayed: that would write to the disk,
// and GRUB reads it as it lies, too.
var readOnly = map[string]string{
	"ext4":  "noload",
	"xfs":   "norecovery,nouuid",
	"btrfs": "rescue=nologreplay",
	"vfat":  "",
}

// mount probes p.Device, mounts it and fills in p.
func (m *mounts) mount(ctx context.Context, p *Partition, loadModule func(context.Context, string) error) error {
	fail := func(err error) error { return fmt.Errorf("%s: %w", p.Device, err) }
	f, err := os.Open(p.Device)
	if err != nil {
		return err
	}
	var sb superblock
	if err = dropCache(f); err == nil {
		sb, err = probe(f)
	}
	f.Close()
	if err != nil {
		return fail(err)
	}
	if sb.fsType == "" {
		return fail(errors.New(sb.what))
	}
	p.FSType, p.UUID, p.Label = sb.fsType, sb.uuid, sb.label
	if loadModule != nil {
		if err := loadModule(ctx, sb.fsType); err != nil {
			return fail(fmt.Errorf("kernel module %s: %w", sb.fsType, err))
		}
	}
	base := cmp.Or(m.dir, "/run/teeth")
	if err := os.MkdirAll(base, 0o700); err != nil {
		return fail(err)
	}
	point, err := os.MkdirTemp(base, "boot-")
	if err != nil {
		return fail(err)
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount(p.Device, point, sb.fsType, flags, readOnly[sb.fsType]); err != nil {
		os.Remove(point)
		if err == unix.ENODEV {
			return fail(fmt.Errorf("this kernel has no driver for %s", sb.fsType))
		}
		return fail(fmt.Errorf("mount as %s: %w", sb.fsType, err))
	}
	m.points = append(m.points, point)
	root, err := rootfs.Open(point)
	if err != nil {
		return fail(err)
	}
	m.roots = append(m.roots, root)
	p.FS = root
	return nil
}

// close unmounts everything.
func (m *mounts) close() error {
	var errs []error
	for _, r := range m.roots {
		errs = append(errs, r.Close())
	}
	for _, point := range m.points {
		err := unix.Unmount(point, 0)
		if err == unix.EBUSY {
			err = unix.Unmount(point, unix.MNT_DETACH)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
			continue
		}
		errs = append(errs, os.Remove(point))
	}
	m.roots, m.points = nil, nil
	return errors.Join(errs...)
}
