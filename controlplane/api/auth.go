package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/controlplane/api/quota"
	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// localAdmin is the user that the token in the data directory stands for. No other
// can be named so.
const localAdmin = "local-admin"

// roles are of the routes that want another role than their method says: GET wants
// a viewer, any other method an operator.
var roles = map[string]store.Role{
	"GET /v1/users":           store.Admin,
	"POST /v1/users":          store.Admin,
	"PATCH /v1/users/{name}":  store.Admin,
	"DELETE /v1/users/{name}": store.Admin,
	"POST /v1/tokens":         store.Viewer, // for oneself; the handler looks
	"DELETE /v1/tokens/{id}":  store.Viewer, // one's own; the handler looks
	"GET /v1/audit":           store.Admin,
	"POST /v1/backup":         store.Admin,
	// Whoever has a chassis' key can speak for it.
	"POST /v1/chassis/{id}/agent-config": store.Admin,
	// They hold for all servers, and what chassis boot.
	"PUT /v1/settings/{key}":    store.Admin,
	"DELETE /v1/settings/{key}": store.Admin,
	// A rule lets in chassis that nobody has looked at.
	"POST /v1/enrolment/rules":        store.Admin,
	"DELETE /v1/enrolment/rules/{id}": store.Admin,
}

func roleOf(pattern string) store.Role {
	if r, ok := roles[pattern]; ok {
		return r
	}
	if strings.HasPrefix(pattern, "GET ") {
		return store.Viewer
	}
	return store.Operator
}

// Limits of requests. Zero values are replaced by the defaults, negative rates limit
// nothing.
type Limits struct {
	PerToken   float64 // requests per second with one token; 100
	PerAddress float64 // from one IPv4 address or IPv6 /64; 200
	Failures   float64 // with a wrong token, from one address; 1
}

// bursts are how many seconds' worth of requests may come at once. Somebody who
// types a wrong token a few times is not to wait.
const (
	burstSeconds = 5
	failureBurst = 20
)

// caller is who sends a request.
type caller struct {
	user    string
	role    store.Role
	token   store.Token // zero: the one in the data directory
	builtIn bool
}

type callerKey struct{}

// callerOf is who sent the request. Every handler of a route has one.
func callerOf(r *http.Request) caller {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return c
}

// Cached tokens live for so long, which is how long another server may accept one
// after it is revoked. Their number is bounded.
const (
	cacheLife = 5 * time.Second
	maxCached = 1024
)

// gate says who may pass.
type gate struct {
	store   *store.Store
	builtIn string

	tokens    *quota.Rates[string]
	addresses *quota.Rates[netip.Addr]
	failures  *quota.Rates[netip.Addr]

	mu     sync.Mutex
	cached map[string]cachedToken // by digest
	used   map[string]time.Time   // last, by token id; not stored yet
}

type cachedToken struct {
	store.Token
	until time.Time
}

func newGate(s *store.Store, builtIn string, l Limits) *gate {
	set := func(f *float64, to float64) {
		if *f == 0 {
			*f = to
		}
	}
	set(&l.PerToken, 100)
	set(&l.PerAddress, 200)
	set(&l.Failures, 1)
	burst := func(f float64) int { return int(math.Ceil(max(f, 0)*burstSeconds)) + 1 }
	const peers = 4096
	return &gate{
		store: s, builtIn: builtIn,
		tokens:    quota.NewRates[string](l.PerToken, burst(l.PerToken), peers),
		addresses: quota.NewRates[netip.Addr](l.PerAddress, burst(l.PerAddress), peers),
		failures:  quota.NewRates[netip.Addr](l.Failures, failureBurst, peers),
		cached:    map[string]cachedToken{},
		used:      map[string]time.Time{},
	}
}

var errToken = &refusal{http.StatusUnauthorized,
	"the token is missing, wrong or expired: teeth token create makes one; on the server itself one is in client.json in its data directory"}

// pace refuses an address that asks too much, whether or not it has a token.
func (g *gate) pace(w http.ResponseWriter, r *http.Request) error {
	if wait, ok := g.addresses.Take(quota.Source(r.RemoteAddr)); !ok {
		return tooMany(w, wait, "too many requests from this address")
	}
	return nil
}

