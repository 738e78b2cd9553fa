package backbone

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// TestBroker has peers in another language, of another AMQP library, on a real broker,
// which all its parts share: to start one takes longer than most of them.
func TestBroker(t *testing.T) {
	broker := rabbitmqtest.Start(t)
	t.Run("Together", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *rabbitmqtest.Broker){
			"Document": documentSlave, "2014": slaveOf2014, "2015": slaveOf2015, "NeverSeen": neverSeen, "ClockBehind": clockBehind,
			"OriginalMaster": originalMaster, "Hostile": hostileMessages, "QueueDeclaredOtherwise": queueDeclaredOtherwise,
			"ACL": userOfTheRealDeployment, "OurSlave": ourSlave,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, broker)
			})
		}
	})
	t.Run("ThousandHosts", func(t *testing.T) { thousandHosts(t, broker) })
	t.Run("TwoServers", func(t *testing.T) { twoServers(t, broker) })
	t.Run("Killed", func(t *testing.T) { brokerKilled(t, broker) })
}

func run(t *testing.T, broker *rabbitmqtest.Broker) *running {
	m := startMaster(t, Config{Store: newStore(t), Broker: brokerAt(broker.URL()), Retry: 2 * time.Second})
	m.connected(t)
	return m
}

func (r *running) set(t *testing.T, host string, c Change) {
	t.Helper()
	c.By = "test"
	if _, err := r.Change(t.Context(), host, c); err != nil {
		t.Fatal(err)
	}
}

// The published document's slave has a queue of its own, and is a host by its MAC address.
func documentSlave(t *testing.T, broker *rabbitmqtest.Broker) {
	const host = "00:50:56:A9:0B:BD"
	m := run(t, broker)
	s := startPeer(t, "slave.py", broker.URL(), "document", host)
	m.is(t, host, "heard", func(h Host) bool { return h.State == "ok" && h.Responding && !h.Desired })
	m.set(t, host, Change{Set: apps(t, `{"app_foo":{"version":"1.8","url":"http://www.foo.com/ostackhost-1.0.rpm","running":true,"config":{"default":{"x":3,"y":2},"backup":{"x":3,"y":5}}}}`)})
	h := m.is(t, host, "as desired", settled)
	if len(h.Apps) != 1 || h.Apps[0].Version != "1.8" || h.Apps[0].State != "ok" || h.Transport != "amqp" || h.Hostname != "host-"+host {
		t.Errorf("%+v", h)
	}
	if n := s.count("set_config"); n != 1 {
		t.Errorf("it was told %d times", n)
	}
	m.set(t, host, Change{Put: apps(t, `{"bad":{"version":"1","url":"http://h/bad.rpm","config":{}}}`)})
	m.is(t, host, "errors", func(h Host) bool { return h.State == "errors" && !h.Settled })
	// The original tells such a slave again; so do we, after a pause.
	until(t, "it is told again", func() (bool, string) { n := s.count("set_config"); return n >= 3, fmt.Sprint(n) })
	m.set(t, host, Change{Remove: []string{"bad", "app_foo"}})
	m.is(t, host, "as desired without apps", func(h Host) bool { return settled(h) && len(h.Apps) == 0 })
	// Nobody but it has a queue bound to its name.
	if queues := broker.Ctl("list_queues", "name"); strings.Contains(queues, wire.SlaveQueue(host)) {
		t.Errorf("a queue was declared for a slave that has one:\n%s", queues)
	}
	s.stop()
	until(t, "the exchange takes no message for it", func() (bool, string) {
		err := m.Ping(t.Context(), host)
		return errors.Is(err, errUnrouted), fmt.Sprint(err)
	})
	// It is away: what is desired waits, and nothing is declared for it.
	m.set(t, host, Change{Put: apps(t, `{"late":{"version":"1","url":"http://h/l.rpm","config":{}}}`)})
	m.is(t, host, "not reached", func(h Host) bool { return strings.Contains(h.Error, "has a queue of its own, and is away") })
	startPeer(t, "slave.py", broker.URL(), "document", host)
	m.is(t, host, "told when it is back", settled)
}

func slaveOf2014(t *testing.T, broker *rabbitmqtest.Broker) {
	const host = "9a1e9a3e-0000-4000-8000-000000002014"
	m := run(t, broker)
	s := startPeer(t, "slave.py", broker.URL(), "2014", host)
	m.is(t, host, "heard", func(h Host) bool { return h.State == "ok" && h.Agent == "1.0-2014" })
	m.set(t, host, Change{Set: apps(t, `{"bad":{"version":"1","url":"http://h/bad.rpm","config":{}},"good":{"version":"1","url":"http://h/g.rpm","config":{}}}`)})
	m.is(t, host, "retrying", func(h Host) bool { return h.State == "retrying" })
	m.is(t, host, "failed", func(h Host) bool { return h.State == "failed" && h.Responding })
	if n := s.count("set_config"); n != 1 {
		t.Errorf("it was told %d times while it was working on it", n)
	}
	m.set(t, host, Change{Remove: []string{"bad"}})
	m.is(t, host, "as desired", settled)
}

