package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	link "github.com/teeth-metal/teeth/internal/amqplink"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

const (
	firstPause = 250 * time.Millisecond
	steady     = 2 * time.Second // what lasted so long starts the pauses anew
	prefetch   = 8               // messages that the broker sends ahead
	maxWaiting = 1000            // in a queue of ours; the oldest give way
	patience   = 5 * time.Minute // before it is said again what is waited for
	rarely     = 20              // times Recheck, without a message
)

// endedError is the end of what had worked.
type endedError struct{ err error }

func (e *endedError) Error() string { return e.err.Error() }
func (e *endedError) Unwrap() error { return e.err }

var (
	errGone      = errors.New("the queue or the channel is gone")
	errLater     = errors.New("a later master has declared a queue for this host")
	errForbidden = errors.New("this user may declare nothing")
)

// serve takes messages over one connection until that is lost. all is the session's
// context, which outlasts the connection's.
func (s *Session) serve(all, ctx context.Context, conn *amqp.Connection) error {
	// Every look for a queue that is not there is a line in the broker's log.
	var told, waiting time.Time
	for pause := firstPause; ; {
		began := time.Now()
		err := s.round(all, ctx, conn)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case conn.IsClosed():
			return errors.Join(link.ErrLost, err)
		case errors.Is(err, errLater):
			continue
		}
		if time.Since(began) > steady {
			pause = firstPause
		}
		var ended *endedError
		if errors.As(err, &ended) {
			s.c.Log.Warn("messages of the Backbone master have ended", "reason", err)
			told, waiting = time.Time{}, time.Time{}
			err = nil
		}
		if waiting.IsZero() {
			waiting = time.Now()
		}
		if err != nil && time.Since(told) > patience {
			told = time.Now()
			s.c.Log.Info("no messages of a Backbone master yet", "reason", err)
		}
		t := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
		if pause = min(2*pause, s.c.MaxPause); time.Since(waiting) < patience {
			pause = min(pause, 10*time.Second) // somebody may be waiting for this host
		}
	}
}

// round finds out where messages are to be had, and takes them until that ends.
func (s *Session) round(all, ctx context.Context, conn *amqp.Connection) error {
	id, d, fixed := s.Identity()
	if !fixed {
		found, err := s.later(conn)
		switch {
		case err != nil:
			return err
		case found != "":
			s.c.Log.Info("the Backbone master is one of 2015 or later", "host_id", found)
			s.fix()
			id, d = found, wire.MasterDeclared
		default:
			// Under both ids: who answers to which will show who it is.
			err := s.own(all, ctx, conn, s.c.MAC, wire.Document)
			if !errors.Is(err, errForbidden) {
				return err
			}
			s.c.Log.Info("this broker lets slaves declare nothing: its Backbone master is one of 2015 or later", "host_id", s.c.HostID)
			s.fix()
			id, d = s.c.HostID, wire.MasterDeclared
		}
	}
	if d == wire.MasterDeclared {
		return s.named(all, ctx, conn, id)
	}
	return s.own(all, ctx, conn, id, d)
}

// fix ends the search for the dialect.
func (s *Session) fix() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fixed = true
}

// later returns the id under which a later master has a queue for this host, "" if
// there is none.
func (s *Session) later(conn *amqp.Connection) (string, error) {
	for _, id := range slices.Compact([]string{s.c.HostID, s.c.MAC}) {
		switch _, err := inspect(conn, wire.SlaveQueue(id)); {
		case err == nil:
			return id, nil
		case code(err) != amqp.NotFound:
			return "", fmt.Errorf("look for queue %s: %w", wire.SlaveQueue(id), err)
		}
	}
	return "", nil
}

// inspect looks at a queue without declaring it.
func inspect(conn *amqp.Connection, queue string) (q amqp.Queue, err error) {
	err = link.OnChannel(conn, func(ch *amqp.Channel) (err error) {
		q, err = ch.QueueDeclarePassive(queue, false, false, false, false, nil)
		return err
	})
	return q, err
}

// named takes messages from the queue that the master has declared.
func (s *Session) named(all, ctx context.Context, conn *amqp.Connection, id string) error {
	queue := wire.SlaveQueue(id)
	q, err := inspect(conn, queue)
	s.ready(id, wire.MasterDeclared) // a status is how the master hears of us
	if code(err) == amqp.NotFound {
		return fmt.Errorf("the master has no queue %s: it has not authorised this host yet, or cannot declare the queue", queue)
	}
	if err != nil {
		return fmt.Errorf("look for queue %s: %w", queue, err)
	}
	if q.Consumers > 0 {
		s.c.Log.Warn("somebody else takes messages of this host: a connection that was lost, or another host with the same id", "queue", queue, "consumers", q.Consumers)
	}
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	return s.consume(all, ctx, ch, queue, nil)
}

