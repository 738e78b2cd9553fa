package gateway

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
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Session is one agent's connection.
type Session struct {
	g       *Gateway
	conn    net.Conn
	id      string
	chassis string
	legacy  bool
	apps    bool // it keeps apps
	records bool // its log is among its records
	secure  bool // over TLS
	bootID  string
	log     *slog.Logger
	ready   bool // guarded by g.mu

	inspected bool        // its inventory is known from this boot
	ask       bool        // whether it is approved; see Gateway.connect
	approved  atomic.Bool // the chassis may work
	certified time.Time   // when it was last given a certificate; of the reading goroutine
	reports   *rate.Limiter

	writing sync.Mutex
	w       *teeth.Writer

	mu      sync.Mutex
	pending map[string]chan teeth.Message // nil until something is asked
	ended   error                         // why, once it has
	done    chan struct{}
}

// ID returns the session's id, as the store knows it.
func (s *Session) ID() string { return s.id }

// Legacy reports whether the agent is the original one, which knows little.
func (s *Session) Legacy() bool { return s.legacy }

// Apps reports whether the agent keeps apps, and knows app_config and app_ping.
func (s *Session) Apps() bool { return s.apps }

// BootID returns what tells this boot of the chassis from others; it may be "".
func (s *Session) BootID() string { return s.bootID }

// serve is the life of a connection.
func (g *Gateway) serve(ctx context.Context, conn net.Conn, from netip.Addr, tlsConfig *tls.Config) {
	log := g.c.Log.With("address", conn.RemoteAddr().String())
	var state tls.ConnectionState // zero without TLS
	defer func() { conn.Close() }()
	served := g.serveNext(ctx)
	if served == nil {
		g.peers.Greeted(from)
		return
	}
	conn.SetDeadline(time.Now().Add(g.c.Handshake))
	if tlsConfig != nil {
		c := tls.Server(conn, tlsConfig)
		if err := c.HandshakeContext(ctx); err != nil {
			served()
			g.peers.Greeted(from)
			g.meters.handshakes.WithLabelValues("tls").Inc()
			if ctx.Err() == nil {
				log.Warn("agent refused", "error", fmt.Errorf("TLS: %w", err))
			}
			return
		}
		conn, state = c, c.ConnectionState()
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	s := &Session{
		g: g, conn: conn, id: teeth.NewID(), log: log, secure: tlsConfig != nil,
		w:    teeth.NewWriter(conn),
		done: make(chan struct{}), reports: rate.NewLimiter(rate.Limit(g.c.Reports), int(10*g.c.Reports)+1),
	}
	r := teeth.NewReader(conn)
	err := s.handshake(ctx, r, state)
	served()
	g.peers.Greeted(from)
	if err != nil {
		g.meters.handshakes.WithLabelValues("refused").Inc()
		s.violation(err)
		if ctx.Err() == nil {
			log.Warn("agent refused", "error", err)
		}
		return
	}
	g.meters.handshakes.WithLabelValues("ok").Inc()
	conn.SetDeadline(time.Time{})
	s.log.Info("agent connected", "boot_id", s.bootID, "legacy", s.legacy, "approved", s.approved.Load(), "certificate", len(state.PeerCertificates) > 0, "resumed", state.DidResume)
	var settling sync.WaitGroup
	settling.Go(func() {
		if err := g.settle(ctx, s); err != nil {
			s.end(fmt.Errorf("the agent's status: %w", err))
		}
	})
	err = s.read(ctx, r)
	s.violation(err)
	s.end(err)
	settling.Wait()
	g.disconnect(s)
	s.mu.Lock()
	err = s.ended
	s.mu.Unlock()
	if ctx.Err() == nil {
		s.log.Info("agent disconnected", "reason", err)
	}
}

// end closes the connection and fails the commands that wait for a result. The
// first reason counts.
func (s *Session) end(reason error) {
	if reason == nil {
		reason = io.EOF
	}
	s.mu.Lock()
	first := s.ended == nil
	if first {
		s.ended = reason
		close(s.done)
	}
	s.mu.Unlock()
	if first {
		s.conn.Close() // may take a moment, with TLS
	}
}

// linger is how long a peer has to read why its session ends.
const linger = time.Second

// violation tells the peer in what way it broke the protocol, if that is what
// err is about.
func (s *Session) violation(err error) {
	var v *teeth.ViolationError
	if !errors.As(err, &v) || s.write(teeth.NewFatal(v.Fatal)) != nil {
		return
	}
	// Closing while there is more to read would reset the connection, and the
	// message could be lost with it.
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		s.conn.SetReadDeadline(time.Now().Add(linger))
		io.CopyN(io.Discard, s.conn, 4*teeth.MaxLine)
	}
}

