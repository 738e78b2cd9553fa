package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// file is one file of the folder. Its fields but path and first change under
// Spool.mu. Of a file that was found when the spool was opened n is the most it has.
type file struct {
	path  string
	first uint64
	n     uint64
	size  int64 // bytes that are good
}

func (f *file) end() uint64 { return f.first + f.n }

// retry is how long the folder is left alone after it has refused to take records.
const retry = time.Second

// disk is the goroutine that writes to the folder and removes from it. Nobody else
// does, and its fields are its own but wake and the channels.
type disk struct {
	s        *Spool
	wake     chan struct{}
	quit     chan struct{}
	done     chan struct{}
	once     sync.Once
	lock     *os.File
	cursor   *cursor
	fileSize int64 // of a file that gets no more

	open    *os.File // the last of Spool.files, or nil
	dirty   time.Time
	failed  error     // the last write, nil if it went well
	again   time.Time // not before, after a failure
	saved   uint64    // in cursor
	savedAt time.Time
	err     error // of stop
}

func (d *disk) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// stop ends the goroutine, which writes what there is before that.
func (d *disk) stop() error {
	d.once.Do(func() { close(d.quit) })
	<-d.done
	return d.err
}

func (d *disk) run() {
	defer close(d.done)
	defer func() {
		if p := recover(); p != nil { // not worth the end of PID 1
			d.err = fmt.Errorf("the spool panicked: %v", p)
			d.s.opt.Log.Error("the spool writes no more: it panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := d.work(false)
		timer.Reset(next)
		select {
		case <-d.wake:
		case <-timer.C:
		case <-d.quit:
			d.again = time.Time{}
			d.work(true)
			d.err = d.close()
			return
		}
	}
}

// work does what is due, or everything, and returns when something may be due next.
func (d *disk) work(all bool) time.Duration {
	s, opt := d.s, d.s.opt
	for time.Now().After(d.again) {
		c := d.take(all)
		if c == nil {
			break
		}
		err := d.write(c)
		d.wrote(c, err)
		if err != nil {
			d.again = time.Now().Add(retry)
		}
	}
	if !d.dirty.IsZero() && (all || time.Since(d.dirty) >= opt.Sync) {
		d.sync()
	}
	d.removeAcked()
	if all || time.Since(d.savedAt) >= time.Second {
		d.save()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.chunks) == 0 && d.dirty.IsZero() && d.saved >= s.acked {
		return time.Hour // until the next signal
	}
	return min(opt.Delay, opt.Sync, time.Second)/2 + time.Millisecond
}

// take returns the oldest chunk if it is to be written now, or nil.
func (d *disk) take(all bool) *chunk {
	s := d.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.chunks) > 0 && s.chunks[0].end() <= s.acked+1 {
		s.removeChunk(0)
	}
	if len(s.chunks) == 0 {
		return nil
	}
	c := s.chunks[0]
	if !all && !s.pressed() && c.first > s.wanted && time.Since(c.born) < s.opt.Delay {
		return nil
	}
	c.taken, c.pinned = true, true
	return c
}

// wrote records what became of a chunk.
func (d *disk) wrote(c *chunk, err error) {
	s := d.s
	s.mu.Lock()
	c.pinned = false
	if err == nil {
		f := s.files[len(s.files)-1]
		f.n += c.n
		f.size += int64(len(c.b))
		s.onDisk += int64(len(c.b))
		s.removeChunk(0) // pinned, it has stayed the first
		s.left()
	} else {
		// It may be too much now, for it could not be dropped before.
		for s.memory > s.opt.Memory && s.dropChunk() {
		}
	}
	s.mu.Unlock()
	switch {
	case err != nil && d.failed == nil:
		s.opt.Log.Error("the spool cannot write; records stay in memory, and the oldest are dropped when it is full", "folder", s.opt.Dir, "err", err)
	case err == nil && d.failed != nil:
		s.opt.Log.Info("the spool writes again", "folder", s.opt.Dir)
	}
	d.failed = err
}

// write appends a chunk to the last file, or to a new one. When there is no room, on
// the disk or in what the spool may use, the oldest file goes; a disk that others have
// filled keeps its files until memory runs out.
func (d *disk) write(c *chunk) error {
	for d.used()+int64(len(c.b)+fileHead) > d.s.opt.Disk && d.dropFile() {
	}
	for {
		err := d.tryWrite(c)
		full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
		if !full || !d.pressed() || !d.dropFile() {
			return err
		}
	}
}

func (d *disk) used() int64 {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	return d.s.onDisk
}

func (d *disk) pressed() bool {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	return d.s.pressed()
}

func (d *disk) tryWrite(c *chunk) error {
	last := d.last()
	if d.open == nil || last == nil || last.end() != c.first || last.size >= d.fileSize {
		if err := d.begin(c.first); err != nil {
			return err
		}
		last = d.last()
	}
	if _, err := d.open.WriteAt(c.b, last.size); err != nil {
		// What was written in part is behind the end that readers know, and is
		// overwritten by the next attempt; until then it takes room.
		if terr := d.open.Truncate(last.size); terr != nil {
			d.abandon()
		}
		return err // names the file
	}
	if d.dirty.IsZero() {
		d.dirty = time.Now()
	}
	return nil
}

func (d *disk) last() *file {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if n := len(d.s.files); n > 0 {
		return d.s.files[n-1]
	}
	return nil
}

// begin makes a new file for records from first on.
func (d *disk) begin(first uint64) error {
	if err := d.finish(); err != nil {
		return err
	}
	// Without its number of the last acknowledged record, those between that and the
	// first of the file would be taken for lost after a crash.
	if d.save(); d.saved > 0 {
		if err := d.cursor.f.Sync(); err != nil {
			return err
		}
	}
	s := d.s
	f := &file{path: fileName(s.opt.Dir, first), first: first, size: int64(fileHead)}
	// One of that name can only be what an earlier attempt has left.
	open, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := open.Write(appendFileHead(nil, first)); err != nil {
		return errors.Join(err, open.Close(), os.Remove(f.path))
	}
	if err := syncDir(s.opt.Dir); err != nil {
		return errors.Join(err, open.Close(), os.Remove(f.path))
	}
	d.open = open
	s.mu.Lock()
	if n := len(s.files); n > 0 && s.files[n-1].n == 0 {
		s.onDisk -= s.files[n-1].size // one that has never got a record
		s.files = s.files[:n-1]
	}
	s.files = append(s.files, f)
	s.onDisk += f.size
	s.mu.Unlock()
	return nil
}

// finish syncs and closes the open file.
func (d *disk) finish() error {
	if d.open == nil {
		return nil
	}
	if !d.dirty.IsZero() {
		if err := d.open.Sync(); err != nil {
			d.abandon()
			return err
		}
	}
	err := d.open.Close()
	d.open, d.dirty = nil, time.Time{}
	return err
}

// abandon lets go of an open file that has become unreliable; what was written to it
// stays, as far as it can be read.
func (d *disk) abandon() {
	_ = d.open.Close() // it has failed already
	d.open, d.dirty = nil, time.Time{}
}

func (d *disk) sync() {
	if d.open == nil {
		d.dirty = time.Time{}
		return
	}
	if err := d.open.Sync(); err != nil {
		d.s.opt.Log.Error("the spool cannot sync", "file", d.open.Name(), "err", err)
		d.abandon() // a second attempt would say that all is well
		return
	}
	d.dirty = time.Time{}
}

// dropFile drops the oldest file with what is in it, and reports whether that has
// made room.
func (d *disk) dropFile() bool {
	s := d.s
	s.mu.Lock()
	if len(s.files) == 0 {
		s.mu.Unlock()
		return false
	}
	f := s.files[0]
	s.mu.Unlock()
	if !d.remove(f) || f.n == 0 {
		return false
	}
	s.mu.Lock()
	s.stats.Dropped += f.end() - max(f.first, min(s.acked+1, f.end()))
	s.mu.Unlock()
	return true
}

// remove removes the oldest file.
func (d *disk) remove(f *file) bool {
	if f == d.last() && d.open != nil {
		d.abandon()
	}
	if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.s.opt.Log.Error("a file of the spool cannot be removed", "err", err)
		return false
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	d.s.files = d.s.files[1:]
	d.s.onDisk -= f.size
	return true
}

// removeAcked removes the files that nobody needs any more.
func (d *disk) removeAcked() {
	for {
		s := d.s
		s.mu.Lock()
		var f *file
		if len(s.files) > 0 && s.files[0].end() <= s.acked+1 {
			f = s.files[0]
		}
		s.mu.Unlock()
		if f == nil {
			return
		}
		// Its number first: without the file nothing else tells how far it went.
		if d.save(); !d.remove(f) {
			return
		}
	}
}

// save writes down what was acknowledged.
func (d *disk) save() {
	acked := d.s.Acked()
	d.savedAt = time.Now()
	if acked == d.saved {
		return
	}
	if err := d.cursor.write(acked); err != nil {
		d.s.opt.Log.Error("the spool cannot note what was acknowledged; it may be sent again after a restart", "err", err)
		return
	}
	d.saved = acked
}

func (d *disk) close() error {
	err := d.failed
	if d.s.Stats().Memory == 0 {
		err = nil
	}
	return errors.Join(err, d.finish(), d.cursor.close(), d.lock.Close())
}

func fileName(dir string, first uint64) string {
	return fmt.Sprintf("%s/%016x.spool", dir, first)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
