package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// openDisk takes possession of the folder and of the records in it.
func (s *Spool) openDisk() error {
	dir := s.opt.Dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return fmt.Errorf("another process uses it: %w", err)
	}
	d := &disk{
		s: s, lock: lock, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		fileSize: min(max(s.opt.Disk/16, 64<<10), 4<<20),
	}
	if d.cursor, err = openCursor(filepath.Join(dir, "acknowledged")); err != nil {
		return errors.Join(err, lock.Close())
	}
	s.acked = d.cursor.value
	if err := s.recover(); err != nil {
		return errors.Join(err, d.cursor.close(), lock.Close())
	}
	d.saved = s.acked
	s.disk = d
	go d.run()
	return nil
}

// recover finds the files. Only the last can end in the middle of a record: the
// others were synced before the next was begun. Their records are checked when they
// are read.
func (s *Spool) recover() error {
	entries, err := os.ReadDir(s.opt.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".spool")
		first, err := strconv.ParseUint(name, 16, 64)
		if !ok || err != nil || len(name) != 16 || !e.Type().IsRegular() || first == 0 || first > 1<<62 {
			continue // not ours
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		s.files = append(s.files, &file{path: filepath.Join(s.opt.Dir, e.Name()), first: first, size: info.Size()})
	}
	slices.SortFunc(s.files, func(a, b *file) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	s.next = s.acked + 1
	for i, f := range s.files {
		if i+1 < len(s.files) {
			f.n = s.files[i+1].first - f.first
		} else if err := s.measure(f); err != nil {
			return err
		}
		s.onDisk += f.size
		s.next = max(s.next, f.end())
	}
	if s.stats.Torn > 0 {
		s.next++ // one at least is missing, and will be told
	}
	if len(s.files) > 0 {
		s.start = s.next - 1
	}
	return nil
}

// measure counts the records of the last file, and cuts off what is not one.
func (s *Spool) measure(f *file) error {
	open, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer open.Close()
	n, good, why := Scan(open, f.first, nil)
	if why == nil {
		f.n, f.size = n, good
		return nil
	}
	if !errors.Is(why, errBroken) {
		return fmt.Errorf("read %s: %w", f.path, why)
	}
	s.stats.Torn = f.size - good
	s.opt.Log.Warn("a file of the spool ends in a broken record; it is cut off there", "file", f.path, "bytes", s.stats.Torn, "reason", why)
	if err := open.Truncate(good); err != nil {
		return err
	}
	f.n, f.size = n, good
	return open.Sync()
}

// Scan reads a file of a spool whose first record has that number, and gives every
// record to each, which may be nil. It returns how many good records there are, and
// the bytes up to the end of the last; the error says what is wrong after that.
func Scan(r io.Reader, first uint64, each func(seq uint64, data []byte)) (n uint64, good int64, err error) {
	buf := make([]byte, 0, MaxRecord+recordHead)
	fill := func(want int) error {
		got, err := io.ReadAtLeast(r, buf[len(buf):cap(buf)], want-len(buf))
		buf = buf[:len(buf)+got]
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		return err
	}
	if err := fill(fileHead); err != nil {
		if err == io.EOF {
			err = fmt.Errorf("%w: %d bytes are no file of a spool", errBroken, len(buf))
		}
		return 0, 0, err
	}
	if err := checkFileHead(buf, first); err != nil {
		return 0, 0, err
	}
	good = int64(fileHead)
	rest := buf[fileHead:]
	for {
		data, size, err := cutRecord(rest, first+n)
		if err != nil {
			return n, good, err
		}
		if data == nil {
			buf = buf[:copy(buf[:cap(buf)], rest)]
			err := fill(size)
			switch {
			case err == io.EOF && len(buf) == 0:
				return n, good, nil
			case err == io.EOF:
				return n, good, fmt.Errorf("%w: %d bytes of record %d are there", errBroken, len(buf), first+n)
			case err != nil:
				return n, good, err
			}
			rest = buf
			continue
		}
		if each != nil {
			each(first+n, data)
		}
		n++
		good += int64(size)
		rest = rest[size:]
	}
}

// cursor is the file that has the last acknowledged number, twice: a write that is
// torn leaves the one before.
type cursor struct {
	f     *os.File
	value uint64
	slot  int64
}

const cursorSize = 8 + 4 // the number, and its CRC-32C

func openCursor(path string) (*cursor, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	c := &cursor{f: f}
	var b [2 * cursorSize]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && err != io.EOF {
		return nil, errors.Join(err, f.Close())
	}
	for slot := range int64(2) {
		at := slot * cursorSize
		if at+cursorSize > int64(n) {
			break
		}
		v := binary.BigEndian.Uint64(b[at:])
		if binary.BigEndian.Uint32(b[at+8:]) == crc32.Checksum(b[at:at+8], castagnoli) && v > c.value && v < 1<<62 {
			c.value, c.slot = v, 1-slot
		}
	}
	return c, nil
}

func (c *cursor) write(v uint64) error {
	b := binary.BigEndian.AppendUint64(nil, v)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := c.f.WriteAt(b, c.slot*cursorSize); err != nil {
		return err
	}
	c.value, c.slot = v, 1-c.slot
	return nil
}

func (c *cursor) close() error { return c.f.Close() }
