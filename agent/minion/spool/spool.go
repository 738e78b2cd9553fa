package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Defaults of Options.
const (
	DefaultMemory     = 16 << 20 // without a folder
	DefaultMemoryDisk = 2 << 20  // with one
	DefaultDisk       = 1 << 30
	DefaultDelay      = time.Second
	DefaultSync       = time.Second
)

// ErrClosed is a record that comes after Close.
var ErrClosed = errors.New("the spool is closed")

// Options of a spool. The zero value keeps records in memory only.
type Options struct {
	Memory int64         // bytes of memory for records; 0: DefaultMemory or DefaultMemoryDisk
	Dir    string        // folder of the files, made if missing; "": memory only
	Disk   int64         // bytes of files; 0: DefaultDisk
	Delay  time.Duration // how long a record may be in memory only; 0: DefaultDelay
	Sync   time.Duration // how long a written one may be unsynced; 0: DefaultSync
	// Log is told what is wrong with the folder; nil: nobody is. It may write to the
	// spool itself.
	Log *slog.Logger
}

// Stats says what is in a spool.
type Stats struct {
	Records uint64 // not acknowledged, those that were lost among them
	Memory  int64  // bytes
	Disk    int64  // bytes
	Dropped uint64 // records that there was no room for, since it was opened
	Torn    int64  // bytes cut off a file when it was opened
}

// chunk is records in memory, in the form they have in a file. Bytes and records
// are only added, so that who has taken a slice of b under Spool.mu may read it.
type chunk struct {
	first  uint64
	n      uint64
	b      []byte
	born   time.Time
	taken  bool // it is being written to a file, and is not added to
	pinned bool // the same, until that has ended
	refs   int  // Readers in it
	gone   bool // it is not in the spool any more
}

func (c *chunk) end() uint64 { return c.first + c.n }

// Spool is a queue of records. Its methods may be called from any goroutine.
type Spool struct {
	opt       Options
	chunkSize int
	disk      *disk // nil: memory only

	mu      sync.Mutex // never held over a system call
	chunks  []*chunk   // oldest first; the last is added to
	memory  int64      // bytes of chunks
	free    [][]byte   // for chunks to come
	files   []*file    // oldest first, all before chunks
	onDisk  int64      // bytes of files
	next    uint64     // number of the next record
	acked   uint64
	wanted  uint64 // by Written
	stats   Stats  // Dropped and Torn
	closed  bool
	readers []*Reader
	changed chan struct{} // closed, and replaced, when records leave; nil: nobody waits
	start   uint64        // number of the last record found when it was opened
}

