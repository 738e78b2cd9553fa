package minion

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/agent/minion/spool"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

const (
	group  = "g1"
	server = "11111111-2222-3333-4444-555555555555"
	key    = "k1"
)

// kept is a record as a server has it.
type kept struct {
	id   wire.ID
	verb wire.Verb
	data []wire.Item
}

func (k kept) text() string { return k.data[len(k.data)-1].Text }

// peer is a StreamServer as wire/minion describes the two: the original, in whose
// database a second row with the same id takes its batch along, and ours, which
// acknowledges, and keeps one of equal ids.
type peer struct {
	t        *testing.T
	original bool
	silent   bool         // an original without a database: no answer to heartbeats
	delay    atomic.Int64 // a time.Duration, before an acknowledgement
	denied   atomic.Int32 // agents
	maxRead  int          // bytes of a read, for short ones
	tls      *tls.Config
	listen   func(address string) (net.Listener, error)

	mu      sync.Mutex
	ln      net.Listener
	address string
	conns   map[net.Conn]bool
	ids     map[wire.ID]bool
	kept    []kept
	durable int // of kept; the rest is lost when the server is killed
	frames  int // of all that came, the second ones too
	send    func(wire.Frame) error
	wg      sync.WaitGroup
}

func newPeer(t *testing.T, original bool, set ...func(*peer)) *peer {
	p := &peer{t: t, original: original, conns: map[net.Conn]bool{}, ids: map[wire.ID]bool{}, maxRead: 1 << 20}
	p.listen = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	for _, f := range set {
		f(p)
	}
	p.start()
	t.Cleanup(p.kill)
	return p
}

// start listens, at the same address as before.
func (p *peer) start() {
	p.t.Helper()
	at := p.address
	if at == "" {
		at = "127.0.0.1:0"
	}
	ln, err := p.listen(at)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.ln, p.address = ln, ln.Addr().String()
	p.mu.Unlock()
	p.wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns[nc] = true
			p.mu.Unlock()
			p.wg.Go(func() {
				if err := p.serve(nc); err != nil && !errors.Is(err, net.ErrClosed) {
					p.t.Logf("peer: %v", err)
				}
				nc.Close()
				p.mu.Lock()
				delete(p.conns, nc)
				p.mu.Unlock()
			})
		}
	})
}

// kill ends the server as a signal does: connections are reset, and what was not
// written down is gone.
func (p *peer) kill() {
	p.mu.Lock()
	p.ln.Close()
	for nc := range p.conns {
		if tc, ok := nc.(*net.TCPConn); ok {
			tc.SetLinger(0)
		}
		nc.Close()
	}
	if !p.original {
		for _, k := range p.kept[p.durable:] {
			delete(p.ids, k.id)
		}
		p.kept = p.kept[:p.durable]
	}
	clear(p.conns) // what they have read and not kept is gone, too
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *peer) serve(nc net.Conn) error {
	conn := nc
	if p.tls != nil {
		nc = tls.Server(nc, p.tls)
	}
	r := wire.NewReader(short{nc, p.maxRead})
	ids := wire.NewGenerator(wire.RandomNode())
	var writing sync.Mutex
	send := func(f wire.Frame) error {
		writing.Lock()
		defer writing.Unlock()
		b, err := f.Append(nil)
		if err != nil {
			return err
		}
		// The original writes length and payload apart.
		if _, err := nc.Write(b[:2]); err != nil {
			return err
		}
		_, err = nc.Write(b[2:])
		return err
	}
	acks, let := false, false
	var last wire.ID
	for {
		payload, err := r.Next()
		if err != nil {
			return err
		}
		f, err := wire.Parse(payload)
		if err != nil {
			p.t.Errorf("the agent sent %x: %v", payload, err)
			return err
		}
		if len(payload) > wire.MaxSent && f.Verb != wire.Response {
			p.t.Errorf("a frame of %d bytes", len(payload))
		}
		if f.Data[0].Text != group || f.Data[1].Text != server {
			return nil // an unknown group gets no answer
		}
		if f.Verb == wire.Command {
			switch f.Data[2].Text {
			case wire.Authenticate:
				if f.Data[3].Key() != key {
					p.denied.Add(1)
					send(wire.Reply(ids.Next(), f.ID, wire.Denied))
					return nil
				}
				let = true
				p.mu.Lock()
				p.send = send
				p.mu.Unlock()
				err = send(wire.Reply(ids.Next(), f.ID, wire.Accepted))
			case wire.Heartbeat:
				if !p.silent {
					err = send(wire.Reply(ids.Next(), f.ID, wire.Recorded))
				}
			case wire.Acknowledge:
				if !p.original {
					acks = true
					err = send(wire.Reply(ids.Next(), f.ID, wire.Acknowledging))
				}
			}
			if err != nil {
				return err
			}
			continue
		}
		if !let {
			p.t.Error("a record before authentication")
		}
		if !p.keep(conn, f) {
			return net.ErrClosed
		}
		last = f.ID
		if acks && !r.Ready() {
			time.Sleep(time.Duration(p.delay.Load()))
			if !p.settle(conn) {
				return net.ErrClosed
			}
			if err := send(wire.Reply(ids.Next(), last, wire.RecordedThrough)); err != nil {
				return err
			}
		}
	}
}

