package tail

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	// headSize is how many bytes at its beginning a file is known by.
	headSize = 1024
	readSize = 64 << 10
	// abandoned is how long a file that was removed is kept open for what its writer
	// may still add.
	abandoned = 10 * time.Second
)

// identity is what file an open one is.
type identity struct{ device, inode uint64 }

func identityOf(info fs.FileInfo) identity {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}
	}
	return identity{uint64(st.Dev), st.Ino}
}

// follower follows one path.
type follower struct {
	t *Tail
	File
	log   *slog.Logger
	first bool      // nothing was looked at yet
	saved *position // from an earlier run, to go on from
	said  string    // the last complaint

	f        *os.File
	id       identity
	off      int64      // of the next byte to read
	part     []byte     // of a line, before off
	head     []byte     // the file's first bytes
	modified int64      // when it was seen to be written last
	quiet    bool       // another file is at the path, and this one was at its end
	passed   []identity // files of a rotation that were read on the way to the newest
	removed  time.Time  // when it was seen to be
}

func (w *follower) run(ctx context.Context) {
	tick := time.NewTicker(w.t.c.Poll)
	defer tick.Stop()
	defer func() { w.close() }()
	for {
		err := w.look(ctx)
		if ctx.Err() != nil {
			return
		}
		w.complain(err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// complain logs what is wrong, once.
func (w *follower) complain(err error) {
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != w.said && said != "" {
		w.log.Warn("log file cannot be followed", "err", err)
	}
	w.said = said
}

// look reads what there is.
func (w *follower) look(ctx context.Context) error {
	if w.f == nil {
		if err := w.begin(); err != nil || w.f == nil {
			return err
		}
	}
	for {
		if err := w.changed(ctx); err != nil {
			return err
		}
		if err := w.read(ctx); err != nil {
			return err
		}
		next, err := w.rotated(ctx)
		if err != nil || next == nil {
			return err
		}
		if err := w.leave(ctx); err != nil {
			return errors.Join(err, next.Close())
		}
		if err := w.take(next, 0); err != nil {
			return err
		}
	}
}

// begin opens the file for the first time, or after it was away.
func (w *follower) begin() error {
	f, err := open(w.Path)
	first, saved := w.first, w.saved
	w.first, w.saved = false, nil
	if errors.Is(err, fs.ErrNotExist) {
		if saved == nil {
			return nil
		}
		err = nil // it may have been renamed while we were away
	}
	if err != nil {
		w.first, w.saved = first, saved
		return err
	}
	if saved != nil {
		found, err := w.find(f, *saved)
		if err != nil || found != nil {
			return errors.Join(err, w.take(found, saved.Offset))
		}
		w.log.Warn("the log file that was read last is gone: lines may be missing")
		if f, err = open(w.Path); err != nil { // find has closed it
			return ignoreAbsent(err)
		}
		first = false
	}
	if f == nil {
		return nil
	}
	at := int64(0)
	if first {
		if at, err = f.Seek(0, io.SeekEnd); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return w.take(f, at)
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// open opens a plain file.
func open(path string) (*os.File, error) {
	// Without O_NONBLOCK it would wait for the other end of a FIFO.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a plain file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// take makes f, which may be nil, the file that is read, from an offset on.
func (w *follower) take(f *os.File, off int64) error {
	if f == nil {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.close()
	w.f, w.id, w.off, w.part, w.head, w.quiet, w.removed = f, identityOf(info), off, nil, nil, false, time.Time{}
	w.modified = info.ModTime().UnixNano()
	return w.note()
}

// note keeps the file's first bytes and how far it was read.
func (w *follower) note() error {
	if n := int(min(w.off, headSize)); n > len(w.head) {
		head, err := headOf(w.f, n)
		if err != nil {
			return err
		}
		w.head = head
	}
	digest := sha256.Sum256(w.head)
	w.t.moved(w.Path, position{Device: w.id.device, Inode: w.id.inode, Offset: w.off - int64(len(w.part)), Head: digest[:], Bytes: len(w.head), Modified: w.modified})
	return nil
}

// headOf returns the first n bytes, or as many as there are.
func headOf(f *os.File, n int) ([]byte, error) {
	b := make([]byte, n)
	n, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}

// read hands on the lines up to the file's end.
func (w *follower) read(ctx context.Context) error {
	buf := make([]byte, readSize)
	for {
		if w.t.c.Room != nil {
			if err := w.t.c.Room(ctx); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := w.f.ReadAt(buf, w.off)
		if n > 0 {
			w.quiet = false
			if err := errors.Join(w.lines(ctx, buf[:n]), w.note()); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lines hands on the lines that b completes, and moves on by what it took of it.
func (w *follower) lines(ctx context.Context, b []byte) error {
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		for len(w.part)+len(line) > w.t.c.MaxLine {
			n := w.t.c.MaxLine - len(w.part)
			for cut := n; cut > 0 && cut > n-utf8.UTFMax; cut-- {
				if utf8.RuneStart(line[cut]) {
					n = cut
					break
				}
			}
			if err := w.t.c.Line(ctx, w.Service, string(w.part)+string(line[:n])); err != nil {
				return err
			}
			w.part, line, w.off = w.part[:0], line[n:], w.off+int64(n)
		}
		w.part, w.off = append(w.part, line...), w.off+int64(len(line))
		if whole {
			if err := w.t.c.Line(ctx, w.Service, string(bytes.TrimSuffix(w.part, []byte{'\r'}))); err != nil {
				return err
			}
			w.part, w.off = w.part[:0], w.off+1
		}
		b = rest
	}
	return nil
}

// leave hands on what the file ends with: no more will come.
func (w *follower) leave(ctx context.Context) error {
	if len(w.part) == 0 {
		return nil
	}
	if err := w.t.c.Line(ctx, w.Service, string(w.part)); err != nil {
		return err
	}
	w.part = nil
	return nil
}

func (w *follower) close() {
	if w.f != nil {
		w.f.Close()
		w.f = nil
	}
}
