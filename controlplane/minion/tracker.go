package minion

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// batch is what was read of an agent's connection at a time.
type batch struct {
	tracker *tracker
	parts   []*part
	ids     []wire.ID // of all its records; only of an agent that acknowledges
	last    wire.ID   // the last of them
	records int
	bytes   int
	pending atomic.Int32 // parts that are not done, and what else it waits for
	kept    bool         // guarded by the tracker's lock
	at      time.Time    // when it was kept
}

// partDone is called once for each of what the batch waits for.
func (b *batch) partDone() {
	if b.pending.Add(-1) == 0 {
		b.tracker.finish(b)
	}
}

// tracker knows how far what a connection has sent is kept. Batches may be kept in
// any order, and count in the order they were sent.
type tracker struct {
	limit int           // bytes in flight
	moved chan struct{} // holds one when acknowledged has moved

	mu           sync.Mutex
	change       *sync.Cond
	flight       []*batch // in order; the first is not kept
	bytes        int
	acknowledged wire.ID
	records      int      // kept and not yet taken by progress
	recent       []*batch // kept lately: the peer may not have heard
	remembered   int      // ids in recent
	drained      []func()
	left         bool // nothing follows
}

// remember is how long, and maxRemembered of how many records, the ids are known of
// what was acknowledged. The agent's kernel has acknowledged the acknowledgement by
// then, or the connection has ended (the control plane's listeners see to that).
const (
	remember      = 2 * time.Minute
	maxRemembered = 4 * wire.MaxUnacknowledged
)

func newTracker(limit int) *tracker {
	t := &tracker{limit: limit, moved: make(chan struct{}, 1)}
	t.change = sync.NewCond(&t.mu)
	return t
}

// register makes a batch the next in flight.
func (t *tracker) register(b *batch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b.tracker == nil {
		b.tracker = t
		t.flight = append(t.flight, b)
	}
}

// admit returns when there is room for a batch that is registered.
func (t *tracker) admit(ctx context.Context, b *batch) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bytes > 0 && t.bytes+b.bytes > t.limit {
		stop := context.AfterFunc(ctx, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.change.Broadcast()
		})
		defer stop()
		for t.bytes > 0 && t.bytes+b.bytes > t.limit && ctx.Err() == nil {
			t.change.Wait()
		}
	}
	t.bytes += b.bytes
	return ctx.Err()
}

func (t *tracker) finish(b *batch) {
	now := time.Now()
	t.mu.Lock()
	b.kept, b.at = true, now
	b.parts = nil // their memory
	t.bytes -= b.bytes
	n := 0
	for n < len(t.flight) && t.flight[n].kept {
		done := t.flight[n]
		if !done.last.IsZero() {
			t.acknowledged = done.last
		}
		t.records += done.records
		if len(done.ids) > 0 && !t.left {
			t.recent = append(t.recent, done)
			t.remembered += len(done.ids)
		}
		n++
	}
	if n > 0 {
		rest := copy(t.flight, t.flight[n:])
		clear(t.flight[rest:])
		t.flight = t.flight[:rest]
		t.forget(now)
	}
	var drained []func()
	if len(t.flight) == 0 {
		drained, t.drained = t.drained, nil
	}
	t.change.Broadcast()
	t.mu.Unlock()
	if n > 0 {
		select {
		case t.moved <- struct{}{}:
		default:
		}
	}
	for _, f := range drained {
		f()
	}
}

func (t *tracker) forget(now time.Time) {
	n := 0
	for n < len(t.recent) && (now.Sub(t.recent[n].at) > remember || t.remembered > maxRemembered) {
		t.remembered -= len(t.recent[n].ids)
		n++
	}
	if n > 0 {
		rest := copy(t.recent, t.recent[n:])
		clear(t.recent[rest:])
		t.recent = t.recent[:rest]
	}
}

// progress returns the last record that all are kept up to, if that is another than
// at the last call.
func (t *tracker) progress() (wire.ID, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	moved := t.records > 0 && !t.acknowledged.IsZero()
	t.records = 0
	return t.acknowledged, moved
}

// wait returns when all is kept, or ctx ends.
func (t *tracker) wait(ctx context.Context) error {
	done := make(chan struct{})
	t.whenDrained(func() { close(done) })
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// whenDrained calls f once all that is in flight now is kept; perhaps at once.
func (t *tracker) whenDrained(f func()) {
	t.mu.Lock()
	now := len(t.flight) == 0
	if !now {
		t.drained = append(t.drained, f)
	}
	t.mu.Unlock()
	if now {
		f()
	}
}

// leave returns the ids that the agent may send again: of what is in flight, and of
// what was kept lately. Nothing follows.
func (t *tracker) leave() []wire.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(time.Now())
	var ids []wire.ID
	for _, list := range [][]*batch{t.recent, t.flight} {
		for _, b := range list {
			ids = append(ids, b.ids...)
		}
	}
	t.left, t.recent, t.remembered = true, nil, 0
	return ids
}
