package controlplane

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/internal/need"
	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
	wire "github.com/teeth-metal/teeth/wire/rackhd"
)

// program is one of RackHD's on the bus.
type program struct {
	t      *testing.T
	broker *rabbitmqtest.Broker
	bus    bus.Bus
}

// subscribe opens a durable queue of the ends of graphs, as a program has that must
// not miss one. It comes before any server: the exchange is declared here, too.
func (p *program) subscribe(queue string) {
	p.t.Helper()
	ch, closeConn := p.broker.Channel()
	defer closeConn()
	err := ch.ExchangeDeclare(wire.Events, amqp.ExchangeTopic, true, false, false, false, nil)
	if err == nil {
		_, err = ch.QueueDeclare(queue, true, false, false, false, nil)
	}
	if err == nil {
		err = ch.QueueBind(queue, "graph.finished.*", wire.Events, false, nil)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// consumers is how many take messages from a queue.
func (p *program) consumers(queue string) int {
	p.t.Helper()
	ch, closeConn := p.broker.Channel()
	defer closeConn()
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		return 0 // it is not there yet
	}
	return q.Consumers
}

// heard takes what is in the queue, and adds how often each graph was said to have
// ended to counts.
func (p *program) heard(queue string, counts map[string]int) {
	p.t.Helper()
	ch, closeConn := p.broker.Channel()
	defer closeConn()
	for {
		d, ok, err := ch.Get(queue, true)
		if err != nil {
			p.t.Fatal(err)
		}
		if !ok {
			return
		}
		var event struct{ GraphID, Status string }
		if err := wire.Decode(d.ContentType, d.Body, &event); err != nil || "graph.finished."+event.GraphID != d.RoutingKey || event.Status != "succeeded" {
			p.t.Errorf("%s: %s %v", d.RoutingKey, d.Body, err)
		}
		counts[strings.TrimPrefix(d.RoutingKey, "graph.finished.")]++
	}
}

// ask sends a request. The answer is of type "" if none came in time.
func (p *program) ask(exchange, key string, body, value any) string {
	p.t.Helper()
	_, b, err := wire.Encode(body)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Second)
	defer cancel()
	a, err := p.bus.Request(ctx, bus.Message{Exchange: exchange, Key: key, Type: wire.TypeObject, ContentType: wire.ContentType, Body: b})
	if err != nil {
		return ""
	}
	if a.Type == wire.TypeResult {
		if err := wire.Decode(a.ContentType, a.Body, &wire.Result{Value: value}); err != nil {
			p.t.Errorf("%s: %v", a.Body, err)
		}
	}
	return a.Type
}

// run has a graph run on a chassis, and returns it when a server shows it. Whoever
// got no answer in time is to look, and not to ask again.
func (p *program) run(s *running, chassis client.Chassis) client.Graph {
	p.t.Helper()
	before, err := s.client.ListGraphs(p.t.Context(), chassis.ID, false, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	var g struct{ InstanceID string }
	typ := p.ask(wire.TaskGraphRunner, "methods.runTaskGraph", map[string]any{"name": "Graph.Decommission", "target": wire.NodeID(chassis.ID)}, &g)
	if typ != wire.TypeResult && typ != "" {
		p.t.Logf("answered with %s", typ)
	}
	var all []client.Graph
	eventually(p.t, "the graph that was asked for on the bus", func() bool {
		all, err = s.client.ListGraphs(p.t.Context(), chassis.ID, false, 0)
		return err == nil && len(all) > len(before)
	})
	if len(all) != len(before)+1 || typ == wire.TypeResult && all[0].ID != g.InstanceID {
		p.t.Errorf("asked once for a graph (answer %s %s), there were %d and are %+v", typ, g.InstanceID, len(before), all)
	}
	return all[0]
}

// One of two servers is killed, and the broker after it, while chassis work on
// graphs that were asked for over the bus and over REST. Each runs once, and a
// program with a durable queue hears of the end of each.
func TestServerAndBrokerKilled(t *testing.T) {
	need.Time(t, "starts PostgreSQL, RabbitMQ and two servers")
	broker := rabbitmqtest.Start(t)
	p := &program{t: t, broker: broker}
	const queue = "billing"
	p.subscribe(queue)
	e := openEstate(t, 6, 150*time.Millisecond, broker.URL())
	var err error
	if p.bus, err = bus.NewAMQP(bus.Config{URLs: []string{broker.URL()}, Exchanges: wire.Exchanges(), Log: slog.New(slog.DiscardHandler), MaxBackoff: time.Second}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.bus.Close() })
	if err := p.bus.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Both are on it when they share the queue of requests.
	eventually(t, "both servers on the bus", func() bool {
		return p.consumers("teeth.rackhd.task-graph-runner") == 2
	})
	for i, r := range e.roamers {
		c, err := e.a.client.Chassis(t.Context(), r.mac())
		if err != nil {
			t.Fatal(err)
		}
		var g client.Graph
		if i%2 == 0 {
			g = p.run(e.b, c)
		} else if g, err = e.a.client.Decommission(t.Context(), c.ID, client.Decommission{}); err != nil {
			t.Fatal(err)
		}
		e.graphs = append(e.graphs, g)
	}
	e.working(t)
	e.killA()
	broker.Kill()
	e.kept(t, e.b)
	broker.Run()
	e.succeed(t, e.b)

	counts := map[string]int{}
	began := time.Now()
	for missing := len(e.graphs); missing > 0; time.Sleep(200 * time.Millisecond) {
		p.heard(queue, counts)
		missing = 0
		for _, g := range e.graphs {
			if counts[g.ID] == 0 {
				missing++
			}
		}
		if time.Since(began) > 45*time.Second { // the dead server may have led, for 20 s
			t.Fatalf("the ends of %d graphs were not told: %v", missing, counts)
		}
	}
	t.Logf("all told %v after the last end: %v", time.Since(began), counts)
	if len(counts) != len(e.graphs) {
		t.Errorf("there were %d graphs, and ends of %d were told", len(e.graphs), len(counts))
	}
	// The one that is left takes what is asked on the bus.
	eventually(t, "an answer on the bus", func() bool {
		return p.ask(wire.TaskGraphRunner, "methods.getActiveTaskGraphs", map[string]any{}, new(any)) == wire.TypeResult
	})
	c, err := e.b.client.Chassis(t.Context(), e.roamers[0].mac())
	if err != nil {
		t.Fatal(err)
	}
	last := p.run(e.b, c)
	if g := e.b.ended(last.ID); g.State != "succeeded" {
		t.Errorf("%+v", g)
	}
	eventually(t, "its end is told", func() bool { p.heard(queue, counts); return counts[last.ID] > 0 })
}
