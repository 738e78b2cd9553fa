package rackhd

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/rackhd"
)

// TestOnlyWhatIsMeant has a graph run, and requests that do not quite name it: none
// may do anything to it or tell of it.
func TestOnlyWhatIsMeant(t *testing.T) {
	e := newEstate(t)
	b := bus.NewMemory(slog.New(slog.DiscardHandler))
	defer b.Close()
	e.serve(t, b, nil)
	time.Sleep(50 * time.Millisecond)
	defineGraph(t, b)
	node := rackhd.NodeID(e.chassis.ID)
	typ, answer := request(t, b, rackhd.TaskGraphRunner, "methods.runTaskGraph",
		object{"name": "Graph.Peer", "target": node, "options": object{"defaults": object{"seconds": 60}}})
	if typ != rackhd.TypeResult {
		t.Fatal(answer)
	}
	graphs, err := e.store.ListGraphs(t.Context(), store.GraphFilter{Name: "Graph.Peer"}, "", 0)
	if err != nil || len(graphs) != 1 {
		t.Fatal(graphs, err)
	}
	g, err := e.store.Graph(t.Context(), graphs[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	task := g.Tasks[0].ID
	for _, c := range []struct {
		exchange, key string
		body          object
		want          string
	}{
		{rackhd.TaskGraphRunner, "methods.cancelTaskGraph", object{"graphId": g.ID[:1]}, "want its id, a UUID"},
		{rackhd.TaskGraphRunner, "methods.cancelTaskGraph", object{"graphId": strings.ReplaceAll(g.ID, "-", "")}, "want its id, a UUID"},
		{rackhd.TaskGraphRunner, "methods.pauseTaskGraph", object{"filter": object{"graphId": g.ID[:35]}}, "want its id, a UUID"},
		{rackhd.TaskGraphRunner, "methods.getTaskGraphProperties", object{"graphId": g.ID[:8]}, "want its id, a UUID"},
		{rackhd.TaskGraphRunner, "methods.runTaskGraph.default", object{"graphId": g.ID[:8]}, "want its id, a UUID"},
		{rackhd.TaskGraphRunner, "methods.getActiveTaskGraphs", object{"filter": object{"status": "failed"}}, `unknown field "status"`},
		{rackhd.TaskGraphRunner, "methods.cancelTaskGraph", object{"filter": object{"injectableName": "Graph.Peer", "context.target": "x"}}, `unknown field "context.target"`},
		{rackhd.TaskGraphRunner, "methods.cancelTaskGraph", object{"filter": 5}, "not a JSON object"},
		{rackhd.Task, "cancel." + task[:1], object{}, "want its id, a UUID"},
		{rackhd.Task, "methods.cancel." + task[:8], object{}, "want its id, a UUID"},
		{rackhd.Task, "methods.cancel", object{"taskId": task[:8]}, "want its id, a UUID"},
		{rackhd.Task, "methods.cancel", object{}, "want its id, a UUID"},
	} {
		typ, answer := request(t, b, c.exchange, c.key, c.body)
		if message, _ := answer["message"].(string); typ != rackhd.TypeError || !strings.Contains(message, c.want) {
			t.Errorf("%s %v: %s %v; want an error with %q", c.key, c.body, typ, answer, c.want)
		}
	}
	if g, err = e.store.Graph(t.Context(), g.ID); err != nil || g.Final() || g.Paused {
		t.Fatalf("after requests that do not name it: %+v, %v", g, err)
	}
	for _, filter := range []object{{"node": node}, {"graphName": "Graph.Peer"}, {"target": node, "injectableName": "Graph.Peer", "domain": "default"}} {
		typ, answer := request(t, b, rackhd.TaskGraphRunner, "methods.getActiveTaskGraphs", object{"filter": filter})
		if list, _ := answer["value"].([]any); typ != rackhd.TypeResult || len(list) != 1 {
			t.Errorf("%v finds %v", filter, answer)
		}
	}
	for _, filter := range []object{{"node": strings.Repeat("f", 24)}, {"graphName": "Graph.Other"}, {"domain": "other"}} {
		typ, answer := request(t, b, rackhd.TaskGraphRunner, "methods.getActiveTaskGraphs", object{"filter": filter})
		if list, _ := answer["value"].([]any); typ == rackhd.TypeResult && len(list) != 0 {
			t.Errorf("%v finds %v", filter, answer)
		}
	}
	if typ, answer = request(t, b, rackhd.TaskGraphRunner, "methods.cancelTaskGraph", object{"graphId": strings.ToUpper(g.ID)}); typ != rackhd.TypeResult || answer["value"] != g.ID {
		t.Errorf("cancel by its id: %s %v", typ, answer)
	}
}

// TestSchema has values of another JSON type than a class of messages has.
func TestSchema(t *testing.T) {
	for _, body := range []string{`{"value":5}`, `{"value":{}}`, `{"value":[]}`, `{"value":true}`} {
		var ip rackhd.IPAddress
		if err := rackhd.Decode(rackhd.ContentType, []byte(body), &ip); err == nil || !strings.Contains(err.Error(), "JSON Schema Violation") {
			t.Errorf("%s: %v", body, err)
		}
	}
}
