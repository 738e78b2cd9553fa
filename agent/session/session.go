// Package session is the agent's end of the native protocol: it dials the
// control plane, introduces the chassis, answers commands, and delivers what
// tasks and the log have to say, over as many connections as it takes.
//
// One connection is open at a time. Of several endpoints the next one is tried
// when a connection fails; after a round without success, and after a session
// was lost, it waits for a random time, at most 2 s at first and 30 s in the end, so
// that ten thousand chassis do not come back in the same second.
//
// Over TLS the agent introduces itself with a token at first, and asks for a client
// certificate, by which it is known from the next connection on.
package session

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// ErrUnknownMethod is what a Handler returns for a method it does not know. It
// ends the session, as the protocol has it.
var ErrUnknownMethod = errors.New(teeth.FatalUnknownMethod)

// Handler carries out commands. Method is in the document's spelling
// (teeth.Canonical), and ping never gets here. The result is encoded as JSON;
// an error is sent as an error reply, with the extra fields of a
// *teeth.MethodError if it is one. Commands of one connection are handled one
// after the other, so Handle must return soon; ctx ends with the connection, and
// a Handle that goes on regardless may see the next connection's commands beside
// its own. A panic becomes an error reply.
type Handler interface {
	Handle(ctx context.Context, method string, params json.RawMessage) (result any, err error)
}

// Config is what a Session needs to know.
type Config struct {
	Endpoints []string // host:port of control planes, at least one

	// CASHA256 is the SHA-256 of the control plane's CA certificate in DER, in
	// hexadecimal. The server must present its own certificate, for the name
	// teeth.ServerName, and that of the CA.
	CASHA256 string
	Insecure bool // plain TCP, instead of CASHA256; the token is then sent in the clear

	Handshake func() teeth.Handshake // asked for on every connection; Endpoint is filled in
	Handler   Handler
	Delivered func(taskID string) // called when the server has acknowledged a final state; may be nil
	// Welcomed is called with the answer to the handshake of every connection; it
	// must return at once; may be nil.
	Welcomed func(teeth.HandshakeResult)
	Log      *slog.Logger
}

// Session delivers messages to the control plane. Its methods may be called from
// any goroutine.
type Session struct {
	cfg    Config
	creds  *credentials // nil: plain TCP
	timers timers
	dial   func(ctx context.Context, endpoint string) (net.Conn, error)
	outbox *outbox
	calls  chan *item

	connected atomic.Bool
	lastHeard atomic.Pointer[time.Time]
}

// timers are the protocol's; tests shorten them.
type timers struct {
	ping, idle           time.Duration
	backoffMin           time.Duration // the first wait is up to twice as long
	backoffMax           time.Duration // the longest
	connect, write, last time.Duration // for dial and TLS; for one write; for the peer to read a fatal error
}

// New returns a Session that Run starts. It refuses a Config that it could never
// connect with.
func New(cfg Config) (*Session, error) {
	s := &Session{
		cfg:    cfg,
		outbox: newOutbox(),
		calls:  make(chan *item),
		timers: timers{
			ping: 20 * time.Second, idle: 60 * time.Second,
			backoffMin: time.Second, backoffMax: 30 * time.Second,
			connect: 15 * time.Second, write: 60 * time.Second, last: 2 * time.Second,
		},
	}
	s.dial = s.dialTCP
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("no control plane to connect to: give at least one host:port")
	}
	for _, e := range cfg.Endpoints {
		if host, port, err := net.SplitHostPort(e); err != nil || host == "" || port == "" {
			return nil, fmt.Errorf("endpoint %q is not host:port", e)
		}
	}
	switch {
	case cfg.Handshake == nil || cfg.Handler == nil || cfg.Log == nil:
		return nil, errors.New("session: Handshake, Handler and Log must be set")
	case cfg.Insecure && cfg.CASHA256 != "":
		return nil, errors.New("a CA digest and plain TCP exclude each other: drop one of the two")
	case cfg.Insecure:
		return s, nil
	case cfg.CASHA256 == "":
		return nil, errors.New("no CA digest to know the control plane by: give its SHA-256, as teeth serve prints it")
	}
	pin, err := parsePin(cfg.CASHA256)
	if err != nil {
		return nil, err
	}
	s.creds = newCredentials(pin)
	return s, nil
}

