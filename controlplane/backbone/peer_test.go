package backbone

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/internal/amqplink"
	"github.com/teeth-metal/teeth/internal/need"
	"github.com/teeth-metal/teeth/internal/testlog"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

const patience = 30 * time.Second

func newStore(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// running is a master that runs until the test ends, or stop is called.
type running struct {
	*Master
	log  *testlog.Buffer
	stop func()
}

func startMaster(t testing.TB, c Config) *running {
	t.Helper()
	r := &running{log: &testlog.Buffer{}}
	c.Log = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if c.Session == nil {
		c.Session = func(string) (Session, bool) { return nil, false }
	}
	var err error
	if r.Master, err = New(c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			text := r.log.String()
			t.Logf("master's log:\n%s", text[max(0, len(text)-20_000):])
		}
	})
	return r
}

func brokerAt(url string) *amqplink.Config {
	return &amqplink.Config{URLs: []string{url}, MaxBackoff: time.Second}
}

// connected waits until the master is.
func (r *running) connected(t testing.TB) {
	t.Helper()
	until(t, "the master is connected", func() (bool, string) {
		return r.leads.Load() && r.broker.up(), fmt.Sprint(r.broker.err())
	})
}

func until(t testing.TB, what string, is func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		ok, now := is()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s; it is %s", patience, what, now)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// is waits until a host is as wanted.
func (r *running) is(t testing.TB, host, what string, wanted func(Host) bool) Host {
	t.Helper()
	var h Host
	until(t, host+": "+what, func() (bool, string) {
		var err error
		h, err = r.Host(context.Background(), host)
		return err == nil && wanted(h), fmt.Sprintf("%+v, %v", h, err)
	})
	return h
}

func settled(h Host) bool { return h.Settled && h.State == "ok" }

// peer is a program in testdata, of another AMQP library, that writes a JSON object a line.
type peer struct {
	t     testing.TB
	in    io.WriteCloser
	mu    sync.Mutex
	lines []map[string]any
	stop  func()
}

func startPeer(t testing.TB, script string, args ...string) *peer {
	t.Helper()
	python := need.PythonModule(t, "pika", "python3-pika")
	cmd := exec.Command(python, append([]string{filepath.Join("testdata", script)}, args...)...)
	p := &peer{t: t}
	errs := &testlog.Buffer{}
	cmd.Stderr = errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var v map[string]any
			if json.Unmarshal(lines.Bytes(), &v) == nil {
				p.mu.Lock()
				p.lines = append(p.lines, v)
				p.mu.Unlock()
			}
		}
	}()
	p.stop = sync.OnceFunc(func() {
		cmd.Process.Kill()
		<-read
		cmd.Wait()
	})
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s %v said %v\n%s", script, args[1:], p.all(), errs)
		}
	})
	return p
}

func (p *peer) all() []map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]map[string]any{}, p.lines...)
}

// count returns how many of the messages that a slave received are of an opcode.
func (p *peer) count(opcode string) (n int) {
	for _, l := range p.all() {
		if l["got"] == opcode {
			n++
		}
	}
	return n
}

// saw waits for a line that has a key.
func (p *peer) saw(what string, is func(map[string]any) bool) {
	p.t.Helper()
	until(p.t, what, func() (bool, string) {
		for _, l := range p.all() {
			if is(l) {
				return true, ""
			}
		}
		return false, fmt.Sprint(p.all())
	})
}

func apps(t testing.TB, text string) map[string]wire.App {
	t.Helper()
	a, err := wire.ParseApps(json.RawMessage(text))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func slaveOptions(t testing.TB, o map[string]any) string {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
