package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// queueLen is how many commands may wait for the one being handled. Beyond that
// the connection is not read, and TCP slows the server down.
const queueLen = 16

// conn is one connection. Three goroutines share it: one reads, one handles
// commands in their order, one writes.
type conn struct {
	s        *Session
	nc       net.Conn
	endpoint string

	commands    chan teeth.Message
	replies     chan teeth.Message
	handshaken  chan struct{} // closed when the handshake was answered
	established atomic.Bool   // the same

	certified bool          // by a client certificate
	certifies bool          // the server issues some; set before handshaken is closed
	answered  chan struct{} // sent to when a request for one was answered

	mu      sync.Mutex
	pending map[string]*item // by the id it was sent under
	buf     []byte           // the writer's
}

// Items that are not kept over connections.
var (
	handshakeItem = &item{method: teeth.MethodHandshake}
	pingItem      = &item{method: teeth.MethodPing, params: json.RawMessage("{}")}
	certItem      = &item{method: teeth.MethodCertificate}
)

func newConn(s *Session, nc net.Conn, endpoint string) *conn {
	return &conn{
		s: s, nc: nc, endpoint: endpoint,
		commands:   make(chan teeth.Message, queueLen),
		replies:    make(chan teeth.Message),
		handshaken: make(chan struct{}),
		answered:   make(chan struct{}, 1),
		pending:    make(map[string]*item),
	}
}

// fatalError ends a connection, with a last message to the peer.
type fatalError struct {
	text string
	err  error
}

func (e *fatalError) Error() string { return fmt.Sprintf("sent fatal error: %v", e.err) }
func (e *fatalError) Unwrap() error { return e.err }

// run talks until the connection ends, and says why it did.
func (c *conn) run(ctx context.Context) error {
	c.s.outbox.reset()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Ending the context unblocks a read and a write; what is being written
	// has a moment to get out.
	unblocked := make(chan struct{})
	context.AfterFunc(ctx, func() {
		c.nc.SetReadDeadline(time.Unix(1, 0))
		c.nc.SetWriteDeadline(time.Now().Add(c.s.timers.last))
		close(unblocked)
	})

	// A handler that hangs must not keep the agent from coming back: it is
	// waited for only a moment.
	handled := make(chan struct{})
	go func() {
		defer close(handled)
		cancel(c.survive(ctx, c.handle))
	}()
	var wg sync.WaitGroup
	wg.Go(func() { cancel(c.survive(ctx, c.read)) })
	wg.Go(func() { cancel(c.survive(ctx, c.write)) })
	wg.Wait()
	c.abandonCalls()
	<-unblocked // or it would undo the deadlines of sayFatal
	select {
	case <-handled:
	case <-time.After(c.s.timers.last):
		c.s.cfg.Log.Error("a command is still being handled although its connection has ended; leaving it behind")
	}

	err := context.Cause(ctx)
	var fatal *fatalError
	if errors.As(err, &fatal) {
		c.sayFatal(fatal.text)
	}
	return err
}

// survive turns a panic of part into the end of this connection: PID 1 must not
// fall over one.
func (c *conn) survive(ctx context.Context, part func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.s.cfg.Log.Error("session panicked", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("session panicked: %v", p)
		}
	}()
	return part(ctx)
}

// sayFatal sends the last message and waits for the peer to have read it:
// closing a socket with unread input would reset it and destroy the message.
func (c *conn) sayFatal(text string) {
	c.nc.SetDeadline(time.Now().Add(c.s.timers.last))
	b, err := teeth.NewFatal(text).Append(nil)
	if err != nil {
		return
	}
	if _, err := c.nc.Write(b); err != nil {
		return
	}
	if cw, ok := c.nc.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
		io.Copy(io.Discard, c.nc)
	}
}

func (c *conn) read(ctx context.Context) error {
	r := teeth.NewReader(c.nc)
	for {
		if err := c.nc.SetReadDeadline(time.Now().Add(c.s.timers.idle)); err != nil {
			return err
		}
		if ctx.Err() != nil { // the deadline just set may have undone the one that ends us
			return ctx.Err()
		}
		line, err := r.ReadLine()
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			return fmt.Errorf("nothing heard for %v", c.s.timers.idle)
		}
		if err != nil {
			return err
		}
		now := time.Now()
		c.s.lastHeard.Store(&now)
		if len(line) == 0 {
			continue
		}
		m, err := teeth.Parse(line)
		var v *teeth.ViolationError
		if errors.As(err, &v) {
			return &fatalError{v.Fatal, err}
		}
		switch m.Kind {
		case teeth.KindFatal:
			return fmt.Errorf("the server sent a fatal error: %q", clip(m.Fatal))
		case teeth.KindCommand:
			select {
			case c.commands <- m:
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			if err := c.reply(m); err != nil {
				return err
			}
		}
	}
}

