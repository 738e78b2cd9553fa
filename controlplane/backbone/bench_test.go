package backbone

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// herd is slaves in this process, each with a queue of its own on one connection, that
// do what they are told at once. It is of the dialect of 2015 with the queues declared.
type herd struct {
	t    testing.TB
	conn *amqp.Connection
	send *amqp.Channel

	ids []string

	mu    sync.Mutex
	apps  map[string]map[string]wire.App
	told  map[string]int
	stuck bool // they say converging, and do nothing
}

func newHerd(t testing.TB, url string, n int) *herd {
	t.Helper()
	h := &herd{t: t, apps: map[string]map[string]wire.App{}, told: map[string]int{}}
	var err error
	if h.conn, err = amqp.Dial(url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.conn.Close() })
	if h.send, err = h.conn.Channel(); err != nil {
		t.Fatal(err)
	}
	ch, err := h.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.ExchangeDeclare(wire.Exchange, "direct", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	// One queue each, as slaves have; one consumer each.
	for i := range n {
		id := fmt.Sprintf("host-%04d", i)
		h.ids = append(h.ids, id)
		h.mu.Lock()
		h.apps[id] = map[string]wire.App{}
		h.mu.Unlock()
		if _, err := ch.QueueDeclare(wire.SlaveQueue(id), false, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{wire.KeySlaves, id} {
			if err := ch.QueueBind(wire.SlaveQueue(id), key, wire.Exchange, false, nil); err != nil {
				t.Fatal(err)
			}
		}
		got, err := ch.Consume(wire.SlaveQueue(id), "", true, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for d := range got {
				h.take(id, d.Body)
			}
		}()
	}
	return h
}

func (h *herd) take(id string, body []byte) {
	e, err := wire.Parse(body)
	if err != nil {
		h.t.Error(err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.Opcode == wire.SetConfig {
		h.told[id]++
		apps, err := wire.ParseApps(e.Data)
		if err != nil {
			h.t.Error(err)
			return
		}
		h.say(id, wire.StateConverging, apps)
		if h.stuck {
			return
		}
		h.apps[id] = apps
	}
	h.say(id, wire.StateOK, nil)
}

// say publishes a status. h.mu is held.
func (h *herd) say(id string, state wire.State, desired map[string]wire.App) {
	e, err := wire.NewStatus(wire.Status{
		HostID: id, State: state, Apps: h.apps[id], DesiredApps: desired, HostAgent: wire.HostAgent{Status: "running", Version: "1"}, Timestamp: wire.FormatTime(time.Now()),
		Info: &wire.Info{Hostname: id, OSFamily: "Linux", Arch: "x86_64", OSInfo: "Debian GNU/Linux 12 bookworm", CPUInfo: json.RawMessage(`{"cpu_sockets":2,"cpu_cores":32}`)},
	})
	if err != nil {
		h.t.Error(err)
		return
	}
	body, err := e.Append(nil)
	if err == nil {
		err = h.send.PublishWithContext(context.Background(), wire.Exchange, wire.KeyMaster, false, false, amqp.Publishing{Body: body})
	}
	if err != nil {
		h.t.Error(err)
	}
}

// heard has all say something, and waits until the master knows all.
func (h *herd) heard(t testing.TB, m *running) {
	t.Helper()
	h.mu.Lock()
	for _, id := range h.ids {
		h.say(id, wire.StateOK, nil)
	}
	h.mu.Unlock()
	n := 0
	until(t, "all are heard", func() (bool, string) {
		for ; n < len(h.ids); n++ {
			if _, err := m.c.Store.AppHost(context.Background(), h.ids[n]); err != nil {
				return false, err.Error()
			}
		}
		return true, ""
	})
}

// desireAll wants a version of an app of all.
func (h *herd) desireAll(t testing.TB, m *running, version string) {
	want := apps(t, fmt.Sprintf(`{"web":{"version":%q,"url":"http://files/web.deb","running":true,"config":{"default":{"x":3,"y":2}}}}`, version))
	var wg sync.WaitGroup
	ids := make(chan string)
	for range 16 {
		wg.Go(func() {
			for id := range ids {
				if _, err := m.Change(context.Background(), id, Change{Set: want, By: "test"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, id := range h.ids {
		ids <- id
	}
	close(ids)
	wg.Wait()
}

// converged waits until all hosts are as desired.
func converged(t testing.TB, m *running) {
	t.Helper()
	until(t, "all hosts are as desired", func() (bool, string) {
		left, err := m.c.Store.AppHostsUnsettled(context.Background())
		return err == nil && len(left) == 0, fmt.Sprintf("%d are not; %v", len(left), err)
	})
}

// BenchmarkConverge has one master, one RabbitMQ and 1,000 slaves: an operation is a
// change of the apps of all of them, through to the last status that says it is done.
func BenchmarkConverge(b *testing.B) {
	const hosts = 1000
	broker := rabbitmqtest.Start(b)
	m := startMaster(b, Config{Store: newStore(b), Broker: brokerAt(broker.URL())})
	m.connected(b)
	h := newHerd(b, broker.URL(), hosts)
	h.heard(b, m)
	for i := 0; b.Loop(); i++ {
		h.desireAll(b, m, fmt.Sprintf("1.%d", i))
		converged(b, m)
	}
	b.ReportMetric(float64(b.Elapsed().Seconds())/float64(b.N), "s/change-of-1000")
}

// thousandHosts changes what is desired of 1,000 hosts again and again: each is told
// little more than once for each change, and not at all while it is working. Under the
// race detector, which makes the database twenty times slower, there are fewer.
func thousandHosts(t *testing.T, broker *rabbitmqtest.Broker) {
	hosts := 1000
	if underRace {
		hosts = 200
	}
	m := startMaster(t, Config{Store: newStore(t), Broker: brokerAt(broker.URL()), Rate: 1000, Retry: time.Second})
	m.connected(t)
	h := newHerd(t, broker.URL(), hosts)
	h.heard(t, m)
	for i := range 3 {
		h.desireAll(t, m, fmt.Sprint(i))
	}
	converged(t, m)
	total := func() (n int) {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, told := range h.told {
			n += told
		}
		return n
	}
	if n := total(); n > 4*hosts {
		t.Errorf("%d messages told %d hosts of 3 changes", n, hosts)
	}
	// They work for long, and say so again and again: nobody is told twice.
	h.mu.Lock()
	h.stuck, h.told = true, map[string]int{}
	h.mu.Unlock()
	h.desireAll(t, m, "long")
	until(t, "all are told", func() (bool, string) { n := total(); return n >= hosts, fmt.Sprint(n) })
	want := apps(t, `{"web":{"version":"long","url":"http://files/web.deb","running":true,"config":{"default":{"x":3,"y":2}}}}`)
	for range 3 {
		h.mu.Lock()
		for _, id := range h.ids {
			h.say(id, wire.StateConverging, want)
		}
		h.mu.Unlock()
		time.Sleep(time.Second)
	}
	if n := total(); n != hosts {
		t.Errorf("%d messages to %d hosts that are working", n, hosts)
	}
}
