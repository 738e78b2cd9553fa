package session

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// write sends the handshake, then replies, pings and what is in the outbox.
func (c *conn) write(ctx context.Context) error {
	hs := c.s.cfg.Handshake()
	hs.Endpoint = c.endpoint
	if c.certified {
		hs.Token = ""
	}
	params, err := json.Marshal(hs)
	if err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	if err := c.command(ctx, handshakeItem, params); err != nil {
		return err
	}
	timeout := time.NewTimer(c.s.timers.idle) // a peer may send lines and never answer
	defer timeout.Stop()
	ping := time.NewTicker(c.s.timers.ping)
	defer ping.Stop()
	var wake chan struct{} // nil until the handshake was answered
	var calls <-chan *item // the same
	var tick <-chan time.Time
	ask := time.NewTimer(time.Hour)
	ask.Stop()
	defer ask.Stop()
	handshaken := c.handshaken
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m := <-c.replies:
			if err := c.send(ctx, m); err != nil {
				return err
			}
		case <-timeout.C:
			return fmt.Errorf("no answer to the handshake in %v", c.s.timers.idle)
		case <-handshaken:
			handshaken = nil
			timeout.Stop()
			ping.Reset(c.s.timers.ping)
			wake, tick, calls = c.s.outbox.wake, ping.C, c.s.calls
			if err := c.command(ctx, pingItem, pingItem.params); err != nil {
				return err
			}
			c.s.outbox.signal()
			if c.certifies {
				ask.Reset(c.s.creds.due())
			}
		case <-ask.C:
			params, err := c.s.creds.request()
			if err != nil {
				return err
			}
			if err := c.command(ctx, certItem, params); err != nil {
				return err
			}
		case <-c.answered:
			ask.Reset(c.s.creds.due())
		case <-tick:
			c.s.outbox.retry()
			if err := c.command(ctx, pingItem, pingItem.params); err != nil {
				return err
			}
		case it := <-calls:
			if err := c.command(ctx, it, it.params); err != nil {
				return err
			}
		case <-wake:
			if err := c.flush(ctx); err != nil {
				return err
			}
		}
	}
}

// flush sends all that may be sent of the outbox.
func (c *conn) flush(ctx context.Context) error {
	for ctx.Err() == nil {
		it := c.s.outbox.next()
		if it == nil {
			return nil
		}
		if err := c.command(ctx, it, it.params); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// command sends an item under a new id.
func (c *conn) command(ctx context.Context, it *item, params json.RawMessage) error {
	id := teeth.NewID()
	m, err := teeth.NewCommand(id, it.method, params)
	if err == nil {
		_, err = m.Append(c.buf[:0])
	}
	if err != nil {
		if it == handshakeItem {
			return err
		}
		if it.call != nil {
			it.call.fail(err)
			return nil
		}
		c.s.cfg.Log.Error("message cannot be sent", "method", it.method, "task", it.task, "final", it.final, "err", err)
		c.s.outbox.discard(it)
		return nil
	}
	c.mu.Lock()
	c.pending[id] = it
	c.mu.Unlock()
	return c.send(ctx, m)
}

// send writes one line. Only the writer calls it.
func (c *conn) send(ctx context.Context, m teeth.Message) error {
	b, err := m.Append(c.buf[:0])
	if err != nil {
		return err
	}
	c.buf = b
	c.nc.SetWriteDeadline(time.Now().Add(c.s.timers.write))
	if ctx.Err() != nil { // the end has begun, and may have set its deadline before
		c.nc.SetWriteDeadline(time.Now().Add(c.s.timers.last))
	}
	_, err = c.nc.Write(b)
	return err
}

// clip bounds what a peer can put into one log line.
func clip(s string) string {
	const most = 512
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
