package quota

import (
	"net/netip"
	"sync"
)

// Bounds of open connections, of which some have not proved yet who they are.
type Bounds struct {
	Total, PerAddress int
	Greeting          int // not yet proved; of one address at most a 32nd of it, but 2
}

// Excess is the bound that a connection would exceed.
type Excess int

// Bounds that a connection may exceed; None if it may come in.
const (
	None Excess = iota
	Total
	PerAddress
	Greeting
	GreetingPerAddress
)

// Peers counts open connections in total and for each address, and those that have
// not proved yet who they are, who could else keep all others out. To refuse one costs
// next to nothing. It is safe for concurrent use.
type Peers struct {
	bounds Bounds

	mu       sync.Mutex
	open     int
	greeting int
	from     map[netip.Addr]int
	greets   map[netip.Addr]int
}

// NewPeers returns a count of none.
func NewPeers(b Bounds) *Peers {
	return &Peers{bounds: b, from: map[netip.Addr]int{}, greets: map[netip.Addr]int{}}
}

// Enter counts a connection in, unless it exceeds a bound. Then come Greeted and Leave.
func (p *Peers) Enter(from netip.Addr) Excess {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.open >= p.bounds.Total:
		return Total
	case p.from[from] >= p.bounds.PerAddress:
		return PerAddress
	case p.greeting >= p.bounds.Greeting:
		return Greeting
	case p.greets[from] >= max(p.bounds.Greeting/32, 2):
		return GreetingPerAddress
	}
	p.open++
	p.greeting++
	p.greets[from]++
	p.from[from]++
	return None
}

// Greeted ends the time in which a connection has not proved who it is, or has given
// up to.
func (p *Peers) Greeted(from netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.greeting--
	if p.greets[from]--; p.greets[from] == 0 {
		delete(p.greets, from)
	}
}

// Leave counts a connection out, which is Greeted already.
func (p *Peers) Leave(from netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open--
	if p.from[from]--; p.from[from] == 0 {
		delete(p.from, from)
	}
}

// Open returns how many connections there are.
func (p *Peers) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}
