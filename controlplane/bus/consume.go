package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	maxWaiting   = 10_000      // messages in one queue of ours at the broker; the oldest give way
	groupExpires = time.Minute // a group's queue that no server uses is deleted after it
	replyWait    = 2 * time.Second

	minBackoff = 250 * time.Millisecond
	steady     = 2 * time.Second // a subscription that lasted so long starts the backoff anew
)

// subscriber is a subscription that outlives connections.
type subscriber struct {
	Subscription
	ctx    context.Context
	work   chan Message // to the workers
	active bool         // under AMQP.mu
}

// Subscribe implements Bus.
func (b *AMQP) Subscribe(ctx context.Context, sub Subscription) error {
	if err := sub.check(); err != nil {
		return err
	}
	if b.ctx.Err() != nil {
		return ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(b.ctx, cancel)
	s := &subscriber{Subscription: sub, ctx: ctx, work: make(chan Message)}
	b.set(func() { b.subs[s] = true })
	context.AfterFunc(ctx, func() { b.set(func() { delete(b.subs, s) }) })
	for range sub.Workers {
		b.parts.Go(func() {
			for {
				select {
				case m := <-s.work:
					b.answer(s, m)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return nil
}

func (b *AMQP) answer(s *subscriber, m Message) {
	out := s.handle(s.ctx, b.c.Log, m)
	if out == nil || m.ReplyTo == "" {
		return
	}
	if !sendable(m.ReplyTo) {
		b.discarded.Add(1)
		b.c.Log.Warn("an answer is not sent: the address for it is none", "exchange", m.Exchange, "key", m.Key, "reply_to", m.ReplyTo)
		return
	}
	reply := *out
	reply.Exchange, reply.Key, reply.ReplyTo = "", m.ReplyTo, ""
	// Whoever asked waits a second; a later answer is of no use to anybody.
	ctx, cancel := context.WithTimeout(s.ctx, replyWait)
	defer cancel()
	if err := b.publish(ctx, b.answers, []Message{reply}); err != nil && s.ctx.Err() == nil {
		b.c.Log.Warn("an answer was not sent", "exchange", m.Exchange, "key", m.Key, "error", err)
	}
}

// consume runs all subscriptions on conn, also those that come later, until ctx ends.
func (b *AMQP) consume(ctx context.Context, conn *amqp.Connection) error {
	running := map[*subscriber]bool{}
	var parts sync.WaitGroup
	defer parts.Wait()
	defer b.set(func() {
		for s := range b.subs {
			s.active = false
		}
	})
	for {
		b.mu.Lock()
		changed := b.changed
		var start []*subscriber
		for s := range b.subs {
			if !running[s] {
				running[s] = true
				start = append(start, s)
			}
		}
		for s := range running {
			if !b.subs[s] {
				delete(running, s)
			}
		}
		b.mu.Unlock()
		for _, s := range start {
			parts.Go(func() { b.keep(ctx, conn, s) })
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keep consumes for s for as long as the connection is there. The broker may end
// the channel alone: someone has deleted the queue, or its node is down.
func (b *AMQP) keep(ctx context.Context, conn *amqp.Connection, s *subscriber) {
	pause := minBackoff
	for ctx.Err() == nil && s.ctx.Err() == nil && !conn.IsClosed() {
		began := time.Now()
		err := b.deliver(ctx, conn, s)
		b.set(func() { s.active = false })
		if ctx.Err() != nil || s.ctx.Err() != nil || conn.IsClosed() {
			return
		}
		if time.Since(began) > steady {
			pause = minBackoff
		}
		b.c.Log.Warn("a subscription was ended by the AMQP broker", "exchange", s.Exchange, "keys", s.Keys, "error", err, "again_in", pause.String())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		case <-s.ctx.Done():
		}
		pause = min(2*pause, b.c.MaxBackoff)
	}
}

func (b *AMQP) deliver(ctx context.Context, conn *amqp.Connection, s *subscriber) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	// No more than the workers and one each that waits for them is in memory here.
	if err := ch.Qos(2*s.Workers, 0, false); err != nil {
		return fmt.Errorf("prefetch: %w", err)
	}
	queue, err := b.queue(ch, s)
	if err != nil {
		return err
	}
	deliveries, err := ch.Consume(queue, "", false, s.Group == "", false, false, nil)
	if err != nil {
		return fmt.Errorf("consume from %s: %w", queue, err)
	}
	b.set(func() { s.active = true })
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return errors.New("the queue or the channel is gone")
			}
			if err := b.take(ctx, s, d); err != nil {
				return err
			}
		case <-s.ctx.Done():
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// queue declares and binds the queue of s.
func (b *AMQP) queue(ch *amqp.Channel, s *subscriber) (string, error) {
	var q amqp.Queue
	var err error
	limit := amqp.Table{"x-max-length": int64(maxWaiting)}
	if s.Group == "" {
		name := fmt.Sprintf("%.60s:%.60s:%s", s.Exchange, s.Keys[0], rand.Text()[:8])
		q, err = ch.QueueDeclare(name, false, true, true, false, limit)
	} else {
		// Durable, as newer brokers refuse queues that are neither durable nor
		// exclusive. What nobody took in time is not to be done much later.
		limit["x-message-ttl"] = b.c.GroupTTL.Milliseconds()
		limit["x-expires"] = groupExpires.Milliseconds()
		q, err = ch.QueueDeclare(b.c.Prefix+"."+s.Group, true, false, false, false, limit)
	}
	if err != nil {
		return "", fmt.Errorf("declare a queue: %w", err)
	}
	for _, key := range s.Keys {
		if err := ch.QueueBind(q.Name, key, s.Exchange, false, nil); err != nil {
			return "", fmt.Errorf("bind %s to %s %s: %w", q.Name, s.Exchange, key, err)
		}
	}
	return q.Name, nil
}

// take acknowledges a message and then hands it to a worker: a message that
// could kill its receiver is not delivered again.
func (b *AMQP) take(ctx context.Context, s *subscriber, d amqp.Delivery) error {
	if err := d.Ack(false); err != nil {
		return fmt.Errorf("acknowledge: %w", err) // it was not acted on
	}
	b.received.Add(1)
	refusal := ""
	switch {
	case len(d.Body) > MaxBody:
		refusal = fmt.Sprintf("%d bytes, the most is %d", len(d.Body), MaxBody)
	case d.Exchange != s.Exchange:
		refusal = "it was sent to our queue, not to the exchange"
	case d.Redelivered && s.Group != "":
		// Another server had it, and may have acted on it before it was lost.
		refusal = "it has been delivered before"
	}
	if refusal != "" {
		b.discarded.Add(1)
		b.c.Log.Warn("a message from the bus is refused", "exchange", s.Exchange, "key", d.RoutingKey, "reason", refusal)
		return nil
	}
	m := received(d)
	select {
	case s.work <- m:
		return nil
	case <-s.ctx.Done():
		return nil
	case <-ctx.Done():
	}
	// It is acknowledged, so it is ours, but a busy handler must not hold up the
	// next connection for long.
	select {
	case s.work <- m:
	case <-s.ctx.Done():
	case <-time.After(replyWait):
		b.discarded.Add(1)
		b.c.Log.Warn("a message from the bus is dropped: no worker was free when the connection ended", "exchange", s.Exchange, "key", d.RoutingKey)
	}
	return nil
}

func received(d amqp.Delivery) Message {
	return Message{
		Exchange: d.Exchange, Key: d.RoutingKey, Type: d.Type, ContentType: d.ContentType, Body: d.Body,
		ReplyTo: d.ReplyTo, Persistent: d.DeliveryMode == amqp.Persistent,
	}
}
