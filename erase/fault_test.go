package erase

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/blockdev"
)

// faulty is a disk in memory that can be told to misbehave.
type faulty struct {
	mu       sync.Mutex
	data     []byte
	writes   []span
	punched  int
	flushed  bool
	onWrite  func(off, n int64) (lost bool, err error)
	onRead   func(off, n int64) error
	onPunch  func(off, n int64) (lie bool, err error)
	discards func(off, n int64) error
	flush    error
	short    int64 // reads end here, if not zero
}

func newFaulty(size int) *faulty {
	return &faulty{data: bytes.Repeat([]byte{0xA5}, size)}
}

func (d *faulty) ReadAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.onRead != nil {
		if err := d.onRead(off, int64(len(b))); err != nil {
			return 0, err
		}
	}
	if d.short > 0 && off+int64(len(b)) > d.short {
		return copy(b, d.data[min(off, d.short):d.short]), io.EOF
	}
	return copy(b, d.data[off:off+int64(len(b))]), nil
}

func (d *faulty) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes = append(d.writes, span{off, int64(len(b))})
	if d.onWrite != nil {
		lost, err := d.onWrite(off, int64(len(b)))
		if err != nil {
			return 0, err
		}
		if lost {
			return len(b), nil
		}
	}
	return copy(d.data[off:off+int64(len(b))], b), nil
}

func (d *faulty) PunchHole(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.punched++
	if d.onPunch != nil {
		lie, err := d.onPunch(off, n)
		if err != nil || lie {
			return err
		}
	}
	clear(d.data[off : off+n])
	return nil
}

func (d *faulty) Discard(off, n int64) error {
	if d.discards == nil {
		return blockdev.ErrNotSupported
	}
	return d.discards(off, n)
}

func (d *faulty) Flush() error {
	d.flushed = true
	return d.flush
}

func (d *faulty) job(info blockdev.Info) *job {
	info.Size, info.LogicalBlock = int64(len(d.data)), 512
	j := newJob(d, info, nil)
	j.chunk = 4 << 20
	return j
}

func unsupported(int64, int64) (bool, error) { return false, blockdev.ErrNotSupported }

func TestFaults(t *testing.T) {
	const size = 24<<20 + 512
	eio := func(bad int64) func(off, n int64) error {
		return func(off, n int64) error {
			if off <= bad && bad < off+n {
				return syscall.EIO
			}
			return nil
		}
	}
	covers := func(bad int64) func(off, n int64) (bool, error) {
		return func(off, n int64) (bool, error) { return off <= bad && bad < off+n, nil }
	}
	tests := []struct {
		name     string
		method   Method
		set      func(d *faulty)
		want     error  // nil: must succeed
		says     string // part of the error
		method2  Method // reported
		warnings int
	}{
		{name: "healthy", method: Auto, method2: ZeroOut},
		{name: "no commands", method: Auto, set: func(d *faulty) { d.onPunch = unsupported }, method2: Overwrite},
		{name: "write lost", method: Overwrite, set: func(d *faulty) { d.onWrite = covers(7 << 20) },
			want: ErrVerify, says: "offset 7340032 "},
		{name: "all writes lost", method: Overwrite, set: func(d *faulty) {
			d.onWrite = func(int64, int64) (bool, error) { return true, nil }
		}, want: ErrVerify, says: "offset "},
		{name: "command lies", method: Auto, set: func(d *faulty) { d.onPunch = covers(size - 1) }, want: ErrVerify},
		{name: "discard lies", method: Auto, set: func(d *faulty) {
			d.discards = func(int64, int64) error { return nil }
			d.onPunch = unsupported
		}, method2: Overwrite},
		{name: "discard fails", method: Auto, set: func(d *faulty) {
			d.discards = func(int64, int64) error { return syscall.EIO }
		}, method2: ZeroOut, warnings: 1},
		{name: "write fails", method: Overwrite, set: func(d *faulty) {
			d.onWrite = func(off, n int64) (bool, error) { return false, eio(9<<20)(off, n) }
		}, want: syscall.EIO, says: "write zeros at offset 9437184"},
		{name: "read-back fails", method: Auto, set: func(d *faulty) { d.onRead = eio(9 << 20) },
			want: syscall.EIO, says: "read back at offset 9437184"},
		{name: "disk ends early", method: Auto, set: func(d *faulty) { d.short = 20 << 20 },
			want: io.ErrUnexpectedEOF, says: "offset 20971520"},
		{name: "flush fails", method: Auto, set: func(d *faulty) { d.flush = syscall.EIO }, want: syscall.EIO},
		{name: "command fails in one place", method: ZeroOut, set: func(d *faulty) {
			d.onPunch = func(off, n int64) (bool, error) { return false, eio(5<<20)(off, n) }
		}, method2: ZeroOut, warnings: 1},
		{name: "command fails everywhere", method: ZeroOut, set: func(d *faulty) {
			d.onPunch = func(off, n int64) (bool, error) { return false, syscall.EREMOTEIO }
		}, method2: Overwrite, warnings: maxFailed},
		{name: "command stops being supported", method: ZeroOut, set: func(d *faulty) {
			d.onPunch = func(off, _ int64) (bool, error) {
				if off > 8<<20 {
					return false, blockdev.ErrNotSupported
				}
				return false, nil
			}
		}, method2: ZeroOut},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newFaulty(size)
			if tt.set != nil {
				tt.set(d)
			}
			f, finished := steady(t)
			j := d.job(blockdev.Info{})
			j.progress = f
			r := Report{Method: tt.method, Verify: Full}
			err := j.erase(t.Context(), &r)
			if !d.flushed && (tt.want == nil || errors.Is(err, ErrVerify)) {
				t.Error("read back without a flush")
			}
			if tt.want != nil {
				if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("error %v, want %v that says %q", err, tt.want, tt.says)
				}
				if r.BytesVerified == size {
					t.Error("a failed erasure reports the whole disk as verified")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			finished()
			if len(bytes.Trim(d.data, "\x00")) != 0 {
				t.Error("old data is still there")
			}
			if r.Method != tt.method2 || r.BytesErased != size || r.BytesVerified != size || len(r.Warnings) != tt.warnings {
				t.Errorf("report %+v", r)
			}
			var written int64
			for _, w := range d.writes {
				written += w.n
			}
			if written != r.BytesWritten {
				t.Errorf("reports %d bytes written, it was %d", r.BytesWritten, written)
			}
			if tt.name == "command fails everywhere" && d.punched != maxFailed {
				t.Errorf("asked %d times for a command that fails", d.punched)
			}
		})
	}
}

