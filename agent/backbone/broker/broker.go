// Package broker carries Backbone's messages over AMQP 0-9-1, for a slave.
//
// Which of the dialects a master speaks shows in what it has declared. A queue
// bbslave-q-ID is a master's of 2015 or later: the slave takes its messages from it,
// and declares nothing, which it may not be allowed to either. Without one the slave
// makes a queue of its own, exclusive and named by the broker, and binds it to
// "slaves", the host's ids and the names of its apps, as the published document has
// it; where that is refused, the broker is that of a later master who has not heard of
// the host yet, and who will declare the queue when it has. The exchange is declared
// only if it is missing, as all masters declare it.
//
// One connection is open at a time, with one consumer. When it is lost, all is made
// anew on the next one. A refusal by the broker costs a channel and not the connection.
package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/agent/backbone"
	link "github.com/teeth-metal/teeth/internal/amqplink"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// Choice says how a master is to be spoken to.
type Choice string

// Choices: find out, or one of the dialects by the name that it has in package
// wire/backbone.
const (
	Auto           Choice = "auto"
	Document       Choice = "document"
	Retrying       Choice = "2014"
	MasterDeclared Choice = "2015"
)

// ParseChoice reads a Choice; "" is Auto.
func ParseChoice(s string) (Choice, error) {
	switch c := Choice(s); c {
	case "":
		return Auto, nil
	case Auto, Document, Retrying, MasterDeclared:
		return c, nil
	}
	return "", fmt.Errorf("dialect %.40q of Backbone: want auto, document, 2014 or 2015", s)
}

// CheckURL refuses what is no broker's URL, without repeating the password in it.
func CheckURL(raw string) error { return link.Check(raw) }

// Config of a Session. Times that are zero are replaced by the defaults.
type Config struct {
	URL     string      // amqp[s]://user:password@host:port/vhost
	TLS     *tls.Config // for amqps; nil: the system's CAs
	Dialect Choice      // Auto unless set
	HostID  string      // by which later masters know the host
	MAC     string      // by which the document's does; HostID unless set
	Log     *slog.Logger

	Heartbeat time.Duration // of AMQP; 30 s
	Recheck   time.Duration // of Auto: how often it looks for a later master's queue, while messages come; 30 s
	MaxPause  time.Duration // the longest between attempts, of all kinds; 30 s
}

// Session is a backbone.Transport.
type Session struct {
	c       Config
	link    *link.Link
	in      chan wire.Envelope
	up      chan struct{}
	rebind  chan struct{}
	hostile *rate.Limiter // of log lines
	sending sync.Mutex    // held by Send

	mu      sync.Mutex
	id      string
	dialect wire.Dialect
	fixed   bool // the dialect is known for good
	conn    *amqp.Connection
	said    bool // Up was signalled on this connection
	blocked string
	topics  []string
	pub     *publisher
}

var _ backbone.Transport = (*Session)(nil)

// New checks the configuration. It does not connect before Run.
func New(c Config) (*Session, error) {
	for d, otherwise := range map[*time.Duration]time.Duration{&c.Heartbeat: 30 * time.Second, &c.Recheck: 30 * time.Second, &c.MaxPause: 30 * time.Second} {
		if *d <= 0 {
			*d = otherwise
		}
	}
	if c.MAC == "" {
		c.MAC = c.HostID
	}
	for _, id := range []string{c.HostID, c.MAC} {
		if err := wire.CheckHostID(id); err != nil {
			return nil, err
		}
	}
	var err error
	if c.Dialect, err = ParseChoice(string(c.Dialect)); err != nil {
		return nil, err
	}
	s := &Session{
		c: c, in: make(chan wire.Envelope, 16), up: make(chan struct{}, 1), rebind: make(chan struct{}, 1),
		hostile: rate.NewLimiter(rate.Every(10*time.Second), 10),
	}
	s.link, err = link.New(link.Config{
		URLs: []string{c.URL}, TLS: c.TLS, Log: c.Log, Heartbeat: c.Heartbeat, MaxBackoff: c.MaxPause, MaxBody: wire.MaxBody,
	})
	if err != nil {
		return nil, err
	}
	switch c.Dialect {
	case Auto, MasterDeclared: // Auto: until something else shows
		s.id, s.dialect, s.fixed = c.HostID, wire.MasterDeclared, c.Dialect == MasterDeclared
	case Document:
		s.id, s.dialect, s.fixed = c.MAC, wire.Document, true
	case Retrying:
		s.id, s.dialect, s.fixed = c.HostID, wire.Retrying, true
	}
	return s, nil
}

// Run keeps the session until ctx ends.
func (s *Session) Run(ctx context.Context) {
	s.link.Run(ctx, link.Role{
		Name:   "backbone slave " + s.c.HostID,
		Notify: s.notify,
		Work: func(working context.Context, conn *amqp.Connection) error {
			s.mu.Lock()
			s.conn, s.said = conn, false
			s.mu.Unlock()
			defer func() {
				s.mu.Lock()
				s.conn, s.pub = nil, nil
				s.mu.Unlock()
			}()
			return s.serve(ctx, working, conn)
		},
	})
}

func (s *Session) notify(st link.State) {
	s.mu.Lock()
	was := s.blocked
	s.blocked = st.Blocked
	s.mu.Unlock()
	if was != "" && st.Up && st.Blocked == "" {
		poke(s.up) // what was not sent meanwhile is said now
	}
	if refusesQueues(st.Err) {
		s.c.Log.Error(refusal, "err", st.Err)
	}
}

// refusal is what a broker of version 4.3 or later needs to be told.
const refusal = "this broker refuses queues that are neither durable nor exclusive, which Backbone's are (RabbitMQ 4.3 and later): set deprecated_features.permit.transient_nonexcl_queues = true in its rabbitmq.conf"

func refusesQueues(err error) bool {
	return err != nil && strings.Contains(err.Error(), "transient_nonexcl_queues")
}

// Receive implements backbone.Transport.
func (s *Session) Receive() <-chan wire.Envelope { return s.in }

// Up implements backbone.Transport.
func (s *Session) Up() <-chan struct{} { return s.up }

// Identity implements backbone.Transport.
func (s *Session) Identity() (hostID string, d wire.Dialect, sure bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id, s.dialect, s.fixed
}

// MaxMessage implements backbone.Transport.
func (s *Session) MaxMessage() int { return wire.MaxBody }

// Installed implements backbone.Transport.
func (s *Session) Installed(apps []string) {
	s.mu.Lock()
	s.topics = slices.Clone(apps)
	s.mu.Unlock()
	poke(s.rebind)
}

// ready says under which identity messages can be had, or waited for.
func (s *Session) ready(id string, d wire.Dialect) {
	s.mu.Lock()
	changed := !s.said || s.id != id || s.dialect != d
	s.id, s.dialect, s.said = id, d, true
	s.mu.Unlock()
	if changed {
		poke(s.up)
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func code(err error) int {
	var e *amqp.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}
