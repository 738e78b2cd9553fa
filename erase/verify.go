package erase

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/progress"
)

// VerifyZero reads the disk or plain file at path, all of it or a sample, and
// returns how many bytes were zero. Its error wraps ErrVerify when one was not.
func VerifyZero(ctx context.Context, path string, v Verify, p progress.Func) (int64, error) {
	if v == "" {
		v = Full
	}
	if err := v.check(); err != nil {
		return 0, fmt.Errorf("verify %s: %w", path, err)
	}
	dev, err := blockdev.Open(path, false)
	if err != nil {
		return 0, err
	}
	defer dev.Close()
	if dev.Info.Size == 0 {
		return 0, fmt.Errorf("verify %s: its size is zero, there is no medium", path)
	}
	// Direct I/O passes the page cache by; a plain file may be read through it.
	if err := dev.Flush(); err != nil {
		return 0, err
	}
	j := newJob(dev, dev.Info, p)
	places, _ := j.places(v)
	j.total = length(places)
	j.progress.Report(0, j.total)
	var verified int64
	if err := j.verify(ctx, places, &verified); err != nil {
		return verified, fmt.Errorf("verify %s: %w", path, err)
	}
	return verified, nil
}

// verify reads places and compares them with zero.
func (j *job) verify(ctx context.Context, places []span, verified *int64) error {
	return j.each(ctx, places, func() func(span) error {
		own := blockdev.Buffer(piece)
		return func(s span) error { return j.readZero(own[:s.n], s.off) }
	}, func(n int64) { *verified += n })
}

func (j *job) readZero(buf []byte, off int64) error {
	n, err := j.ReadAt(buf, off)
	if n < len(buf) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read back at offset %d: %w", off+int64(max(n, 0)), err)
	}
	if i := nonZero(buf); i >= 0 {
		return fmt.Errorf("offset %d is not zero: %w", off+int64(i), ErrVerify)
	}
	return nil
}

// nonZero returns the index of the first byte that is not zero, or -1. It reads
// eight words at a time, since the disk must not wait for the comparison: that is
// as fast as bytes.Equal with zeros here, and six times as fast on an emulated
// processor.
func nonZero(b []byte) int {
	le := binary.LittleEndian
	i := 0
	for ; i+64 <= len(b); i += 64 {
		w := b[i : i+64]
		if le.Uint64(w)|le.Uint64(w[8:])|le.Uint64(w[16:])|le.Uint64(w[24:])|
			le.Uint64(w[32:])|le.Uint64(w[40:])|le.Uint64(w[48:])|le.Uint64(w[56:]) != 0 {
			break
		}
	}
	for ; i < len(b); i++ {
		if b[i] != 0 {
			return i
		}
	}
	return -1
}

// smallDisk is the size below which reading all of a disk takes no longer than a
// sample's two thousand requests, with a seek each on a rotating one.
const smallDisk = 4 << 30

// places returns what to read back, in order and without overlap, and whether it
// is all of the disk or a sample.
func (j *job) places(v Verify) ([]span, Verify) {
	if v == Full || j.size < smallDisk {
		return []span{{0, j.size}}, Full
	}
	var seed [32]byte
	crand.Read(seed[:]) // never fails
	return sample(j.size, j.block, rand.New(rand.NewChaCha8(seed))), Sample
}

// sections is how many equal parts of a medium NIST SP 800-88r1 wants sampled,
// at least, each in two places of 5 % of the part.
const (
	sections     = 1000
	placeDivisor = 20
)

// sample chooses the places of Sample on a disk of size bytes in blocks, of which
// it must have two for every section.
func sample(size, block int64, rng *rand.Rand) []span {
	blocks := size / block
	var s []span // in blocks; overlapping or adjacent ones become one
	add := func(from, n int64) {
		if len(s) > 0 && from <= s[len(s)-1].end() {
			last := &s[len(s)-1]
			last.n = max(last.end(), from+n) - last.off
			return
		}
		s = append(s, span{from, n})
	}
	add(0, 1)
	for i := range int64(sections) {
		from, to := part(blocks, i), part(blocks, i+1)
		n := (to - from + placeDivisor - 1) / placeDivisor
		// Two places do not overlap when the second lies at or after the first
		// with that one's length taken out of the section.
		room := to - from - 2*n
		a, b := rng.Int64N(room+1), rng.Int64N(room+1)
		if a > b {
			a, b = b, a
		}
		add(from+a, n)
		add(from+b+n, n)
	}
	add(blocks-1, 1)
	for i := range s {
		s[i].off *= block
		s[i].n *= block
	}
	s[len(s)-1].n += size % block // the odd end of a plain file
	return s
}

// part returns where section i of a medium of blocks begins.
func part(blocks, i int64) int64 {
	return blocks/sections*i + blocks%sections*i/sections
}
