package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	link "github.com/teeth-metal/teeth/internal/amqplink"
)

// supervise keeps one connection, until b is closed. There are longest (0: as
// configured) between attempts at most.
func (b *AMQP) supervise(st *link.State, name string, longest time.Duration, work func(context.Context, *amqp.Connection) error) {
	b.link.Run(b.ctx, link.Role{
		Name: name, Pause: longest, Work: work,
		Open:   func(conn *amqp.Connection) error { return declare(conn, b.c.Exchanges, b.c.Log) },
		Notify: func(s link.State) { b.set(func() { *st = s }) },
		Again:  func() { b.reconnects.Add(1) },
	})
}

// declare declares the exchanges. Where we may not, one that others have declared
// does as well.
func declare(conn *amqp.Connection, exchanges []string, log *slog.Logger) error {
	for _, name := range exchanges {
		err := link.OnChannel(conn, func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare(name, amqp.ExchangeTopic, true, false, false, false, nil)
		})
		var refused *amqp.Error
		if errors.As(err, &refused) && refused.Code == amqp.AccessRefused && link.OnChannel(conn, func(ch *amqp.Channel) error {
			return ch.ExchangeDeclarePassive(name, amqp.ExchangeTopic, true, false, false, false, nil)
		}) == nil {
			continue
		}
		if refused != nil && refused.Code == amqp.PreconditionFailed {
			// It is there: what can go over it does. One that we never use is no reason
			// to do without all others.
			log.Error("an exchange was declared with other properties than topic, durable: delete it, and have it declared anew", "exchange", name, "error", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("declare exchange %s as topic, durable: %w", name, err)
		}
	}
	return nil
}
