package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	link "github.com/teeth-metal/teeth/internal/amqplink"
)

const (
	window = 256 // messages that may be on their way before the first is confirmed

	// Of answers, which nobody waits for much longer than a second.
	maxAnswers     = 1000
	maxAnswerBytes = 32 << 20
)

// Publish implements Bus. While the broker is away the messages wait in the
// outbox, for as long as ctx lasts.
func (b *AMQP) Publish(ctx context.Context, messages ...Message) error {
	return b.publish(ctx, b.out, messages)
}

func (b *AMQP) publish(ctx context.Context, out *outbox, messages []Message) error {
	if err := check(messages); err != nil || len(messages) == 0 {
		return err
	}
	list := make([]*outgoing, len(messages))
	for i, m := range messages {
		list[i] = &outgoing{Message: m, ctx: ctx, done: make(chan error, 1)}
	}
	if err := out.add(list); err != nil {
		if errors.Is(err, ErrFull) {
			b.refused.Add(int64(len(list)))
		}
		return fmt.Errorf("publish %s: %w", list[0].Key, err)
	}
	for _, m := range list {
		select {
		case err := <-m.done:
			if err != nil {
				return fmt.Errorf("publish %s %s: %w", m.Exchange, m.Key, err)
			}
		case <-ctx.Done():
			return fmt.Errorf("publish %s %s: not confirmed by the broker: %w", m.Exchange, m.Key, ctx.Err())
		case <-b.ctx.Done():
			return ErrClosed
		}
	}
	return nil
}

// flight is a message that waits for its confirm.
type flight struct {
	*outgoing
	confirm *amqp.DeferredConfirmation
}

func (b *AMQP) publishAndRequest(ctx context.Context, conn *amqp.Connection) error {
	b.set(func() { b.requests = conn })
	defer b.set(func() { b.requests = nil })
	return b.send(ctx, conn, &b.transmit, b.out)
}

func (b *AMQP) sendAnswers(ctx context.Context, conn *amqp.Connection) error {
	return b.send(ctx, conn, &b.reply, b.answers)
}

// send publishes what is in the outbox on conn until that fails. What was not
// confirmed goes back, in its order, to be sent again.
func (b *AMQP) send(ctx context.Context, conn *amqp.Connection, st *link.State, out *outbox) error {
	ch, err := conn.Channel()
	if err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	if err := ch.Confirm(false); err != nil {
		return fmt.Errorf("confirm mode: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	go func() {
		err := error(link.ErrLost)
		if e := <-closed; e != nil {
			err = e
		}
		cancel(err)
	}()
	flights := make(chan flight, window)
	unconfirmed := make(chan []*outgoing, 1)
	go func() { unconfirmed <- b.await(ctx, cancel, st, out, flights) }()
	var last *outgoing // that could not be sent
	for ctx.Err() == nil && last == nil {
		if wait := b.unblocked(st); wait != nil {
			select {
			case <-wait:
			case <-ctx.Done():
			}
			continue
		}
		m := out.take()
		if m == nil {
			select {
			case <-out.more:
			case <-ctx.Done():
			}
			continue
		}
		dc, err := ch.PublishWithDeferredConfirmWithContext(context.Background(), m.Exchange, m.Key, false, false, publishing(m.Message))
		if err != nil {
			last = m
			cancel(err)
			break
		}
		select {
		case flights <- flight{m, dc}:
		case <-ctx.Done():
			last = m
		}
	}
	close(flights)
	back := <-unconfirmed
	if last != nil {
		back = append(back, last)
	}
	b.repeated.Add(int64(out.putBack(back)))
	return context.Cause(ctx)
}

// unblocked returns nil if the broker takes messages, else what to wait for
// before asking again.
func (b *AMQP) unblocked(st *link.State) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if st.Blocked == "" {
		return nil
	}
	return b.changed
}