func (s *Session) write(m teeth.Message) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.conn.SetWriteDeadline(time.Now().Add(s.g.c.Write))
	return s.w.WriteMessage(m)
}

// handshake reads the first message and answers it.
func (s *Session) handshake(ctx context.Context, r *teeth.Reader, state tls.ConnectionState) error {
	var line []byte
	for len(line) == 0 {
		var err error
		if line, err = r.ReadLine(); err != nil {
			return fmt.Errorf("no handshake: %w", err)
		}
	}
	m, err := teeth.Parse(line)
	if err != nil {
		return err
	}
	if m.Kind == teeth.KindFatal {
		return fmt.Errorf("fatal error from the agent: %.200q", m.Fatal)
	}
	if m.Kind != teeth.KindCommand || m.Method != teeth.MethodHandshake {
		return &teeth.ViolationError{Fatal: teeth.FatalUnsupported, Err: errors.New("the first message is not a handshake")}
	}
	refuse := func(err error) error {
		return errors.Join(err, s.write(teeth.NewError(m.ID, err)))
	}
	var h teeth.Handshake
	if err := teeth.DecodeParams(m.Method, m.Params, &h, "id", "version"); err != nil {
		return refuse(err)
	}
	token := h.Token
	h.Token = ""
	if err := normalise(&h); err != nil {
		return refuse(fmt.Errorf("handshake: %w", err))
	}
	in := store.Session{
		ID: s.id, Handshake: h, Secure: s.secure, Rules: s.g.c.AutoApprove,
		Address:  hostOf(s.conn.RemoteAddr().String()),
		Endpoint: endpointHost(h.Endpoint, s.conn.LocalAddr().String()),
	}
	if err := s.g.prove(&in, token, state); err != nil {
		return refuse(err)
	}
	s.legacy, s.bootID = h.Version == teeth.LegacyVersion, h.BootID
	s.apps, s.records = h.Apps && !s.legacy, h.Records
	if err := s.g.connect(ctx, s, in); err != nil {
		return refuse(err)
	}
	result := teeth.HandshakeResult{
		Chassis: s.chassis, Version: s.g.c.Version, Certificates: s.secure && s.g.c.Authority != nil && !s.legacy}
	if s.g.c.NodeCapability != nil && !s.legacy {
		result.NodeCapability = s.g.c.NodeCapability(s.chassis, s.bootID)
	}
	result.Apps = s.apps && s.g.c.AppStatus != nil
	if s.apps && s.secure && s.approved.Load() { // its URL holds a password
		result.Backbone = s.g.c.Backbone
	}
	if s.g.c.Minion != nil && !s.legacy {
		result.Minion = s.g.c.Minion(s.chassis, in.Endpoint, s.secure)
	}
	ok, err := teeth.NewResult(m.ID, result)
	if err == nil {
		err = s.write(ok)
	}
	if err != nil {
		s.g.disconnect(s)
	}
	return err
}

// read handles messages until the connection ends. Its error says why it did.
func (s *Session) read(ctx context.Context, r *teeth.Reader) error {
	for {
		s.conn.SetReadDeadline(time.Now().Add(s.g.c.Idle))
		line, err := r.ReadLine()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("silent for %v", s.g.c.Idle)
		}
		if err != nil {
			return err
		}
		if len(line) == 0 {
			continue
		}
		m, err := teeth.Parse(line)
		if err != nil {
			return err
		}
		switch m.Kind {
		case teeth.KindFatal:
			return fmt.Errorf("fatal error from the agent: %.200q", m.Fatal)
		case teeth.KindCommand:
			reply, err := s.answer(ctx, m)
			if err != nil {
				return err
			}
			if err := s.write(reply); err != nil {
				return err
			}
			if m.Method == teeth.MethodCertificate && reply.Kind == teeth.KindResult {
				if err := s.g.c.Store.CertificateSent(ctx, s.chassis, s.bootID); err != nil {
					return err
				}
			}
		default:
			if err := s.deliver(m); err != nil {
				return err
			}
		}
	}
}

// answer carries out a command. Its error ends the session; a refusal is a reply.
func (s *Session) answer(ctx context.Context, m teeth.Message) (teeth.Message, error) {
	result, err := s.handle(ctx, m)
	var refusal *teeth.MethodError
	switch {
	case err == nil:
		return teeth.NewResult(m.ID, result)
	case errors.As(err, &refusal):
		return teeth.NewError(m.ID, refusal), nil
	}
	return teeth.Message{}, err
}

// Close ends the session, for an agent that does not answer.
func (s *Session) Close(reason error) { s.end(reason) }
