package backbone

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/internal/amqplink"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

const (
	prefetch   = 2 * maxBatch // statuses in memory here
	maxWaiting = 10_000       // statuses in our queue at the broker; the oldest give way
)

// broker is the master's end of an AMQP broker that original masters may share. It has
// a connection for messages, and one for what the broker may break it off for: to
// declare slaves' queues.
type broker struct {
	m        *Master
	link     *amqplink.Link
	requests chan *request
	declared chan *declaration

	mu      sync.Mutex
	state   amqplink.State
	changed chan struct{} // closed when state changes
	refusal error         // of slaves' queues by the broker, since refusedAt
	refused time.Time
}

func newBroker(m *Master, c amqplink.Config) (*broker, error) {
	c.Log = m.c.Log
	c.MaxBody = wire.MaxBody
	l, err := amqplink.New(c)
	if err != nil {
		return nil, fmt.Errorf("backbone: %w", err)
	}
	return &broker{m: m, link: l, requests: make(chan *request), declared: make(chan *declaration), changed: make(chan struct{}), state: amqplink.State{Err: errNotYet}}, nil
}

var errNotYet = errors.New("not connected yet")

// run is the master on this broker until ctx ends.
func (b *broker) run(ctx context.Context) {
	parts := newGroup(ctx)
	parts.run(func(ctx context.Context) {
		b.link.Run(ctx, amqplink.Role{Name: "backbone", Open: openExchange, Work: b.serve, Notify: b.note})
	})
	parts.run(func(ctx context.Context) {
		b.link.Run(ctx, amqplink.Role{Name: "backbone queues", Work: b.serveDeclares, Notify: func(amqplink.State) {}})
	})
	parts.wait()
	b.note(amqplink.State{Err: errNotYet})
}

func (b *broker) note(s amqplink.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state = s
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *broker) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.state.Up:
		return b.state.Err
	case b.state.Blocked != "":
		return fmt.Errorf("the broker takes no messages: %s", b.state.Blocked)
	}
	return nil
}

// up reports whether there is a connection. What there is to tell when there is none
// is looked at again when there is.
func (b *broker) up() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Up && b.state.Blocked == ""
}

// blocked returns nil if the broker takes messages, else what to wait for before
// asking again.
func (b *broker) blocked() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state.Blocked == "" {
		return nil
	}
	return b.changed
}

// openExchange makes sure that the exchange is there, as the original declares it. One
// that is there is used as it is.
func openExchange(conn *amqp.Connection) error {
	err := amqplink.OnChannel(conn, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(wire.Exchange, amqp.ExchangeDirect, false, false, false, false, nil)
	})
	if code(err) == amqp.NotFound {
		err = amqplink.OnChannel(conn, func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare(wire.Exchange, amqp.ExchangeDirect, false, false, false, false, nil)
		})
	}
	if code(err) == amqp.AccessRefused {
		return fmt.Errorf("the broker does not let this user declare the exchange %s: allow it to configure ^(pf9-bbone|bbslave-q-.*|bbmaster-q.*)$: %w", wire.Exchange, err)
	}
	if err != nil {
		return fmt.Errorf("declare exchange %s as direct, not durable: %w", wire.Exchange, err)
	}
	return nil
}

func code(err error) int {
	var refused *amqp.Error
	if errors.As(err, &refused) {
		return refused.Code
	}
	return 0
}

// serve consumes and publishes on a new connection.
func (b *broker) serve(ctx context.Context, conn *amqp.Connection) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	consuming, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	deliveries, err := b.subscribe(consuming)
	if err != nil {
		return err
	}
	publishing, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	parts := newGroup(ctx)
	parts.run(func(ctx context.Context) { cancel(b.consume(ctx, deliveries)) })
	parts.run(func(ctx context.Context) { cancel(b.send(ctx, publishing)) })
	parts.run(func(ctx context.Context) { b.greet(ctx) })
	parts.wait()
	return context.Cause(ctx)
}

// subscribe declares our queue. It is exclusive, so that nothing of it is left behind
// when we go, and an original master on the same host has another one. What was said
// while nobody listened is not missed: see greet.
func (b *broker) subscribe(ch *amqp.Channel) (<-chan amqp.Delivery, error) {
	name := wire.MasterQueue("teeth-" + strings.ToLower(rand.Text()[:10]))
	if _, err := ch.QueueDeclare(name, false, true, true, false, amqp.Table{"x-max-length": int64(maxWaiting)}); err != nil {
		return nil, fmt.Errorf("declare queue %s: %w", name, err)
	}
	if err := ch.QueueBind(name, wire.KeyMaster, wire.Exchange, false, nil); err != nil {
		return nil, fmt.Errorf("bind queue %s to %s: %w", name, wire.KeyMaster, err)
	}
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return nil, fmt.Errorf("prefetch: %w", err)
	}
	deliveries, err := ch.Consume(name, "", false, true, false, false, nil)
	if err != nil {
		return nil, fmt.Errorf("consume from %s: %w", name, err)
	}
	return deliveries, nil
}

// greet asks all slaves for a status, as the original does when it has connected, and
// has the hosts looked at that could not be told anything before.
func (b *broker) greet(ctx context.Context) {
	if err := b.ping(ctx, wire.KeySlaves); err != nil && !errors.Is(err, errUnrouted) && ctx.Err() == nil {
		b.m.c.Log.Warn("slaves could not be asked for their status", "error", err)
	}
	b.m.sweepOnce(ctx)
}

// consume hands on statuses until the queue is gone. Each is acknowledged when it is
// stored, or is not worth it.
func (b *broker) consume(ctx context.Context, deliveries <-chan amqp.Delivery) error {
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return errors.New("our queue or the channel is gone")
			}
			if err := b.receive(ctx, d); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receive never fails because of what is in a message.
func (b *broker) receive(ctx context.Context, d amqp.Delivery) error {
	in, err := b.status(ctx, d.Body)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, wire.ErrInvalid) {
			b.m.meters.statuses.WithLabelValues("malformed").Inc()
		}
		if b.m.loud.Allow() {
			b.m.c.Log.Warn("a message to Backbone's master is left out", "error", err, "bytes", len(d.Body))
		}
		return d.Ack(false)
	}
	if in == nil {
		return d.Ack(false)
	}
	in.done = func(error) { d.Ack(false) } // the channel may be gone; the broker knows then
	select {
	case b.m.incoming <- *in:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// status returns nil for messages that are none and of no use.
func (b *broker) status(ctx context.Context, body []byte) (*incoming, error) {
	e, err := wire.Parse(body)
	if err != nil {
		return nil, err
	}
	if e.Opcode != wire.StatusReport {
		b.m.c.Log.Debug("a message to Backbone's master has no meaning here", "opcode", fmt.Sprintf("%.40q", e.Opcode))
		return nil, nil
	}
	in, err := b.m.read(e.Data, viaAMQP)
	if err != nil {
		return nil, err
	}
	chassis, err := b.m.known.chassis(ctx, b.m.c.Store, in.status.HostID)
	if err != nil {
		return nil, fmt.Errorf("status of host %.64q: %w", in.status.HostID, err)
	}
	in.id = store.AppStatus{Host: in.status.HostID, Chassis: chassis}
	return &in, nil
}
