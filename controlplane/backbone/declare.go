package backbone

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/internal/amqplink"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// refusalLife is how long a broker is not asked again for what it does not have: each
// time costs a connection.
const refusalLife = 5 * time.Minute

// ErrTransientQueues is a broker that refuses the kind of queue that slaves wait for.
var ErrTransientQueues = errors.New("RabbitMQ 4.3 and later refuse queues that are neither durable nor exclusive, which Backbone's slaves need: " +
	"set deprecated_features.permit.transient_nonexcl_queues = true in rabbitmq.conf, and start the broker again")

// declaration asks for a slave's queue.
type declaration struct {
	host string
	done chan error // has room for the answer
}

// declare makes sure that a slave's queue is there and bound, as the original master
// declares it.
func (b *broker) declare(ctx context.Context, host string) error {
	b.mu.Lock()
	refusal := b.refusal
	if time.Since(b.refused) > refusalLife {
		refusal = nil
	}
	b.mu.Unlock()
	if refusal != nil {
		return refusal
	}
	d := &declaration{host, make(chan error, 1)}
	select {
	case b.declared <- d:
	case <-ctx.Done():
		return fmt.Errorf("queue %s: not declared: %w", wire.SlaveQueue(host), ctx.Err())
	}
	select {
	case err := <-d.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("queue %s: not declared: %w", wire.SlaveQueue(host), ctx.Err())
	}
}

// serveDeclares declares slaves' queues on a connection that nothing else depends on.
func (b *broker) serveDeclares(ctx context.Context, conn *amqp.Connection) error {
	for {
		select {
		case d := <-b.declared:
			err := explain(slaveQueue(conn, d.host))
			if errors.Is(err, ErrTransientQueues) {
				b.mu.Lock()
				b.refusal, b.refused = err, time.Now()
				b.mu.Unlock()
			}
			d.done <- err
			if conn.IsClosed() {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// slaveQueue declares and binds a slave's queue. One that is there stays as it is: to
// declare it otherwise would end the original master that has.
func slaveQueue(conn *amqp.Connection, host string) error {
	name := wire.SlaveQueue(host)
	err := amqplink.OnChannel(conn, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive(name, false, false, false, false, nil)
		return err
	})
	if code(err) == amqp.NotFound {
		err = amqplink.OnChannel(conn, func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(name, false, false, false, false, nil)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("declare queue %s: %w", name, err)
	}
	return amqplink.OnChannel(conn, func(ch *amqp.Channel) error {
		for _, key := range []string{wire.KeySlaves, host} {
			if err := ch.QueueBind(name, key, wire.Exchange, false, nil); err != nil {
				return fmt.Errorf("bind queue %s to %s: %w", name, key, err)
			}
		}
		return nil
	})
}

// explain says what to do about a refusal, if we know.
func explain(err error) error {
	var refused *amqp.Error
	if !errors.As(err, &refused) {
		return err
	}
	switch {
	case refused.Code == amqp.InternalError && strings.Contains(refused.Reason, "transient_nonexcl_queues"):
		return fmt.Errorf("%w: %w", ErrTransientQueues, err)
	case refused.Code == amqp.AccessRefused:
		return fmt.Errorf("the broker does not let this user declare slaves' queues: allow it to configure and write ^(pf9-bbone|bbslave-q-.*|bbmaster-q.*)$: %w", err)
	case refused.Code == amqp.ResourceLocked:
		return fmt.Errorf("the queue is exclusive to another connection: %w", err)
	}
	return err
}
