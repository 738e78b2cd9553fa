package minion

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/internal/testlog"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

const (
	patience = 15 * time.Second
	secret   = "estate's minion secret for tests"
	chassis1 = "4c4c4544-0043-3010-8052-b4c04f564231"
)

// keep is a Sink in memory that keeps each id once, as a database does.
type keep struct {
	mu      sync.Mutex
	entries []Entry
	ids     map[wire.ID]bool
	twice   int   // entries that were given again
	fail    error // while it is set nothing is kept
	gate    chan struct{}
}

func (k *keep) Write(ctx context.Context, entries []Entry) error {
	if k.gate != nil {
		select {
		case <-k.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fail != nil {
		return k.fail
	}
	if k.ids == nil {
		k.ids = map[wire.ID]bool{}
	}
	for _, e := range entries {
		if k.ids[e.ID] {
			k.twice++
			continue
		}
		k.ids[e.ID] = true
		k.entries = append(k.entries, e)
	}
	return nil
}

func (k *keep) setFail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = err
}

func (k *keep) all() []Entry {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]Entry(nil), k.entries...)
}

func (k *keep) n() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.entries)
}

func (k *keep) messages() []string {
	var list []string
	for _, e := range k.all() {
		list = append(list, e.Message)
	}
	return list
}

// running is a Server at work.
type running struct {
	*Server
	t       testing.TB
	address string
	stop    func() // and wait
	log     *testlog.Buffer
}

func start(t testing.TB, c Config) *running { return startTLS(t, c, nil, "127.0.0.1:0") }

func startTLS(t testing.TB, c Config, tlsConfig *tls.Config, address string) *running {
	t.Helper()
	r := &running{t: t, log: &testlog.Buffer{}}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(r.log, nil))
	}
	if c.Rate == 0 {
		c.Rate = 1e6
	}
	if c.Secret == "" {
		c.Secret = secret
	}
	var err error
	if r.Server, err = New(c); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	done.Go(func() {
		if err := r.Serve(ctx, l, tlsConfig); err != nil {
			t.Error(err)
		}
	})
	r.stop = sync.OnceFunc(func() {
		cancel()
		done.Wait()
	})
	t.Cleanup(r.stop)
	return r
}

// peer is an agent.
type peer struct {
	t             testing.TB
	nc            net.Conn
	r             *wire.Reader
	ids           *wire.Generator
	group, server string
}

func dial(t testing.TB, r *running, group, server string) *peer {
	t.Helper()
	nc, err := net.DialTimeout("tcp", r.address, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return newPeer(t, nc, group, server)
}

func newPeer(t testing.TB, nc net.Conn, group, server string) *peer {
	nc.SetDeadline(time.Now().Add(patience))
	return &peer{t: t, nc: nc, r: wire.NewReader(nc), ids: wire.NewGenerator(wire.RandomNode()), group: group, server: server}
}

// login dials and authenticates.
func login(t testing.TB, r *running, group, server, key string) *peer {
	t.Helper()
	p := dial(t, r, group, server)
	if answer := p.ask(wire.Request(p.ids.Next(), group, server, wire.Authenticate, key)); answer != wire.Accepted {
		t.Fatalf("%s %s: %s", group, server, answer)
	}
	return p
}

// acknowledged is a login of an agent of ours.
func acknowledged(t testing.TB, r *running, group, server, key string) *peer {
	t.Helper()
	p := login(t, r, group, server, key)
	if answer := p.ask(wire.Request(p.ids.Next(), group, server, wire.Acknowledge)); answer != wire.Acknowledging {
		t.Fatalf("%s %s: %s", group, server, answer)
	}
	return p
}

func (p *peer) send(frames ...wire.Frame) {
	p.t.Helper()
	var b []byte
	for _, f := range frames {
		var err error
		if b, err = f.AppendLarge(b); err != nil {
			p.t.Fatal(err)
		}
	}
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) next() wire.Frame {
	p.t.Helper()
	payload, err := p.r.Next()
	if err != nil {
		p.t.Fatal(err)
	}
	f, err := wire.Parse(payload)
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

// ask sends a request and returns the answer.
func (p *peer) ask(f wire.Frame) string {
	p.t.Helper()
	p.send(f)
	for {
		if a := p.next(); a.Verb == wire.Response && len(a.Data) == 2 && a.Data[0].Text == f.ID.String() {
			return a.Data[1].Text
		}
	}
}

func (p *peer) line(service, message string) wire.Frame {
	return wire.LogLine(p.ids.Next(), p.group, p.server, service, message)
}

// through waits until the server says that a record and all before are kept.
func (p *peer) through(id wire.ID) {
	p.t.Helper()
	for {
		a := p.next()
		if len(a.Data) == 2 && a.Data[1].Text == wire.RecordedThrough && a.Data[0].Text == id.String() {
			return
		}
	}
}

// gone waits for the server to close the connection.
func (p *peer) gone() {
	p.t.Helper()
	for {
		_, err := p.r.Next()
		if err == nil {
			continue
		}
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			p.t.Fatalf("the server has not closed the connection: %v", err)
		}
		return
	}
}

func (p *peer) alive() {
	p.t.Helper()
	if answer := p.ask(wire.Request(p.ids.Next(), p.group, p.server, wire.Heartbeat)); answer != wire.Recorded {
		p.t.Fatal(answer)
	}
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// toFile is a group whose lines go to a file.
func toFile(path string, cull bool) GroupConfig {
	return GroupConfig{ID: "g1", Key: "k1", Services: []ServiceConfig{{Names: []string{"pg"}, To: Destination{typeFile, path}, Cull: cull, Default: true}},
		Telemetry: []TelemetryConfig{{To: Destination{typeFile, path}}}}
}

// messagesOf returns the last fields of a file's lines.
func messagesOf(t testing.TB, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 4)
		if len(f) != 4 {
			t.Fatalf("%s: line %q", filepath.Base(path), line)
		}
		list = append(list, f[3])
	}
	return list
}

func numbered(from, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("line %d", from+i)
	}
	return list
}
