package minion

import (
	"crypto/rand"
	"sync"
	"time"
)

// back is how far the clock may be set back before a Generator follows it.
const back = time.Second

// Generator makes ids that are never the same twice. Their times ascend strictly,
// whatever small steps the clock makes. When the clock is set back by more than a
// second (it was wrong until time synchronisation) the ids follow it, as a record's
// time is read from its id, and a new node keeps them apart from earlier ones.
//
// Nodes of two generators must differ: see [RandomNode]. It is safe for concurrent use.
type Generator struct {
	now func() time.Time

	mu   sync.Mutex
	node [6]byte
	last time.Time
}

// NewGenerator returns the generator of a node.
func NewGenerator(node [6]byte) *Generator {
	return &Generator{now: time.Now, node: node}
}

// RandomNode returns 48 random bits. Unlike a MAC address they differ between
// processes, also when a clock gives the same time to both.
func RandomNode() (node [6]byte) {
	rand.Read(node[:]) // never fails
	return node
}

// Next returns a new id.
func (g *Generator) Next() ID {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now().Round(0) // the clock on the wall is what ids have
	if !now.After(g.last) {
		if g.last.Sub(now) > back {
			g.node = RandomNode()
		} else {
			now = g.last.Add(1)
		}
	}
	g.last = now
	return NewID(now, g.node)
}
