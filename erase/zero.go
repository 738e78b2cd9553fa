package erase

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/teeth-metal/teeth/blockdev"
)

const (
	// piece is one request to read or write.
	piece = 1 << 20
	// maxFailed is how many ranges a disk may fail to zero by command before all
	// the rest is written without asking it again.
	maxFailed = 3
)

// zeros is what is written. Nobody may change it.
var zeros = sync.OnceValue(func() []byte { return blockdev.Buffer(piece) })

// zero makes every byte of the disk zero and counts them in r.
func (j *job) zero(ctx context.Context, r *Report) error {
	if r.Method == Auto {
		if err := j.discard(ctx, r); err != nil {
			return err
		}
	}
	var left []span
	if r.Method == Overwrite {
		left = []span{{0, j.size}}
	} else {
		var err error
		if left, err = j.command(ctx, r); err != nil {
			return err
		}
	}
	write := func(s span) error {
		n, err := j.WriteAt(zeros()[:s.n], s.off)
		if err != nil {
			return fmt.Errorf("write zeros at offset %d: %w", s.off+int64(max(n, 0)), err)
		}
		return nil
	}
	err := j.each(ctx, left, func() func(span) error { return write }, func(n int64) {
		r.BytesWritten += n
		r.BytesErased += n
	})
	if err != nil {
		return err
	}
	// Through the disk's own cache, so that the read-back finds the medium.
	return j.Flush()
}

// discard tells the disk that nothing on it is needed. What it does about that
// is its own choice, so a failure is only noted.
func (j *job) discard(ctx context.Context, r *Report) error {
	for off := int64(0); off < j.size; off += j.chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := j.Discard(off, min(j.chunk, j.size-off))
		if err != nil {
			if !errors.Is(err, blockdev.ErrNotSupported) {
				r.Warnings = append(r.Warnings, err.Error())
			}
			return nil
		}
		j.progress.Report(0, j.total)
	}
	return nil
}

// command lets the disk make its own zeros and returns what it could not do,
// which has to be written.
func (j *job) command(ctx context.Context, r *Report) ([]span, error) {
	var left []span
	for off := int64(0); off < j.size; off += j.chunk {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := min(j.chunk, j.size-off)
		err := j.PunchHole(off, n)
		if err == nil {
			r.BytesErased += n
			j.advance(n)
			continue
		}
		if errors.Is(err, blockdev.ErrNotSupported) {
			return append(left, span{off, j.size - off}), nil
		}
		// A write may still reach what a command did not: it makes the disk
		// replace a bad sector.
		r.Warnings = append(r.Warnings, err.Error())
		if len(left) == maxFailed-1 {
			return append(left, span{off, j.size - off}), nil
		}
		left = append(left, span{off, n})
	}
	return left, nil
}

func (j *job) advance(n int64) {
	j.done += n
	j.progress.Report(j.done, j.total)
}
