package backbone

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/internal/amqplink"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// errUnrouted: no queue is bound to the host's key.
var errUnrouted = errors.New("no slave is there to receive it")

const (
	window      = 128              // messages that may be on their way before the first is confirmed
	confirmWait = 30 * time.Second // for the broker to confirm
)

// request is a message on its way.
type request struct {
	ctx      context.Context
	key      string
	body     []byte
	done     chan error // has room for the answer
	confirm  *amqp.DeferredConfirmation
	returned bool
	at       time.Time
}

// publish returns when the broker has taken a message over and put it into a queue;
// an error that wraps errUnrouted says that there is none.
func (b *broker) publish(ctx context.Context, key string, body []byte) error {
	r := &request{ctx: ctx, key: key, body: body, done: make(chan error, 1)}
	select {
	case b.requests <- r:
	case <-ctx.Done():
		if err := b.err(); err != nil {
			return fmt.Errorf("not sent: %w", err)
		}
		return fmt.Errorf("not sent: %w", ctx.Err())
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("not confirmed by the broker: %w", ctx.Err())
	}
}

func (b *broker) ping(ctx context.Context, key string) error {
	body, err := wire.NewPing().Append(nil)
	if err != nil {
		return err
	}
	return b.publish(ctx, key, body)
}

// send publishes what is asked for on a channel until that fails. Messages carry no
// properties, as the original's.
func (b *broker) send(ctx context.Context, ch *amqp.Channel) (err error) {
	if err := ch.Confirm(false); err != nil {
		return fmt.Errorf("confirm mode: %w", err)
	}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	returns := ch.NotifyReturn(make(chan amqp.Return, window+1)) // never full, so that the library never waits
	var flights []*request                                       // in the order in which they were sent
	defer func() {
		for _, r := range flights {
			r.done <- fmt.Errorf("not confirmed by the broker: %w", err)
		}
	}()
	for {
		requests := b.requests
		blocked := b.blocked()
		if blocked != nil || len(flights) >= window {
			requests = nil
		}
		var confirmed <-chan struct{}
		var late <-chan time.Time
		if len(flights) > 0 {
			confirmed = flights[0].confirm.Done()
			if blocked == nil {
				late = time.After(time.Until(flights[0].at.Add(confirmWait)))
			}
		}
		select {
		case r := <-requests:
			if r.ctx.Err() != nil {
				r.done <- r.ctx.Err()
				continue
			}
			// A context that ends would leave half a frame.
			if r.confirm, err = ch.PublishWithDeferredConfirmWithContext(context.WithoutCancel(ctx), wire.Exchange, r.key, true, false, amqp.Publishing{Body: r.body}); err != nil {
				r.done <- fmt.Errorf("not sent: %w", err)
				return err
			}
			r.at = time.Now()
			flights = append(flights, r)
		case <-confirmed:
			// A message's return comes before its confirm.
			for len(returns) > 0 {
				came(flights, <-returns)
			}
			flights = settle(flights)
		case r, ok := <-returns:
			if !ok {
				returns = nil
				continue
			}
			came(flights, r)
		case <-late:
			return fmt.Errorf("no confirm within %v", confirmWait)
		case <-blocked:
		case e := <-closed:
			if e == nil {
				return amqplink.ErrLost
			}
			return e
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// came marks the message that has come back: the first of its key that has not.
func came(flights []*request, r amqp.Return) {
	for _, f := range flights {
		if f.key == r.RoutingKey && !f.returned {
			f.returned = true
			return
		}
	}
}

// settle answers those at the front that are confirmed, and returns the others.
func settle(flights []*request) []*request {
	for len(flights) > 0 {
		r := flights[0]
		select {
		case <-r.confirm.Done():
		default:
			return flights
		}
		switch {
		case r.returned:
			r.done <- errUnrouted
		case !r.confirm.Acked():
			r.done <- errors.New("the broker could not take it over")
		default:
			r.done <- nil
		}
		flights = flights[1:]
	}
	return nil
}
