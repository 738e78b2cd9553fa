package broker

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/agent/backbone"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// publisher is a channel to publish on.
type publisher struct {
	ch       *amqp.Channel
	returned chan amqp.Return
	closed   chan *amqp.Error
}

// Send implements backbone.Transport: the broker has confirmed the message when it
// returns nil. An error besides ErrAway says that no master could be reached.
func (s *Session) Send(ctx context.Context, e wire.Envelope) error {
	body, err := e.Append(nil)
	if err != nil {
		return err
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	conn, blocked, said := s.conn, s.blocked, s.said
	s.mu.Unlock()
	switch {
	case conn == nil || !said || conn.IsClosed():
		return backbone.ErrAway // Up will follow
	case blocked != "":
		return fmt.Errorf("the broker takes no messages: %s", blocked)
	}
	p, err := s.publisher(conn)
	if err != nil {
		return err
	}
	for len(p.returned) > 0 { // of a message that was given up
		<-p.returned
	}
	// Without any properties, as all peers do.
	dc, err := p.ch.PublishWithDeferredConfirmWithContext(ctx, wire.Exchange, wire.KeyMaster, true, false, amqp.Publishing{Body: body})
	if err != nil {
		s.drop(p)
		return fmt.Errorf("publish to %s: %w", wire.Exchange, err)
	}
	ack, err := dc.WaitContext(ctx)
	if err != nil || !ack {
		s.drop(p)
		select {
		case e := <-p.closed:
			if e != nil {
				if e.Code == amqp.NotFound {
					return fmt.Errorf("no master has been at this broker yet: %w", e)
				}
				return fmt.Errorf("publish to %s: %w", wire.Exchange, e)
			}
		default:
		}
		return errors.Join(fmt.Errorf("publish to %s: not confirmed by the broker", wire.Exchange), err)
	}
	select {
	case r := <-p.returned:
		return fmt.Errorf("no master takes messages now: %s has nobody for key %s (%s)", r.Exchange, r.RoutingKey, r.ReplyText)
	default:
		return nil
	}
}

// publisher returns the channel to publish on, which is made anew after a refusal.
func (s *Session) publisher(conn *amqp.Connection) (*publisher, error) {
	s.mu.Lock()
	p := s.pub
	s.mu.Unlock()
	if p != nil && !p.ch.IsClosed() {
		return p, nil
	}
	ch, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	if err := ch.Confirm(false); err != nil {
		ch.Close()
		return nil, fmt.Errorf("confirm mode: %w", err)
	}
	p = &publisher{ch: ch, returned: ch.NotifyReturn(make(chan amqp.Return, 16)), closed: ch.NotifyClose(make(chan *amqp.Error, 1))}
	s.mu.Lock()
	s.pub = p
	s.mu.Unlock()
	return p, nil
}

// drop gives a channel up. A broker that has stopped reading answers to closing as late
// as to all else, which nobody should wait for.
func (s *Session) drop(p *publisher) {
	go p.ch.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pub == p {
		s.pub = nil
	}
}
