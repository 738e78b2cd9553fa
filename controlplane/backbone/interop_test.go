package backbone

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	slave "github.com/teeth-metal/teeth/agent/backbone"
	amqpslave "github.com/teeth-metal/teeth/agent/backbone/broker"
	"github.com/teeth-metal/teeth/app"
	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
	"github.com/teeth-metal/teeth/internal/testlog"
	"github.com/teeth-metal/teeth/progress"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// table is a host's apps without any: what is installed is in memory. An app named bad
// cannot be installed.
type table struct {
	mu   sync.Mutex
	apps map[string]app.State
}

func (h *table) Installed(context.Context) ([]app.State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []app.State
	for _, name := range slices.Sorted(maps.Keys(h.apps)) {
		all = append(all, h.apps[name])
	}
	return all, nil
}

func (h *table) change(name string, do func(*app.State)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if name == "bad" {
		return errors.New("its package is broken")
	}
	st := h.apps[name]
	do(&st)
	h.apps[name] = st
	return nil
}

func (h *table) Install(_ context.Context, spec app.Spec, _ progress.Func) error {
	return h.change(spec.Name, func(st *app.State) {
		*st = app.State{Name: spec.Name, Version: spec.Version, URL: spec.URL, Config: spec.Config, Running: spec.Running, Services: spec.Services}
	})
}

func (h *table) Remove(_ context.Context, name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.apps, name)
	return nil
}

func (h *table) Configure(_ context.Context, name string, config json.RawMessage) error {
	return h.change(name, func(st *app.State) { st.Config = config })
}

func (h *table) Set(_ context.Context, name string, running bool, services map[string]bool) error {
	return h.change(name, func(st *app.State) { st.Running, st.Services = running, services })
}

// ourSlave is the slave of our agents, in each dialect.
func ourSlave(t *testing.T, broker *rabbitmqtest.Broker) {
	m := startMaster(t, Config{Store: newStore(t), Broker: brokerAt(broker.URL())})
	m.connected(t)
	for name, dialect := range map[string]amqpslave.Choice{"auto": amqpslave.Auto, "document": amqpslave.Document, "2014": amqpslave.Retrying, "2015": amqpslave.MasterDeclared} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := "ours-" + name
			log := &testlog.Buffer{}
			logger := slog.New(slog.NewTextHandler(log, nil))
			session, err := amqpslave.New(amqpslave.Config{URL: broker.URL(), Dialect: dialect, HostID: host, Log: logger, Recheck: time.Second, MaxPause: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			s, err := slave.New(slave.Config{
				Apps: &table{apps: map[string]app.State{}}, Transports: []slave.Transport{session}, Version: "test", Log: logger,
				Info: wire.Info{Hostname: host}, Heartbeat: time.Second, RetryMin: 100 * time.Millisecond, RetryMax: 200 * time.Millisecond, MaxAttempts: 3,
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			var parts sync.WaitGroup
			parts.Go(func() { session.Run(ctx) })
			parts.Go(func() { s.Run(ctx) })
			t.Cleanup(func() {
				cancel()
				parts.Wait()
				if t.Failed() {
					t.Logf("slave's log:\n%s", log)
				}
			})
			m.is(t, host, "heard", func(h Host) bool { return h.State == "ok" && h.Responding && (h.Agent == "test" || name == "document") })
			m.set(t, host, Change{Put: apps(t, `{"web":{"version":"1","url":"http://h/w.deb","running":true,"config":{"x":{"list":[1,null]}},"limits":{"memory":16777216}}}`)})
			h := m.is(t, host, "as desired", settled)
			if len(h.Apps) != 1 || h.Apps[0].State != "ok" || !*h.Apps[0].Running {
				t.Errorf("%+v", h)
			}
			m.set(t, host, Change{Put: apps(t, `{"bad":{"version":"1","url":"http://h/b.deb","config":{}}}`)})
			m.is(t, host, "given up on a broken package", func(h Host) bool { return h.State == "failed" || h.State == "errors" })
			m.set(t, host, Change{Remove: []string{"bad"}})
			m.is(t, host, "as desired again", settled)
			m.set(t, host, Change{Set: map[string]wire.App{}})
			m.is(t, host, "as desired without apps", func(h Host) bool { return settled(h) && len(h.Apps) == 0 })
			if err := m.Ping(t.Context(), host); err != nil {
				t.Error(err)
			}
		})
	}
}