// reply handles the answer to something that was sent.
func (c *conn) reply(m teeth.Message) error {
	var id string
	json.Unmarshal(m.ID, &id) // what is not a string stays "" and is unknown
	c.mu.Lock()
	it := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	log := c.s.cfg.Log
	switch {
	case it == nil:
		return &fatalError{teeth.FatalUnknownID, fmt.Errorf("an answer to %q, which was not asked", clip(id))}
	case it == handshakeItem && m.Kind == teeth.KindError:
		if c.s.creds != nil {
			c.s.creds.introduced(c.certified, false)
		}
		return fmt.Errorf("the server refused the handshake: %q", clip(m.Err.Msg))
	case it == handshakeItem:
		var r teeth.HandshakeResult
		json.Unmarshal(m.Result, &r) // a peer may answer anything
		log.Info("session established", "peer", c.nc.RemoteAddr(), "chassis", clip(r.Chassis), "server_version", clip(r.Version))
		if c.s.creds != nil {
			c.s.creds.introduced(c.certified, true)
			c.certifies = r.Certificates
		}
		c.established.Store(true)
		c.s.connected.Store(true) // before anybody is told, who may want to send something
		if c.s.cfg.Welcomed != nil {
			c.s.cfg.Welcomed(r)
		}
		close(c.handshaken)
		return nil
	case it == certItem:
		c.certificate(m)
		return nil
	case it.call != nil:
		it.call.answer(m)
		return nil
	case m.Kind == teeth.KindError && it != pingItem:
		log.Warn("the server refused a message", "method", it.method, "task", it.task, "final", it.final, "err", clip(m.Err.Msg))
	}
	if c.s.outbox.answered(it, m.Kind == teeth.KindError) && c.s.cfg.Delivered != nil {
		c.s.cfg.Delivered(it.task)
	}
	return nil
}

// certificate handles the answer to a request for a certificate.
func (c *conn) certificate(m teeth.Message) {
	if m.Kind == teeth.KindError {
		c.s.creds.refused()
		c.s.cfg.Log.Info("no certificate yet", "reason", clip(m.Err.Msg))
	} else if err := c.s.creds.issued(m.Result); err != nil {
		c.s.creds.refused()
		c.s.cfg.Log.Error("the server's certificate for this chassis is of no use", "err", err)
	} else {
		c.s.cfg.Log.Info("got a certificate")
	}
	select {
	case c.answered <- struct{}{}:
	default: // the writer knows
	}
}

// handle answers commands.
func (c *conn) handle(ctx context.Context) error {
	for {
		var m teeth.Message
		select {
		case m = <-c.commands:
		case <-ctx.Done():
			return ctx.Err()
		}
		answer, err := c.answer(ctx, m)
		if err != nil {
			return err
		}
		select {
		case c.replies <- answer:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answer returns the reply to a command, one that can be encoded.
func (c *conn) answer(ctx context.Context, m teeth.Message) (teeth.Message, error) {
	if m.Method == teeth.MethodPing {
		return encodable(teeth.Message{Kind: teeth.KindResult, ID: m.ID, Version: m.Version, Result: m.Params})
	}
	result, err := c.call(ctx, teeth.Canonical(m.Method), m.Params)
	if errors.Is(err, ErrUnknownMethod) {
		return teeth.Message{}, &fatalError{teeth.FatalUnknownMethod, fmt.Errorf("unknown method %q", clip(m.Method))}
	}
	if err == nil {
		var r teeth.Message
		if r, err = teeth.NewResult(m.ID, result); err == nil {
			return encodable(r)
		}
	}
	return encodable(teeth.NewError(m.ID, err))
}

// call calls the handler and survives its panics.
func (c *conn) call(ctx context.Context, method string, params json.RawMessage) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.s.cfg.Log.Error("command panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
			result, err = nil, fmt.Errorf("%s panicked: %v", method, p)
		}
	}()
	return c.s.cfg.Handler.Handle(ctx, method, params)
}

// encodable returns m, or an error reply instead of one that cannot be sent. An
// id that alone is too long leaves nothing to say.
func encodable(m teeth.Message) (teeth.Message, error) {
	_, err := m.Append(nil)
	if err == nil {
		return m, nil
	}
	m = teeth.NewError(m.ID, err)
	_, err = m.Append(nil)
	return m, err
}
