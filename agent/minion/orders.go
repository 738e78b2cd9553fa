package minion

import (
	"context"
	"fmt"
	"runtime/debug"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// order has a command carried out.
func (cn *conn) order(orders context.Context, f wire.Frame) error {
	o, err := wire.OrderOf(f)
	if err != nil {
		return err
	}
	cn.mu.Lock()
	from := Peer{Address: cn.address, Trusted: cn.t.TLS != nil, Streams: cn.acknowledges}
	cn.mu.Unlock()
	answer := func(r wire.Result) { cn.c.respond(orders, o.ID, r) }
	if cn.c.opt.Orders == nil {
		go answer(wire.Result{Exit: 126, State: wire.StateRefused, Stderr: []string{"this agent takes no commands\n"}})
		return nil
	}
	select {
	case cn.c.slots <- struct{}{}:
	default:
		// To wait would be for ever: commands at work may wait for room in the spool, which
		// acknowledgements make, and those come on this connection.
		cn.c.opt.Log.Warn("command refused: too many are at work", "command", o.ID, "server", cn.address)
		cn.c.put(cn.c.answer(o.ID, wire.Result{Exit: 126, State: wire.StateRefused,
			Stderr: []string{fmt.Sprintf("busy: %d commands are at work already\n", cap(cn.c.slots))}}))
		return nil
	}
	go func() {
		defer func() {
			<-cn.c.slots
			if p := recover(); p != nil {
				cn.c.opt.Log.Error("a command panicked", "command", o.ID, "panic", p, "stack", string(debug.Stack()))
				answer(wire.Result{Exit: 126, State: wire.StateKilled, Stderr: []string{fmt.Sprintf("the agent panicked: %v\n", p)}})
			}
		}()
		cn.c.opt.Orders(orders, o, from, answer)
	}()
	return nil
}

// respond queues the answer to a command.
func (c *Client) respond(ctx context.Context, order wire.ID, r wire.Result) {
	f := c.answer(order, r)
	if size := f.Size() + 2*wire.TextSize(maxName); size > wire.MaxAccepted {
		c.opt.Log.Error("an answer to a command is too long to be sent", "command", order, "bytes", size)
		c.respond(ctx, order, wire.Result{Exit: r.Exit, State: r.State, Sequence: r.Sequence,
			Stderr: []string{fmt.Sprintf("the answer of %d bytes was too long to be sent\n", size)}})
		return
	}
	if err := c.putWait(ctx, f); err != nil {
		c.opt.Log.Error("an answer to a command is lost", "command", order, "err", err)
	}
}

// answer is the frame of an answer, as the spool keeps it.
func (c *Client) answer(order wire.ID, r wire.Result) wire.Frame {
	r.ID, r.Order, r.Group, r.Server = c.ids.Next(), order, "", ""
	r.Stdout, r.Stderr = cleanAll(r.Stdout), cleanAll(r.Stderr)
	f := r.Frame()
	f.Data = f.Data[2:]
	return f
}
