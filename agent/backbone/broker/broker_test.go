package broker_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/agent/backbone/broker"
	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

const web = `{'opcode': 'set_config', 'data': {'web': {'version': '1', 'url': 'http://%(host_relative_amqp_fqdn)s/web.deb', 'running': true, 'config': {'a': {'x': 1}}}}}`

var (
	plainWeb = strings.ReplaceAll(web, "%(host_relative_amqp_fqdn)s", "h")
	bad      = strings.ReplaceAll(plainWeb, "'web'", "'bad'")
	none     = `{'opcode': 'set_config', 'data': {}}`
	ping     = `{'opcode': 'ping'}`
)

// TestBroker has a master with another AMQP library over a real broker.
func TestBroker(t *testing.T) {
	b := rabbitmqtest.Start(t)
	b.Ctl("add_user", "bbslave", "bbslave")
	b.Ctl("set_permissions", "bbslave", "^$", "^pf9-bbone$", "^bbslave-q-.*")
	restricted := strings.Replace(b.URL(), "guest:guest", "bbslave:bbslave", 1)
	for _, c := range []struct {
		name string
		test func(*testing.T, *rabbitmqtest.Broker, string)
	}{
		{"master of 2015 and its ACL", master2015},
		{"master of 2014", master2014},
		{"document", document},
		{"automatic", automatic},
		{"hostile", hostile},
		{"declared otherwise", declaredOtherwise},
		{"blocked", blocked},
		{"killed", killed}, // the last: it takes everything with it
	} {
		if !t.Run(c.name, func(t *testing.T) {
			defer sweep(t, b)
			c.test(t, b, restricted)
		}) {
			break
		}
	}
}

// The topology of 2015, as a user that may declare nothing, who is there before the
// master.
func master2015(t *testing.T, b *rabbitmqtest.Broker, restricted string) {
	s := newSlave(t, restricted, broker.Auto)
	eventually(t, "the ACL is noticed", func() bool { return strings.Count(s.log.String(), "one of 2015") == 1 })
	time.Sleep(time.Second) // some attempts
	if n := strings.Count(s.log.String(), "no messages of a Backbone master yet"); n != 1 {
		t.Errorf("%d lines on waiting for the master", n)
	}
	if n := strings.Count(s.log.String(), "connected to the AMQP broker"); n != 1 {
		t.Errorf("%d connections: a refusal may cost a channel only", n)
	}
	m := newMaster(t, b.URL(), "2015")
	// Its broadcast reaches nobody, as in reality; the slave's heartbeat would be next.
	m.send(true, hostID, ping)
	st := m.sequence(wire.StateOK)
	if st.HostID != hostID || st.Info == nil || st.Info.OSFamily != "Linux" || st.HostAgent.Status != "running" || st.DesiredApps != nil {
		t.Errorf("announced: %+v", st)
	}
	m.send(true, hostID, plainWeb)
	st = m.sequence(wire.StateConverging, wire.StateOK)
	if a := st.Apps["web"]; a.Version != "1" || a.URL != "" || a.Running == nil || !*a.Running || string(a.Config) != `{"a":{"x":1}}` {
		t.Errorf("apps: %+v", st.Apps)
	}
	m.send(true, hostID, bad)
	st = m.sequence(wire.StateConverging, wire.StateRetrying, wire.StateConverging, wire.StateRetrying, wire.StateConverging, wire.StateFailed)
	if len(st.DesiredApps) != 1 || len(st.Apps) != 0 {
		t.Errorf("failed: %+v", st)
	}
	m.send(true, hostID, ping)
	m.sequence(wire.StateFailed)
	// Newer ones that come while it works.
	s.takes = 3 * time.Second
	m.send(true, hostID, plainWeb)
	m.sequence(wire.StateConverging)
	m.send(true, hostID, none)
	began := time.Now()
	m.sequence(wire.StateConverging, wire.StateOK)
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("the older one was worked on for %v", d)
	}
	// The queue is deleted under it, and declared again by the next message.
	m.order(map[string]string{"delete": wire.SlaveQueue(hostID)})
	eventually(t, "the end of the queue is noticed", func() bool { return strings.Count(s.log.String(), "messages of the Backbone master have ended") == 1 })
	m.send(true, hostID, ping)
	m.sequence(wire.StateOK)
	m.send(false, wire.KeySlaves, ping)
	m.sequence(wire.StateOK)
	ch, done := b.Channel()
	defer done()
	if q, err := ch.QueueDeclarePassive(wire.SlaveQueue(hostID), false, false, false, false, nil); err != nil || q.Consumers != 1 {
		t.Errorf("consumers: %+v, %v", q, err)
	}
}

