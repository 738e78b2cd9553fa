package session

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// peer is the control plane's end of one connection, scripted by a test.
type peer struct {
	t  *testing.T
	nc net.Conn
	in chan teeth.Message // what the agent sent; closed with the connection
}

func newPeer(t *testing.T, nc net.Conn) *peer {
	p := &peer{t: t, nc: nc, in: make(chan teeth.Message, 1000)}
	go func() {
		defer close(p.in)
		r := teeth.NewReader(nc)
		for {
			line, err := r.ReadLine()
			if err != nil {
				return
			}
			m, err := teeth.Parse(line)
			if err != nil {
				t.Errorf("the agent sent %q: %v", line, err)
				return
			}
			p.in <- m
		}
	}()
	return p
}

// next returns the next message that is no ping; ok is false at the end of the
// connection. Pings are answered.
func (p *peer) next() (m teeth.Message, ok bool) {
	p.t.Helper()
	for {
		m, ok = <-p.in
		if !ok || m.Kind != teeth.KindCommand || m.Method != teeth.MethodPing {
			return m, ok
		}
		p.pong(m)
	}
}

// pong answers a ping, unless the connection has ended since.
func (p *peer) pong(ping teeth.Message) {
	m, err := teeth.NewResult(ping.ID, struct{}{})
	if err != nil {
		p.t.Fatal(err)
	}
	teeth.NewWriter(p.nc).WriteMessage(m)
}

// expect returns the next message, which must be a command of that method.
func (p *peer) expect(method string) teeth.Message {
	p.t.Helper()
	m, ok := p.next()
	if !ok || m.Kind != teeth.KindCommand || m.Method != method {
		p.t.Fatalf("got %+v (connected: %v), want a %s", m, ok, method)
	}
	return m
}

func (p *peer) expectStatus() teeth.TaskStatus {
	p.t.Helper()
	s, _ := p.expectStatusMessage()
	return s
}

func (p *peer) expectStatusMessage() (s teeth.TaskStatus, m teeth.Message) {
	p.t.Helper()
	m = p.expect(teeth.MethodTaskStatus)
	if err := json.Unmarshal(m.Params, &s); err != nil {
		p.t.Fatal(err)
	}
	return s, m
}

// closed fails the test unless the agent has closed the connection, now or
// after what it sends before.
func (p *peer) closed() {
	p.t.Helper()
	if m, ok := p.next(); ok {
		p.t.Fatalf("got %+v, want the end", m)
	}
}

// quiet fails the test if a message other than ping comes within d.
func (p *peer) quiet(d time.Duration) {
	p.t.Helper()
	end := time.After(d)
	for {
		select {
		case m, ok := <-p.in:
			if !ok {
				p.t.Fatal("connection closed")
			}
			if m.Method != teeth.MethodPing {
				p.t.Fatalf("got %+v", m)
			}
			p.pong(m)
		case <-end:
			return
		}
	}
}

func (p *peer) send(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.nc, line); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) message(m teeth.Message) {
	p.t.Helper()
	b, err := m.Append(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(string(b))
}

func (p *peer) result(to teeth.Message, v any) {
	p.t.Helper()
	m, err := teeth.NewResult(to.ID, v)
	if err != nil {
		p.t.Fatal(err)
	}
	p.message(m)
}

func (p *peer) refuse(to teeth.Message, msg string) {
	p.t.Helper()
	p.message(teeth.NewError(to.ID, errors.New(msg)))
}

// welcome answers the handshake.
func (p *peer) welcome() *peer {
	p.t.Helper()
	p.result(p.expect(teeth.MethodHandshake), teeth.HandshakeResult{Chassis: "c1"})
	return p
}

// handlerFunc is a Handler.
type handlerFunc func(ctx context.Context, method string, params json.RawMessage) (any, error)

func (f handlerFunc) Handle(ctx context.Context, method string, params json.RawMessage) (any, error) {
	return f(ctx, method, params)
}

func testConfig() Config {
	return Config{
		Endpoints: []string{"control-plane:8081"},
		Insecure:  true,
		Handshake: func() teeth.Handshake {
			return teeth.Handshake{ID: "52:54:00:12:34:56", Version: "1.0", Token: "secret"}
		},
		Handler: handlerFunc(func(context.Context, string, json.RawMessage) (any, error) { return nil, ErrUnknownMethod }),
		Log:     slog.New(slog.DiscardHandler),
	}
}

// bench runs a Session under a fake clock, against peers on pipes.
type bench struct {
	*Session
	t         *testing.T
	conns     chan net.Conn
	cancel    context.CancelFunc
	mu        sync.Mutex
	delivered []string
	dialled   []string

	acknowledge func(id string) // what else Delivered does; may be nil
}

func (b *bench) accept() *peer {
	b.t.Helper()
	return newPeer(b.t, <-b.conns)
}

func (b *bench) deliveries() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.delivered...)
}

func bubble(t *testing.T, cfg Config, f func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, conns: make(chan net.Conn)}
		cfg.Delivered = func(id string) {
			b.mu.Lock()
			b.delivered = append(b.delivered, id)
			b.mu.Unlock()
			if b.acknowledge != nil {
				b.acknowledge(id)
			}
		}
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		b.Session = s
		var peers []net.Conn
		s.dial = func(ctx context.Context, endpoint string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			b.mu.Lock()
			b.dialled = append(b.dialled, endpoint)
			peers = append(peers, theirs)
			b.mu.Unlock()
			select {
			case b.conns <- theirs:
				return ours, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		b.cancel = cancel
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Run returned %v", err)
			}
		})
		defer func() { // also after t.Fatal, or the bubble would hide its message
			cancel()
			wg.Wait()
			for _, p := range peers {
				p.Close()
			}
		}()
		f(t, b)
	})
}
