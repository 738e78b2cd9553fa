package rackhd

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/wire/rackhd"
)

const (
	teeQueue   = 1000 // records that wait to be published
	maxText    = 8 << 10
	maxAttrs   = 64
	teeTimeout = 5 * time.Second
)

// Tee is a log that is also published on the bus, on exchange on.logging. It
// never blocks: records that the bus does not take in time are counted and left
// out there.
type Tee struct {
	base    slog.Handler
	level   slog.LevelVar
	off     atomic.Bool
	queue   chan bus.Message
	waiting atomic.Int64 // in the queue or on the way
	dropped atomic.Int64
	host    string
}

// NewTee returns a Tee that writes to base what is at or above its level, Info at
// first. Parts that the bus itself is made of log to Base.
func NewTee(base slog.Handler) *Tee {
	host, _ := os.Hostname()
	return &Tee{base: base, queue: make(chan bus.Message, teeQueue), host: host}
}

// Handler returns the log's handler.
func (t *Tee) Handler() slog.Handler { return teeHandler{t: t, base: t.base} }

// Base returns a handler of the same level that does not lead to the bus.
func (t *Tee) Base() slog.Handler { return teeHandler{t: t, base: t.base, silent: true} }

// Set changes what is logged, and whether it is published.
func (t *Tee) Set(level slog.Level, publish bool) {
	t.level.Set(level)
	t.off.Store(!publish)
}

// Flush waits until what was logged so far is handed to the bus, at most for d.
func (t *Tee) Flush(d time.Duration) {
	for end := time.Now().Add(d); t.waiting.Load() > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
}

// Run publishes until ctx ends.
func (t *Tee) Run(ctx context.Context, b bus.Bus) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-t.queue:
			messages, taken := []bus.Message{m}, int64(1)
			for more := true; more && len(messages) < 100; {
				select {
				case m := <-t.queue:
					messages, taken = append(messages, m), taken+1
				default:
					more = false
				}
			}
			if n := t.dropped.Swap(0); n > 0 {
				r := slog.NewRecord(time.Now(), slog.LevelWarn, fmt.Sprintf("%d log messages were not published", n), 0)
				messages = append(messages, t.messages(r, nil)...)
			}
			sending, cancel := context.WithTimeout(ctx, teeTimeout)
			if err := b.Publish(sending, messages...); err != nil {
				t.dropped.Add(int64(len(messages)))
			}
			cancel()
			t.waiting.Add(-taken)
		}
	}
}

// keys are the routing keys of a level: those of the document, then those of
// RackHD 2.x where they differ. The second result is the level in the body, which
// is always one of 2.x.
func keys(l slog.Level) (keys []string, level string) {
	switch {
	case l >= slog.LevelError+8:
		return []string{"emerg", "critical"}, "critical"
	case l >= slog.LevelError+4:
		return []string{"alert", "critical"}, "critical"
	case l >= slog.LevelError:
		return []string{"error"}, "error"
	case l >= slog.LevelWarn:
		return []string{"warning"}, "warning"
	case l > slog.LevelInfo:
		return []string{"notice", "info"}, "info"
	case l >= slog.LevelInfo:
		return []string{"info"}, "info"
	case l >= slog.LevelDebug:
		return []string{"debug"}, "debug"
	}
	return []string{"silly", "debug"}, "debug"
}

func (t *Tee) messages(r slog.Record, attrs map[string]any) []bus.Message {
	names, level := keys(r.Level)
	if attrs == nil {
		attrs = map[string]any{}
	}
	caller, pkg := "", ""
	if r.PC != 0 {
		f, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
		caller, pkg = fmt.Sprintf("%s:%d", f.Function, f.Line), f.Function
	}
	subject := service
	for _, key := range []string{"task", "graph", "chassis"} {
		if s, ok := attrs[key].(string); ok {
			subject = s
		}
	}
	e := rackhd.LogEvent{
		Package: fmt.Sprintf("%.200s", pkg), Host: t.host, Level: level, Message: fmt.Sprintf("%.*s", maxText, r.Message),
		Context: attrs, Timestamp: rackhd.Timestamp(r.Time), Caller: caller, Subject: subject,
	}
	var list []bus.Message
	for _, key := range names {
		m, err := message(rackhd.Logging, key, e)
		if err != nil {
			return nil
		}
		list = append(list, m)
	}
	return list
}

// teeHandler is a slog.Handler with attributes of its own.
type teeHandler struct {
	t      *Tee
	base   slog.Handler
	silent bool
	attrs  []slog.Attr
	groups string // prefix of the names that follow
}

func (h teeHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.t.level.Level() }

func (h teeHandler) Handle(ctx context.Context, r slog.Record) error {
	if !h.silent && !h.t.off.Load() {
		attrs := map[string]any{}
		for _, a := range h.attrs {
			add(attrs, "", a)
		}
		r.Attrs(func(a slog.Attr) bool {
			add(attrs, h.groups, a)
			return len(attrs) < maxAttrs
		})
		for _, m := range h.t.messages(r, attrs) {
			h.t.waiting.Add(1)
			select {
			case h.t.queue <- m:
			default:
				h.t.waiting.Add(-1)
				h.t.dropped.Add(1)
			}
		}
	}
	if !h.base.Enabled(ctx, r.Level) {
		return nil
	}
	return h.base.Handle(ctx, r)
}

func (h teeHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.base = h.base.WithAttrs(attrs)
	all := append([]slog.Attr{}, h.attrs...)
	for _, a := range attrs {
		a.Key = h.groups + a.Key
		all = append(all, a)
	}
	h.attrs = all
	return h
}

func (h teeHandler) WithGroup(name string) slog.Handler {
	h.base = h.base.WithGroup(name)
	h.groups += name + "."
	return h
}

// add writes one attribute as JSON has it: numbers and booleans as they are, all
// else as bounded text.
func add(to map[string]any, prefix string, a slog.Attr) {
	if len(to) >= maxAttrs {
		return
	}
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindBool, slog.KindInt64, slog.KindUint64:
		to[prefix+a.Key] = v.Any()
	case slog.KindGroup:
		for _, inner := range v.Group() {
			add(to, prefix+a.Key+".", inner)
		}
	default:
		to[prefix+a.Key] = fmt.Sprintf("%.*s", maxText, v.String())
	}
}
