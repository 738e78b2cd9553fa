package minion

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Sizes of a Reader's buffer. A server has thousands of connections, most of them
// idle, and a few that send all they can.
const (
	leastBuffer = 4 << 10
	mostBuffer  = 128 << 10
)

// Reader reads frames from a connection.
type Reader struct {
	r       io.Reader
	buf     []byte
	from    int // of the buffer's bytes that no call has returned yet
	to      int
	partial int // reads in a row that brought little
	empty   int // and nothing
	err     error
}

// NewReader returns a Reader on r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next frame's payload, valid until the next call. The end of the
// connection between two frames is io.EOF, within one io.ErrUnexpectedEOF.
func (r *Reader) Next() ([]byte, error) {
	for {
		n, whole := r.frame()
		if whole {
			payload := r.buf[r.from+prefix : r.from+n : r.from+n]
			r.from += n
			return payload, nil
		}
		if r.err == io.EOF && r.from < r.to {
			r.err = io.ErrUnexpectedEOF
		}
		if r.err != nil {
			return nil, r.err
		}
		r.fill(n)
	}
}

// Payloads returns the payloads of frames that follow one another; they are parts of b.
func Payloads(b []byte) ([][]byte, error) {
	var list [][]byte
	for len(b) > 0 {
		if len(b) < prefix {
			return nil, fmt.Errorf("%w: it ends in its length", ErrMalformed)
		}
		n := prefix + int(binary.BigEndian.Uint16(b))
		if len(b) < n {
			return nil, fmt.Errorf("%w: its length is %d and %d bytes follow", ErrMalformed, n-prefix, len(b)-prefix)
		}
		list = append(list, b[prefix:n:n])
		b = b[n:]
	}
	return list, nil
}

// Ready reports whether Next will return a frame without reading.
func (r *Reader) Ready() bool {
	_, whole := r.frame()
	return whole
}

// Buffered returns how many bytes are read and not returned. When Next reads while
// there are any, it waits for the rest of a frame.
func (r *Reader) Buffered() int { return r.to - r.from }

// frame returns the size of the frame that the buffer begins with, as far as it is
// known, and whether all of it is there.
func (r *Reader) frame() (n int, whole bool) {
	have := r.to - r.from
	if have < prefix {
		return prefix, false
	}
	n = prefix + int(binary.BigEndian.Uint16(r.buf[r.from:]))
	return n, have >= n
}

// fill reads once, having made room for a frame of n bytes.
func (r *Reader) fill(n int) {
	have := r.to - r.from
	want := max(n, leastBuffer)
	switch {
	case len(r.buf) < want: // a frame longer than all before
		want = max(want, min(2*len(r.buf), mostBuffer))
	case have == 0 && r.partial > 64:
		// Busy for a while, and no longer.
	default:
		want = len(r.buf)
	}
	switch {
	case want != len(r.buf):
		buf := make([]byte, want)
		copy(buf, r.buf[r.from:r.to])
		r.buf, r.from, r.to, r.partial = buf, 0, have, 0
	case r.from > 0:
		copy(r.buf, r.buf[r.from:r.to])
		r.from, r.to = 0, have
	}
	got, err := r.r.Read(r.buf[r.to:])
	if got == 0 && err == nil {
		if r.empty++; r.empty >= 100 { // as bufio does with a Reader that never returns anything
			err = io.ErrNoProgress
		}
	} else {
		r.empty = 0
	}
	full := r.to+got == len(r.buf)
	r.to += got
	r.err = err
	if got < leastBuffer/2 {
		r.partial++
	} else {
		r.partial = 0
	}
	if full && len(r.buf) < mostBuffer && r.err == nil {
		r.grow()
	}
}

// grow doubles the buffer, since the last read has filled it.
func (r *Reader) grow() {
	buf := make([]byte, min(2*len(r.buf), mostBuffer))
	r.to = copy(buf, r.buf[r.from:r.to])
	r.buf, r.from = buf, 0
}