// Between the document and 2015: the slave's own queue, but the later words.
func master2014(t *testing.T, b *rabbitmqtest.Broker, _ string) {
	m := newMaster(t, b.URL(), "document")
	newSlave(t, b.URL(), broker.Retrying)
	if st := m.sequence(wire.StateOK); st.HostID != hostID {
		t.Errorf("announced as %s", st.HostID)
	}
	m.send(false, hostID, bad)
	if st := m.sequence(wire.StateConverging, wire.StateRetrying); len(st.DesiredApps) != 1 {
		t.Errorf("retrying: %+v", st)
	}
}

func document(t *testing.T, b *rabbitmqtest.Broker, _ string) {
	s := newSlave(t, b.URL(), broker.Auto) // the exchange is not there yet
	eventually(t, "it has a queue", func() bool { return strings.Count(s.log.String(), "taking messages") == 1 })
	m := newMaster(t, b.URL(), "document")
	if st := m.sequence(wire.StateOK); st.HostID != mac || st.HostAgent.Status != "running" { // the answer to its broadcast
		t.Errorf("announced: %+v", st)
	}
	m.send(false, mac, plainWeb)
	st := m.sequence(wire.StateConverging, wire.StateOK)
	if a := st.Apps["web"]; a.URL != "http://h/web.deb" || st.DesiredApps != nil {
		t.Errorf("apps: %+v", st)
	}
	// Every app has its topic, from the moment it is there.
	m.send(false, "web", ping)
	m.sequence(wire.StateOK)
	m.send(false, mac, bad)
	m.sequence(wire.StateConverging, wire.StateErrors, wire.StateConverging, wire.StateErrors, wire.StateConverging, wire.StateErrors)
	m.send(false, mac, none)
	m.sequence(wire.StateOK) // it has none: there is nothing to do
	eventually(t, "the topic ends with the app", func() bool {
		ch, done := b.Channel()
		defer done()
		returned := ch.NotifyReturn(make(chan amqp.Return, 1))
		if err := ch.Confirm(false); err != nil {
			t.Fatal(err)
		}
		c, err := ch.PublishWithDeferredConfirm(wire.Exchange, "web", true, false, amqp.Publishing{Body: []byte(`{"opcode": "exit"}`)})
		if err != nil {
			t.Fatal(err)
		}
		c.Wait()
		return len(returned) == 1
	})
	m.send(false, mac, `{'opcode': 'set_config', 'data': {'web': {'version': '1'}}}`)
	if st := m.sequence(wire.StateErrors); !strings.Contains(string(st.Extensions[wire.ReportName].Data), "app web: config is missing") {
		t.Errorf("refused: %+v", st)
	}
}

// A slave that has begun in the document's way finds a later master when that shows.
func automatic(t *testing.T, b *rabbitmqtest.Broker, _ string) {
	for _, id := range []string{hostID, mac} { // by either name
		m := newMaster(t, b.URL(), "2015")
		s := newSlave(t, b.URL(), broker.Auto)
		if st := m.sequence(wire.StateOK); st.HostID != mac {
			t.Errorf("announced as %s", st.HostID)
		}
		m.send(true, id, bad)
		st := m.until("of the later dialect", func(st wire.Status) bool { return st.State == wire.StateFailed })
		if st.HostID != id {
			t.Errorf("then known as %s, want %s", st.HostID, id)
		}
		m.stop()
		s.stop()
		sweep(t, b)
	}
	// And one that is there from the beginning.
	m := newMaster(t, b.URL(), "2015")
	m.send(true, hostID, plainWeb)
	eventually(t, "the queue has a message", func() bool {
		ch, done := b.Channel()
		defer done()
		q, err := ch.QueueDeclarePassive(wire.SlaveQueue(hostID), false, false, false, false, nil)
		return err == nil && q.Messages > 0
	})
	newSlave(t, b.URL(), broker.Auto)
	m.until("with the app", func(st wire.Status) bool { return st.HostID == hostID && st.Apps["web"].Version == "1" })
}

