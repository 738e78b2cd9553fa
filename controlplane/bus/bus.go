// Package bus carries messages between the servers of an estate and other
// programs: topic exchanges and requests with one answer, in memory or over AMQP
// 0-9-1 (RabbitMQ).
//
// Delivery to subscribers is at most once, as with every AMQP consumer that
// acknowledges before it acts: a request to erase a disk must not be done again
// because a connection broke. What must be told comes from the store, and is
// published until the broker has confirmed it: that is at least once.
package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
)

// Limits of a message.
const (
	MaxBody = 1 << 20 // bytes, in either direction
	maxName = 255     // bytes of exchange, key, type and queue: AMQP's short string
)

// Errors that calls of this package wrap.
var (
	ErrFull    = errors.New("the outbox is full") // the bus is away or slow for too long
	ErrClosed  = errors.New("the bus is closed")
	ErrInvalid = errors.New("message cannot be sent")
	ErrTimeout = errors.New("no answer") // nobody answered a request in time
)

// Message is what a bus carries.
type Message struct {
	Exchange    string // "" with a queue's name as Key: to that queue
	Key         string // routing key, words separated by dots
	Type        string // AMQP's type property
	ContentType string
	Body        []byte
	// ReplyTo is where the answer to a request goes; "" unless it is one. Only
	// Request sets it.
	ReplyTo string
	// Persistent messages survive the broker's restart in queues that do.
	Persistent bool
}

// Handler acts on a message. What it returns is sent to the message's ReplyTo,
// with Exchange and Key disregarded; nil sends nothing.
type Handler func(ctx context.Context, m Message) *Message

// Subscription says which messages a handler gets.
type Subscription struct {
	Exchange string
	Keys     []string // patterns: "*" is one word, "#" any number of words
	// Group, if set, shares the messages among all servers that subscribe under
	// this name: one of them gets each. Without, each subscription gets all.
	Group   string
	Workers int // handlers at once; 1, which keeps the order, unless set
	Handle  Handler
}

// Bus is safe for concurrent use.
type Bus interface {
	// Publish returns nil when all messages are taken over: confirmed by the
	// broker, or in memory handed to every subscriber. They are sent in this
	// order. After an error they may or may not have been, except for ErrFull
	// and ErrInvalid: then none was.
	Publish(ctx context.Context, messages ...Message) error
	// Request publishes m and returns the first answer. Set a deadline: ErrTimeout
	// is all that tells of nobody being there.
	Request(ctx context.Context, m Message) (Message, error)
	// Subscribe starts a subscription that lasts until ctx ends, over any loss of
	// the connection. It waits for no broker: see Ready.
	Subscribe(ctx context.Context, s Subscription) error
	// Ready waits until the bus is connected and all subscriptions are active.
	Ready(ctx context.Context) error
	// Err says why the bus is not connected; nil if it is.
	Err() error
	Stats() Stats
	// Close sends nothing more. Publish and Request return ErrClosed.
	Close() error
}

// Stats counts since the bus was made, except for the first group, which is of now.
type Stats struct {
	Connected bool
	Blocked   bool // the broker takes nothing at the moment: it is out of memory or disk
	Outbox    int  // messages not yet confirmed

	Published  int64 // taken over by the broker
	Refused    int64 // not accepted as the outbox was full
	Repeated   int64 // sent again as a connection was lost before the confirm
	Received   int64
	Discarded  int64 // received, and not given to a handler: too large or redelivered
	Reconnects int64
}

type counters struct {
	published, refused, repeated, received, discarded, reconnects atomic.Int64
}

func (c *counters) stats() Stats {
	return Stats{
		Published: c.published.Load(), Refused: c.refused.Load(), Repeated: c.repeated.Load(),
		Received: c.received.Load(), Discarded: c.discarded.Load(), Reconnects: c.reconnects.Load(),
	}
}

func check(messages []Message) error {
	for _, m := range messages {
		switch {
		case len(m.Body) > MaxBody:
			return fmt.Errorf("%w: %s %s: %d bytes, the most is %d", ErrInvalid, m.Exchange, m.Key, len(m.Body), MaxBody)
		case len(m.Exchange) > maxName || len(m.Key) > maxName || len(m.Type) > maxName || len(m.ContentType) > maxName:
			return fmt.Errorf("%w: %.80q: exchange, key, type and content type have at most %d bytes each", ErrInvalid, m.Key, maxName)
		}
	}
	return nil
}

func (s *Subscription) check() error {
	if s.Exchange == "" || len(s.Keys) == 0 || s.Handle == nil {
		return fmt.Errorf("%w: a subscription needs an exchange, keys and a handler", ErrInvalid)
	}
	if s.Workers <= 0 {
		s.Workers = 1
	}
	for _, k := range s.Keys {
		if len(k) > maxName {
			return fmt.Errorf("%w: key %.80q has more than %d bytes", ErrInvalid, k, maxName)
		}
	}
	return nil
}

// handle runs the handler. A panic in it must not take the server with it: the
// message came from outside.
func (s *Subscription) handle(ctx context.Context, log *slog.Logger, m Message) (answer *Message) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("a message's handler panicked", "exchange", m.Exchange, "key", m.Key, "panic", fmt.Sprint(p))
			answer = nil
		}
	}()
	return s.Handle(ctx, m)
}

// Match reports whether a topic pattern matches a routing key: "*" stands for
// one word, "#" for any number of them, none included (AMQP 0-9-1, 3.1.3.3).
func Match(pattern, key string) bool {
	if pattern == "#" {
		return true
	}
	return matchWords(strings.Split(pattern, "."), strings.Split(key, "."))
}

// matchWords keeps the positions of pattern that the words so far may have
// reached, so that its time is bounded by the product of both lengths.
func matchWords(pattern, words []string) bool {
	reached := make([]bool, len(pattern)+1)
	skip := func() {
		for i, p := range pattern {
			if reached[i] && p == "#" {
				reached[i+1] = true
			}
		}
	}
	reached[0] = true
	skip()
	for _, w := range words {
		next := make([]bool, len(pattern)+1)
		for i, p := range pattern {
			switch {
			case !reached[i]:
			case p == "#":
				next[i] = true
			case p == "*" || p == w:
				next[i+1] = true
			}
		}
		reached = next
		skip()
	}
	return reached[len(pattern)]
}
