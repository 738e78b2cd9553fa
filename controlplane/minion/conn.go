package minion

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/teeth-metal/teeth/controlplane/pki"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// conn is one agent's connection.
type conn struct {
	s       *Server
	nc      net.Conn
	log     *slog.Logger
	g       *group
	server  string
	since   time.Time
	exact   atomic.Bool // the agent acknowledges
	tell    sync.Once   // of its being connected
	settled atomic.Bool // it is there to stay, and takes commands
	writing sync.Mutex

	in      *intake
	t       *tracker
	taking  sync.Mutex // held while frames become part of in
	stopped bool       // guarded by taking: no more frames are taken
	acks    sync.WaitGroup
	flush   chan struct{} // closed when the acknowledgements are to end

	mu    sync.Mutex
	ended error // why, once it has
}

// agent returns what others may know of the connection.
func (c *conn) agent() Agent {
	return Agent{Group: c.g.id, Server: c.server, Address: c.nc.RemoteAddr().String(), Acknowledges: c.exact.Load(), Since: c.since}
}

// end closes the connection. The first reason counts.
func (c *conn) end(reason error) {
	c.mu.Lock()
	first := c.ended == nil
	if first {
		c.ended = reason
	}
	c.mu.Unlock()
	if first {
		c.nc.Close()
	}
}

