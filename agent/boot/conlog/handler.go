// Package conlog is the log of PID 1: a slog handler that writes every record
// to the kernel log and to every console of the machine.
package conlog

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Handler is a slog.Handler. Console lines carry the seconds since the kernel
// started, because the clock of a chassis is wrong until NTP has set it and
// the kernel's own lines count the same way.
type Handler struct {
	out   *Output
	level slog.Leveler
	buf   *lockedBuffer
	text  slog.Handler // renders the attributes
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) { return l.b.Write(p) }

// NewHandler returns a handler that writes records of at least level to out.
func NewHandler(out *Output, level slog.Leveler) *Handler {
	buf := &lockedBuffer{}
	return &Handler{out, level, buf, slog.NewTextHandler(buf, &slog.HandlerOptions{Level: slog.LevelDebug - 100})}
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(a []slog.Attr) slog.Handler {
	c := *h
	c.text = h.text.WithAttrs(a)
	return &c
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	c := *h
	c.text = h.text.WithGroup(name)
	return &c
}

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	// The text handler writes level and message first, and no time for a
	// zero one; both are cut off again to put a more readable form before
	// the attributes, which are left as they are.
	bare := slog.Record{Level: r.Level, PC: r.PC}
	r.Attrs(func(a slog.Attr) bool { bare.AddAttrs(a); return true })
	h.buf.mu.Lock()
	h.buf.b.Reset()
	err := h.text.Handle(ctx, bare)
	attrs := strings.TrimSuffix(h.buf.b.String(), "\n")
	h.buf.mu.Unlock()
	if err != nil {
		return fmt.Errorf("console log: %w", err)
	}
	attrs = strings.TrimPrefix(attrs, "level="+r.Level.String()+` msg=""`)
	h.out.Line(r.Level, clean(r.Message)+attrs)
	return nil
}

// clean keeps what others wrote, a host name from DHCP say, from moving the
// cursor or forging a second line.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u009b' {
			return '.'
		}
		return r
	}, s)
}

// uptime returns seconds since the kernel started, sleep included.
func uptime() float64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return float64(ts.Nano()) / 1e9
}
