package minion

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// medium is what lines are written to. It is used by one goroutine at a time, but for
// sync, which may run beside write.
type medium interface {
	// write writes lines, whole ones in the end: after an error it is called with the
	// same lines again.
	write(lines []byte) error
	sync() error
	close() error
}

// Pauses of a destination that fails, between two tries.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// syncEvery is how often lines are made durable at most. Agents wait for it, not
// connections.
const syncEvery = 40 * time.Millisecond

// Most that is written at a time.
const (
	writeBytes   = 1 << 20
	writeRecords = 1 << 20
)

// lineWriter is the one goroutine that writes a destination's lines, and another that
// makes them durable.
type lineWriter struct {
	q       *queue
	m       medium
	trouble func(q *queue, err error, say bool)
	meter   *meters

	mu     sync.Mutex
	wake   *sync.Cond
	wait   []*part // written, and not yet durable
	ending bool
}

// run writes what the queue gets until that is closed and empty, or hurry ends.
func (w *lineWriter) run(hurry context.Context) {
	w.wake = sync.NewCond(&w.mu)
	synced := make(chan struct{})
	go func() {
		defer close(synced)
		w.syncing(hurry)
	}()
	var buf []byte
	var parts []*part
	for {
		parts = w.q.take(parts[:0], writeBytes, writeRecords)
		if len(parts) == 0 {
			break
		}
		lines := parts[0].lines
		if len(parts) > 1 {
			buf = buf[:0]
			for _, p := range parts {
				buf = append(buf, p.lines...)
			}
			lines = buf
		}
		if !persist(hurry, w.q, w.trouble, func() error { return w.m.write(lines) }) {
			w.q.giveUp(parts)
			break
		}
		w.meter.written.WithLabelValues(w.q.label).Add(float64(len(lines)))
		w.written(parts)
	}
	w.mu.Lock()
	w.ending = true
	w.wake.Signal()
	w.mu.Unlock()
	<-synced
	if err := w.m.close(); err != nil {
		w.trouble(w.q, err, true)
	}
}

// written lets go of the parts whose agents do not wait for more.
func (w *lineWriter) written(parts []*part) {
	now := parts[:0:0]
	w.mu.Lock()
	for _, p := range parts {
		if p.durable {
			w.wait = append(w.wait, p)
		} else {
			now = append(now, p)
		}
	}
	w.wake.Signal()
	w.mu.Unlock()
	w.q.done(now)
	recycle(now)
}

// syncing makes lines durable until run ends.
func (w *lineWriter) syncing(hurry context.Context) {
	for {
		w.mu.Lock()
		for len(w.wait) == 0 && !w.ending {
			w.wake.Wait()
		}
		parts := w.wait
		w.wait = nil
		w.mu.Unlock()
		if len(parts) == 0 {
			return
		}
		began := time.Now()
		err := w.m.sync()
		w.meter.syncs.WithLabelValues(w.q.label).Observe(time.Since(began).Seconds())
		if err != nil {
			// The kernel may have dropped the pages: only writing again helps.
			if !persist(hurry, w.q, w.trouble, func() error { return w.rewrite(parts, err) }) {
				w.q.giveUp(parts)
				continue
			}
		}
		w.q.done(parts)
		recycle(parts)
		if pause := syncEvery - time.Since(began); pause > 0 && !w.isEnding() {
			time.Sleep(pause)
		}
	}
}

func (w *lineWriter) isEnding() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ending
}

// rewriter is a medium whose lines can be written again after a failed sync.
type rewriter interface{ rewrite(parts []*part) error }

func (w *lineWriter) rewrite(parts []*part, cause error) error {
	if cause != nil {
		w.trouble(w.q, fmt.Errorf("make %s durable: %w", w.q.name, cause), true)
	}
	m, ok := w.m.(rewriter)
	if !ok {
		return cause
	}
	return m.rewrite(parts)
}

// persist tries until something succeeds, or hurry ends, which it reports.
func persist(hurry context.Context, q *queue, trouble func(*queue, error, bool), try func() error) bool {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := try()
		if say := q.state(err); say || err != nil {
			trouble(q, err, say)
		}
		if err == nil {
			return true
		}
		select {
		case <-time.After(pause):
		case <-hurry.Done():
			return false
		}
	}
}

// Lines' memory is used again: at full speed it is 100 MB a second.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 64<<10); return &b }}

// maxRecycled bounds what stays of one that has grown.
const maxRecycled = 1 << 20

func recycle(parts []*part) {
	for _, p := range parts {
		if b := p.lines; b != nil && cap(b) <= maxRecycled {
			b = b[:0]
			buffers.Put(&b)
		}
		p.lines = nil
	}
}

// stream is a medium that is the standard output or error.
type stream struct{ f *os.File }

func (s stream) write(lines []byte) error {
	for len(lines) > 0 {
		n, err := s.f.Write(lines)
		if lines = lines[n:]; err != nil && len(lines) > 0 {
			return fmt.Errorf("write to %s: %w", s.f.Name(), err)
		}
	}
	return nil
}
func (s stream) sync() error  { return nil }
func (s stream) close() error { return nil }

var errEnded = errors.New("the server is ending")