// Connected reports whether a control plane has answered the handshake of the
// connection that is open now.
func (s *Session) Connected() bool { return s.connected.Load() }

// LastHeard returns when the last line came from a control plane; the zero time
// if none ever did.
func (s *Session) LastHeard() time.Time {
	if t := s.lastHeard.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// Report queues an update on a task and returns at once. Of running updates that
// were not sent yet only the newest of a task is kept. A final state is sent
// until the server has acknowledged it.
func (s *Session) Report(status teeth.TaskStatus) {
	if err := s.outbox.report(status); err != nil {
		s.cfg.Log.Error("task status cannot be encoded", "task", status.TaskID, "state", status.State, "err", err)
	}
}

// Log queues a log message and returns at once. While the control plane cannot
// be reached some hundred are kept; beyond that the oldest are dropped, counted,
// and the count is sent.
func (s *Session) Log(msg string, fields map[string]any) { s.outbox.log(msg, fields) }

// Flush waits until the control plane has answered everything that was reported
// and logged. The agent does so, for a while, before it leaves the machine.
func (s *Session) Flush(ctx context.Context) error {
	select {
	case <-s.outbox.empty():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("not everything reached the control plane: %w", ctx.Err())
	}
}

// Run keeps a session going until ctx ends, and returns ctx's error.
func (s *Session) Run(ctx context.Context) error {
	if s.creds == nil {
		s.cfg.Log.Warn("talking to the control plane in the clear, as told: anyone on the network can command this chassis")
	}
	lost := 0 // rounds without success
	for i := 0; ; i++ {
		endpoint := s.cfg.Endpoints[i%len(s.cfg.Endpoints)]
		established, err := s.connect(ctx, endpoint)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.cfg.Log.Warn("no session with the control plane", "endpoint", endpoint, "was_established", established, "err", err)
		switch {
		case established:
			lost = 0
		case (i+1)%len(s.cfg.Endpoints) != 0:
			continue // the next one may be well
		default:
			lost++
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(s.backoff(lost)):
		}
	}
}

// backoff returns how long to wait after so many failed rounds: a random time
// within an interval that doubles from twice the minimum. A wait may be as good as
// none: what matters is that thousands of them are spread evenly.
func (s *Session) backoff(failures int) time.Duration {
	top := s.timers.backoffMax
	if failures < 20 {
		top = min(top, 2*s.timers.backoffMin<<max(failures-1, 0))
	}
	return rand.N(top + 1)
}

// connect dials one endpoint and talks until the connection ends. It reports
// whether the handshake was answered.
func (s *Session) connect(ctx context.Context, endpoint string) (established bool, err error) {
	dialCtx, cancel := context.WithTimeout(ctx, s.timers.connect)
	defer cancel()
	raw, err := s.dial(dialCtx, endpoint)
	if err != nil {
		return false, err // names the endpoint
	}
	defer raw.Close()
	nc, certified := raw, false
	if s.creds != nil {
		var conf *tls.Config
		conf, certified = s.creds.config()
		if nc, err = handshake(dialCtx, raw, conf); err != nil {
			return false, fmt.Errorf("TLS with %s: %w", endpoint, err)
		}
	}
	c := newConn(s, nc, endpoint)
	c.certified = certified
	err = c.run(ctx)
	s.connected.Store(false)
	return c.established.Load(), fmt.Errorf("session with %s: %w", endpoint, err)
}

func (s *Session) dialTCP(ctx context.Context, endpoint string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true}}
	nc, err := d.DialContext(ctx, "tcp", endpoint)
	if err != nil {
		return nil, err
	}
	if tc, ok := nc.(*net.TCPConn); ok {
		if err := tc.SetNoDelay(true); err != nil { // Go's default, and the protocol's
			nc.Close()
			return nil, err
		}
	}
	return nc, nil
}
