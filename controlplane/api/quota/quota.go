// Package quota bounds what one peer may ask of a server: requests in a time, and
// open connections. What it remembers is bounded too, however many peers there are.
package quota

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Rates is a token bucket for each key. It is safe for concurrent use.
type Rates[K comparable] struct {
	limit rate.Limit
	burst int
	max   int

	mu      sync.Mutex
	buckets map[K]*rate.Limiter
	others  *rate.Limiter // shared by keys for which there is no room
	swept   time.Time
}

// NewRates returns buckets that hold burst events and refill with perSecond, for
// at most max keys at a time. A rate of 0 or less limits nothing.
func NewRates[K comparable](perSecond float64, burst, max int) *Rates[K] {
	l := rate.Limit(perSecond)
	if perSecond <= 0 {
		l = rate.Inf
	}
	return &Rates[K]{limit: l, burst: burst, max: max, buckets: map[K]*rate.Limiter{}, others: rate.NewLimiter(l, burst)}
}

// Take takes an event from the key's bucket. If there is none it returns after what
// time there will be one.
func (r *Rates[K]) Take(key K) (wait time.Duration, ok bool) {
	res := r.bucket(key).Reserve()
	if wait = res.Delay(); wait > 0 {
		res.Cancel()
		return wait, false
	}
	return 0, true
}

// Empty reports whether the key's bucket has no event left, and after what time it
// will have one. It takes none.
func (r *Rates[K]) Empty(key K) (wait time.Duration, empty bool) {
	if r.limit == rate.Inf {
		return 0, false
	}
	missing := 1 - r.bucket(key).Tokens()
	if missing <= 0 {
		return 0, false
	}
	return time.Duration(missing / float64(r.limit) * float64(time.Second)), true
}

func (r *Rates[K]) bucket(key K) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.buckets[key]
	if b != nil {
		return b
	}
	if len(r.buckets) >= r.max && time.Since(r.swept) > time.Second {
		r.forget()
	}
	if len(r.buckets) >= r.max {
		return r.others
	}
	b = rate.NewLimiter(r.limit, r.burst)
	r.buckets[key] = b
	return b
}

// forget drops the buckets that are full, which a new one is as well.
func (r *Rates[K]) forget() {
	now := time.Now()
	r.swept = now
	for k, b := range r.buckets {
		if b.TokensAt(now) >= float64(r.burst) {
			delete(r.buckets, k)
		}
	}
}

// Conns counts the open connections of a http.Server, in total and for each
// address, and closes those beyond its bounds. Its ConnState goes into the server.
type Conns struct {
	total, perAddress int

	mu   sync.Mutex
	open map[net.Conn]netip.Addr
	from map[netip.Addr]int
}

// NewConns returns bounds for one server.
func NewConns(total, perAddress int) *Conns {
	return &Conns{total: total, perAddress: perAddress, open: map[net.Conn]netip.Addr{}, from: map[netip.Addr]int{}}
}

// Open returns how many connections there are.
func (c *Conns) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// ConnState is a http.Server's.
func (c *Conns) ConnState(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		from := Source(conn.RemoteAddr().String())
		if len(c.open) >= c.total || c.from[from] >= c.perAddress {
			go conn.Close() // with TLS it may take a moment, and the lock is held
			return
		}
		c.open[conn] = from
		c.from[from]++
	case http.StateClosed, http.StateHijacked:
		from, ok := c.open[conn]
		if !ok {
			return
		}
		delete(c.open, conn)
		if c.from[from]--; c.from[from] == 0 {
			delete(c.from, from)
		}
	}
}

// Source is what peers are told apart by: the IPv4 address, or the /64 that an
// IPv6 host has to itself. Remote is host:port.
func Source(remote string) netip.Addr {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	ip := a.Addr().Unmap().WithZone("")
	if p, err := ip.Prefix(64); err == nil && ip.Is6() {
		return p.Addr()
	}
	return ip
}
