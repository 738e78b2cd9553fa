package gateway

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// sourceOf is the address that connections are counted by. An IPv6 host has a
// whole /64 to itself.
func sourceOf(conn net.Conn) netip.Addr {
	a, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	ip := a.Addr().Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}

// admit takes a connection in, or says why not. It costs next to nothing, so that
// refusing thousands does not keep the server from serving others.
func (g *Gateway) admit(from netip.Addr) (refusal string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.open >= g.c.MaxSessions:
		return "too many sessions"
	case g.from[from] >= g.c.MaxPerAddress:
		return "too many sessions from this address"
	case g.greeting >= g.c.MaxHandshakes:
		return "too many handshakes in progress"
	case g.greets[from] >= max(g.c.MaxHandshakes/32, 2):
		return "too many handshakes in progress from this address"
	case !g.rates.allow(from, time.Now()):
		return "too many connections a second from this address"
	}
	g.open++
	g.greeting++
	g.greets[from]++
	g.from[from]++
	return ""
}

const (
	maxServed = 256             // handshakes at a time
	maxWait   = 8 * time.Second // for one to be served; agents give up after 15 s
	// maxHeld is how long a handshake counts among those served. One that takes
	// longer waits for its peer, who may be in no hurry at all, and goes on beside
	// them until its own time is up: else a few addresses could keep all others out.
	maxHeld = 2 * time.Second
)

// serveNext waits until a handshake may be served and returns what to call when it
// was, or nil if it may not.
func (g *Gateway) serveNext(ctx context.Context) (served func()) {
	t := time.NewTimer(maxWait)
	defer t.Stop()
	select {
	case g.slots <- struct{}{}:
	case <-t.C:
		return nil
	case <-ctx.Done():
		return nil
	}
	free := sync.OnceFunc(func() { <-g.slots })
	late := time.AfterFunc(maxHeld, free)
	return func() {
		late.Stop()
		free()
	}
}

// greeted ends the time between a connection's beginning and its first answer.
func (g *Gateway) greeted(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.greeting--
	if g.greets[from]--; g.greets[from] == 0 {
		delete(g.greets, from)
	}
}

func (g *Gateway) release(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	if g.from[from]--; g.from[from] == 0 {
		delete(g.from, from)
	}
}

// maxRates bounds how many addresses have a rate of their own.
const maxRates = 1 << 16

// rates bound connections a second of each address.
type rates struct {
	per  float64
	of   map[netip.Addr]*rate.Limiter
	tidy time.Time // when those at rest are to be dropped
}

func (r *rates) allow(from netip.Addr, now time.Time) bool {
	if now.After(r.tidy) || len(r.of) >= maxRates {
		for a, l := range r.of {
			if l.TokensAt(now) >= float64(l.Burst()) {
				delete(r.of, a)
			}
		}
		r.tidy = now.Add(time.Minute)
	}
	l := r.of[from]
	if l == nil {
		if len(r.of) >= maxRates {
			return false
		}
		if r.of == nil {
			r.of = map[netip.Addr]*rate.Limiter{}
		}
		l = rate.NewLimiter(rate.Limit(r.per), int(4*r.per)+1)
		r.of[from] = l
	}
	return l.AllowN(now, 1)
}
