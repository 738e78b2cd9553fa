// Package kmsg reads the kernel's log from /dev/kmsg, as the kernel's
// Documentation/ABI/testing/dev-kmsg describes it.
package kmsg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// maxRecord is more than the kernel ever returns in one read.
	maxRecord = 16 << 10
	reopen    = 5 * time.Second
)

// Line is one message.
type Line struct {
	Sequence uint64        // of the kernel, one more for every message
	At       time.Duration // since the kernel started
	Priority int           // 0 (emergency) to 7 (debug)
	Facility int           // 0 is the kernel's own; others wrote theirs to /dev/kmsg
	Text     string        // may hold line breaks
	// Lost is how many messages before this one were overwritten unread.
	Lost uint64
}

// Parse reads a message in the form that a read returns.
func Parse(record string) (Line, error) {
	head, text, ok := strings.Cut(record, ";")
	fields := strings.Split(head, ",")
	if !ok || len(fields) < 3 {
		return Line{}, fmt.Errorf("message of the kernel %.40q: want PRIORITY,SEQUENCE,MICROSECONDS,…;TEXT", record)
	}
	prio, err := strconv.ParseUint(fields[0], 10, 31)
	seq, err2 := strconv.ParseUint(fields[1], 10, 64)
	at, err3 := strconv.ParseUint(fields[2], 10, 53)
	if err := errors.Join(err, err2, err3); err != nil {
		return Line{}, fmt.Errorf("message of the kernel %.40q: %w", record, err)
	}
	// What follows the text are lines about the device that it is about.
	text, _, _ = strings.Cut(text, "\n")
	return Line{
		Sequence: seq, At: time.Duration(at) * time.Microsecond,
		Priority: int(prio & 7), Facility: int(prio >> 3), Text: unescape(text),
	}, nil
}

// unescape undoes the \xHH of what is not printable, where the result is text.
func unescape(s string) string {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, `\x`)
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		if len(rest) >= 2 {
			if c, err := strconv.ParseUint(rest[:2], 16, 8); err == nil && (c >= 0x80 || c == '\\' || c == '\t' || c == '\n') {
				b.WriteByte(byte(c))
				s = rest[2:]
				continue
			}
		}
		b.WriteString(`\x`)
		s = rest
	}
}

// Reader follows a log. A message is returned once, also when the device had to be
// opened again.
type Reader struct {
	path string
	log  *slog.Logger
	each func(Line)

	last  uint64
	begun bool
	buf   []byte

	mu       sync.Mutex
	f        *os.File
	draining []chan struct{}
	ended    bool
}

// NewReader returns a Reader of the log at path, which Run starts. It calls each with
// every message, beginning with the oldest that the kernel has.
func NewReader(path string, log *slog.Logger, each func(Line)) *Reader {
	return &Reader{path: path, log: log, each: each, buf: make([]byte, maxRecord)}
}

// Run reads until ctx ends.
func (r *Reader) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		r.drained(false)
		r.log.Warn("the kernel's log cannot be read, trying again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(reopen):
		}
	}
	r.drained(true)
}

// follow reads until an error, or the end of ctx.
func (r *Reader) follow(ctx context.Context) error {
	f, err := os.OpenFile(r.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	r.mu.Lock()
	r.f = f
	if len(r.draining) > 0 {
		f.SetReadDeadline(time.Unix(1, 0))
	}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.f = nil
		r.mu.Unlock()
	}()
	for ctx.Err() == nil {
		n, err := f.Read(r.buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil: // Drain
			f.SetReadDeadline(time.Time{})
			r.mu.Lock()
			waiting := r.draining
			r.draining = nil
			r.mu.Unlock()
			err := r.now(f)
			for _, c := range waiting {
				close(c)
			}
			if err != nil {
				return err
			}
		case errors.Is(err, syscall.EPIPE): // the next read goes on with the oldest there is
		case err != nil:
			return err
		default:
			r.take(string(r.buf[:n]))
		}
	}
	return ctx.Err()
}

// now reads what there is, without waiting.
func (r *Reader) now(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var n int
		var rerr error
		if err := raw.Read(func(fd uintptr) bool {
			n, rerr = syscall.Read(int(fd), r.buf)
			return true
		}); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil // another Drain, or the end
			}
			return err
		}
		switch {
		case rerr == syscall.EAGAIN || rerr == nil && n == 0:
			return nil
		case rerr == syscall.EPIPE || rerr == syscall.EINTR:
		case rerr != nil:
			return &fs.PathError{Op: "read", Path: r.path, Err: rerr}
		default:
			r.take(string(r.buf[:n]))
		}
	}
}

// take hands a message on, unless it was before.
func (r *Reader) take(record string) {
	l, err := Parse(record)
	if err != nil {
		r.log.Debug(err.Error())
		return
	}
	if r.begun && l.Sequence <= r.last {
		return
	}
	if r.begun {
		l.Lost = l.Sequence - r.last - 1
	}
	r.begun, r.last = true, l.Sequence
	r.each(l)
}

// Drain returns when the messages that there are have been handed on, or ctx ends. It
// waits for a Reader that has not begun yet.
func (r *Reader) Drain(ctx context.Context) {
	done := make(chan struct{})
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return
	}
	r.draining = append(r.draining, done)
	if r.f != nil {
		r.f.SetReadDeadline(time.Unix(1, 0))
	}
	r.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// drained lets those go who wait for a Reader that has failed or ended.
func (r *Reader) drained(ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = ended
	for _, c := range r.draining {
		close(c)
	}
	r.draining = nil
}
