package backbone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	wire "github.com/teeth-metal/teeth/wire/backbone"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// chassis is an agent that keeps apps, seen from its session.
type chassis struct {
	id, boot string

	mu       sync.Mutex
	m        *running // of the server that it is connected to
	apps     map[string]wire.App
	revision int64
	sequence int64
	calls    []string
	away     bool
	refuse   string // why it takes nothing
}

func newChassis(t testing.TB, s *store.Store, mac string) *chassis {
	t.Helper()
	in, err := s.Connect(t.Context(), store.Session{ID: mac, Handshake: teeth.Handshake{ID: mac, MACs: []string{mac}, Version: "1", BootID: "b1", UUID: "4c4c4544-0043-3010-8052-b4c04f56423" + mac[len(mac)-1:]}})
	if err != nil {
		t.Fatal(err)
	}
	return &chassis{id: in.ID, boot: "b1", apps: map[string]wire.App{}}
}

// Call implements Session.
func (c *chassis) Call(_ context.Context, method string, params any) (json.RawMessage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, method)
	if c.away {
		return nil, errors.New("not connected")
	}
	if p, ok := params.(teeth.AppParams); ok && method == teeth.MethodAppConfig && c.refuse == "" {
		apps, err := wire.ParseApps(p.Data)
		if err != nil {
			return nil, &teeth.MethodError{Msg: err.Error()}
		}
		c.apps, c.revision = apps, p.Revision
	}
	refused := int64(0)
	if c.refuse != "" {
		refused = params.(teeth.AppParams).Revision
	}
	go c.say(refused)
	return json.RawMessage(`{}`), nil
}

// say sends a status.
func (c *chassis) say(refused int64) error {
	c.mu.Lock()
	c.sequence++
	code := 3
	st := wire.Status{HostID: c.id, State: wire.StateOK, Apps: c.apps, HostAgent: wire.HostAgent{Status: "running", Version: "0.9"}}
	r := wire.Report{BootID: c.boot, Sequence: c.sequence, Revision: c.revision, Apps: map[string]wire.AppReport{"web": {ExitCode: &code, Restarts: 2}}}
	if refused != 0 {
		r.Refused = &wire.Refusal{Revision: refused, Reason: c.refuse}
	}
	m := c.m
	c.mu.Unlock()
	if err := st.SetReport(r); err != nil {
		return err
	}
	e, err := wire.NewStatus(st)
	if err != nil {
		return err
	}
	return m.Status(context.Background(), c.id, e.Data)
}

func (c *chassis) on(m *running) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m = m
}