// Nothing that is in a message ends the connection.
func hostile(t *testing.T, b *rabbitmqtest.Broker, _ string) {
	m := newMaster(t, b.URL(), "2015")
	s := newSlave(t, b.URL(), broker.MasterDeclared)
	m.sequence(wire.StateOK)
	for _, body := range []string{
		"", "hello", "[]", "null", "3", `{}`, `{'opcode': 3}`, `{'opcode': 'set_config'`, `{'opcode': 'self_destruct'}`,
		strings.Repeat("[", 100_000), `{'opcode': 'set_config', 'data': ` + strings.Repeat("[", 60) + strings.Repeat("]", 60) + `}`,
		`{'opcode': 'x', 'y': '` + strings.Repeat("x", 3<<20) + `'}`,
	} {
		m.send(true, hostID, body)
	}
	m.until("a refusal", func(st wire.Status) bool { return len(st.Extensions[wire.ReportName].Data) > 0 && st.Extensions != nil })
	ch, done := b.Channel()
	defer done()
	deep := amqp.Table{"a": "b"}
	for range 200 {
		deep = amqp.Table{"t": deep}
	}
	if err := ch.Publish(wire.Exchange, hostID, false, false, amqp.Publishing{Headers: deep, Body: []byte(`{"opcode": "ping"}`)}); err != nil {
		t.Fatal(err)
	}
	m.send(true, hostID, plainWeb)
	m.until("with the app", func(st wire.Status) bool { return st.Apps["web"].Version == "1" })
	if n := strings.Count(s.log.String(), "a message to this host is refused"); n < 8 {
		t.Errorf("%d lines on bad messages", n)
	}
	if strings.Count(s.log.String(), "too large") != 1 {
		t.Error("no line on the message that was too large")
	}
	if n := strings.Count(s.log.String(), "connected to the AMQP broker"); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// An exchange that somebody has declared in another way is used as it is.
func declaredOtherwise(t *testing.T, b *rabbitmqtest.Broker, _ string) {
	ch, done := b.Channel()
	defer done()
	if err := ch.ExchangeDeclare(wire.Exchange, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	s := newSlave(t, b.URL(), broker.Document)
	eventually(t, "it has a queue", func() bool { return strings.Count(s.log.String(), "taking messages") == 1 })
	if err := ch.Publish(wire.Exchange, mac, false, false, amqp.Publishing{Body: []byte(strings.ReplaceAll(plainWeb, "'", `"`))}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the app is there", func() bool {
		list, _ := s.Installed(t.Context())
		return len(list) == 1
	})
	if strings.Count(s.log.String(), "no master takes messages") == 0 { // nobody is bound to the key
		t.Error("no line on statuses that reach nobody")
	}
}

// A broker that has stopped reading does not hold the slave.
func blocked(t *testing.T, b *rabbitmqtest.Broker, _ string) {
	m := newMaster(t, b.URL(), "2015")
	s := newSlave(t, b.URL(), broker.MasterDeclared)
	m.sequence(wire.StateOK)
	m.send(true, hostID, ping)
	m.sequence(wire.StateOK)
	b.Ctl("set_vm_memory_high_watermark", "0")
	defer b.Ctl("set_vm_memory_high_watermark", "0.4")
	eventually(t, "it is blocked", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := s.session.Send(ctx, wire.NewPing())
		return err != nil && strings.Contains(err.Error(), "takes no messages")
	})
	b.Ctl("set_vm_memory_high_watermark", "0.4")
	if line := m.line("what the broker had taken"); !strings.Contains(line, "ping") {
		t.Errorf("%.200s", line)
	}
	m.sequence(wire.StateOK) // it announces itself anew
}

func killed(t *testing.T, b *rabbitmqtest.Broker, _ string) {
	later, doc := newSlave(t, b.URL(), broker.MasterDeclared), newSlave(t, b.URL(), broker.Document)
	for round := range 2 {
		m := newMaster(t, b.URL(), "2015")
		version := fmt.Sprint("v", round)
		for id, queue := range map[string]bool{hostID: true, mac: false} {
			// Until it is heard: the slave may be about to come back.
			eventually(t, "the app on "+id, func() bool {
				m.send(queue, id, strings.ReplaceAll(plainWeb, "'1'", "'"+version+"'"))
				for {
					select {
					case line := <-m.lines:
						if strings.Contains(line, version) && strings.Contains(line, id) && strings.Contains(line, `"status":"ok"`) {
							return true
						}
						continue
					case <-time.After(300 * time.Millisecond):
						return false
					}
				}
			})
		}
		if round == 0 {
			b.Kill()
			m.stop()
			b.Run()
		}
	}
	for _, s := range []*slave{later, doc} {
		if n := strings.Count(s.log.String(), "connected to the AMQP broker"); n != 2 {
			t.Errorf("%d connections", n)
		}
	}
}