// The slave of 2015 declares nothing, and waits until a master has declared its queue.
func slaveOf2015(t *testing.T, broker *rabbitmqtest.Broker) {
	const host = "9a1e9a3e-0000-4000-8000-000000002015"
	m := run(t, broker)
	s := startPeer(t, "slave.py", broker.URL(), "2015", host)
	m.is(t, host, "heard", func(h Host) bool { return h.State == "ok" && h.Timestamp != nil })
	s.saw("it waits for its queue", func(l map[string]any) bool { return l["waiting"] == true })
	m.set(t, host, Change{Set: apps(t, `{"pf9-muster":{"version":"2","service_states":{"a":true,"b":false},"rank":"1.5","config":{"x":{"list":[1,2]}},"pkginfo":{"baseurl":"http://h","filenames_by_os":{"centos.*":"m.rpm"}}}}`)})
	h := m.is(t, host, "as desired", settled)
	if len(h.Apps[0].Services) != 2 || h.Status == nil || h.DesiredApps == nil {
		t.Errorf("%+v", h)
	}
	queues := broker.Ctl("list_queues", "name", "durable", "auto_delete", "exclusive", "arguments")
	if !strings.Contains(queues, wire.SlaveQueue(host)+"\tfalse\tfalse\tfalse\t[]") {
		t.Errorf("its queue is not as the original declares it:\n%s", queues)
	}
	before := s.count("ping")
	if err := m.Ping(t.Context(), host); err != nil {
		t.Fatal(err)
	}
	until(t, "it is pinged", func() (bool, string) { return s.count("ping") > before, "" })
	// Somebody deletes the queue: it is declared again when there is something to tell.
	broker.Ctl("delete_queue", wire.SlaveQueue(host))
	m.set(t, host, Change{Set: map[string]wire.App{}})
	m.is(t, host, "as desired without apps", func(h Host) bool { return settled(h) && len(h.Apps) == 0 })
}

// A host that nobody has heard of is missing, until it says something.
func neverSeen(t *testing.T, broker *rabbitmqtest.Broker) {
	const host = "never-seen"
	m := run(t, broker)
	want := Change{Set: apps(t, `{"a":{"version":"1","url":"http://h/a.rpm","config":{}}}`), By: "test"}
	if _, err := m.Change(t.Context(), host, want); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("a name that may be misspelt: %v", err)
	}
	want.Unseen = true
	m.set(t, host, want)
	if h := m.is(t, host, "there", func(Host) bool { return true }); h.State != StateMissing || h.Responding || h.Apps[0].State != "absent" {
		t.Errorf("%+v", h)
	}
	startPeer(t, "slave.py", broker.URL(), "2015", host)
	m.is(t, host, "as desired", settled)
}

// A host whose clock is an hour behind that of its last status is heard again.
func clockBehind(t *testing.T, broker *rabbitmqtest.Broker) {
	const host = "clock"
	m := run(t, broker)
	first := startPeer(t, "slave.py", broker.URL(), "2015", host)
	before := m.is(t, host, "heard", func(h Host) bool { return h.Timestamp != nil })
	first.stop()
	startPeer(t, "slave.py", broker.URL(), "2015", host, slaveOptions(t, map[string]any{"clock": -3600, "heartbeat": 2.5}))
	m.is(t, host, "heard again", func(h Host) bool { return h.Timestamp.Before(*before.Timestamp) })
	until(t, "it is said", func() (bool, string) {
		return strings.Contains(m.log.String(), "the clock of a host was set back"), "not in the log"
	})
}

