// Package gateway is the control plane's end of the native protocol: it accepts
// agents' connections, knows which chassis is on which, carries commands to them,
// and puts what they report into the store.
package gateway

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/controlplane/api/quota"
	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Handler is told what sessions make possible. Its calls come from many
// goroutines.
type Handler interface {
	// Connected is called for every new session, before Gateway.Session returns
	// it, with what the agent said of itself. An error ends the session.
	Connected(ctx context.Context, chassis string, st teeth.Status) error
	// Wake says that a chassis may have become able to do its next task. It
	// returns at once.
	Wake(chassis string)
}

// Config of a Gateway. Zero limits and times are replaced by the defaults.
type Config struct {
	Store   *store.Store
	Handler Handler
	Token   string // the enrolment token of the whole estate
	// Authority issues and verifies agents' certificates; nil: there are none.
	Authority   *pki.Authority
	AutoApprove []store.Rule // that apply as long as this process runs
	Version     string       // this server's software version
	// NodeCapability makes what opens RackHD's tasks API to a chassis during a boot
	// of its agent; nil: there is no such API.
	NodeCapability func(chassis, bootID string) string
	// Backbone is the broker that agents of approved chassis are told to keep their
	// apps by; nil: they do it over the session.
	Backbone *teeth.BackboneBroker
	// AppStatus is given what an approved chassis' agent says of its apps. A
	// *teeth.MethodError refuses it, any other error ends the session; nil: there is
	// nobody who wants to know.
	AppStatus func(ctx context.Context, chassis string, status json.RawMessage) error
	Log       *slog.Logger

	// Minion is the StreamServer that a chassis is told to send its records to, under
	// the host by which the agent reached this server; nil, or returning nil: there is
	// none.
	Minion func(chassis, host string, secure bool) *teeth.MinionServer
	// Records takes what agents send over their sessions instead; nil: nobody does.
	Records Records

	MaxSessions   int // 20000 unless set
	MaxPerAddress int // from one IPv4 address or IPv6 /64; 1024 unless set, for chassis behind one NAT
	// MaxHandshakes is how many connections may be without an answered handshake at
	// a time, a 32nd of them from one address; 4096 unless set. What comes beyond is
	// closed. Of those, 256 are served at a time and the others wait for a moment, so
	// that each costs its share of time once and none is given up half-way.
	MaxHandshakes int
	// Rate is how many connections of one address are taken a second, after a burst
	// of four times as many; 100 unless set.
	Rate float64
	// Reports is how many log messages and task updates of one session are taken a
	// second, after a burst of ten times as many; 100 unless set. What comes faster
	// waits in the connection.
	Reports   float64
	Handshake time.Duration // for TLS and the handshake; 10 s
	Idle      time.Duration // without a line before a session ends; 60 s
	Write     time.Duration // for one line to be taken; 10 s
	Call      time.Duration // for the status that follows the handshake; 60 s
}

// Gateway is safe for concurrent use.
type Gateway struct {
	c      Config
	meters meters

	peers *quota.Peers // greeting: without an answered handshake

	mu       sync.Mutex
	sessions map[string]*Session // by chassis
	slots    chan struct{}       // holds one for each handshake being served
	rates    rates
	quiet    *rate.Limiter // of what is logged of those that are refused

	decisions atomic.Int64 // that Run has carried out

	// Connecting a chassis is two steps, in the store and here. Two connections
	// of one chassis must not interleave them.
	seed    maphash.Seed
	stripes [64]sync.Mutex
}

// New returns a Gateway that serves nobody yet.
func New(c Config) *Gateway {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	set(&c.Handshake, 10*time.Second)
	set(&c.Idle, 60*time.Second)
	set(&c.Write, 10*time.Second)
	set(&c.Call, 60*time.Second)
	if c.MaxSessions <= 0 {
		c.MaxSessions = 20000
	}
	if c.MaxPerAddress <= 0 {
		c.MaxPerAddress = 1024
	}
	if c.MaxHandshakes <= 0 {
		c.MaxHandshakes = 4096
	}
	if c.Rate <= 0 {
		c.Rate = 100
	}
	if c.Reports <= 0 {
		c.Reports = 100
	}
	return &Gateway{c: c, meters: newMeters(), sessions: map[string]*Session{},
		peers: quota.NewPeers(quota.Bounds{Total: c.MaxSessions, PerAddress: c.MaxPerAddress, Greeting: c.MaxHandshakes}),
		slots: make(chan struct{}, maxServed), rates: rates{per: c.Rate}, quiet: rate.NewLimiter(rate.Every(time.Second), 10), seed: maphash.MakeSeed()}
}

