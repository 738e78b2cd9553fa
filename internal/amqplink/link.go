// Package amqplink keeps a connection to an AMQP 0-9-1 broker: it dials, hands the
// connection to those who use it, and when it is lost dials again, for ever.
package amqplink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Config of a Link. Zero times are replaced by the defaults.
type Config struct {
	// URLs of the broker's nodes, tried in turn: amqp://user:password@host:port/vhost
	// or amqps://. Percent-encode what is special in a password.
	URLs []string
	// Files for amqps: CA's certificates (default: the system's), and certificate
	// and key to present. With "?auth_mechanism=external" in the URL the
	// certificate is also the login.
	CAFile, CertFile, KeyFile string
	// TLS, unless it is nil, is what amqps goes by instead of any files. A ServerName
	// in it is the name that the broker's certificate must have; without, the host of
	// the URL.
	TLS *tls.Config
	Log *slog.Logger

	Heartbeat  time.Duration // 10 s
	WriteWait  time.Duration // for the socket to take a frame, else the connection is broken off; 10 s
	MaxBackoff time.Duration // between attempts to connect; 10 s
	MaxBody    uint64        // bytes of a message; larger ones come with an empty body; 0: no bound
}

// Link is safe for concurrent use: each Run has a connection of its own.
type Link struct {
	c   Config
	tls *tls.Config // nil: the URL's own parameters hold
}

// New checks the configuration. It does not connect.
func New(c Config) (*Link, error) {
	if len(c.URLs) == 0 {
		return nil, errors.New("AMQP: no broker's URL given")
	}
	for _, u := range c.URLs {
		if err := Check(u); err != nil {
			return nil, err
		}
	}
	for _, d := range []*time.Duration{&c.Heartbeat, &c.WriteWait, &c.MaxBackoff} {
		if *d <= 0 {
			*d = 10 * time.Second
		}
	}
	t, err := c.tls()
	return &Link{c: c, tls: t}, err
}

// State of a connection.
type State struct {
	Up      bool
	Blocked string // why the broker takes no messages (a connection.blocked of it); "": it does
	Err     error  // why it is not up
}

const (
	dialWait     = 10 * time.Second
	minBackoff   = 250 * time.Millisecond
	steady       = 2 * time.Second // a connection that lasted so long starts the backoff anew
	farewellWait = 2 * time.Second
)

// ErrLost is why a connection ended that nobody has ended.
var ErrLost = errors.New("connection lost")

// Role is what one connection is for.
type Role struct {
	Name   string                                        // in logs, and in the broker's list of connections
	Pause  time.Duration                                 // the longest between attempts; Config.MaxBackoff unless set
	Open   func(*amqp.Connection) error                  // before it counts as up; may be nil
	Work   func(context.Context, *amqp.Connection) error // until it returns, or the connection is lost, which ends its context
	Notify func(State)                                   // is told of every change
	Again  func()                                        // is called before every further attempt; may be nil
}

// Run keeps a connection until ctx ends.
func (l *Link) Run(ctx context.Context, r Role) {
	backoff, longest := minBackoff, l.c.MaxBackoff
	if r.Pause > 0 {
		longest = r.Pause
	}
	for attempt := 0; ctx.Err() == nil; attempt++ {
		url := l.c.URLs[attempt%len(l.c.URLs)]
		began := time.Now()
		err := l.once(ctx, r, url)
		if ctx.Err() != nil {
			return
		}
		r.Notify(State{Err: fmt.Errorf("AMQP broker %s: %w", Shown(url), err)})
		if time.Since(began) > steady {
			backoff = minBackoff
		}
		// Full jitter: servers that lost the broker together do not return together.
		pause := minBackoff/2 + rand.N(backoff)
		l.c.Log.Warn("no connection to the AMQP broker", "broker", Shown(url), "connection", r.Name, "error", err, "again_in", pause.Round(time.Millisecond).String())
		backoff = min(2*backoff, longest)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		if r.Again != nil {
			r.Again()
		}
	}
}

func (l *Link) once(ctx context.Context, r Role, url string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, raw, err := l.dial(ctx, r.Name, url)
	if err != nil {
		return err
	}
	lost := conn.NotifyClose(make(chan *amqp.Error, 1))
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 16))
	defer func() {
		// The farewell may hang on a socket that takes nothing; the socket decides.
		farewell := time.AfterFunc(farewellWait, func() { raw.Close() })
		conn.CloseDeadline(time.Now().Add(farewellWait))
		farewell.Stop()
		raw.Close()
	}()
	if r.Open != nil {
		if err := r.Open(conn); err != nil {
			return err
		}
	}
	log := l.c.Log.With("broker", Shown(url), "connection", r.Name)
	r.Notify(State{Up: true})
	log.Info("connected to the AMQP broker")
	done := make(chan error, 1)
	go func() { done <- r.Work(ctx, conn) }()
	for {
		select {
		case reason, ok := <-blocked:
			switch {
			case !ok:
				blocked = nil
			case reason.Active:
				r.Notify(State{Up: true, Blocked: "blocked by " + reason.Reason})
				log.Warn("the AMQP broker takes no messages until its alarm is over", "reason", reason.Reason)
			default:
				r.Notify(State{Up: true})
				log.Info("the AMQP broker takes messages again")
			}
		case e := <-lost:
			err := ErrLost
			if e != nil {
				err = e
			}
			cancel()
			raw.Close() // unblocks work
			<-done
			return err
		case err := <-done:
			cancel()
			return err
		case <-ctx.Done():
			// Work ends by itself; if it is stuck in a write, the deadline of the
			// write ends it.
			return <-done
		}
	}
}

// OnChannel has a channel of its own for do: a refusal closes it.
func OnChannel(conn *amqp.Connection, do func(*amqp.Channel) error) error {
	ch, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	defer ch.Close()
	return do(ch)
}

// Check refuses what is no broker's URL. It never shows the URL: it holds a password.
func Check(raw string) error {
	u, err := amqp.ParseURI(raw)
	if err != nil {
		if parsed, e := url.Parse(raw); e == nil {
			return fmt.Errorf("AMQP URL %s: want amqp[s]://user:password@host:port/vhost", redact(parsed.Scheme, parsed.Host, parsed.Path))
		}
		return errors.New("AMQP URL (not shown, as it may hold a password): want amqp[s]://user:password@host:port/vhost, with special characters percent-encoded")
	}
	if u.Host == "" {
		return errors.New("AMQP URL: it names no host: want amqp[s]://user:password@host:port/vhost")
	}
	return nil
}

func redact(scheme, host, vhost string) string { return fmt.Sprintf("%s://%s%s", scheme, host, vhost) }

// Shown is a broker's URL without user and password.
func Shown(raw string) string {
	u, err := amqp.ParseURI(raw)
	if err != nil {
		return "amqp:?"
	}
	vhost := u.Vhost
	if vhost != "/" {
		vhost = "/" + vhost
	}
	return redact(u.Scheme, fmt.Sprintf("%s:%d", u.Host, u.Port), vhost)
}

// tls returns nil if no file is given: the URL's own parameters hold then.
func (c Config) tls() (*tls.Config, error) {
	if c.TLS != nil {
		return c.TLS, nil
	}
	if c.CAFile == "" && c.CertFile == "" && c.KeyFile == "" {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("AMQP: CA's certificate: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("AMQP: %s has no certificate in PEM", c.CAFile)
		}
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return nil, errors.New("AMQP: a client certificate needs its key, and a key its certificate")
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("AMQP: client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