// Open opens a spool, with the records that are in its folder. It fails if the
// folder cannot be used, or is used by another process.
func Open(opt Options) (*Spool, error) {
	if opt.Memory <= 0 {
		opt.Memory = DefaultMemory
		if opt.Dir != "" {
			opt.Memory = DefaultMemoryDisk
		}
	}
	if opt.Disk <= 0 {
		opt.Disk = DefaultDisk
	}
	if opt.Delay <= 0 {
		opt.Delay = DefaultDelay
	}
	if opt.Sync <= 0 {
		opt.Sync = DefaultSync
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Spool{opt: opt, next: 1, chunkSize: int(min(max(opt.Memory/16, 4<<10), 64<<10))}
	if opt.Dir == "" {
		return s, nil
	}
	if err := s.openDisk(); err != nil {
		return nil, fmt.Errorf("spool %s: %w", opt.Dir, err)
	}
	return s, nil
}

// Put adds a record and returns its number. It keeps a copy of data, and returns at
// once. It fails for a record that is empty or longer than MaxRecord, and after Close.
func (s *Spool) Put(data []byte) (seq uint64, err error) {
	if len(data) == 0 || len(data) > MaxRecord {
		return 0, fmt.Errorf("a record of %d bytes: 1 to %d can be kept", len(data), MaxRecord)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrClosed
	}
	seq = s.next
	c := s.room(recordHead + len(data))
	c.b = appendRecord(c.b, seq, data)
	c.n++
	s.next++
	for _, r := range s.readers {
		r.signal()
	}
	if s.disk != nil && s.pressed() {
		s.disk.signal()
	}
	return seq, nil
}

// PutWait is Put for who can wait: while three quarters of the memory are used it
// waits for the folder to take records, or for acknowledgements, so that it causes
// none to be dropped, and leaves room for those who use Put.
func (s *Spool) PutWait(ctx context.Context, data []byte) (seq uint64, err error) {
	if err := s.wait(ctx, func() bool { return s.memory <= s.opt.Memory*3/4 || s.closed }); err != nil {
		return 0, fmt.Errorf("no room in the spool: %w", err)
	}
	return s.Put(data)
}

// pressed reports whether records should go to the folder for want of memory.
func (s *Spool) pressed() bool { return s.memory > s.opt.Memory/2 }

// room returns the chunk that a record of n bytes is to be added to, after dropping
// what stands in its way. s.mu is held.
func (s *Spool) room(n int) *chunk {
	if k := len(s.chunks); k > 0 {
		if c := s.chunks[k-1]; !c.taken && len(c.b)+n <= cap(c.b) {
			return c
		}
	}
	size := max(s.chunkSize, n)
	for s.memory+int64(size) > s.opt.Memory {
		if !s.dropChunk() {
			break // a limit below one chunk, or all of them are being written
		}
	}
	c := &chunk{first: s.next, born: time.Now()}
	if n := len(s.free); n > 0 && size == s.chunkSize {
		c.b, s.free = s.free[n-1], s.free[:n-1]
	} else {
		c.b = make([]byte, 0, size)
	}
	s.chunks = append(s.chunks, c)
	s.memory += int64(size)
	if s.disk != nil {
		s.disk.signal() // begins to count Options.Delay
	}
	return c
}

// dropChunk drops the oldest chunk that is in memory alone. s.mu is held.
func (s *Spool) dropChunk() bool {
	for i, c := range s.chunks {
		if !c.pinned {
			s.stats.Dropped += c.end() - max(c.first, min(s.acked+1, c.end()))
			s.removeChunk(i)
			return true
		}
	}
	return false
}

func (s *Spool) removeChunk(i int) {
	c := s.chunks[i]
	s.memory -= int64(cap(c.b))
	s.chunks = slices.Delete(s.chunks, i, i+1)
	c.gone = true
	s.recycle(c)
}

// keepFree is how many buffers are kept: making them anew costs the garbage collector
// more than all else here, when many records pass through a folder.
const keepFree = 4

// recycle keeps the buffer of a chunk that nobody has any more. s.mu is held.
func (s *Spool) recycle(c *chunk) {
	if c.gone && c.refs == 0 && cap(c.b) == s.chunkSize && len(s.free) < keepFree {
		s.free = append(s.free, c.b[:0])
		c.b = nil
	}
}

// Ack lets the records up to and with that number go.
func (s *Spool) Ack(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seq = min(seq, s.next-1)
	if seq <= s.acked {
		return
	}
	s.acked = seq
	for len(s.chunks) > 0 && s.chunks[0].end() <= seq+1 && !s.chunks[0].pinned {
		s.removeChunk(0)
	}
	if len(s.files) > 0 {
		s.disk.signal() // some can be removed
	}
	s.left()
}

// left wakes those who wait for records to leave. s.mu is held.
func (s *Spool) left() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// wait waits until done, which is called under s.mu.
func (s *Spool) wait(ctx context.Context, done func() bool) error {
	for {
		s.mu.Lock()
		if done() {
			s.mu.Unlock()
			return nil
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Last returns the number of the newest record, 0 if there never was one.
func (s *Spool) Last() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next - 1
}

// Acked returns the last number that was acknowledged.
func (s *Spool) Acked() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// Recovered returns the number of the newest record that was there when the spool
// was opened, 0 if there was none. Those up to it may have been sent before.
func (s *Spool) Recovered() uint64 { return s.start }

// Wait waits until the records up to and with that number are acknowledged.
func (s *Spool) Wait(ctx context.Context, seq uint64) error {
	if err := s.wait(ctx, func() bool { return s.acked >= seq }); err != nil {
		return fmt.Errorf("%d records are not acknowledged: %w", seq-min(seq, s.Acked()), err)
	}
	return nil
}

// Written waits until the records that were put so far will survive the process: they
// are in the folder, or acknowledged. Without a folder only the latter does.
func (s *Spool) Written(ctx context.Context) error {
	s.mu.Lock()
	last := s.next - 1
	if s.disk != nil && s.wanted < last {
		s.wanted = last
		s.disk.signal()
	}
	s.mu.Unlock()
	if err := s.wait(ctx, func() bool {
		return s.acked >= last || s.disk != nil && (len(s.chunks) == 0 || s.chunks[0].first > last)
	}); err != nil {
		return fmt.Errorf("records are in memory only: %w", err)
	}
	return nil
}

// Stats returns what is in the spool now.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Records, st.Memory, st.Disk = s.next-1-s.acked, s.memory, s.onDisk
	return st
}

// Close writes what is in memory to the folder, if there is one, and syncs it. No
// record can be added after that.
func (s *Spool) Close() error {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	for _, r := range s.readers {
		r.signal()
	}
	s.left()
	s.mu.Unlock()
	if was || s.disk == nil {
		return nil
	}
	if err := s.disk.stop(); err != nil {
		return fmt.Errorf("spool %s: %w", s.opt.Dir, err)
	}
	return nil
}