// Serve accepts agents on l until ctx ends, then closes l and all its sessions
// and waits for them. With a nil tlsConfig connections are plain TCP and no
// token is asked for.
func (g *Gateway) Serve(ctx context.Context, l net.Listener, tlsConfig *tls.Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { l.Close() })
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("agents' listener %s: %w", l.Addr(), err)
		case err != nil:
			// Out of file descriptors, mostly: the sessions there are go on.
			g.c.Log.Error("cannot accept an agent", "listener", l.Addr().String(), "error", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			continue
		}
		from := quota.Source(conn.RemoteAddr().String())
		if reason := g.admit(from); reason != "" {
			g.meters.refused.WithLabelValues(reason).Inc()
			if g.quiet.Allow() { // the peer chooses how often; the metric counts each
				g.c.Log.Warn("agent's connection refused", "address", conn.RemoteAddr().String(), "reason", reason)
			}
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer g.peers.Leave(from)
			g.serve(ctx, conn, from, tlsConfig)
		})
	}
}

// present returns the chassis' session if it has one that has told its status.
func (g *Gateway) present(chassis string) (*Session, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sessions[chassis]
	if s == nil || !s.ready {
		return nil, false
	}
	return s, true
}

// Session returns the chassis' session if it has one that is ready for commands
// and may be given any.
func (g *Gateway) Session(chassis string) (*Session, bool) {
	s, ok := g.present(chassis)
	if !ok || !s.approved.Load() {
		return nil, false
	}
	return s, true
}

// connect makes s the session of its chassis and ends the one it replaces.
func (g *Gateway) connect(ctx context.Context, s *Session, in store.Session) error {
	stripe := &g.stripes[maphash.String(g.seed, store.Identity(in.Handshake))%uint64(len(g.stripes))]
	stripe.Lock()
	defer stripe.Unlock()
	decided := g.decisions.Load()
	e, err := g.c.Store.Enter(ctx, in)
	var held *store.HeldError
	if errors.As(err, &held) && !g.answers(ctx, held.Chassis) {
		in.TakeOver = true
		e, err = g.c.Store.Enter(ctx, in)
	}
	if err != nil {
		return err
	}
	for _, n := range e.Notes {
		s.log.Warn(n, "chassis", e.Chassis)
	}
	s.chassis = e.Chassis
	s.log = s.log.With("chassis", s.chassis) // before others can find the session
	s.approved.Store(e.Approved)
	s.inspected = e.Inspected
	g.mu.Lock()
	old := g.sessions[e.Chassis]
	g.sessions[e.Chassis] = s
	g.mu.Unlock()
	// What was decided since the store let it in and before it was to be found in
	// sessions, Run has not told it.
	s.ask = g.decisions.Load() != decided
	if old != nil {
		old.end(errors.New("replaced by a newer session of the same chassis"))
	}
	return nil
}

func (g *Gateway) disconnect(s *Session) {
	g.mu.Lock()
	if g.sessions[s.chassis] == s {
		delete(g.sessions, s.chassis)
	}
	g.mu.Unlock()
	// The server may be shutting down, and this is worth recording all the same.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := g.c.Store.Disconnect(ctx, s.chassis, s.id); err != nil && !errors.Is(err, store.ErrClosed) {
		s.log.Error("cannot record the end of a session", "error", err)
	}
}

// settle asks a new session for its status and opens it for commands. What the
// chassis is made of is asked once in a boot: ten thousand that come back to a server
// that was restarted have no need to say it again.
func (g *Gateway) settle(ctx context.Context, s *Session) error {
	ctx, cancel := context.WithTimeout(ctx, g.c.Call)
	defer cancel()
	st, err := s.status(ctx, !s.inspected)
	if err != nil {
		return err
	}
	if !s.inspected {
		if err := g.c.Store.SaveStatus(ctx, s.chassis, st); err != nil {
			return err
		}
	}
	if s.ask {
		approved, err := g.c.Store.MayConnect(ctx, s.chassis)
		if err != nil {
			return err
		}
		if approved {
			s.approved.Store(true)
		}
	}
	if err := g.c.Handler.Connected(ctx, s.chassis, st); err != nil {
		return err
	}
	g.mu.Lock()
	s.ready = true
	g.mu.Unlock()
	g.c.Handler.Wake(s.chassis)
	return nil
}

// Inspect asks a chassis for its inventory and stores it.
func (g *Gateway) Inspect(ctx context.Context, chassis string) error {
	s, ok := g.present(chassis)
	if !ok {
		return fmt.Errorf("chassis %s: %w", chassis, ErrNotConnected)
	}
	ctx, cancel := context.WithTimeout(ctx, g.c.Call)
	defer cancel()
	st, err := s.status(ctx, true)
	if err != nil {
		return err
	}
	return g.c.Store.SaveStatus(ctx, chassis, st)
}
