package minion

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// knownFor is how long a server that has started knows what was in its files: agents
// that have not come back by then will have what they sent twice there.
const knownFor = time.Hour

// known are the ids that were in files when the server started.
type known struct {
	until time.Time
	any   atomic.Bool
	mu    sync.Mutex
	ids   map[*queue]map[wire.ID]struct{}
}

func (k *known) add(q *queue, ids map[wire.ID]struct{}) {
	if len(ids) == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ids == nil {
		k.ids = map[*queue]map[wire.ID]struct{}{}
	}
	k.ids[q] = ids
	k.until = time.Now().Add(knownFor)
	k.any.Store(true)
}

// of returns what is known of a queue, which nobody changes; nil after a while.
func (k *known) of(q *queue, now time.Time) map[wire.ID]struct{} {
	if !k.any.Load() {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if now.After(k.until) {
		k.ids = nil
		k.any.Store(false)
	}
	return k.ids[q]
}

// Bounds of what is remembered of agents that have left.
const (
	maxPastIDs = 1 << 19
	pastFor    = 24 * time.Hour
)

// past is what agents' earlier connections have taken, and their agents may send
// again, as they may not have heard that it was kept.
type past struct {
	mu    sync.Mutex
	of    map[identity]*list.Element // of *taken
	order list.List                  // longest ago first
	total int                        // ids
}

// identity is who an agent is.
type identity struct{ group, server string }

// taken is what earlier connections of one agent have taken.
type taken struct {
	who   identity
	at    time.Time
	ids   map[wire.ID]*tracker // that knows whether it is kept
	order [][]wire.ID          // longest ago first
}

// leave records what a connection has taken.
func (p *past) leave(who identity, t *tracker, ids []wire.ID) {
	if len(ids) == 0 {
		return
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.of[who]
	if e == nil {
		if p.of == nil {
			p.of = map[identity]*list.Element{}
		}
		e = p.order.PushBack(&taken{who: who, ids: map[wire.ID]*tracker{}})
		p.of[who] = e
	}
	p.order.MoveToBack(e)
	k := e.Value.(*taken)
	k.at = now
	p.total -= len(k.ids)
	for len(k.order) > 0 && len(k.ids)+len(ids) > maxRemembered {
		for _, id := range k.order[0] {
			delete(k.ids, id)
		}
		k.order = k.order[1:]
	}
	for _, id := range ids {
		k.ids[id] = t
	}
	k.order = append(k.order, ids)
	p.total += len(k.ids)
	for e := p.order.Front(); e != nil; e = p.order.Front() {
		k := e.Value.(*taken)
		if p.total <= maxPastIDs && now.Sub(k.at) <= pastFor {
			break
		}
		p.order.Remove(e)
		delete(p.of, k.who)
		p.total -= len(k.ids)
	}
}

// again returns who knows whether a record is kept that was taken before, nil if it
// was not.
func (p *past) again(who identity, id wire.ID) *tracker {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.of[who]
	if e == nil {
		return nil
	}
	return e.Value.(*taken).ids[id]
}

// has reports whether anything is remembered of an agent.
func (p *past) has(who identity) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of[who] != nil
}