// A write that is lost anywhere is found, wherever it is.
func TestLostWriteAnywhere(t *testing.T) {
	const size = 6<<20 + 1536
	for range 20 {
		bad := rand.Int64N(size)
		d := newFaulty(size)
		d.onWrite = func(off, n int64) (bool, error) { return off <= bad && bad < off+n, nil }
		err := d.job(blockdev.Info{}).erase(t.Context(), &Report{Method: Overwrite, Verify: Full})
		if !errors.Is(err, ErrVerify) {
			t.Fatalf("the write that covers %d was lost: %v", bad, err)
		}
	}
}

func TestNonZero(t *testing.T) {
	for _, n := range []int{0, 1, 7, 63, 64, 65, 512, 1000, piece} {
		b := make([]byte, n)
		if i := nonZero(b); i != -1 {
			t.Errorf("%d zeros: %d", n, i)
		}
		for at := 0; at < n; at += 1 + n/130 {
			b[at] = 0x80
			b[n-1] |= 1
			if i := nonZero(b); i != at {
				t.Errorf("of %d bytes, the one at %d: %d", n, at, i)
			}
			b[at], b[n-1] = 0, 0
		}
	}
}

func BenchmarkNonZero(b *testing.B) {
	buf := make([]byte, piece)
	b.SetBytes(piece)
	for b.Loop() {
		if nonZero(buf) >= 0 {
			b.Fatal("zeros are not zero")
		}
	}
}

// The lowest of several bad places is named, though several are read at once.
func TestLowestError(t *testing.T) {
	d := newFaulty(8 << 20)
	clear(d.data)
	d.data[3<<20], d.data[3<<20+5], d.data[6<<20] = 1, 1, 1
	j := d.job(blockdev.Info{})
	var n int64
	err := j.verify(t.Context(), []span{{0, j.size}}, &n)
	if !errors.Is(err, ErrVerify) || !strings.Contains(err.Error(), "offset 3145728 ") {
		t.Errorf("got %v", err)
	}
}

