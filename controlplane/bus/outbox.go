package bus

import (
	"context"
	"fmt"
	"sync"

	link "github.com/teeth-metal/teeth/internal/amqplink"
)

// outgoing is a message on its way to the broker.
type outgoing struct {
	Message
	ctx  context.Context // when it ends, nobody waits and it need not be sent
	done chan error      // buffered
}

// outbox keeps, in order, what the broker has not confirmed yet. Messages under
// way are taken out, and put back if their connection is lost.
type outbox struct {
	maxCount, maxBytes int
	once               bool // what was under way is not sent again

	mu           sync.Mutex
	queue        []*outgoing
	count, bytes int // of the queue and of what is under way
	closed       bool
	more         chan struct{} // has room for one signal
}

func newOutbox(count, bytes int) *outbox {
	return &outbox{maxCount: count, maxBytes: bytes, more: make(chan struct{}, 1)}
}

// add takes all messages or none.
func (o *outbox) add(list []*outgoing) error {
	size := 0
	for _, m := range list {
		size += len(m.Body)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return ErrClosed
	}
	if o.count+len(list) > o.maxCount || o.bytes+size > o.maxBytes {
		return fmt.Errorf("%w: %d messages with %d bytes wait for the broker", ErrFull, o.count, o.bytes)
	}
	o.count, o.bytes = o.count+len(list), o.bytes+size
	o.queue = append(o.queue, list...)
	o.signal()
	return nil
}

func (o *outbox) signal() {
	select {
	case o.more <- struct{}{}:
	default:
	}
}

// take removes the first message that somebody still waits for; nil if there is none.
func (o *outbox) take() *outgoing {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.queue) > 0 {
		m := o.queue[0]
		o.queue[0] = nil
		o.queue = o.queue[1:]
		if m.ctx.Err() == nil {
			return m
		}
		o.forget(m)
		m.done <- m.ctx.Err()
	}
	o.queue = nil // lets its memory go
	return nil
}

// putBack returns messages to the front, and how many will be sent again.
func (o *outbox) putBack(list []*outgoing) int {
	if len(list) == 0 {
		return 0
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := link.ErrLost; o.closed || o.once {
		if o.closed {
			err = ErrClosed
		}
		for _, m := range list {
			o.forget(m)
			m.done <- err
		}
		return 0
	}
	o.queue = append(list, o.queue...)
	o.signal()
	return len(list)
}

// finish is for a message that has been taken and needs no more.
func (o *outbox) finish(m *outgoing, err error) {
	o.mu.Lock()
	o.forget(m)
	o.mu.Unlock()
	m.done <- err
}

func (o *outbox) forget(m *outgoing) { o.count, o.bytes = o.count-1, o.bytes-len(m.Body) }

func (o *outbox) len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count
}

func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for _, m := range o.queue {
		m.done <- ErrClosed
	}
	o.queue = nil
}
