package minion

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReaderEnds(t *testing.T) {
	frame, _ := LogLine(mustID(t), "g", "s", "x", "y").Append(nil)
	for cut := range 2*len(frame) + 1 {
		stream := append(bytes.Clone(frame), frame...)[:cut]
		r := NewReader(bytes.NewReader(stream))
		var err error
		frames := 0
		for {
			if _, err = r.Next(); err != nil {
				break
			}
			frames++
		}
		want := io.ErrUnexpectedEOF
		if cut%len(frame) == 0 {
			want = io.EOF
		}
		if err != want || frames != cut/len(frame) {
			t.Errorf("cut at %d: %d frames, %v, want %v", cut, frames, err, want)
		}
		if _, again := r.Next(); again != err {
			t.Errorf("cut at %d: then %v", cut, again)
		}
	}
	r := NewReader(iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(frame))))
	if _, err := r.Next(); err != iotest.ErrTimeout {
		t.Error(err)
	}
	if _, err := NewReader(idle{}).Next(); err != io.ErrNoProgress {
		t.Error(err)
	}
	if p, err := NewReader(bytes.NewReader([]byte{0, 0})).Next(); err != nil || len(p) != 0 {
		t.Errorf("empty frame: %x, %v", p, err)
	}
}

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

// TestReaderBuffer: frames of all sizes in chunks of all sizes; a busy Reader grows
// to its bound, and an idle one gives it back.
func TestReaderBuffer(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var stream []byte
	var want [][]byte
	for range 300 {
		f := LogLine(mustID(t), "g", "s", "x", strings.Repeat("m", rng.IntN(1<<uint(rng.IntN(16)+1)-1)))
		b, err := f.AppendLarge(nil)
		if err != nil {
			continue
		}
		want = append(want, b[2:])
		stream = append(stream, b...)
	}
	r := NewReader(&chunks{b: stream, rng: rng})
	for i, w := range want {
		p, err := r.Next()
		if err != nil || !bytes.Equal(p, w) {
			t.Fatalf("frame %d: %d bytes, %v, want %d", i, len(p), err, len(w))
		}
		if r.Ready() {
			if had := r.Buffered(); had < prefix {
				t.Fatalf("ready with %d bytes", had)
			}
		}
	}
	if len(r.buf) > mostBuffer {
		t.Errorf("buffer of %d", len(r.buf))
	}
	busy := NewReader(bytes.NewReader(stream))
	for range want {
		busy.Next()
	}
	if len(busy.buf) != mostBuffer {
		t.Errorf("busy with a buffer of %d", len(busy.buf))
	}
	small, _ := LogLine(mustID(t), "g", "s", "x", "y").Append(nil)
	busy.err, busy.r = nil, iotest.HalfReader(&chunks{b: bytes.Repeat(small, 100), rng: rng, most: len(small)})
	for range 100 {
		if _, err := busy.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if len(busy.buf) != leastBuffer {
		t.Errorf("idle with a buffer of %d", len(busy.buf))
	}
}

type chunks struct {
	b    []byte
	rng  *rand.Rand
	most int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	most := c.most
	if most == 0 {
		most = 1 << c.rng.IntN(18)
	}
	n := copy(p, c.b[:min(len(c.b), 1+c.rng.IntN(most))])
	c.b = c.b[n:]
	return n, nil
}

func TestPayloads(t *testing.T) {
	stream := golden(t, "A->S")
	list, err := Payloads(stream)
	if err != nil || len(list) != 34 {
		t.Fatal(len(list), err)
	}
	r := NewReader(bytes.NewReader(stream))
	for i := range list {
		if p, err := r.Next(); err != nil || !bytes.Equal(p, list[i]) {
			t.Fatalf("frame %d: %x, want %x (%v)", i, list[i], p, err)
		}
	}
	for _, cut := range []int{1, 2, 50, len(stream) - 1} {
		if list, err := Payloads(stream[:cut]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut at %d: %d frames, %v", cut, len(list), err)
		}
	}
	if list, err := Payloads(nil); err != nil || len(list) != 0 {
		t.Error(list, err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(golden(f, "A->S"), uint64(1))
	f.Add([]byte{0xff, 0xff, 1}, uint64(2))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		r := NewReader(&chunks{b: stream, rng: rand.New(rand.NewPCG(seed, 0))})
		var again []byte
		for {
			p, err := r.Next()
			if err != nil {
				break
			}
			again = append(again, byte(len(p)>>8), byte(len(p)))
			again = append(again, p...)
		}
		if !bytes.HasPrefix(stream, again) || len(stream)-len(again) != r.Buffered() {
			t.Fatalf("%x of %x", again, stream)
		}
	})
}
