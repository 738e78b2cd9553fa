package minion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

const (
	// window is how many records may be under way without being acknowledged.
	window = 16384
	// batch is how many bytes of frames are written at once, about.
	batch = 32 << 10
)

// counted counts the bytes that were written to a socket.
type counted struct {
	net.Conn
	n atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// conn is one connection. One goroutine reads it, another, which has everything else,
// writes.
type conn struct {
	c       *Client
	t       *Target
	raw     *counted
	nc      net.Conn // raw, or TLS over it
	address string
	r       *wire.Reader
	ended   chan struct{} // closed after run
	err     error         // why it has ended; set before that

	asked, beat wire.ID // of the requests for acknowledgements and the last heartbeat

	mu           sync.Mutex
	acknowledges bool
	negotiated   bool
	answered     bool      // some heartbeat was
	pending      time.Time // when the unanswered heartbeat was sent
	flight       []mark    // written, not acknowledged, oldest first

	wake chan struct{} // negotiated, or there is room in flight

	// Of the writer.
	buf   []byte
	marks []mark
	began time.Time
}

func newConn(c *Client, t *Target, nc net.Conn, address string) *conn {
	raw := &counted{Conn: nc}
	cn := &conn{c: c, t: t, raw: raw, nc: raw, address: address, r: wire.NewReader(raw),
		ended: make(chan struct{}), wake: make(chan struct{}, 1)}
	if err := giveUpAfter(nc, c.timers.user); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		c.opt.Log.Debug("TCP's user timeout is not set", "err", err)
	}
	return cn
}

func (cn *conn) secure(nc net.Conn) { cn.nc, cn.r = nc, wire.NewReader(nc) }

// authenticate says who the agent is, and waits for the server's word.
func (cn *conn) authenticate() error {
	id := cn.c.ids.Next()
	// A server that does not know the group never answers.
	if err := cn.nc.SetDeadline(time.Now().Add(cn.c.timers.answer)); err != nil {
		return err
	}
	if err := cn.frame(wire.Request(id, cn.t.Group, cn.t.Server, wire.Authenticate, cn.t.Key)); err != nil {
		return err
	}
	for {
		payload, err := cn.r.Next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("no answer to the authentication within %v; an original StreamServer gives none when it does not know the group %q", cn.c.timers.answer, cn.t.Group)
		}
		if err != nil {
			return fmt.Errorf("authentication: %w", err)
		}
		f, err := wire.Parse(payload)
		if err != nil {
			return err
		}
		answer, ok := answerTo(f, id)
		switch {
		case !ok:
		case strings.Contains(answer, wire.Accepted):
			return cn.nc.SetDeadline(time.Time{})
		default:
			return fmt.Errorf("%w: group %q, id %q: %.80q; check the key, and that the server knows the group", errDenied, cn.t.Group, cn.t.Server, answer)
		}
	}
}

// answerTo returns what f answers to the request with that id.
func answerTo(f wire.Frame, id wire.ID) (string, bool) {
	if f.Verb != wire.Response || len(f.Data) < 2 || f.Data[0].IsList || f.Data[1].IsList {
		return "", false
	}
	of, err := wire.ParseID(f.Data[0].Text)
	return f.Data[1].Text, err == nil && of == id
}

// frame writes one frame.
func (cn *conn) frame(f wire.Frame) error {
	b, err := f.Append(nil)
	if err != nil {
		return err
	}
	_, err = cn.nc.Write(b)
	return err
}

// run delivers what out has until the connection or ctx ends.
func (cn *conn) run(ctx context.Context, out *outgoing) {
	defer close(cn.ended)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// The end of the context unblocks a read and a write.
	unblock := context.AfterFunc(ctx, func() { cn.nc.SetDeadline(time.Unix(1, 0)) })
	cn.c.opt.Log.Info("a StreamServer takes records", "address", cn.address, "tls", cn.t.TLS != nil)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(cn.survive(func() error { return cn.read(out.commands) })) })
	cancel(cn.survive(func() error { return cn.write(ctx, out) }))
	wg.Wait()
	unblock()
	cn.c.connected.Store(nil)
	cn.raw.Conn.Close() // not TLS: its farewell could wait
	cn.err = fmt.Errorf("connection with StreamServer %s: %w", cn.address, context.Cause(ctx))
}

// survive turns a panic into the end of this connection: PID 1 must not fall over one.
func (cn *conn) survive(part func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			cn.c.opt.Log.Error("the connection with the StreamServer panicked", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panicked: %v", p)
		}
	}()
	return part()
}

func (cn *conn) signal() {
	select {
	case cn.wake <- struct{}{}:
	default:
	}
}

// read takes what the server sends. Commands are carried out in orders.
func (cn *conn) read(orders context.Context) error {
	for {
		payload, err := cn.r.Next()
		if err == io.EOF {
			return errors.New("the server has closed it")
		}
		if err != nil {
			return err
		}
		f, err := wire.Parse(payload)
		if err != nil {
			return err
		}
		switch f.Verb {
		case wire.Response:
			cn.response(f)
		case wire.Command:
			if err := cn.order(orders, f); err != nil {
				return err
			}
		} // an original ignores what it does not know, and so do we
	}
}

// response takes an answer to a request, or an acknowledgement.
func (cn *conn) response(f wire.Frame) {
	if len(f.Data) < 2 || f.Data[0].IsList || f.Data[1].IsList {
		return
	}
	of, err := wire.ParseID(f.Data[0].Text)
	if err != nil {
		return
	}
	cn.mu.Lock()
	defer cn.mu.Unlock()
	switch answer := f.Data[1].Text; {
	case answer == wire.RecordedThrough && cn.acknowledges:
		cn.recorded(of)
	case answer == wire.Acknowledging && of == cn.asked:
		cn.acknowledges = true
		cn.negotiate()
	case of == cn.beat:
		cn.answered, cn.pending = true, time.Time{}
		cn.negotiate()
	}
}

