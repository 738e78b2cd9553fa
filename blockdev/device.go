package blockdev

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

type unixStat = syscall.Stat_t

// Alignment is what buffers, offsets and lengths of direct I/O must be
// multiples of: the largest logical block size in use (4Kn disks), which is
// also the page size.
const Alignment = 4096

// ErrNotSupported is wrapped by errors of commands that the disk or its driver
// does not have; the caller should write zeros instead.
var ErrNotSupported = errors.New("not supported by this disk")

// Device is an open disk or plain file.
type Device struct {
	*os.File
	Info   Info
	Direct bool // opened with O_DIRECT: see Alignment
}

// Open opens the disk at path for direct I/O, and buffered a plain file whose
// file system refuses that or whose size is not a multiple of Alignment. With write it takes a block device
// exclusively (O_EXCL), so that the kernel refuses a mounted one; the error
// then wraps ErrInUse.
func Open(path string, write bool) (*Device, error) {
	info, err := Stat(path)
	if err != nil {
		return nil, err
	}
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
		if info.Transport != File {
			flags |= os.O_EXCL
		}
	}
	// The last block of a file of odd length cannot be read or written directly.
	direct := info.Transport != File || info.Size%Alignment == 0
	if direct {
		flags |= unix.O_DIRECT
	}
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EINVAL) && direct {
		direct = false
		flags &^= unix.O_DIRECT
		f, err = os.OpenFile(path, flags|unix.O_CLOEXEC, 0)
	}
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("open disk: %w: %w", err, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	if err := sameDisk(f, info); err != nil {
		f.Close()
		return nil, fmt.Errorf("open disk %s: %w", path, err)
	}
	return &Device{File: f, Info: info, Direct: direct}, nil
}

// sameDisk reports an error unless f is the disk info describes: what the path
// means may have changed between looking and opening.
func sameDisk(f *os.File, info Info) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Transport == File {
		if !st.Mode().IsRegular() {
			return fmt.Errorf("no longer a plain file: %w", ErrMismatch)
		}
		return nil
	}
	again, err := Sysfs{}.open(st)
	if err != nil {
		return err
	}
	if again.Name != info.Name || again.Identity() != info.Identity() {
		return fmt.Errorf("opened %s with serial %q: %w", again.Name, again.Serial, ErrMismatch)
	}
	return nil
}

// Buffer returns n zero bytes whose address is a multiple of Alignment, as
// direct I/O needs.
func Buffer(n int) []byte {
	b := make([]byte, n+Alignment)
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (Alignment - 1))
	return b[off : off+n : off+n]
}

// PunchHole makes [off, off+n) read back as zeros without writing them: the
// kernel sends Write Zeroes with deallocate, WRITE SAME with UNMAP or the like.
// It wraps ErrNotSupported where the disk cannot promise zeros; it never falls
// back to writing, so it returns quickly. off and n must be multiples of the
// logical block size.
func (d *Device) PunchHole(off, n int64) error {
	return d.fallocate("punch hole", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// ZeroRange makes [off, off+n) read back as zeros and keeps the space allocated:
// by the disk's own command, else the kernel writes zeros itself, which takes as
// long as writing.
func (d *Device) ZeroRange(off, n int64) error {
	return d.fallocate("zero range", unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (d *Device) fallocate(what string, mode uint32, off, n int64) error {
	var err error
	for {
		if err = unix.Fallocate(int(d.Fd()), mode, off, n); err != unix.EINTR {
			break
		}
	}
	return d.commandError(what, off, n, err)
}

// Discard tells the disk that [off, off+n) is no longer needed (BLKDISCARD).
// What it reads back as afterwards is the disk's choice: never take it for an
// erasure. On a plain file it punches a hole.
func (d *Device) Discard(off, n int64) error {
	if d.Info.Transport == File {
		return d.PunchHole(off, n)
	}
	r := [2]uint64{uint64(off), uint64(n)}
	var err error
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&r)))
		if errno == 0 {
			break
		}
		if errno != unix.EINTR {
			err = errno
			break
		}
	}
	return d.commandError("discard", off, n, err)
}

func (d *Device) commandError(what string, off, n int64, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOTTY):
		return fmt.Errorf("disk %s: %s: %w", d.Info.Path, what, ErrNotSupported)
	}
	return fmt.Errorf("disk %s: %s at %d, %d bytes: %w", d.Info.Path, what, off, n, err)
}

// Flush makes everything written durable: fsync, which also flushes the disk's
// own write cache, then drops clean cached pages so that later reads come from
// the medium.
func (d *Device) Flush() error {
	if err := d.Sync(); err != nil {
		return fmt.Errorf("disk %s: flush: %w", d.Info.Path, err)
	}
	if d.Info.Transport != File {
		if err := unix.IoctlSetInt(int(d.Fd()), unix.BLKFLSBUF, 0); err != nil && !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("disk %s: drop cached pages: %w", d.Info.Path, err)
		}
		return nil
	}
	if err := unix.Fadvise(int(d.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("disk %s: drop cached pages: %w", d.Info.Path, err)
	}
	return nil
}

// RereadPartitions makes the kernel read the partition table anew
// (BLKRRPART). It tries for a second, as a probe that is still running makes
// the kernel answer EBUSY. On a plain file it does nothing.
func (d *Device) RereadPartitions() error {
	if d.Info.Transport == File {
		return nil
	}
	var err error
	for range 10 {
		if err = unix.IoctlSetInt(int(d.Fd()), unix.BLKRRPART, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if errors.Is(err, unix.EINVAL) { // a kind of disk that has no partitions
		return nil
	}
	if err != nil {
		return fmt.Errorf("disk %s: re-read the partition table: %w", d.Info.Path, err)
	}
	return nil
}
