package netboot

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// maxPerAddress bounds the connections of one address, among them those of
// chassis behind one address translation. It is a variable for tests.
var maxPerAddress = 1024

// maxConnections leaves file descriptors for agents, operators and the store.
const maxConnections = 16384

// limiter counts connections. It is a http.Server's ConnState, since a listener
// that wraps connections would keep sendfile from them.
type limiter struct {
	mu   sync.Mutex
	open map[net.Conn]netip.Addr
	from map[netip.Addr]int
}

func newLimiter() *limiter {
	return &limiter{open: map[net.Conn]netip.Addr{}, from: map[netip.Addr]int{}}
}

func (l *limiter) connState(conn net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch state {
	case http.StateNew:
		from := sourceOf(conn)
		if len(l.open) >= maxConnections || l.from[from] >= maxPerAddress {
			conn.Close()
			return
		}
		l.open[conn] = from
		l.from[from]++
	case http.StateClosed, http.StateHijacked:
		from, ok := l.open[conn]
		if !ok {
			return
		}
		delete(l.open, conn)
		if l.from[from]--; l.from[from] == 0 {
			delete(l.from, from)
		}
	}
}

// sourceOf is the address that connections are counted by. An IPv6 host has a
// whole /64 to itself.
func sourceOf(conn net.Conn) netip.Addr {
	a, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return network(a.Addr())
}

func network(a netip.Addr) netip.Addr {
	ip := a.Unmap().WithZone("")
	if p, err := ip.Prefix(64); err == nil && ip.Is6() {
		return p.Addr()
	}
	return ip
}
