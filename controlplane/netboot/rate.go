package netboot

import (
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Each boot script with a token, and each call of an installed system, is a write
// to the store. One address may cause so many a second after a burst, which is
// enough for the chassis of a hall behind one address translation.
const (
	writeRate  = 50
	writeBurst = 1000
	maxRates   = 1 << 16 // addresses with a rate of their own; the others share one
)

// rates bound requests a second of each address.
type rates struct {
	mu   sync.Mutex
	of   map[netip.Addr]*rate.Limiter
	rest *rate.Limiter
	tidy time.Time // when those at rest are to be dropped
}

func newRates() *rates {
	return &rates{of: map[netip.Addr]*rate.Limiter{}, rest: rate.NewLimiter(writeRate, writeBurst)}
}

func (r *rates) allow(from netip.Addr, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.After(r.tidy) {
		for a, l := range r.of {
			if l.TokensAt(now) >= writeBurst {
				delete(r.of, a)
			}
		}
		r.tidy = now.Add(time.Minute)
	}
	l := r.of[from]
	switch {
	case l == nil && len(r.of) >= maxRates:
		l = r.rest
	case l == nil:
		l = rate.NewLimiter(writeRate, writeBurst)
		r.of[from] = l
	}
	return l.AllowN(now, 1)
}

// mayWrite reports whether a request may cause a write. If not, it has answered.
func (s *server) mayWrite(w http.ResponseWriter, r *http.Request) bool {
	if s.rates.allow(network(remote(r)), time.Now()) {
		return true
	}
	if s.quiet.Allow() { // the sender chooses how often
		s.Log.Warn("boot server: too many requests of one address", "path", pathForLog(r.URL), "address", r.RemoteAddr)
	}
	w.Header().Set("Retry-After", "10")
	http.Error(w, "too many requests from this address", http.StatusTooManyRequests)
	return false
}