// originalMaster shares the broker: neither master keeps the other from anything.
func originalMaster(t *testing.T, broker *rabbitmqtest.Broker) {
	const ours, theirs = "host-of-ours", "host-of-theirs"
	m := run(t, broker)
	startPeer(t, "slave.py", broker.URL(), "2015", ours)
	m.is(t, ours, "heard", func(h Host) bool { return true })
	m.set(t, ours, Change{Set: apps(t, `{"a":{"version":"1","url":"http://h/a.rpm","config":{}}}`)})
	m.is(t, ours, "as desired", settled) // its queue is declared now
	original := startPeer(t, "master.py", broker.URL(), "du.example")
	original.saw("it is ready", func(l map[string]any) bool { return l["ready"] == true })
	startPeer(t, "slave.py", broker.URL(), "2015", theirs)
	order := func(to, set string) {
		fmt.Fprintf(original.in, "{\"to\":%q,\"data\":%s}\n", to, set)
	}
	order(theirs, `{"b":{"version":"2","url":"http://h/b.rpm","config":{}}}`)
	original.saw("the original's host is as it desires", func(l map[string]any) bool {
		s, _ := l["status"].(map[string]any)
		a, _ := s["apps"].(map[string]any)
		return s["host_id"] == theirs && s["status"] == "ok" && a["b"] != nil
	})
	// We see it, and leave it alone.
	m.is(t, theirs, "seen", func(h Host) bool { return len(h.Apps) == 1 && !h.Desired })
	_, err := m.Change(t.Context(), theirs, Change{Put: apps(t, `{"c":{"version":"1","url":"http://h/c.rpm","config":{}}}`)})
	if !errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), "would remove them: b") {
		t.Errorf("the original's app was to be removed without a question: %v", err)
	}
	// What the original declares anew for our host is as we have declared it.
	order(ours, `{"a":{"version":"1","url":"http://h/a.rpm","config":{}}}`)
	original.saw("the original can tell our host", func(l map[string]any) bool { return l["sent"] == ours })
	m.set(t, theirs, Change{Set: apps(t, `{"c":{"version":"1","url":"http://h/c.rpm","config":{}}}`), Replace: true})
	m.is(t, theirs, "taken over", settled)
	for _, l := range original.all() {
		if l["error"] != nil {
			t.Errorf("the original master is lost: %v", l)
		}
	}
}

