package spool

import (
	"context"
	"fmt"
	"os"
	"slices"
)

// Record is what a Reader returns: a record, or how many are missing.
type Record struct {
	Seq  uint64
	Data []byte // valid until the Reader's next call; nil if Lost
	Lost uint64 // if not 0: so many records, the last of them Seq, were dropped or cannot be read
}

// Reader returns the records of a spool in their order. Only one goroutine may use it.
type Reader struct {
	s    *Spool
	seq  uint64 // what is to come
	wake chan struct{}

	// Where that is in memory: at c.b[at].
	c  *chunk
	at int

	// Or in a file: buf holds what was read before off, from record seq on.
	f    *file
	open *os.File
	buf  []byte
	have int // buf[have:] is not returned yet
	off  int64
	bad  *file // cannot be read further
}

// readSize is how much is read of a file at once.
const readSize = 64 << 10

// NewReader returns a Reader that begins after what was acknowledged.
func (s *Spool) NewReader() *Reader {
	r := &Reader{s: s, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.seq = s.acked + 1
	s.readers = append(s.readers, r)
	return r
}

// Close frees what the Reader holds.
func (r *Reader) Close() {
	r.s.mu.Lock()
	r.s.readers = slices.DeleteFunc(r.s.readers, func(o *Reader) bool { return o == r })
	r.s.mu.Unlock()
	r.leave()
}

// Rewind goes back to what was not acknowledged.
func (r *Reader) Rewind() {
	r.leave()
	r.seq = r.s.Acked() + 1
}

// leave forgets where the next record is.
func (r *Reader) leave() {
	if r.open != nil {
		r.open.Close()
	}
	if r.c != nil {
		r.s.mu.Lock()
		r.c.refs--
		r.s.recycle(r.c)
		r.s.mu.Unlock()
	}
	r.c, r.at, r.f, r.open, r.bad = nil, 0, nil, nil, nil
	r.buf, r.have, r.off = r.buf[:0], 0, 0
}

func (r *Reader) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Wake returns a channel that receives when Try may have more to return.
func (r *Reader) Wake() <-chan struct{} { return r.wake }

// Next returns the next record, and waits for it. After Close of the spool it
// returns those that are there, then ErrClosed.
func (r *Reader) Next(ctx context.Context) (Record, error) {
	for {
		if rec, ok := r.Try(); ok {
			return rec, nil
		}
		r.s.mu.Lock()
		closed := r.s.closed
		r.s.mu.Unlock()
		if closed {
			return Record{}, ErrClosed
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return Record{}, ctx.Err()
		}
	}
}

// Try returns the next record if there is one.
func (r *Reader) Try() (Record, bool) {
	for {
		rec, ok, again := r.step()
		if ok {
			r.seq = rec.Seq + 1
		}
		if ok || !again {
			return rec, ok
		}
	}
}

// step returns the next record, or says whether another step may.
func (r *Reader) step() (rec Record, ok, again bool) {
	s := r.s
	s.mu.Lock()
	if r.seq <= s.acked { // acknowledged by somebody else, or by an earlier connection
		s.mu.Unlock()
		r.leave()
		r.seq = s.Acked() + 1
		return Record{}, false, true
	}
	if r.seq >= s.next {
		s.mu.Unlock()
		return Record{}, false, false
	}
	if r.c != nil && r.seq < r.c.end() {
		b := r.c.b[r.at:]
		s.mu.Unlock()
		return r.fromMemory(b)
	}
	if r.f != nil && r.f != r.bad && r.seq < r.f.end() {
		size := r.f.size
		s.mu.Unlock()
		return r.fromFile(size)
	}
	c, f, lost := s.find(r.seq, r.bad)
	if c != nil {
		c.refs++
	}
	s.mu.Unlock()
	switch {
	case lost > 0:
		return Record{Seq: r.seq + lost - 1, Lost: lost}, true, false
	case c != nil:
		r.leave()
		r.c, r.at = c, 0
		return r.skipTo(c)
	}
	r.leave()
	return r.enter(f)
}

// find returns where the record is, or how many are missing from that one on. s.mu is
// held, and the record's number is below s.next.
func (s *Spool) find(seq uint64, bad *file) (*chunk, *file, uint64) {
	next := s.next
	for i := len(s.chunks) - 1; i >= 0; i-- {
		c := s.chunks[i]
		if c.n > 0 && c.first <= seq && seq < c.end() {
			return c, nil, 0
		}
		if c.first > seq {
			next = c.first
		}
	}
	for i := len(s.files) - 1; i >= 0; i-- {
		f := s.files[i]
		if f != bad && f.first <= seq && seq < f.end() {
			return nil, f, 0
		}
		if f.first > seq {
			next = min(next, f.first)
		}
	}
	return nil, nil, next - seq
}

func (r *Reader) fromMemory(b []byte) (Record, bool, bool) {
	data, size, err := cutRecord(b, r.seq)
	if err != nil || data == nil { // memory that is not what was written to it
		return r.corrupt(err)
	}
	r.at += size
	return Record{Seq: r.seq, Data: data}, true, false
}

// corrupt gives up a chunk, whose memory has changed by itself: PID 1 must not fall
// over it.
func (r *Reader) corrupt(err error) (Record, bool, bool) {
	r.s.mu.Lock()
	lost := r.c.end() - r.seq
	r.s.mu.Unlock()
	r.s.opt.Log.Error("memory of the spool is damaged", "from", r.seq, "records", lost, "err", err)
	return Record{Seq: r.seq + lost - 1, Lost: lost}, true, false
}

// skipTo goes to r.seq in c, which has it.
func (r *Reader) skipTo(c *chunk) (Record, bool, bool) {
	r.s.mu.Lock()
	b := c.b
	r.s.mu.Unlock()
	for seq := c.first; seq < r.seq; seq++ {
		_, size, err := cutRecord(b[r.at:], seq)
		if err != nil {
			return r.corrupt(err)
		}
		r.at += size
	}
	return r.fromMemory(b[r.at:])
}

// enter opens f and goes to r.seq in it.
func (r *Reader) enter(f *file) (Record, bool, bool) {
	r.f = f
	open, err := os.Open(f.path)
	if err != nil {
		return r.broken(err)
	}
	r.open = open
	want := r.seq
	r.s.mu.Lock()
	size := f.size
	r.s.mu.Unlock()
	if !r.fill(size, fileHead) {
		return r.broken(errBroken)
	}
	if err := checkFileHead(r.buf[r.have:], f.first); err != nil {
		return r.broken(err)
	}
	r.have += fileHead
	for r.seq = f.first; r.seq < want; r.seq++ {
		if _, _, err := r.cut(size); err != nil {
			r.seq = want
			return r.broken(err)
		}
	}
	return Record{}, false, true
}

func (r *Reader) fromFile(size int64) (Record, bool, bool) {
	data, _, err := r.cut(size)
	if err != nil {
		return r.broken(err)
	}
	return Record{Seq: r.seq, Data: data}, true, false
}

// cut takes record r.seq from the file, which has size bytes.
func (r *Reader) cut(size int64) (data []byte, n int, err error) {
	for {
		data, n, err = cutRecord(r.buf[r.have:], r.seq)
		if err != nil || data != nil {
			r.have += n
			return data, n, err
		}
		if !r.fill(size, n) {
			return nil, 0, fmt.Errorf("%w: the file ends in record %d", errBroken, r.seq)
		}
	}
}

// fill reads on until n bytes are there that were not returned; the file has size
// bytes in all.
func (r *Reader) fill(size int64, n int) bool {
	rest := copy(r.buf, r.buf[r.have:])
	if cap(r.buf) < max(readSize, n) {
		r.buf = append(make([]byte, 0, max(readSize, n)), r.buf[:rest]...)
	}
	r.buf, r.have = r.buf[:rest], 0
	for len(r.buf) < n {
		room := r.buf[len(r.buf):cap(r.buf)]
		room = room[:min(int64(len(room)), size-r.off)]
		if len(room) == 0 {
			return false
		}
		got, _ := r.open.ReadAt(room, r.off) // what is missing shows
		if got == 0 {
			return false
		}
		r.buf, r.off = r.buf[:len(r.buf)+got], r.off+int64(got)
	}
	return true
}

// broken gives up the rest of a file: what it should have had is missing.
func (r *Reader) broken(err error) (Record, bool, bool) {
	r.s.opt.Log.Error("a file of the spool cannot be read further; its other records are lost",
		"file", r.f.path, "from", r.seq, "err", err)
	bad := r.f
	r.leave()
	r.bad = bad
	return Record{}, false, true
}

// Seek goes to the record with that number.
func (r *Reader) Seek(seq uint64) {
	r.leave()
	r.seq = seq
}