func (c *chassis) told() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// TestSession keeps a chassis' apps without any broker.
func TestSession(t *testing.T) {
	s := newStore(t)
	c := newChassis(t, s, "52:54:00:00:00:01")
	sessions := func(id string) (Session, bool) { return c, id == c.id }
	m := startMaster(t, Config{Store: s, Session: sessions})
	c.on(m)
	// What is wanted of a chassis that has said nothing yet waits.
	m.set(t, "52:54:00:00:00:01", Change{Put: apps(t, `{"web":{"version":"1","url":"http://h/w.deb","config":{},"limits":{"memory":16777216}}}`)})
	if h := m.is(t, c.id, "missing", func(h Host) bool { return h.State == StateMissing && h.Desired }); h.Chassis != c.id || c.told() > 0 {
		t.Errorf("%+v", h)
	}
	if err := c.say(0); err != nil {
		t.Fatal(err)
	}
	h := m.is(t, c.id[:8], "as desired", settled)
	if a := h.Apps[0]; h.Transport != "session" || a.State != "ok" || *a.ExitCode != 3 || a.Restarts != 2 || h.Agent != "0.9" {
		t.Errorf("%+v", h)
	}
	// Its limits are no part of what it says it has; they are told all the same.
	m.set(t, c.id, Change{Put: apps(t, `{"web":{"version":"1","url":"http://h/w.deb","config":{},"limits":{"memory":33554432}}}`)})
	m.is(t, c.id, "as desired, with another limit", settled)
	if n := c.told(); n != 2 {
		t.Errorf("told %d times", n)
	}
	c.mu.Lock()
	c.refuse = "app web: version: there is none such"
	c.mu.Unlock()
	m.set(t, c.id, Change{Put: apps(t, `{"web":{"version":"9","url":"http://h/w.deb","config":{}}}`)})
	if h := m.is(t, c.id, "refused", func(h Host) bool { return h.State == StateRefused }); h.Reason != c.refuse || h.Apps[0].State != "differs" {
		t.Errorf("%+v", h)
	}
	before := c.told()
	for range 3 {
		c.mu.Lock()
		refused := c.revision
		c.mu.Unlock()
		if err := c.say(refused + 1); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.told(); n > before+1 {
		t.Errorf("told %d times what it refuses", n-before)
	}
	// A chassis that is forgotten leaves nothing behind.
	if err := m.Forget(t.Context(), c.id); err != nil {
		t.Fatal(err)
	}
	m.is(t, c.id, "left alone", func(h Host) bool { return !h.Desired && len(h.Apps) == 1 })
	if err := m.Status(t.Context(), c.id, json.RawMessage(`{"host_id":"`+c.id+`"}`)); err == nil {
		t.Error("a malformed status is taken")
	}
}

// TestSessionOfAnotherServer leaves a chassis to the server that it is connected to.
func TestSessionOfAnotherServer(t *testing.T) {
	s := newStore(t)
	c := newChassis(t, s, "52:54:00:00:00:02")
	away := startMaster(t, Config{Store: s})
	c.on(away)
	if err := c.say(0); err != nil {
		t.Fatal(err)
	}
	away.set(t, c.id, Change{Put: apps(t, `{"web":{"version":"1","url":"http://h/w.deb","config":{}}}`)})
	if h := away.is(t, c.id, "there", func(Host) bool { return true }); h.Settled || h.Sent != nil || h.Error != "" {
		t.Errorf("%+v", h)
	}
	// The other one hears of it from the store.
	here := startMaster(t, Config{Store: s, Session: func(id string) (Session, bool) { return c, id == c.id }})
	c.on(here)
	here.is(t, c.id, "as desired", settled)
	away.set(t, c.id, Change{Remove: []string{"web"}})
	here.is(t, c.id, "as desired without apps", func(h Host) bool { return settled(h) && len(h.Apps) == 0 })
}

// TestChange has what operators get wrong.
func TestChange(t *testing.T) {
	s := newStore(t)
	m := startMaster(t, Config{Store: s})
	c := newChassis(t, s, "52:54:00:00:00:03")
	c.on(m)
	large := func(n int) string {
		return fmt.Sprintf(`{"a":{"version":"1","url":"http://h/a","config":{"x":%q}}}`, strings.Repeat("x", n))
	}
	for _, tt := range []struct {
		ref  string
		c    Change
		want error
		says string
	}{
		{"nobody", Change{Set: map[string]wire.App{}}, store.ErrNotFound, "is no chassis"},
		{strings.Repeat("h", 246), Change{Set: map[string]wire.App{}, Unseen: true}, store.ErrInvalid, "the most is 245"},
		{"slaves", Change{Set: map[string]wire.App{}, Unseen: true}, store.ErrInvalid, "routing key of others"},
		{c.id, Change{Remove: []string{"web"}}, store.ErrNotFound, "no app"},
		{c.id, Change{Put: map[string]wire.App{"web": {Version: "1"}}}, store.ErrInvalid, "app web: config is missing"},
		{"new-host", Change{Set: apps(t, large(wire.MaxBody-1000)), Unseen: true}, store.ErrInvalid, "bytes, the most is"},
	} {
		if _, err := m.Change(t.Context(), tt.ref, tt.c); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%.20s: %v; want %q", tt.ref, err, tt.says)
		}
	}
	// Over a session there is less room.
	if err := c.say(0); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Change(t.Context(), c.id, Change{Set: apps(t, large(teeth.MaxLine))}); !errors.Is(err, store.ErrInvalid) {
		t.Error(err)
	}
}

