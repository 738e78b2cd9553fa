package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/google/uuid"
)

// memoryQueue is how many messages wait for one subscriber in memory.
const memoryQueue = 1024

// Memory is a bus inside one process.
type Memory struct {
	log *slog.Logger
	counters
	quit chan struct{}

	mu      sync.RWMutex
	members []*member
	next    map[string]int          // by group: whose turn it is
	answers map[string]chan Message // by ReplyTo
	closed  bool
}

type member struct {
	Subscription
	ctx   context.Context
	queue chan Message
}

// NewMemory returns an empty bus.
func NewMemory(log *slog.Logger) *Memory {
	return &Memory{log: log, quit: make(chan struct{}), next: map[string]int{}, answers: map[string]chan Message{}}
}

var _ Bus = (*Memory)(nil)

// Publish implements Bus. It waits while a subscriber's queue is full.
func (b *Memory) Publish(ctx context.Context, messages ...Message) error {
	if err := errors.Join(b.Err(), check(messages)); err != nil {
		return err
	}
	for _, m := range messages {
		if err := b.publish(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func (b *Memory) publish(ctx context.Context, m Message) error {
	if m.Exchange == "" {
		b.mu.RLock()
		answer := b.answers[m.Key]
		b.mu.RUnlock()
		select {
		case answer <- m: // the first wins; nil if nobody waits (any more)
		default:
		}
		return nil
	}
	for _, to := range b.receivers(m) {
		select {
		case to.queue <- m:
		case <-to.ctx.Done():
		case <-b.quit:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("publish %s %s: a subscriber is busy: %w", m.Exchange, m.Key, ctx.Err())
		}
	}
	b.published.Add(1)
	return nil
}

// receivers are the members that get m: all without a group, one of each group.
func (b *Memory) receivers(m Message) []*member {
	b.mu.Lock()
	defer b.mu.Unlock()
	var to []*member
	groups := map[string][]*member{}
	for _, s := range b.members {
		if s.ctx.Err() != nil || s.Exchange != m.Exchange || !slices.ContainsFunc(s.Keys, func(k string) bool { return Match(k, m.Key) }) {
			continue
		}
		if s.Group == "" {
			to = append(to, s)
		} else {
			groups[s.Group] = append(groups[s.Group], s)
		}
	}
	for name, members := range groups {
		to = append(to, members[b.next[name]%len(members)])
		b.next[name]++
	}
	return to
}

// Request implements Bus.
func (b *Memory) Request(ctx context.Context, m Message) (Message, error) {
	m.ReplyTo = "memory." + uuid.NewString()
	answer := make(chan Message, 1)
	b.mu.Lock()
	b.answers[m.ReplyTo] = answer
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.answers, m.ReplyTo)
		b.mu.Unlock()
	}()
	if err := b.Publish(ctx, m); err != nil {
		return Message{}, err
	}
	select {
	case a := <-answer:
		return a, nil
	case <-b.quit:
		return Message{}, ErrClosed
	case <-ctx.Done():
		return Message{}, fmt.Errorf("request %s %s: %w: %w", m.Exchange, m.Key, ErrTimeout, ctx.Err())
	}
}

// Subscribe implements Bus.
func (b *Memory) Subscribe(ctx context.Context, s Subscription) error {
	if err := s.check(); err != nil {
		return err
	}
	m := &member{Subscription: s, ctx: ctx, queue: make(chan Message, memoryQueue)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	b.members = append(b.members, m)
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.members = slices.DeleteFunc(b.members, func(o *member) bool { return o == m })
	})
	for range s.Workers {
		go func() {
			for {
				select {
				case in := <-m.queue:
					b.received.Add(1)
					if answer := s.handle(ctx, b.log, in); answer != nil && in.ReplyTo != "" {
						out := *answer
						out.Exchange, out.Key = "", in.ReplyTo
						b.publish(ctx, out)
					}
				case <-ctx.Done():
					return
				case <-b.quit:
					return
				}
			}
		}()
	}
	return nil
}

// Ready implements Bus.
func (b *Memory) Ready(context.Context) error { return b.Err() }

// Err implements Bus.
func (b *Memory) Err() error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return ErrClosed
	}
	return nil
}

// Stats implements Bus.
func (b *Memory) Stats() Stats {
	s := b.stats()
	s.Connected = b.Err() == nil
	return s
}

// Close implements Bus.
func (b *Memory) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		close(b.quit)
	}
	return nil
}