// own takes messages from a queue of our own.
func (s *Session) own(all, ctx context.Context, conn *amqp.Connection, id string, d wire.Dialect) error {
	if err := s.exchange(conn); err != nil {
		return err
	}
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	defer ch.Close()
	q, err := ch.QueueDeclare("", false, false, true, false, amqp.Table{"x-max-length": int64(maxWaiting)})
	if code(err) == amqp.AccessRefused {
		return errForbidden
	}
	if err != nil {
		return fmt.Errorf("declare a queue: %w", err)
	}
	b := &bindings{queue: q.Name, always: []string{wire.KeySlaves, s.c.HostID, s.c.MAC}}
	if err := s.bind(conn, b); err != nil {
		if code(err) == amqp.AccessRefused {
			return errForbidden
		}
		return err
	}
	s.ready(id, d)
	return s.consume(all, ctx, ch, q.Name, &upkeep{conn: conn, bindings: b})
}

// exchange makes sure that the exchange is there.
func (s *Session) exchange(conn *amqp.Connection) error {
	err := link.OnChannel(conn, func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(wire.Exchange, amqp.ExchangeDirect, false, false, false, false, nil)
	})
	if code(err) == amqp.NotFound {
		err = link.OnChannel(conn, func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare(wire.Exchange, amqp.ExchangeDirect, false, false, false, false, nil)
		})
	}
	switch {
	case code(err) == amqp.AccessRefused:
		return errForbidden
	case err != nil:
		return fmt.Errorf("exchange %s: %w", wire.Exchange, err)
	}
	return nil
}

// upkeep is what goes on beside consuming from a queue of our own.
type upkeep struct {
	conn     *amqp.Connection
	bindings *bindings
}

// consume hands on messages until the queue, the channel or ctx ends.
func (s *Session) consume(all, ctx context.Context, ch *amqp.Channel, queue string, up *upkeep) error {
	if err := ch.Qos(prefetch, 0, false); err != nil {
		return fmt.Errorf("prefetch: %w", err)
	}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return fmt.Errorf("consume from %s: %w", queue, err)
	}
	s.c.Log.Info("taking messages of the Backbone master", "queue", queue)
	var rebind <-chan struct{}
	var recheck <-chan time.Time
	var checked time.Time
	if up != nil {
		rebind = s.rebind
		if _, _, sure := s.Identity(); !sure {
			t := time.NewTicker(rarely*s.c.Recheck/2 + rand.N(rarely*s.c.Recheck))
			defer t.Stop()
			recheck = t.C
		}
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case d, ok := <-deliveries:
			if !ok {
				select {
				case e := <-closed:
					if e != nil {
						return &endedError{fmt.Errorf("consume from %s: %w", queue, e)}
					}
				default:
				}
				return &endedError{fmt.Errorf("consume from %s: %w", queue, errGone)}
			}
			if err := s.take(all, d); err != nil {
				return &endedError{err}
			}
			// Whoever has sent it may have declared a queue for it just now.
			if recheck != nil && time.Since(checked) > s.c.Recheck {
				checked = time.Now()
				if id, err := s.later(up.conn); err == nil && id != "" {
					return errLater
				}
			}
		case <-rebind:
			if err := s.bind(up.conn, up.bindings); err != nil {
				s.c.Log.Warn("topics of apps are not bound", "err", err)
			}
		case <-recheck:
			if id, err := s.later(up.conn); err == nil && id != "" {
				return errLater
			}
		}
	}
}

// take acknowledges a message and hands it on. It is acknowledged first: one that we
// cannot live with must not come back. It is handed on even when the connection that
// it came over has ended.
func (s *Session) take(all context.Context, d amqp.Delivery) error {
	if err := d.Ack(false); err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	e, err := wire.Parse(d.Body)
	if err != nil {
		if s.hostile.Allow() {
			s.c.Log.Warn("a message to this host is refused", "key", fmt.Sprintf("%.128q", d.RoutingKey), "bytes", len(d.Body), "err", err)
		}
		return nil
	}
	select {
	case s.in <- e:
		return nil
	case <-all.Done():
		return all.Err()
	}
}

// bindings are the keys that a queue of ours is bound to.
type bindings struct {
	queue  string
	always []string
	bound  []string
}

// bind makes them the constant keys and the topics of the installed apps.
func (s *Session) bind(conn *amqp.Connection, b *bindings) error {
	s.mu.Lock()
	want := slices.Concat(b.always, s.topics)
	s.mu.Unlock()
	slices.Sort(want)
	want = slices.DeleteFunc(slices.Compact(want), func(key string) bool { return key == wire.KeyMaster })
	// One refusal costs only this channel.
	return link.OnChannel(conn, func(ch *amqp.Channel) error {
		for _, key := range slices.Clone(b.bound) {
			if !slices.Contains(want, key) {
				if err := ch.QueueUnbind(b.queue, key, wire.Exchange, nil); err != nil {
					return fmt.Errorf("unbind %s: %w", key, err)
				}
				b.bound = slices.DeleteFunc(b.bound, func(k string) bool { return k == key })
			}
		}
		for _, key := range want {
			if !slices.Contains(b.bound, key) {
				if err := ch.QueueBind(b.queue, key, wire.Exchange, false, nil); err != nil {
					return fmt.Errorf("bind %s to %s: %w", b.queue, key, err)
				}
				b.bound = append(b.bound, key)
			}
		}
		return nil
	})
}
