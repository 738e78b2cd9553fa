package erase

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/progress"
)

// Method is how the blocks of a disk become zeros.
type Method string

// The methods. Each ends with every block proven zero by a command of the disk
// or written, in ranges: one that the disk cannot zero by command is written.
const (
	// Auto discards everything first where the disk can, which frees its blocks
	// for faster writing, then does as ZeroOut. It is the default.
	Auto Method = "auto"
	// ZeroOut asks the disk to make zeros (NVMe Write Zeroes, SCSI WRITE SAME and
	// the like) and writes them where it cannot.
	ZeroOut Method = "zeroout"
	// Overwrite writes zeros to every block.
	Overwrite Method = "overwrite"
)

// Verify is how much of the disk is read back.
type Verify string

const (
	// Full reads every block. It is the default.
	Full Verify = "full"
	// Sample reads at least a tenth, as NIST SP 800-88r1, 4.7 describes it: two
	// places at random in each of 1000 equal sections, and the first and the last
	// block. The places differ every time. A disk of less than 4 GiB is read in
	// full, which takes no longer.
	Sample Verify = "sample"
)

var (
	// ErrRefused is wrapped by the error of a disk that was left untouched since
	// it must not, or cannot, be erased.
	ErrRefused = errors.New("refused to erase")
	// ErrVerify is wrapped by the error of a disk that reads back anything but
	// zeros.
	ErrVerify = errors.New("data is left on the disk")
)

// Options of an erasure.
type Options struct {
	// Expect must match the disk. It must name something unless AnyDisk is set.
	Expect  blockdev.Identity
	AnyDisk bool
	// Protected are paths of disks or partitions whose disks are never erased,
	// such as the boot medium. A path that does not exist protects nothing.
	Protected []string
	Method    Method
	Verify    Verify
	// Progress counts bytes made zero and bytes read back, together.
	Progress progress.Func
}

// Report is the record of an erasure. Its figures are also right when the
// erasure failed.
type Report struct {
	Disk blockdev.Info `json:"disk"`
	// Method is what was used: Overwrite when every byte was written, else ZeroOut.
	Method        Method    `json:"method"`
	Verify        Verify    `json:"verify"` // Full when all was read back
	Started       time.Time `json:"started"`
	Finished      time.Time `json:"finished"`
	BytesErased   int64     `json:"bytes_erased"`
	BytesWritten  int64     `json:"bytes_written"` // of BytesErased; the rest by a command of the disk
	BytesVerified int64     `json:"bytes_verified"`
	// Warnings are what went wrong without putting the erasure in doubt.
	Warnings []string `json:"warnings,omitempty"`
}

// Disk erases the whole disk or plain file at path and verifies it. Errors that
// wrap ErrRefused (and one of blockdev.ErrMismatch, ErrProtected and ErrInUse
// where that is the reason) say that the disk was not touched. Any other error,
// the context's included, leaves a disk that is partly erased. The first block
// that can be neither zeroed nor written ends the erasure.
func Disk(ctx context.Context, path string, opt Options) (Report, error) {
	r := Report{Disk: blockdev.Info{Path: path}, Method: opt.Method, Verify: opt.Verify, Started: time.Now().UTC()}
	err := disk(ctx, path, opt, &r)
	r.Finished = time.Now().UTC()
	return r, err
}

func disk(ctx context.Context, path string, opt Options, r *Report) error {
	if r.Method == "" {
		r.Method = Auto
	}
	if r.Verify == "" {
		r.Verify = Full
	}
	err := opt.Validate()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%w: disk %s: %w", ErrRefused, path, err)
	}
	dev, err := open(path, opt, r)
	if err != nil {
		return err
	}
	defer dev.Close()
	j := newJob(dev, dev.Info, opt.Progress)
	if err := j.erase(ctx, r); err != nil {
		return fmt.Errorf("erase %s: %w", path, err)
	}
	// The table the kernel remembers is gone from the disk. That it cannot be
	// told so does not bring the data back.
	if err := dev.RereadPartitions(); err != nil {
		r.Warnings = append(r.Warnings, err.Error())
	}
	return nil
}

// open opens the disk at path for erasing if nothing speaks against it, and
// notes in r which disk it is.
func open(path string, opt Options, r *Report) (*blockdev.Device, error) {
	info, err := blockdev.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	r.Disk = info
	if opt.Expect.IsZero() && !opt.AnyDisk {
		return nil, fmt.Errorf("%w: disk %s: the command names no disk; give its serial number, WWN or size", ErrRefused, path)
	}
	dev, err := blockdev.OpenTarget(path, opt.Expect, opt.Protected)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	r.Disk = dev.Info
	return dev, nil
}

// Validate returns an error that names a Method or Verify that does not exist.
func (o Options) Validate() error { return errors.Join(o.Method.check(), o.Verify.check()) }

func (m Method) check() error {
	switch m {
	case "", Auto, ZeroOut, Overwrite:
		return nil
	}
	return fmt.Errorf("unknown method %q, use %s, %s or %s", m, Auto, ZeroOut, Overwrite)
}

func (v Verify) check() error {
	switch v {
	case "", Full, Sample:
		return nil
	}
	return fmt.Errorf("unknown verification %q, use %s or %s", v, Full, Sample)
}

// medium is a disk as an erasure uses it; tests put a faulty one in its place.
type medium interface {
	io.ReaderAt
	io.WriterAt
	PunchHole(off, n int64) error
	Discard(off, n int64) error
	Flush() error
}

// job is one erasure or verification of one disk.
type job struct {
	medium
	size        int64
	block       int64 // what offsets and lengths are multiples of, but for the end of a plain file
	depth       int   // requests in flight
	chunk       int64 // bytes one zeroing command covers, which bounds how long a cancel takes
	progress    progress.Func
	done, total int64 // of progress
}

func newJob(m medium, info blockdev.Info, p progress.Func) *job {
	j := &job{medium: m, size: info.Size, block: int64(info.LogicalBlock), progress: p, depth: 4, chunk: 256 << 20}
	if info.Transport == blockdev.File {
		j.block = blockdev.Alignment // what its file system may want of direct I/O
	}
	if info.Rotational {
		j.depth, j.chunk = 2, 64<<20
	}
	return j
}

// erase makes the disk zero, then verifies it.
func (j *job) erase(ctx context.Context, r *Report) error {
	places, verify := j.places(r.Verify)
	r.Verify = verify
	j.total = j.size + length(places)
	j.progress.Report(0, j.total)
	if err := j.zero(ctx, r); err != nil {
		return err
	}
	r.Method = ZeroOut
	if r.BytesWritten == r.BytesErased {
		r.Method = Overwrite
	}
	if r.BytesErased != j.size {
		return fmt.Errorf("only %d of %d bytes were erased", r.BytesErased, j.size)
	}
	return j.verify(ctx, places, &r.BytesVerified)
}
