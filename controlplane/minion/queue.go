package minion

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// part is what one batch has for one destination: lines, ready to be written, or
// entries.
type part struct {
	lines   []byte
	entries []Entry
	records int
	bytes   int
	durable bool // it is done when it cannot be lost, not when it is written
	to      *queue
	batch   *batch
}

// queue holds what a destination has not taken yet, within a bound: who would exceed
// it waits.
type queue struct {
	name  string // for people
	label string // for metrics
	limit int    // bytes
	lines bool   // it takes lines, not entries

	mu      sync.Mutex
	change  *sync.Cond
	parts   []*part
	bytes   int // of parts, and of what was taken and is not done
	closed  bool
	failing error // why the destination does not take anything now
	since   time.Time
	said    time.Time // when that was logged last
	moved   time.Time // when it last took something, or began to wait
	lost    int       // records that were given up at the end
}

func newQueue(name, label string, limit int, lines bool) *queue {
	q := &queue{name: name, label: label, limit: limit, lines: lines}
	q.change = sync.NewCond(&q.mu)
	return q
}

// put adds a part when there is room for it. When ctx ends first, or the destination
// has ended, it says so.
func (q *queue) put(ctx context.Context, p *part) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bytes > 0 && q.bytes+p.bytes > q.limit && !q.closed {
		stop := context.AfterFunc(ctx, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.change.Broadcast()
		})
		defer stop()
		for q.bytes > 0 && q.bytes+p.bytes > q.limit && !q.closed && ctx.Err() == nil {
			q.change.Wait()
		}
	}
	if q.closed {
		return errEnded
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if q.bytes == 0 {
		q.moved = time.Now()
	}
	q.parts = append(q.parts, p)
	q.bytes += p.bytes
	q.change.Broadcast()
	return nil
}

// take waits for parts and returns those that are there, up to some bytes and
// entries but at least one; nil when the queue is closed and empty.
func (q *queue) take(into []*part, bytes, records int) []*part {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.parts) == 0 && !q.closed {
		q.change.Wait()
	}
	n := 0
	for n < len(q.parts) && (n == 0 || bytes >= q.parts[n].bytes && records >= q.parts[n].records) {
		bytes -= q.parts[n].bytes
		records -= q.parts[n].records
		n++
	}
	into = append(into, q.parts[:n]...)
	rest := copy(q.parts, q.parts[n:])
	clear(q.parts[rest:])
	q.parts = q.parts[:rest]
	return into
}

// done lets go of parts that were taken: the destination has them.
func (q *queue) done(parts []*part) {
	bytes := 0
	for _, p := range parts {
		bytes += p.bytes
	}
	q.mu.Lock()
	q.bytes -= bytes
	q.moved = time.Now()
	q.change.Broadcast()
	q.mu.Unlock()
	for _, p := range parts {
		p.batch.partDone()
	}
}

// giveUp drops what is there when the server ends and the destination still fails.
func (q *queue) giveUp(parts []*part) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range append(parts, q.parts...) {
		if !p.durable { // the agent of any other sends it again
			q.lost += p.records
		}
		q.bytes -= p.bytes
	}
	clear(q.parts)
	q.parts = nil
	q.closed = true
	q.change.Broadcast()
}

// close has take return nil when nothing is left, and put fail.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.change.Broadcast()
}

// sayEvery is how often it is logged that a destination still fails.
const sayEvery = time.Minute

// state sets whether the destination fails, and reports whether that is to be logged.
func (q *queue) state(err error) (say bool) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	changed := (err == nil) != (q.failing == nil)
	if changed {
		q.since = now
	}
	q.failing = err
	say = changed || err != nil && now.Sub(q.said) > sayEvery
	if say {
		q.said = now
	}
	return say
}

// stuckAfter is how long a destination may take to take something.
var stuckAfter = 30 * time.Second

// look returns the queue's state, for those who ask.
func (q *queue) look() (bytes int, since time.Time, failing error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if stuck := time.Since(q.moved); q.failing == nil && q.bytes > 0 && stuck > stuckAfter {
		return q.bytes, q.moved, fmt.Errorf("it has taken nothing for %v", stuck.Round(time.Second))
	}
	return q.bytes, q.since, q.failing
}