// A cancel takes no longer than the requests in flight.
func TestCancelSlowDisk(t *testing.T) {
	d := newFaulty(64 << 20)
	started := make(chan struct{})
	var once sync.Once
	d.onWrite = func(int64, int64) (bool, error) {
		once.Do(func() { close(started) })
		time.Sleep(20 * time.Millisecond)
		return false, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-started
		cancel()
	}()
	err := d.job(blockdev.Info{Rotational: true}).erase(ctx, &Report{Method: Overwrite, Verify: Full})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// One for each worker when the cancel came, and what raced with it.
	if n := len(d.writes); n > 8 {
		t.Errorf("%d writes after a cancel at the first", n)
	}
}

func TestSample(t *testing.T) {
	tests := []struct{ size, block int64 }{
		{2 * sections * 512, 512},
		{2*sections*512 + 511, 512},
		{2*sections*4096 + 100*4096, 4096},
		{100 << 20, 512},
		{16 << 40, 4096}, // a large disk, in arithmetic only
		{1<<62 - 512, 512},
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, tt := range tests {
		for range 5 {
			s := sample(tt.size, tt.block, rng)
			if s[0].off != 0 || s[len(s)-1].end() != tt.size {
				t.Fatalf("size %d: first %v, last %v", tt.size, s[0], s[len(s)-1])
			}
			if n := length(s); n < tt.size/10 || n > tt.size {
				t.Errorf("size %d: %d bytes sampled", tt.size, n)
			}
			for i, p := range s {
				if p.n <= 0 || p.off%tt.block != 0 || (i < len(s)-1 && p.n%tt.block != 0) {
					t.Fatalf("size %d: place %v", tt.size, p)
				}
				if i > 0 && p.off <= s[i-1].end() {
					t.Fatalf("size %d: %v overlaps or touches %v", tt.size, p, s[i-1])
				}
			}
			// Every section is visited, with a tenth of it.
			blocks := tt.size / tt.block
			for i := range int64(sections) {
				from, to := part(blocks, i)*tt.block, part(blocks, i+1)*tt.block
				var n int64
				for _, p := range s {
					n += max(0, min(p.end(), to)-max(p.off, from))
				}
				if n*10 < to-from {
					t.Fatalf("size %d: section %d: %d of %d bytes", tt.size, i, n, to-from)
				}
			}
		}
	}
}

func TestPlaces(t *testing.T) {
	places := func(size int64, v Verify) ([]span, Verify) {
		return newJob(nil, blockdev.Info{Size: size, LogicalBlock: 512}, nil).places(v)
	}
	for size, v := range map[int64]Verify{smallDisk - 512: Sample, smallDisk: Full, 1 << 50: Full} {
		if s, did := places(size, v); len(s) != 1 || s[0] != (span{0, size}) || did != Full {
			t.Errorf("%d bytes, %s: %d places, %s", size, v, len(s), did)
		}
	}
	a, did := places(smallDisk, Sample)
	if did != Sample || length(a) > smallDisk/8 {
		t.Errorf("%s of %d bytes", did, length(a))
	}
	b, _ := places(smallDisk, Sample)
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return
		}
	}
	t.Error("two samples chose the same places")
}

// A tenth of the disk not erased is found by a sample of a tenth, to all
// practical certainty: it is missed only if no place of 100 sections hits.
func TestSampleFinds(t *testing.T) {
	d := newFaulty(8 << 20)
	clear(d.data[:4<<20])
	clear(d.data[5<<20:])
	var n int64
	j := d.job(blockdev.Info{})
	if err := j.verify(t.Context(), sample(j.size, j.block, rand.New(rand.NewPCG(1, 2))), &n); !errors.Is(err, ErrVerify) {
		t.Errorf("got %v", err)
	}
}

func FuzzSample(f *testing.F) {
	f.Add(int64(1<<30), int64(512), uint64(1))
	f.Add(int64(1<<30+511), int64(4096), uint64(2))
	f.Add(int64(2*sections), int64(1), uint64(3))
	f.Fuzz(func(t *testing.T, size, block int64, seed uint64) {
		if size <= 0 || block < 1 || block > 1<<20 || size/block < 2*sections {
			return
		}
		s := sample(size, block, rand.New(rand.NewPCG(seed, 0)))
		var end int64
		for i, p := range s {
			if p.n <= 0 || p.off < end || p.end() > size || (i > 0 && p.off == end) {
				t.Fatalf("place %v after %d of %d", p, end, size)
			}
			end = p.end()
		}
		if s[0].off != 0 || end != size || length(s) < size/10 {
			t.Errorf("%d of %d bytes, from %d to %d", length(s), size, s[0].off, end)
		}
	})
}
