package gateway

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/controlplane/api/quota"
)

// admit takes a connection in, or says why not.
func (g *Gateway) admit(from netip.Addr) (refusal string) {
	switch g.peers.Enter(from) {
	case quota.Total:
		return "too many sessions"
	case quota.PerAddress:
		return "too many sessions from this address"
	case quota.Greeting:
		return "too many handshakes in progress"
	case quota.GreetingPerAddress:
		return "too many handshakes in progress from this address"
	}
	g.mu.Lock()
	allowed := g.rates.allow(from, time.Now())
	g.mu.Unlock()
	if !allowed {
		g.peers.Greeted(from)
		g.peers.Leave(from)
		return "too many connections a second from this address"
	}
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
