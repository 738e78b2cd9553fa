package minion

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// maxTail is how much of a file is read, when it is opened, for the ids of its last
// lines: a server that was killed may have written lines that it did not acknowledge,
// and their agents will send them again.
const maxTail = 16 << 20

// file is a medium that is a file, to which nobody else writes. Whoever renames or
// removes it (logrotate) gets all lines written so far in it, and the next ones go to a
// new file of the same name; no signal is needed.
type file struct {
	path string

	mu     sync.Mutex // of f, which the writing goroutine alone changes
	f      *os.File
	info   os.FileInfo
	behind int // how many bytes of the lines being written are in the file
}

// open opens the file, which is made if it is not there, and ends a last line that a
// crash has left without its end.
func (o *file) open() error {
	if o.f != nil {
		return nil
	}
	dir := filepath.Dir(o.path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("folder of a log file: %w", err)
	}
	// Not to wait for the reader of a FIFO that is there instead.
	f, err := os.OpenFile(o.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK|unix.O_NOCTTY, 0o640)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err = f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			_, err = f.Write([]byte{'\n'})
		}
	}
	if err == nil {
		err = errors.Join(f.Sync(), syncFolder(dir)) // the name, too
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("log file %s: %w", o.path, err)
	}
	o.mu.Lock()
	o.f, o.info = f, info
	o.mu.Unlock()
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// write appends lines. Lines that are written in part are completed by the next call,
// in the same file, or begun anew in the next.
func (o *file) write(lines []byte) error {
	for {
		if err := o.current(lines); err != nil {
			return err
		}
		for o.behind < len(lines) {
			n, err := o.f.Write(lines[o.behind:])
			o.behind += max(n, 0)
			if err != nil && o.behind < len(lines) {
				return fmt.Errorf("log file %s: %w", o.path, err)
			}
		}
		if o.linked() {
			o.behind = 0
			return nil
		}
		// Removed, rather than renamed, meanwhile: nobody will read that.
	}
}

// linked reports whether the file has a name still.
func (o *file) linked() bool {
	var st unix.Stat_t
	err := unix.Fstat(int(o.f.Fd()), &st)
	return err != nil || st.Nlink > 0
}

// current makes the file that has the name the one that lines are written to.
func (o *file) current(lines []byte) error {
	if o.f != nil {
		info, err := os.Stat(o.path)
		if err == nil && os.SameFile(info, o.info) {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("log file: %w", err)
		}
		// What is in it must be durable before sync finds it closed.
		if err := o.f.Sync(); err != nil {
			return fmt.Errorf("log file %s, which was renamed: %w", o.path, err)
		}
		// The next file begins with a whole line.
		if o.linked() {
			o.behind = bytes.LastIndexByte(lines[:o.behind], '\n') + 1
		} else {
			o.behind = 0
		}
		o.mu.Lock()
		o.f.Close()
		o.f, o.info = nil, nil
		o.mu.Unlock()
	}
	return o.open()
}

func (o *file) sync() error {
	o.mu.Lock()
	f := o.f
	o.mu.Unlock()
	if f == nil {
		return nil
	}
	if err := f.Sync(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil // current has synchronised it before it closed it
}

// rewrite writes what a failed sync may have lost to a file opened anew.
func (o *file) rewrite(parts []*part) error {
	f, err := os.OpenFile(o.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	defer f.Close()
	for _, p := range parts {
		if _, err := f.Write(append([]byte{'\n'}, p.lines...)); err != nil {
			return fmt.Errorf("log file %s: %w", o.path, err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("log file %s: %w", o.path, err)
	}
	return nil
}

func (o *file) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.f == nil {
		return nil
	}
	err := errors.Join(o.f.Sync(), o.f.Close())
	o.f = nil
	return err
}

// tailIDs returns the ids of the last whole lines of a file, of at most maxTail bytes.
func tailIDs(path string) (map[wire.ID]struct{}, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	from := max(info.Size()-maxTail, 0)
	b, err := io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
	if err != nil {
		return nil, err
	}
	ids := map[wire.ID]struct{}{}
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		if id, ok := lineID(line); ok && whole {
			ids[id] = struct{}{}
		}
		b = rest
	}
	return ids, nil
}
