package backbone

import (
	"context"
	"sync"
	"time"
)

// queue holds the hosts that are to be looked at, each once, in order. A host that is
// added while it is being looked at comes again afterwards, and never twice at once:
// what is desired meanwhile is read when its turn comes.
type queue struct {
	mu      sync.Mutex
	order   []string
	waiting map[string]bool // in order
	busy    map[string]bool // being looked at; true: again afterwards
	timers  map[string]*time.Timer
	more    chan struct{} // has room for one signal
}

func newQueue() *queue {
	return &queue{waiting: map[string]bool{}, busy: map[string]bool{}, timers: map[string]*time.Timer{}, more: make(chan struct{}, 1)}
}

func (q *queue) add(ids ...string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, id := range ids {
		if _, busy := q.busy[id]; busy {
			q.busy[id] = true
			continue
		}
		if !q.waiting[id] {
			q.waiting[id] = true
			q.order = append(q.order, id)
		}
	}
	q.signal()
}

// addAfter adds a host after a while, unless it is to be added so already.
func (q *queue) addAfter(id string, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.timers[id] != nil {
		return
	}
	q.timers[id] = time.AfterFunc(d, func() {
		q.mu.Lock()
		delete(q.timers, id)
		q.mu.Unlock()
		q.add(id)
	})
}

func (q *queue) signal() {
	if len(q.order) == 0 {
		return
	}
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// next returns the next host, which is the caller's until done; false when ctx ends.
func (q *queue) next(ctx context.Context) (string, bool) {
	for {
		q.mu.Lock()
		if len(q.order) > 0 {
			id := q.order[0]
			q.order[0] = ""
			q.order = q.order[1:]
			delete(q.waiting, id)
			q.busy[id] = false
			q.signal()
			q.mu.Unlock()
			return id, true
		}
		q.order = nil // lets its memory go
		q.mu.Unlock()
		select {
		case <-q.more:
		case <-ctx.Done():
			return "", false
		}
	}
}

func (q *queue) done(id string) {
	q.mu.Lock()
	again := q.busy[id]
	delete(q.busy, id)
	q.mu.Unlock()
	if again {
		q.add(id)
	}
}
