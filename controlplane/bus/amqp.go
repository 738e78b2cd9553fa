package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	link "github.com/teeth-metal/teeth/internal/amqplink"
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
	link  *link.Link
	ctx   context.Context
	stop  context.CancelFunc
	parts sync.WaitGroup
	counters
	out     *outbox
	answers *outbox

	mu       sync.Mutex
	changed  chan struct{} // closed when something below has changed
	transmit link.State    // connection to publish and request on
	receive  link.State    // connection to consume from
	reply    link.State    // connection for answers: an address that a peer made up may break it
	subs     map[*subscriber]bool
	requests *amqp.Connection // the transmit connection, for requests
}

var _ Bus = (*AMQP)(nil)

// NewAMQP checks the configuration and starts to connect.
func NewAMQP(c Config) (*AMQP, error) {
	if c.Prefix == "" {
		c.Prefix = "teeth"
	}
	for d, otherwise := range map[*time.Duration]time.Duration{
		&c.ConfirmWait: 30 * time.Second, &c.GroupTTL: 5 * time.Second, &c.MaxBackoff: 10 * time.Second,
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
	if b.link, err = link.New(link.Config{
		URLs: c.URLs, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, Log: c.Log,
		Heartbeat: c.Heartbeat, WriteWait: c.WriteWait, MaxBackoff: c.MaxBackoff,
	}); err != nil {
		return nil, err
	}
	b.transmit.Err, b.receive.Err, b.reply.Err = errConnecting, errConnecting, errConnecting
	b.ctx, b.stop = context.WithCancel(context.Background())
	b.parts.Go(func() { b.supervise(&b.transmit, "transmit", 0, b.publishAndRequest) })
	b.parts.Go(func() { b.supervise(&b.receive, "receive", 0, b.consume) })
	b.parts.Go(func() { b.supervise(&b.reply, "reply", min(c.MaxBackoff, replyWait), b.sendAnswers) })
	return b, nil
}

var errConnecting = errors.New("not connected yet")

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
	case !b.transmit.Up:
		return b.transmit.Err
	case !b.receive.Up:
		return b.receive.Err
	case !b.reply.Up:
		return b.reply.Err
	case b.transmit.Blocked != "":
		return fmt.Errorf("the broker takes no messages: %s", b.transmit.Blocked)
	}
	return nil
}

// Stats implements Bus.
func (b *AMQP) Stats() Stats {
	s := b.stats()
	b.mu.Lock()
	s.Connected, s.Blocked = b.transmit.Up && b.receive.Up && b.reply.Up, b.transmit.Blocked != ""
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
