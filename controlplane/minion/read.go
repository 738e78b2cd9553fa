package minion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// read takes frames until the connection ends. Its error says why it did.
func (c *conn) read(t *timed) error {
	var v wire.View
	for {
		payload, err := t.r.Next()
		if err != nil {
			return err
		}
		t.frames++
		if err := wire.Scan(payload, &v); err != nil {
			return err
		}
		switch v.Verb {
		case wire.Log, wire.Telemetry, wire.Response:
			err = c.take(&v, len(payload))
		case wire.Command:
			err = c.asked(&v)
		}
		if err != nil {
			return err
		}
		if c.in.full() || c.in.batch != nil && !t.r.Ready() {
			if err := c.hand(); err != nil {
				return err
			}
		}
	}
}

// errReplaced ends the older of two connections of one agent that acknowledges: what
// it was given and did not acknowledge comes on the newer one.
var errReplaced = errors.New("replaced by a newer connection of the same agent")

func (c *conn) take(v *wire.View, size int) error {
	c.taking.Lock()
	defer c.taking.Unlock()
	if c.stopped {
		return errReplaced
	}
	return c.in.add(v, size)
}

// hand gives what was taken to the destinations.
func (c *conn) hand() error {
	c.taking.Lock()
	b := c.in.finish(c.t)
	c.taking.Unlock()
	if b == nil {
		return nil
	}
	return c.s.hand(b)
}

// asked answers a request of the agent.
func (c *conn) asked(v *wire.View) error {
	if len(v.Data) < 3 || v.Data[2].IsList {
		return nil // as unknown as what is unknown
	}
	if !c.in.isSelf(v) {
		return fmt.Errorf("request %s: %w", v.ID, errForeign)
	}
	switch string(v.Data[2].Text) {
	case wire.Authenticate: // it has
		return c.reply(v.ID, wire.Accepted)
	case wire.Heartbeat:
		c.announce()
		for _, f := range c.s.hooks().heartbeat {
			f(c.agent())
		}
		if !c.in.exact {
			c.in.settle()
		}
		return c.reply(v.ID, wire.Recorded)
	case wire.Acknowledge:
		return c.acknowledge(v.ID)
	}
	return nil
}

// acknowledge begins our dialect.
func (c *conn) acknowledge(request wire.ID) error {
	if c.exact.Load() {
		return c.reply(request, wire.Acknowledging)
	}
	c.s.mu.Lock()
	var older []*conn
	for _, o := range c.s.agents[c.server] {
		if o != c && o.exact.Load() {
			older = append(older, o)
		}
	}
	c.s.mu.Unlock()
	for _, o := range older {
		o.stop()
		o.end(errReplaced)
	}
	c.in.exact = true
	if !c.s.past.has(c.in.who()) {
		c.in.fresh = maxRemembered
	}
	c.exact.Store(true)
	if err := c.reply(request, wire.Acknowledging); err != nil {
		return err
	}
	c.acks.Go(c.acknowledging)
	c.announce()
	return nil
}

// stop has the connection take no more frames, and leaves to later connections what it
// has taken.
func (c *conn) stop() {
	c.taking.Lock()
	defer c.taking.Unlock()
	if c.stopped {
		return
	}
	c.stopped = true
	if !c.in.exact {
		return
	}
	if b := c.in.batch; b != nil {
		c.t.register(b)
	}
	c.s.past.leave(c.in.who(), c.t, c.t.leave())
}

// acknowledgements are sent this far apart at least, so that they are few when there
// is much to acknowledge.
const ackEvery = 20 * time.Millisecond

// acknowledging tells the agent how far its records are kept.
func (c *conn) acknowledging() {
	for last := false; !last; {
		select {
		case <-c.t.moved:
		case <-c.flush:
			last = true
		}
		id, moved := c.t.progress()
		if !moved {
			continue
		}
		if c.reply(id, wire.RecordedThrough) != nil {
			return
		}
		select {
		case <-time.After(ackEvery):
		case <-c.flush:
		}
	}
}

// farewell is the end of a connection that was read until err: what was taken is kept,
// and acknowledged as far as the agent hears it.
func (c *conn) farewell(ctx context.Context, err error) {
	c.taking.Lock()
	c.in.settle()
	c.taking.Unlock()
	c.stop()
	handed := c.hand()
	if handed == nil && c.exact.Load() && (err == io.EOF || ctx.Err() != nil) && c.reason() == nil {
		// The agent has said all it had to say, or the server ends: it may be listening.
		wait, cancel := context.WithTimeout(context.Background(), c.s.c.Drain)
		c.t.wait(wait)
		cancel()
	}
	close(c.flush)
	c.acks.Wait()
}
