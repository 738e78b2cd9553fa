package rackhd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
	"github.com/teeth-metal/teeth/wire/rackhd"
)

// TestBrokerKilled kills the broker, twice, while graphs end one after the other:
// somebody with a durable queue hears of the end of each.
func TestBrokerKilled(t *testing.T) {
	broker := rabbitmqtest.Start(t)
	e := newEstate(t)
	if err := e.settings.Set(t.Context(), "log.level", json.RawMessage(`"warning"`), "test"); err != nil {
		t.Fatal(err)
	}
	b, err := bus.NewAMQP(bus.Config{URLs: []string{broker.URL()}, Exchanges: rackhd.Exchanges(), Log: slog.New(slog.DiscardHandler), MaxBackoff: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	e.serve(t, b, nil)
	ready, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.Ready(ready); err != nil {
		t.Fatal(err)
	}
	defineGraph(t, b)
	const queue = "billing" // of another program
	ch, closeConn := broker.Channel()
	if _, err := ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(queue, "graph.finished.*", rackhd.Events, false, nil); err != nil {
		t.Fatal(err)
	}
	closeConn()

	const graphs = 400
	want := map[string]int{}
	made := make(chan error, 1)
	go func() {
		for range graphs {
			g, err := e.engine.RunGraph(t.Context(), workflow.Request{Graph: "Graph.Peer"})
			if err != nil {
				made <- err
				return
			}
			want[g.ID] = 0
			time.Sleep(15 * time.Millisecond)
		}
		made <- nil
	}()
	for range 2 {
		time.Sleep(1500 * time.Millisecond)
		broker.Kill()
		time.Sleep(500 * time.Millisecond)
		began := time.Now()
		broker.Run()
		t.Logf("the broker was back after %v", time.Since(began))
	}
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		active, err := e.store.ListGraphs(t.Context(), store.GraphFilter{Active: true}, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		left, err := e.store.Notices(t.Context(), 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(active) == 0 && len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d graphs and %d notices are left: %v", len(active), len(left), b.Err())
		}
	}
	told := time.Since(began)
	ch, closeConn = broker.Channel()
	defer closeConn()
	total := 0
	for {
		d, ok, err := ch.Get(queue, true)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		id := strings.TrimPrefix(d.RoutingKey, "graph.finished.")
		if _, known := want[id]; !known || d.ContentType != rackhd.ContentType || d.Type != rackhd.TypeObject {
			t.Errorf("%s %s %s", d.RoutingKey, d.ContentType, d.Type)
		}
		want[id]++
		total++
	}
	lost, twice := 0, 0
	for _, n := range want {
		switch {
		case n == 0:
			lost++
		case n > 1:
			twice++
		}
	}
	t.Logf("told %v after the last graph", told)
	t.Logf("%d graphs ended, %d messages of it, %d twice; %+v", len(want), total, twice, b.Stats())
	if lost > 0 || len(want) != graphs {
		t.Errorf("%d of %d ends were lost", lost, len(want))
	}
	if b.Stats().Reconnects == 0 {
		t.Error("the broker was never away")
	}
	// And the requests are answered as before.
	if err := b.Ready(ready); err != nil {
		t.Fatal(err)
	}
	if typ, answer := request(t, b, rackhd.TaskGraphRunner, "methods.getActiveTaskGraphs", object{}); typ != rackhd.TypeResult || fmt.Sprint(answer["value"]) != "[]" {
		t.Errorf("%s %v", typ, answer)
	}
}
