package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Config of a bus over AMQP 0-9-1. Zero limits and times are replaced by the defaults.
type Config struct {
	// URLs of the broker's nodes, tried in turn: amqp://user:password@host:port/vhost
	// or amqps://. Percent-encode what is special in a password.
	URLs []string
	// Files for amqps: CA's certificates (default: the system's), and certificate
	// and key to present. With "?auth_mechanism=external" in the URL the
	// certificate is also the login.
	CAFile, CertFile, KeyFile string
	// Exchanges to declare: topic, durable. One that exists with other properties is
	// reported, and used as it is.
	Exchanges []string
	// Prefix of the names of the queues that groups share; "teeth" unless set.
	Prefix string
	Log    *slog.Logger

	Heartbeat   time.Duration // 10 s
	WriteWait   time.Duration // for the socket to take a frame, else the connection is broken off; 10 s
	ConfirmWait time.Duration // for the broker to confirm, time in which it is blocked not counted; 30 s
	MaxOutbox   int           // messages not yet confirmed; 10000
	MaxBytes    int           // of their bodies; 64 MiB
	GroupTTL    time.Duration // a message for a group nobody takes is dropped after it; 5 s
	MaxBackoff  time.Duration // between attempts to connect; 10 s
}

// AMQP is a bus over a broker. It connects, and connects again, for ever.
type AMQP struct {
	c     Config
	tls   *tls.Config
	ctx   context.Context
	stop  context.CancelFunc
	parts sync.WaitGroup
	counters
	out     *outbox
	answers *outbox

	mu       sync.Mutex
	changed  chan struct{} // closed when something below has changed
	transmit state         // connection to publish and request on
	receive  state         // connection to consume from
	reply    state         // connection for answers: an address that a peer made up may break it
	subs     map[*subscriber]bool
	requests *amqp.Connection // the transmit connection, for requests
}

// state of one connection.
type state struct {
	up      bool
	blocked string // the broker's reason
	err     error  // why it is not up
}

var _ Bus = (*AMQP)(nil)

// NewAMQP checks the configuration and starts to connect.
func NewAMQP(c Config) (*AMQP, error) {
	if len(c.URLs) == 0 {
		return nil, errors.New("AMQP: no broker's URL given")
	}
	for _, u := range c.URLs {
		if err := checkURL(u); err != nil {
			return nil, err
		}
	}
	if c.Prefix == "" {
		c.Prefix = "teeth"
	}
	for d, otherwise := range map[*time.Duration]time.Duration{
		&c.Heartbeat: 10 * time.Second, &c.WriteWait: 10 * time.Second, &c.ConfirmWait: 30 * time.Second,
		&c.GroupTTL: 5 * time.Second, &c.MaxBackoff: 10 * time.Second,
	} {
		if *d <= 0 {
			*d = otherwise
		}
	}
	if c.MaxOutbox <= 0 {
		c.MaxOutbox = 10_000
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 64 << 20
	}
	b := &AMQP{c: c, changed: make(chan struct{}), subs: map[*subscriber]bool{}, out: newOutbox(c.MaxOutbox, c.MaxBytes), answers: newOutbox(maxAnswers, maxAnswerBytes)}
	b.answers.once = true
	var err error
	if b.tls, err = c.tls(); err != nil {
		return nil, err
	}
	b.transmit.err, b.receive.err, b.reply.err = errConnecting, errConnecting, errConnecting
	b.ctx, b.stop = context.WithCancel(context.Background())
	b.parts.Go(func() { b.supervise(&b.transmit, "transmit", c.MaxBackoff, b.publishAndRequest) })
	b.parts.Go(func() { b.supervise(&b.receive, "receive", c.MaxBackoff, b.consume) })
	b.parts.Go(func() { b.supervise(&b.reply, "reply", min(c.MaxBackoff, replyWait), b.sendAnswers) })
	return b, nil
}

var errConnecting = errors.New("not connected yet")

// checkURL never shows the URL: it holds a password.
func checkURL(raw string) error {
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

// shown is a broker's URL without user and password.
func shown(raw string) string {
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

// set changes what is under mu and tells those who wait for it.
func (b *AMQP) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
	close(b.changed)
	b.changed = make(chan struct{})
}

// Ready implements Bus.
func (b *AMQP) Ready(ctx context.Context) error {
	for {
		b.mu.Lock()
		changed, waiting := b.changed, b.err()
		for s := range b.subs {
			if waiting == nil && !s.active {
				waiting = fmt.Errorf("subscription to %s %v is not active", s.Exchange, s.Keys)
			}
		}
		b.mu.Unlock()
		if waiting == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("AMQP: %w: %w", ctx.Err(), waiting)
		case <-b.ctx.Done():
			return ErrClosed
		}
	}
}

// Err implements Bus.
func (b *AMQP) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err()
}

func (b *AMQP) err() error {
	switch {
	case b.ctx.Err() != nil:
		return ErrClosed
	case !b.transmit.up:
		return b.transmit.err
	case !b.receive.up:
		return b.receive.err
	case !b.reply.up:
		return b.reply.err
	case b.transmit.blocked != "":
		return fmt.Errorf("the broker takes no messages: %s", b.transmit.blocked)
	}
	return nil
}

// Stats implements Bus.
func (b *AMQP) Stats() Stats {
	s := b.stats()
	b.mu.Lock()
	s.Connected, s.Blocked = b.transmit.up && b.receive.up && b.reply.up, b.transmit.blocked != ""
	b.mu.Unlock()
	s.Outbox = b.out.len() + b.answers.len()
	return s
}

// Close implements Bus. What is in the outbox is given up: its Publish returns
// ErrClosed.
func (b *AMQP) Close() error {
	b.stop()
	b.parts.Wait()
	b.out.close()
	b.answers.close()
	return nil
}
