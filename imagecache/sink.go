package imagecache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/teeth-metal/teeth/blockdev"
)

const (
	chunkSize   = 2 << 20
	sinkBuffers = 4
	sinkWriters = 2        // measured: more bring nothing on a real disk
	holeSize    = 64 << 10 // the shortest run of zeros worth a command of its own
	bootSize    = 1 << 20  // of either end of a disk: what firmware and kernel look at
	// firstSector is written after everything else: the MBR and, with sectors
	// of 512 bytes, the GPT's header.
	firstSector = blockdev.Alignment
)

// sink writes an image to a disk in chunks, on several goroutines. The first and
// the last MiB of the disk are kept back: they stay zero until finish, so that
// neither an old nor a half-written system can boot, not even by a backup GPT.
type sink struct {
	d          *blockdev.Device
	assumeZero bool
	size       int64 // of the disk
	head, tail []byte
	tailAt     int64
	end        int64     // how far the image reaches
	sum        *contents // of the image, nil unless it will be verified

	jobs    chan job
	free    chan []byte
	wg      sync.WaitGroup
	failed  context.Context // ended by the first error
	fail    context.CancelCauseFunc
	noPunch atomic.Bool
	zeros   []byte

	written, zeroed atomic.Int64
}

// job is a buffer to write, or without one a range to zero.
type job struct {
	off int64
	n   int64
	b   []byte
}

// newSink makes the disk unbootable and starts the writers.
func newSink(ctx context.Context, d *blockdev.Device, assumeZero bool) (*sink, error) {
	size := d.Info.Size
	s := &sink{
		d: d, size: size, assumeZero: assumeZero,
		head: blockdev.Buffer(int(min(bootSize, size))), zeros: blockdev.Buffer(chunkSize),
		jobs: make(chan job), free: make(chan []byte, sinkBuffers),
	}
	s.tailAt = max(int64(len(s.head)), (size-bootSize)/blockdev.Alignment*blockdev.Alignment)
	s.tail = blockdev.Buffer(int(size - s.tailAt))
	if err := s.writeEnds(s.head, s.tail); err != nil {
		return nil, err
	}
	if err := d.Flush(); err != nil {
		return nil, err
	}
	for range sinkBuffers {
		s.free <- blockdev.Buffer(chunkSize)
	}
	s.failed, s.fail = context.WithCancelCause(ctx)
	for range sinkWriters {
		s.wg.Add(1)
		go s.run()
	}
	return s, nil
}

func (s *sink) writeEnds(head, tail []byte) error {
	if len(tail) > 0 {
		if _, err := s.d.WriteAt(tail, s.tailAt); err != nil {
			return fmt.Errorf("write the last MiB: %w", err)
		}
	}
	if len(head) > firstSector {
		if _, err := s.d.WriteAt(head[firstSector:], firstSector); err != nil {
			return fmt.Errorf("write the first MiB: %w", err)
		}
	}
	if err := s.d.Flush(); err != nil {
		return err
	}
	if _, err := s.d.WriteAt(head[:min(len(head), firstSector)], 0); err != nil {
		return fmt.Errorf("write the first sector: %w", err)
	}
	return nil
}

