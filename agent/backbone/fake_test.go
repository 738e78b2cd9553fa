package backbone

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teeth-metal/teeth/app"
	"github.com/teeth-metal/teeth/progress"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// host is a host of apps without any: what is installed is a table. It holds that
// nobody asks for two things at once.
type host struct {
	t *testing.T

	mu      sync.Mutex
	apps    map[string]app.State
	did     []string
	busy    bool
	takes   time.Duration                 // an installation
	fail    func(what, name string) error // may be nil
	forget  bool                          // configure reports success and does nothing
	missing error                         // of Installed
	panics  string                        // app
	read    func(st app.State) app.State  // changes what is seen; may be nil
	hook    func(what, name string)       // before it is done
}

func newHost(t *testing.T, names ...string) *host {
	h := &host{t: t, apps: map[string]app.State{}}
	for _, name := range names {
		h.apps[name] = app.State{Name: name, Version: "0", Config: json.RawMessage(`{}`)}
	}
	return h
}

func (h *host) begin(what, name string) (end func(), err error) {
	h.mu.Lock()
	if h.busy {
		h.t.Errorf("%s %s while something else goes on", what, name)
	}
	h.busy = true
	h.did = append(h.did, what+" "+name)
	if h.fail != nil {
		err = h.fail(what, name)
	}
	hook, boom := h.hook, h.panics == name
	h.mu.Unlock()
	if hook != nil {
		hook(what, name)
	}
	end = func() {
		h.mu.Lock()
		h.busy = false
		h.mu.Unlock()
	}
	if boom {
		end()
		panic("an app's fault")
	}
	return end, err
}

func (h *host) Installed(context.Context) ([]app.State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.panics == "all" {
		panic("a fault of all")
	}
	var out []app.State
	for _, name := range slices.Sorted(maps.Keys(h.apps)) {
		st := h.apps[name]
		if h.read != nil {
			st = h.read(st)
		}
		out = append(out, st)
	}
	return out, h.missing
}

func (h *host) Install(ctx context.Context, spec app.Spec, report progress.Func) error {
	end, err := h.begin("install", spec.Name+" "+spec.Version)
	defer end()
	if err != nil {
		return err
	}
	const parts = 10
	for i := range parts {
		select {
		case <-time.After(h.takes / parts):
		case <-ctx.Done():
			return fmt.Errorf("app %s: %w", spec.Name, context.Cause(ctx))
		}
		report.Report(int64(i+1)*100, parts*100)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.apps[spec.Name] = app.State{
		Name: spec.Name, Version: spec.Version, URL: spec.URL, Digest: spec.Digest, Config: spec.Config, ConfigSet: spec.Config, Running: spec.Running, Services: maps.Clone(spec.Services),
	}
	return nil
}

func (h *host) Remove(_ context.Context, name string) error {
	end, err := h.begin("remove", name)
	defer end()
	if err == nil {
		h.mu.Lock()
		delete(h.apps, name)
		h.mu.Unlock()
	}
	return err
}

func (h *host) Configure(_ context.Context, name string, config json.RawMessage) error {
	end, err := h.begin("configure", name)
	defer end()
	return h.edit(name, err, func(st *app.State) {
		st.ConfigSet = config
		if !h.forget {
			st.Config = config
		}
	})
}

func (h *host) Set(_ context.Context, name string, running bool, services map[string]bool) error {
	end, err := h.begin("set", name)
	defer end()
	return h.edit(name, err, func(st *app.State) {
		st.Running = running
		if services != nil {
			st.Services = maps.Clone(services)
		}
	})
}

func (h *host) edit(name string, err error, change func(*app.State)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	st, ok := h.apps[name]
	if err != nil || !ok {
		return err
	}
	change(&st)
	h.apps[name] = st
	return nil
}

func (h *host) change(what func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	what()
}

func (h *host) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.did)
}

// done returns what was done since it was asked last.
func (h *host) done() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	did := h.did
	h.did = nil
	return did
}

// line is a transport whose other end is the test.
type line struct {
	in      chan wire.Envelope
	up      chan struct{}
	id      string
	dialect wire.Dialect

	mu    sync.Mutex
	sent  []wire.Status
	other []wire.Envelope
	on    func(wire.Status) // called for every status; may be nil
	names []string
}

func newLine(d wire.Dialect) *line {
	return &line{in: make(chan wire.Envelope, 100), up: make(chan struct{}, 1), id: "host-1", dialect: d}
}

func (l *line) Receive() <-chan wire.Envelope          { return l.in }
func (l *line) Up() <-chan struct{}                    { return l.up }
func (l *line) Identity() (string, wire.Dialect, bool) { return l.id, l.dialect, true }
func (l *line) MaxMessage() int                        { return wire.MaxBody }
func (l *line) Installed(names []string)               { l.mu.Lock(); l.names = names; l.mu.Unlock() }
func (l *line) Send(_ context.Context, e wire.Envelope) error {
	body, err := e.Append(nil)
	if err != nil {
		return err
	}
	if e, err = wire.Parse(body); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Opcode != wire.StatusReport {
		l.other = append(l.other, e)
		return nil
	}
	st, err := wire.ParseStatus(e.Data)
	if err != nil {
		return err
	}
	l.sent = append(l.sent, st)
	if l.on != nil {
		l.on(st)
	}
	return nil
}

// statuses returns those that were sent since it was asked last.
func (l *line) statuses() []wire.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	sent := l.sent
	l.sent = nil
	return sent
}

func words(list []wire.Status) string {
	var w []string
	for _, st := range list {
		w = append(w, string(st.State))
	}
	return strings.Join(w, " ")
}

// rig is a slave with a host and a master that are the test's, in a bubble of time.
type rig struct {
	*testing.T
	*host
	*line
	s    *Slave
	c    Config
	stop func()
}

// start starts a slave; change may be nil.
func start(t *testing.T, h *host, l *line, change func(*Config)) *rig {
	t.Helper()
	c := Config{
		Apps: h, Transports: []Transport{l}, Version: "teeth-agent/test", Info: wire.Info{Hostname: "h", OSFamily: "Linux"}, OS: "ubuntu_22.04",
		Log: slog.New(slog.DiscardHandler),
		Variables: func() wire.Variables {
			return wire.Variables{Host: "broker", Protocol: "http", Port: "9080"}
		},
	}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	r := &rig{T: t, host: h, line: l, s: s, c: c}
	r.stop = func() { cancel(); <-ended }
	synctest.Wait()
	return r
}

// tell sends a set_config, as JSON with ' for ".
func (r *rig) tell(apps string) {
	r.Helper()
	r.line.in <- wire.Envelope{Opcode: wire.SetConfig, Data: json.RawMessage(strings.ReplaceAll(apps, "'", `"`))}
	synctest.Wait()
}

func (r *rig) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// want compares the states told since the last call.
func (r *rig) want(states string) []wire.Status {
	r.Helper()
	synctest.Wait()
	list := r.statuses()
	if got := words(list); got != states {
		r.Errorf("statuses %q, want %q", got, states)
	}
	return list
}

func (r *rig) wantDone(actions ...string) {
	r.Helper()
	if got := r.done(); !slices.Equal(got, actions) {
		r.Errorf("done: %q, want %q", got, actions)
	}
}

// bubble runs a test in time of its own.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func report(t *testing.T, st wire.Status) wire.Report {
	t.Helper()
	r, err := st.Report()
	if err != nil || r == nil {
		t.Fatalf("status without report: %v", err)
	}
	return *r
}

const web = `{'web': {'version': '1', 'url': 'http://h/web-1.deb', 'running': true, 'config': {'a': {'x': 1}}}}`