// negotiate ends the time in which the dialect is not known. cn.mu is held.
func (cn *conn) negotiate() {
	if cn.negotiated && !cn.acknowledges {
		return
	}
	cn.negotiated = true
	peer := &Peer{Address: cn.address, Trusted: cn.t.TLS != nil, Streams: cn.acknowledges}
	cn.c.connected.Store(peer)
	cn.signal()
}

// recorded lets go of the records up to the one with that id. cn.mu is held.
func (cn *conn) recorded(id wire.ID) {
	for i, m := range cn.flight {
		if m.id == id {
			cn.c.spool.Ack(m.seq)
			cn.flight = cn.flight[i+1:]
			cn.signal()
			return
		}
	}
}

// handedOver lets go of what an original's machine has acknowledged.
func (cn *conn) handedOver() {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.acknowledges || len(cn.flight) == 0 {
		return
	}
	left, err := unacknowledged(cn.raw.Conn)
	if err != nil {
		left = 0 // no TCP, or a kernel without: written is all there is to know
	}
	through := cn.raw.n.Load() - int64(left)
	n := 0
	for n < len(cn.flight) && cn.flight[n].end <= through {
		n++
	}
	if n > 0 {
		cn.c.spool.Ack(cn.flight[n-1].seq)
		cn.flight = cn.flight[n:]
	}
}

// write asks for acknowledgements, then sends heartbeats and records.
func (cn *conn) write(ctx context.Context, out *outgoing) error {
	cn.began = time.Now()
	cn.mu.Lock()
	cn.asked = cn.c.ids.Next()
	cn.mu.Unlock()
	cn.deadline(ctx)
	if err := cn.frame(wire.Request(cn.asked, cn.t.Group, cn.t.Server, wire.Acknowledge)); err != nil {
		return err
	}
	if err := cn.heartbeat(ctx); err != nil {
		return err
	}
	beat := time.NewTicker(cn.c.timers.heartbeat)
	defer beat.Stop()
	poll := time.NewTicker(cn.c.timers.poll)
	defer poll.Stop()
	for ctx.Err() == nil {
		more, err := cn.records(ctx, out)
		if err != nil {
			return err
		}
		cn.handedOver()
		var now <-chan struct{}
		if more {
			now = always
		}
		select {
		case <-ctx.Done():
		case <-beat.C:
			if err := cn.heartbeat(ctx); err != nil {
				return err
			}
		case <-poll.C:
			if err := cn.alive(); err != nil {
				return err
			}
		case <-out.r.Wake():
		case <-now:
		case <-cn.wake:
		}
	}
	return context.Cause(ctx)
}

// deadline bounds the next write, unless the end has begun.
func (cn *conn) deadline(ctx context.Context) {
	cn.nc.SetWriteDeadline(time.Now().Add(cn.c.timers.write))
	if ctx.Err() != nil {
		cn.nc.SetWriteDeadline(time.Unix(1, 0))
	}
}

func (cn *conn) heartbeat(ctx context.Context) error {
	id := cn.c.ids.Next()
	cn.mu.Lock()
	cn.beat = id
	if cn.pending.IsZero() {
		cn.pending = time.Now()
	}
	cn.mu.Unlock()
	cn.deadline(ctx)
	return cn.frame(wire.Request(id, cn.t.Group, cn.t.Server, wire.Heartbeat))
}

// alive reports that the server has not answered a heartbeat in time. One that has
// never answered any may be an original without a database.
func (cn *conn) alive() error {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if !cn.negotiated && time.Since(cn.began) >= cn.c.timers.negotiate {
		cn.negotiate()
	}
	if (cn.answered || cn.acknowledges) && !cn.pending.IsZero() && time.Since(cn.pending) > cn.c.timers.silence {
		return fmt.Errorf("no answer to a heartbeat within %v", cn.c.timers.silence)
	}
	return nil
}

// records writes one batch. More says that there may be more to write.
func (cn *conn) records(ctx context.Context, out *outgoing) (more bool, err error) {
	cn.mu.Lock()
	ready, original, room := cn.negotiated, !cn.acknowledges, window-len(cn.flight)
	cn.mu.Unlock()
	if !ready || room <= 0 {
		return false, nil
	}
	cn.buf, cn.marks = cn.buf[:0], cn.marks[:0]
	cost := 0
	for len(cn.buf) < batch && len(cn.marks) < room {
		b, m, ok := out.append(cn.buf, cn.t, original)
		if !ok {
			break
		}
		cost += 1 + (len(b)-len(cn.buf))/rateUnit
		cn.buf = b
		m.end = int64(len(b))
		cn.marks = append(cn.marks, m)
	}
	if len(cn.marks) == 0 {
		return false, nil
	}
	if err := cn.c.limit.WaitN(ctx, min(cost, cn.c.limit.Burst())); err != nil {
		return false, err
	}
	// A server may acknowledge before the write has returned. What TLS makes of the
	// bytes is known only then.
	sent := cn.raw.n.Load()
	cn.mu.Lock()
	for _, m := range cn.marks {
		if m.end += sent; cn.t.TLS != nil {
			m.end = math.MaxInt64
		}
		cn.flight = append(cn.flight, m)
	}
	cn.mu.Unlock()
	cn.deadline(ctx)
	if _, err := cn.nc.Write(cn.buf); err != nil {
		return false, err
	}
	if cn.t.TLS != nil && original {
		cn.mu.Lock()
		for i := range cn.flight {
			cn.flight[i].end = min(cn.flight[i].end, cn.raw.n.Load())
		}
		cn.mu.Unlock()
	}
	return true, nil
}