// await waits for the confirm of one flight after the other. It returns those
// without one, in order, when the channel has failed.
func (b *AMQP) await(ctx context.Context, fail context.CancelCauseFunc, st *link.State, out *outbox, flights <-chan flight) (unconfirmed []*outgoing) {
	for f := range flights {
		if ctx.Err() == nil {
			if err := b.confirmed(ctx, st, f.confirm); err != nil {
				fail(err)
			}
		}
		// A confirm may have come in before the end.
		if f.confirm.Acked() {
			b.published.Add(1)
			out.finish(f.outgoing, nil)
		} else {
			unconfirmed = append(unconfirmed, f.outgoing)
		}
	}
	return unconfirmed
}

func (b *AMQP) confirmed(ctx context.Context, st *link.State, c *amqp.DeferredConfirmation) error {
	for {
		wait, stop := context.WithTimeout(ctx, b.c.ConfirmWait)
		ack, err := c.WaitContext(wait)
		stop()
		switch {
		case err == nil && ack:
			return nil
		case err == nil:
			return errors.New("the broker could not take a message over")
		case ctx.Err() != nil:
			return ctx.Err()
		case b.unblocked(st) == nil:
			return fmt.Errorf("no confirm within %v", b.c.ConfirmWait)
		}
	}
}

func publishing(m Message) amqp.Publishing {
	p := amqp.Publishing{ContentType: m.ContentType, Type: m.Type, ReplyTo: m.ReplyTo, Body: m.Body}
	if m.Persistent {
		p.DeliveryMode = amqp.Persistent
	}
	return p
}

// directReply is the pseudo-queue of RabbitMQ by which an answer comes back on
// the channel that the request was published on.
const directReply = "amq.rabbitmq.reply-to"

// Request implements Bus. Each request has a channel, and so an address for its
// answer, of its own: peers send no correlation id back.
func (b *AMQP) Request(ctx context.Context, m Message) (Message, error) {
	if err := check([]Message{m}); err != nil {
		return Message{}, err
	}
	type result struct {
		m   Message
		err error
	}
	done := make(chan result, 1)
	go func() { // the library's calls know no context
		a, err := b.request(ctx, m)
		done <- result{a, err}
	}()
	select {
	case r := <-done:
		return r.m, r.err
	case <-ctx.Done():
		return Message{}, fmt.Errorf("request %s %s: %w: %w", m.Exchange, m.Key, ErrTimeout, ctx.Err())
	}
}

func (b *AMQP) request(ctx context.Context, m Message) (Message, error) {
	fail := func(err error) (Message, error) {
		return Message{}, fmt.Errorf("request %s %s: %w", m.Exchange, m.Key, err)
	}
	conn, err := b.requester(ctx)
	if err != nil {
		return fail(err)
	}
	ch, err := conn.Channel()
	if err != nil {
		return fail(err)
	}
	defer ch.Close()
	answers, err := ch.Consume(directReply, "", true, false, false, false, nil)
	if err != nil {
		return fail(err)
	}
	m.ReplyTo = directReply
	if err := ch.PublishWithContext(ctx, m.Exchange, m.Key, false, false, publishing(m)); err != nil {
		return fail(err)
	}
	select {
	case d, ok := <-answers:
		if !ok {
			return fail(link.ErrLost)
		}
		if len(d.Body) > MaxBody {
			b.discarded.Add(1)
			return fail(fmt.Errorf("the answer has %d bytes, the most is %d", len(d.Body), MaxBody))
		}
		return received(d), nil
	case <-ctx.Done():
		return fail(fmt.Errorf("%w: %w", ErrTimeout, ctx.Err()))
	case <-time.After(time.Minute): // for a ctx without a deadline
		return fail(ErrTimeout)
	}
}

func (b *AMQP) requester(ctx context.Context) (*amqp.Connection, error) {
	for {
		b.mu.Lock()
		conn, changed := b.requests, b.changed
		b.mu.Unlock()
		if conn != nil {
			return conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ctx.Err(), b.Err())
		case <-b.ctx.Done():
			return nil, ErrClosed
		}
	}
}