// buffer returns an empty buffer of chunkSize bytes for write.
func (s *sink) buffer(ctx context.Context) ([]byte, error) {
	select {
	case b := <-s.free:
		return b, nil
	case <-s.failed.Done():
		return nil, context.Cause(s.failed)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// write hands b, the beginning of a buffer from buffer, to the writers. off must
// be a multiple of 4096; a length that is not one of the sector size is filled
// up with zeros, so only the image's end may have it.
func (s *sink) write(ctx context.Context, off int64, b []byte) error {
	n := int64(len(b))
	sector := int64(s.d.Info.LogicalBlock)
	b = b[:(n+sector-1)/sector*sector]
	clear(b[n:])
	if s.sum != nil {
		s.sum.Write(b)
	}
	return s.hand(ctx, job{off, int64(len(b)), b})
}

// zero makes [off, off+n) of the image zeros.
func (s *sink) zero(ctx context.Context, off, n int64) error {
	sector := int64(s.d.Info.LogicalBlock)
	n = (n + sector - 1) / sector * sector
	if s.sum != nil {
		s.sum.zero(n)
	}
	return s.hand(ctx, job{off, n, nil})
}

func (s *sink) hand(ctx context.Context, j job) error {
	if j.off+j.n > s.size {
		return fmt.Errorf("%w: the image holds more than the %d bytes of this disk", ErrNoRoom, s.size)
	}
	s.end = max(s.end, j.off+j.n)
	select {
	case s.jobs <- j:
		return nil
	case <-s.failed.Done():
		return context.Cause(s.failed)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *sink) run() {
	defer s.wg.Done()
	for j := range s.jobs {
		if s.failed.Err() == nil {
			if err := s.do(j); err != nil {
				s.fail(err)
			}
		}
		if j.b != nil {
			s.free <- j.b[:cap(j.b)]
		}
	}
}

// do writes what of j does not lie in the ends, which it copies.
func (s *sink) do(j job) error {
	if n := min(j.n, int64(len(s.head))-j.off); n > 0 {
		s.keep(s.head[j.off:j.off+n], j, 0)
		j = j.skip(n)
	}
	if at := max(j.off, s.tailAt); j.off+j.n > at {
		s.keep(s.tail[at-s.tailAt:j.off+j.n-s.tailAt], j, at-j.off)
		j.n = at - j.off
		if j.b != nil {
			j.b = j.b[:j.n]
		}
	}
	if j.n <= 0 {
		return nil
	}
	if j.b == nil {
		return s.hole(j.off, j.n)
	}
	for len(j.b) > 0 {
		n, zero := span(j.b)
		var err error
		if zero {
			err = s.hole(j.off, n)
		} else {
			err = s.data(j.off, j.b[:n])
		}
		if err != nil {
			return err
		}
		j = j.skip(n)
	}
	return nil
}

func (s *sink) keep(to []byte, j job, from int64) {
	if j.b != nil {
		copy(to, j.b[from:])
	} // else zero already
}

func (j job) skip(n int64) job {
	j.off, j.n = j.off+n, j.n-n
	if j.b != nil {
		j.b = j.b[n:]
	}
	return j
}

// span returns how much of b, from its beginning, is all zeros or all not, seen
// in pieces of holeSize.
func span(b []byte) (n int64, zero bool) {
	for at := 0; at < len(b); at += holeSize {
		z := isZero(b[at:min(at+holeSize, len(b))])
		if at == 0 {
			zero = z
		} else if z != zero {
			return int64(at), zero
		}
	}
	return int64(len(b)), zero
}

var zeroPiece [4096]byte

func isZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeroPiece))
		if !bytes.Equal(b[:n], zeroPiece[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

func (s *sink) data(off int64, b []byte) error {
	if _, err := s.d.WriteAt(b, off); err != nil {
		return fmt.Errorf("write at %d: %w", off, err)
	}
	s.written.Add(int64(len(b)))
	return nil
}

// hole makes a range read as zeros: by the disk's own command, else by writing.
// It is never just left out, as the disk may hold old data there, unless the
// caller knows that it does not.
func (s *sink) hole(off, n int64) error {
	s.zeroed.Add(n)
	if s.assumeZero {
		return nil
	}
	const step = 1 << 30
	for n > 0 {
		if err := s.failed.Err(); err != nil {
			return context.Cause(s.failed)
		}
		if !s.noPunch.Load() {
			m := min(n, step)
			err := s.d.PunchHole(off, m)
			if err == nil {
				off, n = off+m, n-m
				continue
			}
			if !errors.Is(err, blockdev.ErrNotSupported) {
				return err
			}
			s.noPunch.Store(true)
		}
		m := min(n, int64(len(s.zeros)))
		if _, err := s.d.WriteAt(s.zeros[:m], off); err != nil {
			return fmt.Errorf("write zeros at %d: %w", off, err)
		}
		off, n = off+m, n-m
	}
	return nil
}

// drain waits until everything handed over is on the disk and durable.
func (s *sink) drain() error {
	s.stop()
	if err := context.Cause(s.failed); err != nil {
		return err
	}
	return s.d.Flush()
}

// stop ends the writers.
func (s *sink) stop() {
	if s.jobs != nil {
		close(s.jobs)
		s.wg.Wait()
		s.jobs = nil
	}
}

// finish writes the ends, the very first sector last: now the disk can boot.
// drain comes before. What fails here leaves the disk unbootable again, as far
// as it still takes writes.
func (s *sink) finish() error {
	err := s.writeEnds(s.head, s.tail)
	if err == nil {
		err = s.d.Flush()
	}
	if err != nil {
		return errors.Join(err, s.unboot())
	}
	s.written.Add(min(s.end, int64(len(s.head))) + max(0, s.end-s.tailAt))
	return nil
}

// unboot zeroes both ends.
func (s *sink) unboot() error {
	if err := s.writeEnds(blockdev.Buffer(len(s.head)), blockdev.Buffer(len(s.tail))); err != nil {
		return fmt.Errorf("make the disk unbootable: %w", err)
	}
	return s.d.Flush()
}