// admit finds out who sends a request. It is called once for each.
func (g *gate) admit(w http.ResponseWriter, r *http.Request) (caller, error) {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	c, err := g.identify(r.Context(), quota.Source(r.RemoteAddr), scheme, secret)
	var slow *slowDown
	if errors.As(err, &slow) {
		return caller{}, tooMany(w, slow.wait, "too many wrong tokens from this address")
	}
	if errors.Is(err, errToken) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="teeth"`)
	}
	if err != nil {
		return caller{}, err
	}
	if wait, ok := g.tokens.Take(c.token.ID); !ok {
		return caller{}, tooMany(w, wait, "too many requests with this token")
	}
	return c, nil
}

// slowDown is the refusal to even look at a token.
type slowDown struct{ wait time.Duration }

func (s *slowDown) Error() string { return "too many wrong tokens" }

func (g *gate) identify(ctx context.Context, from netip.Addr, scheme, secret string) (caller, error) {
	const longest = 256 // of ours none is near
	if !strings.EqualFold(scheme, "Bearer") || secret == "" || len(secret) > longest {
		secret = ""
	}
	if secret != "" && pki.Equal(secret, g.builtIn) {
		return caller{user: localAdmin, role: store.Admin, builtIn: true}, nil
	}
	digest := digestOf(secret)
	now := time.Now()
	tok, ok := g.lookCached(digest, now)
	if !ok {
		// Whoever has used a good token lately gets here never, so that somebody
		// who tries wrong ones from the same address does not shut it out.
		if wait, empty := g.failures.Empty(from); empty {
			return caller{}, &slowDown{wait}
		}
		if secret == "" {
			g.failures.Take(from)
			return caller{}, errToken
		}
		// The comparison happens in an index of digests. What its time may tell is
		// of the digest, from which nobody gets to the secret.
		var err error
		if tok, err = g.store.TokenByDigest(ctx, digest); errors.Is(err, store.ErrNotFound) {
			g.failures.Take(from)
			return caller{}, errToken
		} else if err != nil {
			return caller{}, err
		}
		g.remember(digest, tok, now)
	}
	if tok.Expires != nil && !now.Before(*tok.Expires) {
		g.failures.Take(from)
		return caller{}, errToken
	}
	g.note(tok, now)
	return caller{user: tok.User, role: tok.Role, token: tok}, nil
}

// digestOf is what the store keeps of a token's secret. A fast digest will do: the
// secret is 256 random bits.
func digestOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func (g *gate) lookCached(digest string, now time.Time) (store.Token, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, ok := g.cached[digest]
	return c.Token, ok && now.Before(c.until)
}

func (g *gate) remember(digest string, tok store.Token, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.cached) >= maxCached {
		clear(g.cached)
	}
	g.cached[digest] = cachedToken{tok, now.Add(cacheLife)}
}

// forget is called when users or tokens have changed, so that this server acts on
// it at once.
func (g *gate) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.cached)
}

// note keeps, to the minute, when a token was used.
func (g *gate) note(tok store.Token, now time.Time) {
	if tok.LastUsed != nil && now.Sub(*tok.LastUsed) < time.Minute {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.used) < maxCached {
		g.used[tok.ID] = now
	}
}

// keep stores when tokens were used, until ctx ends.
func (g *gate) keep(ctx context.Context, log func(error)) {
	tick := time.NewTicker(20 * time.Second)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			done = true
		}
		g.mu.Lock()
		used := g.used
		g.used = map[string]time.Time{}
		g.mu.Unlock()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		if err := g.store.TouchTokens(last, used); err != nil && !errors.Is(err, store.ErrClosed) {
			log(err)
		}
		cancel()
	}
}

// tooMany is the refusal of a request that came too early (RFC 6585, 4).
func tooMany(w http.ResponseWriter, wait time.Duration, what string) error {
	seconds := max(1, int(math.Ceil(wait.Seconds())))
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	return &refusal{http.StatusTooManyRequests, fmt.Sprintf("%s: try again in %d s", what, seconds)}
}