// TestChangedMeanwhile has two operators who change one app at the same time: the second
// is told, rather than undoing what the first did.
func TestChangedMeanwhile(t *testing.T) {
	s := newStore(t)
	c := newChassis(t, s, "52:54:00:00:00:06")
	m := startMaster(t, Config{Store: s})
	put := func(version string, revision int64) (Host, error) {
		return m.Change(t.Context(), c.id, Change{Put: apps(t, `{"web":{"version":"`+version+`","url":"http://h/w.deb","config":{}}}`), Revision: revision, By: "ada"})
	}
	h, err := put("1", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := put("2", h.Revision); err != nil {
		t.Fatal(err)
	}
	if _, err := put("3", h.Revision); !errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), "ada") {
		t.Error(err)
	}
	if h, err := m.Host(t.Context(), c.id); err != nil || h.Apps[0].DesiredVersion != "2" {
		t.Errorf("%+v, %v", h, err)
	}
}

// TestBecomesChassis has a host that turns out to be a chassis: what is desired of it goes
// with it.
func TestBecomesChassis(t *testing.T) {
	s := newStore(t)
	m := startMaster(t, Config{Store: s})
	const mac = "52:54:00:00:00:04"
	host := strings.ToUpper(mac)
	m.set(t, host, Change{Put: apps(t, `{"web":{"version":"1","url":"http://h/w.deb","config":{}}}`), Unseen: true})
	c := newChassis(t, s, mac)
	id, err := m.known.chassis(t.Context(), s, host)
	if err != nil || id != c.id {
		t.Fatalf("%q is chassis %q, %v", host, id, err)
	}
	in, err := m.read(json.RawMessage(fmt.Sprintf(`{"host_id":%q,"status":"ok","apps":{}}`, host)), viaAMQP)
	if err != nil {
		t.Fatal(err)
	}
	in.id = store.AppStatus{Host: host, Chassis: id}
	if err := m.store(t.Context(), []incoming{in}); err != nil {
		t.Fatal(err)
	}
	h := m.is(t, c.id, "with what was desired", func(h Host) bool { return h.Desired })
	if h.Host != host || len(h.Apps) != 1 {
		t.Errorf("%+v", h)
	}
	if all, err := m.List(t.Context(), "", 10); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
}

// TestImpostor has somebody at the broker who says that he is a chassis which is heard over
// its session: he neither makes its apps look otherwise, nor is he told what is desired of
// it, which may hold secrets.
func TestImpostor(t *testing.T) {
	for _, tt := range []struct {
		name  string
		given bool          // agents are given the broker
		later time.Duration // than the chassis was heard
		taken bool
	}{
		{"connected", false, time.Minute, false},
		{"away for long", false, 5 * time.Minute, true},
		{"may have changed to the broker", true, time.Minute, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			c := newChassis(t, s, "52:54:00:00:00:05")
			m := startMaster(t, Config{Store: s, Session: func(id string) (Session, bool) { return c, id == c.id }, AgentsOnBroker: tt.given})
			c.on(m)
			if err := c.say(0); err != nil {
				t.Fatal(err)
			}
			in, err := m.read(json.RawMessage(fmt.Sprintf(`{"host_id":%q,"status":"failed","apps":{}}`, c.id)), viaAMQP)
			if err != nil {
				t.Fatal(err)
			}
			in.id, in.at = store.AppStatus{Host: c.id, Chassis: c.id}, in.at.Add(tt.later)
			if err := m.store(t.Context(), []incoming{in}); err != nil {
				t.Fatal(err)
			}
			h := m.is(t, c.id, "there", func(Host) bool { return true })
			if taken := h.State == "failed" && h.Transport == viaAMQP; taken != tt.taken {
				t.Errorf("%+v", h)
			}
		})
	}
}
