package broker_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/agent/backbone"
	"github.com/teeth-metal/teeth/agent/backbone/broker"
	"github.com/teeth-metal/teeth/app"
	"github.com/teeth-metal/teeth/internal/need"
	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
	"github.com/teeth-metal/teeth/internal/testlog"
	"github.com/teeth-metal/teeth/progress"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

const (
	hostID = "5f0c1c1e-2f4b-4f7e-9d2e-0242ac110002"
	mac    = "02:42:AC:11:00:02"
	limit  = 20 * time.Second
)

// master is testdata/master.py.
type master struct {
	t      *testing.T
	in     io.WriteCloser
	lines  chan string
	stop   func()
	stderr *strings.Builder
}

func newMaster(t *testing.T, url, dialect string) *master {
	t.Helper()
	python := need.PythonModule(t, "pika", "python3-pika")
	cmd := exec.Command(python, "testdata/master.py", url, dialect)
	m := &master{t: t, lines: make(chan string, 10_000), stderr: &strings.Builder{}}
	cmd.Stderr = m.stderr
	var err error
	if m.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s := bufio.NewScanner(out)
		s.Buffer(nil, 4<<20)
		for s.Scan() {
			m.lines <- s.Text()
		}
		cmd.Wait()
	}()
	m.stop = sync.OnceFunc(func() {
		cmd.Process.Kill()
		<-ended
	})
	t.Cleanup(m.stop)
	if line := m.line("ready"); !strings.Contains(line, "ready") {
		t.Fatalf("master: %s\n%s", line, m.stderr)
	}
	return m
}

func (m *master) line(what string) string {
	m.t.Helper()
	select {
	case line := <-m.lines:
		return line
	case <-time.After(limit):
		m.t.Fatalf("the master has not got: %s\n%s", what, m.stderr)
		return ""
	}
}

// send publishes body to a host, whose queue it declares before if later is set.
func (m *master) send(later bool, to, body string) {
	m.t.Helper()
	order := map[string]string{"to": to, "body": strings.ReplaceAll(body, "'", `"`)}
	if later {
		order["declare"] = to
	}
	m.order(order)
}

func (m *master) order(order map[string]string) {
	m.t.Helper()
	if err := json.NewEncoder(m.in).Encode(order); err != nil {
		m.t.Fatal(err)
	}
}

// status waits for the next status that is not one of those to skip.
func (m *master) status(skip ...wire.State) wire.Status {
	m.t.Helper()
	for {
		line := m.line("status")
		e, err := wire.Parse([]byte(line))
		if err != nil || e.Opcode != wire.StatusReport {
			m.t.Fatalf("not a status: %.500s, %v", line, err)
		}
		st, err := wire.ParseStatus(e.Data)
		if err != nil {
			m.t.Fatal(err)
		}
		if !slices.Contains(skip, st.State) {
			return st
		}
	}
}

// sequence wants the next statuses, each of which may be said more than once.
func (m *master) sequence(states ...wire.State) wire.Status {
	m.t.Helper()
	var before wire.State
	var last wire.Status
	for _, want := range states {
		last = m.status(before)
		if last.State != want {
			m.t.Fatalf("status %s, want %s of %s: %+v", last.State, want, states, last)
		}
		before = want
	}
	return last
}

// until waits for a status that is as wanted.
func (m *master) until(what string, ok func(wire.Status) bool) wire.Status {
	m.t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if st := m.status(); ok(st) {
			return st
		}
	}
	m.t.Fatalf("no status that is %s", what)
	return wire.Status{}
}

// apps is a host of apps without any: what is installed is a table. What has a name
// that begins with "bad" cannot be installed.
type apps struct {
	mu    sync.Mutex
	list  map[string]app.State
	takes time.Duration
}

func (a *apps) Installed(context.Context) ([]app.State, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.list)), nil
}

func (a *apps) Install(ctx context.Context, spec app.Spec, _ progress.Func) error {
	if strings.HasPrefix(spec.Name, "bad") {
		return fmt.Errorf("app %s: no such package", spec.Name)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(a.takes):
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list[spec.Name] = app.State{Name: spec.Name, Version: spec.Version, URL: spec.URL, Config: spec.Config, Running: spec.Running, Services: spec.Services}
	return nil
}

func (a *apps) Remove(_ context.Context, name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.list, name)
	return nil
}

func (a *apps) Configure(_ context.Context, name string, config json.RawMessage) error {
	return a.edit(name, func(st *app.State) { st.Config = config })
}

func (a *apps) Set(_ context.Context, name string, running bool, services map[string]bool) error {
	return a.edit(name, func(st *app.State) { st.Running, st.Services = running, services })
}

func (a *apps) edit(name string, change func(*app.State)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	st := a.list[name]
	change(&st)
	a.list[name] = st
	return nil
}

// slave is a slave of ours behind a broker.
type slave struct {
	*apps
	session *broker.Session
	log     *testlog.Buffer
	stop    func()
}

func newSlave(t *testing.T, url string, dialect broker.Choice) *slave {
	t.Helper()
	s := &slave{apps: &apps{list: map[string]app.State{}}, log: &testlog.Buffer{}}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	var err error
	s.session, err = broker.New(broker.Config{
		URL: url, Dialect: dialect, HostID: hostID, MAC: mac, Log: log,
		Recheck: 200 * time.Millisecond, MaxPause: 500 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	core, err := backbone.New(backbone.Config{
		Apps: s.apps, Transports: []backbone.Transport{s.session}, Version: "teeth-agent/test", Log: log,
		Info:      wire.Info{Hostname: "h", OSFamily: "Linux", Arch: "x86_64", OSInfo: "Teeth"},
		Heartbeat: time.Hour, MaxAttempts: 3, RetryMin: 200 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.session.Run(ctx) })
	wg.Go(func() { core.Run(ctx) })
	s.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("slave:\n%s", s.log.String())
		}
	})
	return s
}

// sweep removes what a test has left at the broker.
func sweep(t *testing.T, b *rabbitmqtest.Broker) {
	t.Helper()
	ch, done := b.Channel()
	defer done()
	for _, queue := range []string{wire.SlaveQueue(hostID), wire.SlaveQueue(mac), wire.MasterQueue("test")} {
		if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := ch.ExchangeDelete(wire.Exchange, false, false); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