func (c *conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// write sends whole frames, after which nothing is left in a buffer.
func (c *conn) write(ctx context.Context, b []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.reason(); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	deadline := time.Now().Add(c.s.c.Write)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	c.nc.SetWriteDeadline(deadline)
	if _, err := c.nc.Write(b); err != nil {
		c.end(fmt.Errorf("write: %w", err)) // half a frame may be on its way
		return err
	}
	return nil
}

func (c *conn) reply(request wire.ID, answer string) error {
	b, err := wire.Reply(c.s.ids.Next(), request, answer).Append(nil)
	if err != nil {
		return err
	}
	return c.write(context.Background(), b)
}

// timed reads a connection within bounds of time.
type timed struct {
	ctx    context.Context
	nc     net.Conn
	idle   time.Duration
	half   time.Duration
	r      *wire.Reader
	began  time.Time // when it was first waited for the rest of a frame
	frames int       // taken since then
	seen   int
}

func (t *timed) Read(p []byte) (int, error) {
	now := time.Now()
	deadline := now.Add(t.idle)
	if t.r.Buffered() > 0 {
		// Bytes that trickle in do not prolong it.
		if t.began.IsZero() || t.frames != t.seen {
			t.began, t.seen = now, t.frames
		}
		deadline = t.began.Add(t.half)
	} else {
		t.began = time.Time{}
	}
	t.nc.SetReadDeadline(deadline)
	if t.ctx.Err() != nil {
		t.nc.SetReadDeadline(time.Unix(1, 0)) // after the one above, whoever was first
	}
	return t.nc.Read(p)
}

// explain says in words what ended the reading.
func (t *timed) explain(err error) error {
	switch {
	case t.ctx.Err() != nil:
		return errEnded
	case errors.Is(err, os.ErrDeadlineExceeded) && t.r.Buffered() > 0:
		return fmt.Errorf("half a frame for %v", t.half)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("silent for %v", t.idle)
	}
	return err
}

// serve is the life of a connection.
func (s *Server) serve(ctx context.Context, nc net.Conn, from netip.Addr, tlsConfig *tls.Config) {
	defer func() { nc.Close() }()
	greeted := sync.OnceFunc(func() { s.peers.Greeted(from) })
	defer greeted()
	if tlsConfig != nil {
		select {
		case s.slots <- struct{}{}:
		case <-time.After(s.c.Handshake):
			return
		case <-ctx.Done():
			return
		}
		served := sync.OnceFunc(func() { <-s.slots })
		defer time.AfterFunc(maxHeld, served).Stop()
		defer served()
		nc.SetDeadline(time.Now().Add(s.c.Handshake))
		tc := tls.Server(nc, tlsConfig)
		if err := tc.HandshakeContext(ctx); err != nil {
			s.meter.logins.WithLabelValues("tls").Inc()
			s.refused(nc.RemoteAddr(), fmt.Errorf("TLS: %w", err))
			return
		}
		nc.SetDeadline(time.Time{})
		nc = tc
		served() // what follows costs next to nothing
	}
	t := &timed{ctx: ctx, nc: nc, idle: s.c.Handshake, half: s.c.Handshake}
	r := wire.NewReader(t)
	t.r = r
	stop := context.AfterFunc(ctx, func() { nc.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	c, err := s.authenticate(ctx, nc, r)
	if err != nil {
		s.refused(nc.RemoteAddr(), t.explain(err))
		return
	}
	greeted()
	t.idle, t.half = s.c.Idle, s.c.HalfFrame
	defer s.leave(c)
	later := time.AfterFunc(2*time.Second, c.announce)
	defer later.Stop()
	c.log.Info("minion agent connected")
	err = c.read(t)
	c.farewell(ctx, err)
	c.end(t.explain(err)) // unless somebody else has had a reason
	c.log.Info("minion agent disconnected", "reason", c.reason(), "acknowledges", c.exact.Load())
}

// authenticate takes the first frame, and answers it.
func (s *Server) authenticate(ctx context.Context, nc net.Conn, r *wire.Reader) (*conn, error) {
	protocol := func(err error) (*conn, error) {
		s.meter.logins.WithLabelValues("protocol").Inc()
		return nil, fmt.Errorf("no authentication: %w", err)
	}
	payload, err := r.Next()
	if err != nil {
		return protocol(err)
	}
	f, err := wire.Parse(payload)
	if err != nil {
		return protocol(err)
	}
	if f.Verb != wire.Command || len(f.Data) < 4 || f.Data[2].Text != wire.Authenticate || f.Data[0].IsList || f.Data[1].IsList {
		return protocol(fmt.Errorf("the first frame (%s) does not ask for it", f.Verb))
	}
	c := &conn{s: s, nc: nc, server: f.Data[1].Text, since: time.Now(), flush: make(chan struct{}), t: newTracker(s.c.ConnectionBytes)}
	err = s.login(ctx, c, f.Data[0].Text, f.Data[3].Key())
	var denied *deniedError
	switch {
	case errors.As(err, &denied):
		s.meter.logins.WithLabelValues("denied").Inc()
		err = errors.Join(err, c.reply(f.ID, wire.Denied))
		// To close while there is more to read could take the answer with it.
		if half, ok := nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
			nc.SetReadDeadline(time.Now().Add(time.Second))
			io.CopyN(io.Discard, nc, 1<<20)
		}
		return nil, err
	case err != nil: // it cannot be known now; the agent comes again
		return nil, err
	}
	c.in = s.newIntake(c.g, c.server)
	c.log = s.c.Log.With("group", c.g.id, "server", c.server, "address", nc.RemoteAddr().String())
	if err := s.enter(c); err != nil {
		return nil, errors.Join(err, c.reply(f.ID, wire.Denied))
	}
	s.meter.logins.WithLabelValues("ok").Inc()
	if err := c.reply(f.ID, wire.Accepted); err != nil {
		s.leave(c)
		return nil, err
	}
	return c, nil
}

// deniedError says why an agent may not connect. The agent is told only that.
type deniedError struct{ why string }

func (d *deniedError) Error() string { return "denied: " + d.why }

// login finds out who c is.
func (s *Server) login(ctx context.Context, c *conn, groupID, key string) error {
	g := s.groups[groupID]
	want := pki.NewSecret() // that of a group that is not there
	switch {
	case g == nil || !validName(c.server):
	case g.id == ChassisGroup && s.c.Secret != "":
		c.server = strings.ToLower(c.server)
		want = ChassisKey(s.c.Secret, c.server)
	case g.id != ChassisGroup:
		want = g.key
	}
	right := pki.Equal(key, want)
	switch {
	case g == nil:
		return &deniedError{fmt.Sprintf("there is no group %.64q", groupID)}
	case !validName(c.server):
		return &deniedError{fmt.Sprintf("server id %.64q: want 1 to %d printable characters", c.server, maxName)}
	case !right:
		return &deniedError{fmt.Sprintf("server %.64q has not the key of group %.64q", c.server, groupID)}
	}
	c.g = g
	return s.may(ctx, c)
}

// may says whether an agent may be, or stay, connected under its server id.
func (s *Server) may(ctx context.Context, c *conn) error {
	if s.c.Chassis == nil {
		return nil
	}
	id := strings.ToLower(c.server)
	if uuid, err := wire.ParseID(id); err == nil {
		id = uuid.String() // records are kept under it, in whatever form an agent writes it
	}
	known, approved, err := s.c.Chassis(ctx, id)
	switch {
	case err != nil:
		return fmt.Errorf("look up server %s: %w", c.server, err)
	case c.g.id != ChassisGroup && known:
		return &deniedError{fmt.Sprintf("server id %s is a chassis', for which group %.64q does not speak", c.server, c.g.id)}
	case c.g.id == ChassisGroup && !known:
		return &deniedError{fmt.Sprintf("there is no chassis %s", c.server)}
	case c.g.id == ChassisGroup && !approved:
		return &deniedError{fmt.Sprintf("chassis %s is not approved", c.server)}
	}
	return nil
}

// recheck ends, now and then until ctx ends, the connections of agents that may not be
// there any more: chassis that were rejected or forgotten. They need not say anything.
func (s *Server) recheck(ctx context.Context) {
	tick := time.NewTicker(s.c.Recheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		var all []*conn
		for _, list := range s.agents {
			all = append(all, list...)
		}
		s.mu.Unlock()
		for _, c := range all {
			var denied *deniedError
			if err := s.may(ctx, c); errors.As(err, &denied) {
				c.end(err)
			}
		}
	}
}

// enter makes c one of the agents, the newest of its server id.
func (s *Server) enter(c *conn) error {
	s.mu.Lock()
	list := s.agents[c.server]
	if i := slices.IndexFunc(list, func(o *conn) bool { return o.g != c.g }); i >= 0 {
		s.mu.Unlock()
		return &deniedError{fmt.Sprintf("server id %s is in use by an agent of group %.64q", c.server, list[i].g.id)}
	}
	list = append(slices.Clip(list), c)
	var oldest *conn
	if len(list) > s.c.MaxPerServer {
		oldest, list = list[0], list[1:]
	}
	s.agents[c.server] = list
	s.mu.Unlock()
	if oldest != nil {
		oldest.end(fmt.Errorf("more than %d connections of the same server id", s.c.MaxPerServer))
	}
	return nil
}

// leave is the end of what enter began.
func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(s.agents[c.server]), func(o *conn) bool { return o == c })
	if len(list) == 0 {
		delete(s.agents, c.server)
		return
	}
	s.agents[c.server] = list
}

// announce tells those who want to know that the agent is there.
func (c *conn) announce() {
	c.tell.Do(func() {
		if c.reason() != nil {
			return
		}
		c.settled.Store(true)
		for _, f := range c.s.hooks().connect {
			f(c.agent())
		}
	})
}