// hostileMessages cost nothing but themselves.
func hostileMessages(t *testing.T, broker *rabbitmqtest.Broker) {
	m := run(t, broker)
	ch, closeConn := broker.Channel()
	defer closeConn()
	status := func(id, more string) string {
		return fmt.Sprintf(`{"opcode":"status","data":{"host_id":%q,"status":"ok","host_agent":{"status":"running","version":"1"},"apps":{}%s}}`, id, more)
	}
	for _, body := range []string{
		"", "null", "[]", "not JSON", `{"opcode":"status"}`, `{"opcode":"status","data":[]}`, `{"opcode":"status","data":{"host_id":3,"status":"ok"}}`,
		status("master", ""), status("slaves", ""), status(strings.Repeat("h", 300), ""), status("a\x00b", ""),
		strings.Repeat("[", 100_000), `{"opcode":"status","data":` + strings.Repeat(`{"a":`, 70) + `1` + strings.Repeat("}", 71),
		strings.Repeat("x", 3<<20), status("large", `,"apps":{"a":{"version":"`+strings.Repeat("v", 500<<10)+`"}}`),
		status("typed", `,"extensions":{"teeth":{"status":"ok","data":[]}}`), `{"opcode":"support","status":"success","data":{}}`, `{"opcode":"\u0007"}`,
		status("long", `,"cert_info":{"x":"`+strings.Repeat("c", 400<<10)+`"}`),
	} {
		if err := ch.PublishWithContext(t.Context(), wire.Exchange, wire.KeyMaster, false, false, amqp.Publishing{Body: []byte(body), ContentType: "x/y", Headers: amqp.Table{"h": "v"}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := ch.PublishWithContext(t.Context(), wire.Exchange, wire.KeyMaster, false, false, amqp.Publishing{Body: []byte(status("good", ""))}); err != nil {
		t.Fatal(err)
	}
	m.is(t, "good", "heard after all that", func(h Host) bool { return h.State == "ok" })
	all, err := m.List(t.Context(), "", 100)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, h := range all {
		if h.Hostname != "" {
			continue // of another test, on the same broker
		}
		ids = append(ids, h.ID)
	}
	if fmt.Sprint(ids) != "[good long]" {
		t.Errorf("hosts %q", ids)
	}
	if h := m.is(t, "long", "kept in short", func(h Host) bool { return true }); len(h.Status) > maxStatus || h.Agent != "1" {
		t.Errorf("%d bytes are kept of a status", len(h.Status))
	}
	if n := strings.Count(m.log.String(), "connected to the AMQP broker"); n != 2 {
		t.Errorf("it has connected %d times; once for messages and once for queues is enough", n)
	}
}

// A slave's queue that somebody has declared in another way is used as it is.
func queueDeclaredOtherwise(t *testing.T, broker *rabbitmqtest.Broker) {
	const host = "declared-otherwise"
	ch, closeConn := broker.Channel()
	defer closeConn()
	if _, err := ch.QueueDeclare(wire.SlaveQueue(host), true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	m := run(t, broker)
	startPeer(t, "slave.py", broker.URL(), "2015", host)
	m.is(t, host, "heard", func(h Host) bool { return true })
	m.set(t, host, Change{Set: apps(t, `{"a":{"version":"1","url":"http://h/a.rpm","config":{}}}`)})
	m.is(t, host, "as desired", settled)
}

// userOfTheRealDeployment has the permissions that the original's masters and slaves have.
func userOfTheRealDeployment(t *testing.T, broker *rabbitmqtest.Broker) {
	const host = "acl"
	for user, may := range map[string][3]string{
		"bbmaster": {`^(pf9-bbone|bbslave-q-.*|bbmaster-q.*)$`, `^(pf9-bbone|bbslave-q-.*|bbmaster-q.*)$`, `^(pf9-bbone|bbmaster-q.*)$`},
		"bbslave":  {`^$`, `^pf9-bbone$`, `^bbslave-q-.*`},
		"narrow":   {`^bbmaster-q.*$`, `^(pf9-bbone|bbmaster-q.*)$`, `^(pf9-bbone|bbmaster-q.*)$`},
	} {
		broker.Ctl("add_user", user, user)
		broker.Ctl("set_permissions", user, may[0], may[1], may[2])
	}
	as := func(user string) string { return strings.Replace(broker.URL(), "guest:guest", user+":"+user, 1) }
	startPeer(t, "slave.py", as("bbslave"), "2015", host)
	// One that may not declare queues of slaves says so, and stays connected.
	narrow := startMaster(t, Config{Store: newStore(t), Broker: brokerAt(as("narrow"))})
	narrow.connected(t)
	narrow.is(t, host, "heard", func(h Host) bool { return true })
	narrow.set(t, host, Change{Set: apps(t, `{"a":{"version":"1","url":"http://h/a.rpm","config":{}}}`)})
	narrow.is(t, host, "an error that says what to allow", func(h Host) bool {
		return strings.Contains(h.Error, `allow it to configure and write ^(pf9-bbone|bbslave-q-.*|bbmaster-q.*)$`)
	})
	narrow.stop()
	m := startMaster(t, Config{Store: newStore(t), Broker: brokerAt(as("bbmaster"))})
	m.connected(t)
	m.is(t, host, "heard", func(h Host) bool { return true })
	m.set(t, host, Change{Set: apps(t, `{"a":{"version":"1","url":"http://h/a.rpm","config":{}}}`)})
	m.is(t, host, "as desired", settled)
}

// brokerKilled loses the broker with all that is on it; what is changed meanwhile is told
// when it is back.
func brokerKilled(t *testing.T, broker *rabbitmqtest.Broker) {
	m := run(t, broker)
	hosts := map[string]string{"killed-v0": "document", "killed-v2": "2015"}
	for host, dialect := range hosts {
		startPeer(t, "slave.py", broker.URL(), dialect, host)
		m.is(t, host, "heard", func(h Host) bool { return true })
		m.set(t, host, Change{Set: apps(t, `{"a":{"version":"1","url":"http://h/a.rpm","config":{}}}`)})
		m.is(t, host, "as desired", settled)
	}
	broker.Kill()
	until(t, "the loss is seen", func() (bool, string) { return m.Err() != nil, "" })
	for host := range hosts {
		m.set(t, host, Change{Set: apps(t, `{"a":{"version":"2","url":"http://h/a.rpm","config":{}}}`)})
	}
	broker.Run()
	for host := range hosts {
		h := m.is(t, host, "as desired after the broker is back", settled)
		if h.Apps[0].Version != "2" {
			t.Errorf("%+v", h)
		}
	}
}

// twoServers share a database: one of them is the broker's master, and when it ends the
// other one is, with what was desired through either.
func twoServers(t *testing.T, broker *rabbitmqtest.Broker) {
	const host = "two-servers"
	dsn := postgrestest.Start(t, "fsync = off").Database(t)
	var m [2]*running
	for i := range m {
		s, err := store.Open(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		m[i] = startMaster(t, Config{Store: s, Broker: brokerAt(broker.URL()), Lease: 3 * time.Second})
	}
	until(t, "one leads", func() (bool, string) { return m[0].leads.Load() != m[1].leads.Load(), "" })
	leader, other := m[0], m[1]
	if other.leads.Load() {
		leader, other = other, leader
	}
	startPeer(t, "slave.py", broker.URL(), "2015", host)
	other.is(t, host, "heard by the other one", func(h Host) bool { return h.State == "ok" })
	other.set(t, host, Change{Set: apps(t, `{"a":{"version":"1","url":"http://h/a.rpm","config":{}}}`)})
	other.is(t, host, "as desired through the other one", settled)
	for range 20 {
		if leader.leads.Load() && other.leads.Load() {
			t.Fatal("both lead")
		}
		time.Sleep(100 * time.Millisecond)
	}
	leader.stop()
	other.set(t, host, Change{Set: apps(t, `{"a":{"version":"2","url":"http://h/a.rpm","config":{}}}`)})
	h := other.is(t, host, "as desired after the leader has gone", settled)
	if h.Apps[0].Version != "2" || !other.leads.Load() {
		t.Errorf("%+v", h)
	}
}