// settle makes what there is durable, unless the server was killed.
func (p *peer) settle(nc net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns[nc] {
		p.durable = len(p.kept)
	}
	return p.conns[nc]
}

// keep reports false when the server was killed.
func (p *peer) keep(nc net.Conn, f wire.Frame) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.conns[nc] {
		return false
	}
	p.frames++
	if p.ids[f.ID] {
		if p.original {
			p.t.Errorf("id %s came a second time: the original loses a batch of its neighbours' rows", f.ID)
		}
		return true
	}
	p.ids[f.ID] = true
	p.kept = append(p.kept, kept{f.ID, f.Verb, f.Data[2:]})
	return true
}

// short reads a few bytes at a time.
type short struct {
	r io.Reader
	n int
}

func (s short) Read(b []byte) (int, error) { return s.r.Read(b[:min(len(b), s.n)]) }

func (p *peer) all() []kept {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]kept(nil), p.kept...)
}

func (p *peer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.kept)
}

// lines returns the log lines of a service.
func (p *peer) lines(service string) (lines []string) {
	for _, k := range p.all() {
		if k.verb == wire.Log && k.data[0].Text == service {
			lines = append(lines, k.text())
		}
	}
	return lines
}

// command sends one, once an agent is there.
func (p *peer) command(o wire.Order) {
	p.t.Helper()
	eventually(p.t, "the agent takes a command", func() bool {
		p.mu.Lock()
		send := p.send
		p.mu.Unlock()
		return send != nil && send(o.Frame()) == nil
	})
}

func (p *peer) responses() (all []wire.Result) {
	for _, k := range p.all() {
		if k.verb == wire.Response {
			r, err := wire.ResultOf(wire.Frame{Verb: k.verb, ID: k.id, Data: append(wire.Texts(group, server), k.data...)})
			if err != nil {
				p.t.Fatal(err)
			}
			all = append(all, r)
		}
	}
	return all
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// client returns one that does not wait long, not started.
func client(t *testing.T, opt Options) *Client {
	t.Helper()
	opt.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	if opt.Spool == nil {
		opt.Spool = memory(t, 1<<20)
	}
	c, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	c.timers.backoffMin, c.timers.backoffMax = 2*time.Millisecond, 20*time.Millisecond
	c.timers.patience, c.timers.poll = 50*time.Millisecond, 2*time.Millisecond
	return c
}

func memory(t *testing.T, bytes int64) *spool.Spool {
	t.Helper()
	s, err := spool.Open(spool.Options{Memory: bytes})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs the client until stop, or the end of the test.
func run(t *testing.T, c *Client) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}()
	stop = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(stop)
	return stop
}

func target(addresses ...string) Target {
	return Target{Addresses: addresses, Group: group, Server: server, Key: key}
}

func aim(t *testing.T, c *Client, to Target) {
	t.Helper()
	if err := c.SetTarget(to); err != nil {
		t.Fatal(err)
	}
}

func flush(t *testing.T, c *Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// has waits until the server has read n records: of what an original was given, TCP
// knows no more than that its machine has it.
func (p *peer) has(n int) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%d records", n), func() bool { return p.count() >= n })
}

func line(i int) string { return fmt.Sprintf("line %06d %s", i, strings.Repeat("x", i%80)) }

// once fails the test unless the lines are line(0) to line(n-1), each once, in order.
func once(t *testing.T, lines []string, n int) {
	t.Helper()
	for i := range min(n, len(lines)) {
		if lines[i] != line(i) {
			t.Fatalf("at %d: %.40q, want %.40q", i, lines[i], line(i))
		}
	}
	if len(lines) != n {
		t.Fatalf("%d lines, want %d", len(lines), n)
	}
}
