package rackhd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
	"github.com/teeth-metal/teeth/wire/rackhd"
)

// request asks and decodes the answer.
func request(t *testing.T, b bus.Bus, exchange, key string, body any) (typ string, answer map[string]any) {
	t.Helper()
	m, err := message(exchange, key, body)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	a, err := b.Request(ctx, m)
	if err != nil {
		t.Fatalf("%s %s: %v", exchange, key, err)
	}
	if err := rackhd.Decode(a.ContentType, a.Body, &answer); err != nil {
		t.Fatalf("%s %s: %v", exchange, key, err)
	}
	return a.Type, answer
}

// stuck is an engine that does nothing in time.
type stuck struct{ Engine }

func (stuck) Library(ctx context.Context) (workflow.Library, error) {
	<-ctx.Done()
	return workflow.Library{}, ctx.Err()
}

func (stuck) DefineTask(context.Context, []byte) (string, error) { panic("a bug") }

func TestAnswersInTime(t *testing.T) {
	e := newEstate(t)
	b := bus.NewMemory(slog.New(slog.DiscardHandler))
	defer b.Close()
	s := New(Config{Bus: b, Store: e.store, Engine: stuck{e.engine}, Settings: e.settings, Log: e.log})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	time.Sleep(50 * time.Millisecond)
	began := time.Now()
	typ, answer := request(t, b, rackhd.TaskGraphRunner, "methods.getTaskLibrary", object{})
	if took := time.Since(began); typ != rackhd.TypeError || answer["name"] != "RequestTimedOutError" || took > time.Second {
		t.Errorf("after %v: %s %v", took, typ, answer)
	}
	// Without hardware, requests for it are refused, not passed over.
	typ, answer = request(t, b, rackhd.Task, "methods.requestPollerCache", rackhd.Result{Value: "x"})
	if typ != rackhd.TypeError || answer["status"] != 503. {
		t.Errorf("%s %v", typ, answer)
	}
	m, err := message(rackhd.TaskGraphRunner, "methods.defineTask", object{"definition": object{}})
	if err != nil {
		t.Fatal(err)
	}
	short, end := context.WithTimeout(t.Context(), 200*time.Millisecond)
	if _, err := b.Request(short, m); !errors.Is(err, bus.ErrTimeout) { // a bug is not the peer's business
		t.Error(err)
	}
	end()
	request(t, b, rackhd.Configuration, "methods.get", object{}) // and the rest goes on
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestOneActs has two servers on one broker: each request is done once.
func TestOneActs(t *testing.T) {
	e := newEstate(t)
	b := bus.NewMemory(slog.New(slog.DiscardHandler))
	defer b.Close()
	e.serve(t, b, nil)
	e.serve(t, b, nil)
	time.Sleep(50 * time.Millisecond)
	defineGraph(t, b)
	const n = 30
	var asking sync.WaitGroup
	for range n {
		asking.Go(func() {
			if typ, answer := request(t, b, rackhd.TaskGraphRunner, "methods.runTaskGraph", object{"name": "Graph.Peer"}); typ != rackhd.TypeResult {
				t.Errorf("%s %v", typ, answer)
			}
		})
	}
	asking.Wait()
	graphs, err := e.store.ListGraphs(t.Context(), store.GraphFilter{Name: "Graph.Peer"}, "", 0)
	if err != nil || len(graphs) != n {
		t.Errorf("%d graphs of %d requests, %v", len(graphs), n, err)
	}
}

func defineGraph(t *testing.T, b bus.Bus) {
	t.Helper()
	for key, definition := range map[string]object{
		"methods.defineTask": {"injectableName": "Task.Peer", "friendlyName": "x", "runJob": "Job.Peer", "options": object{"seconds": 0}},
	} {
		if typ, answer := request(t, b, rackhd.TaskGraphRunner, key, object{"definition": definition}); typ != rackhd.TypeResult {
			t.Fatal(answer)
		}
	}
	graph := object{"injectableName": "Graph.Peer", "friendlyName": "x", "tasks": []any{object{"label": "one", "taskName": "Task.Peer"}}}
	if typ, answer := request(t, b, rackhd.TaskGraphRunner, "methods.defineTaskGraph", object{"definition": graph}); typ != rackhd.TypeResult {
		t.Fatal(answer)
	}
}

// TestTold holds what a notice becomes to the conventions.
func TestTold(t *testing.T) {
	e := newEstate(t)
	s := New(Config{Bus: nil, Store: e.store, Engine: e.engine, Settings: e.settings, Log: e.log})
	node := rackhd.NodeID(e.chassis.ID)
	at := time.UnixMilli(1_763_718_320_254)
	tell := func(kind, subject, data string) map[string]string {
		t.Helper()
		list, err := s.told(t.Context(), store.Notice{Kind: kind, Chassis: e.chassis.ID, Subject: subject, Data: json.RawMessage(data), Time: at})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, m := range list {
			got[m.Exchange+" "+m.Key] = m.Type + " " + string(m.Body)
			if !m.Persistent || m.ContentType != rackhd.ContentType {
				t.Errorf("%+v", m)
			}
		}
		return got
	}
	set := func(key, value string) {
		t.Helper()
		if err := e.settings.Set(t.Context(), key, json.RawMessage(value), "test"); err != nil {
			t.Fatal(err)
		}
	}
	graph := `{"graphId":"g1","graphName":"Graph.A","status":"failed"}`
	event := func(severity string) string {
		return fmt.Sprintf(`Object {"version":"1.0","type":"graph","action":"finished","severity":%q,"typeId":"g1","nodeId":%q,"createdAt":"2025-11-21T09:45:20.254Z","data":%s}`, severity, node, graph)
	}
	want := map[string]string{
		"on.events graph.finished.g1":                     "Object " + graph,
		"on.events graph.finished.information.g1." + node: event("information"),
	}
	if d := cmp.Diff(want, tell(store.NoticeGraphEnded, "g1", `{"graphName":"Graph.A","status":"failed"}`)); d != "" {
		t.Error(d)
	}
	set("events.severity.graph_failed", `"critical"`)
	want = map[string]string{
		"on.events graph.finished.g1":                  "Object " + graph,
		"on.events graph.finished.critical.g1." + node: event("critical"),
	}
	if d := cmp.Diff(want, tell(store.NoticeGraphEnded, "g1", `{"graphName":"Graph.A","status":"failed"}`)); d != "" {
		t.Error(d)
	}
	set("events.external", `false`)
	if got := tell(store.NoticeGraphEnded, "g1", `{"graphName":"Graph.A","status":"failed"}`); len(got) != 1 {
		t.Errorf("without external events: %v", got)
	}
	set("events.http", `false`)
	if got := tell(store.NoticeHTTP, "", `{}`); len(got) != 0 {
		t.Errorf("without events of HTTP: %v", got)
	}
	cancelled := `{"taskName":"Task.A","graphId":"g1","graphName":"Graph.A","state":"cancelled","context":{"target":"` + e.chassis.ID + `"},"terminalOnStates":[]}`
	finished := `Object {"context":{"target":"` + node + `"},"graphId":"g1","graphName":"Graph.A","state":"cancelled","taskId":"t1","taskName":"Task.A","terminalOnStates":[]}`
	want = map[string]string{
		"on.events task.finished.t1": finished, "on.events default.task.finished": finished,
	}
	if d := cmp.Diff(want, tell(store.NoticeTaskEnded, "t1", cancelled)); d != "" {
		t.Error(d)
	}
	want = map[string]string{
		"on.task cancel.t1": `Object {"taskId":"t1"}`, "on.task methods.cancel.t1": `Result {"value":{"taskId":"t1"}}`,
		"on.task methods.cancel": `Object {"taskId":"t1"}`,
	}
	if d := cmp.Diff(want, tell(store.NoticeTaskCancel, "t1", `{}`)); d != "" {
		t.Error(d)
	}
	for _, bad := range []store.Notice{
		{Kind: store.NoticeHTTP, Data: json.RawMessage(`[]`)},
		{Kind: store.NoticeTFTPSent, Data: json.RawMessage(`{"x":"` + strings.Repeat("x", rackhd.MaxBody) + `"}`)},
		{Kind: store.NoticeGraphEnded, Subject: strings.Repeat("x", 300), Data: json.RawMessage(`{}`)},
	} {
		if list, err := s.told(t.Context(), bad); !errors.Is(err, errUntellable) || list != nil {
			t.Errorf("%.60v: %v", bad, err)
		}
	}
	if got := tell("kind.of.the.future", "", `{}`); len(got) != 0 {
		t.Errorf("an unknown kind is told: %v", got)
	}
}

// flaky is a bus that fails while down is set.
type flaky struct {
	bus.Bus
	mu   sync.Mutex
	down bool
	sent []string
}

func (f *flaky) Publish(_ context.Context, messages ...bus.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, m := range messages {
		if f.down && i > 0 { // the first goes out, and that is not known
			return errors.New("no confirm")
		}
		if strings.HasPrefix(m.Key, "tftp.") {
			f.sent = append(f.sent, m.Key+string(m.Body))
		}
	}
	if f.down {
		return errors.New("no confirm")
	}
	return nil
}

func TestNoticesWaitForTheBus(t *testing.T) {
	e := newEstate(t)
	f := &flaky{down: true}
	s := New(Config{Bus: f, Store: e.store, Engine: e.engine, Settings: e.settings, Log: e.log})
	var want []string
	for i := range 450 { // more than a batch
		if err := e.store.AddNotice(t.Context(), store.NoticeTFTPSent, "", "", object{"n": i}); err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf(`tftp.success.external{"n":%d}`, i))
	}
	if err := e.store.AddNotice(t.Context(), store.NoticeTFTPSent, "", "", []int{1}); err != nil { // cannot be told, and holds up nothing
		t.Fatal(err)
	}
	for range 3 {
		if more, err := s.publishSome(t.Context()); err == nil || more {
			t.Fatalf("published on a bus that is down: %v %v", more, err)
		}
	}
	if left, err := e.store.Notices(t.Context(), 0, 1000); err != nil || len(left) < 451 {
		t.Fatalf("%d notices are left, %v", len(left), err)
	}
	f.mu.Lock()
	f.down, f.sent = false, nil
	f.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.publishNotices(ctx); close(done) }()
	for range 500 {
		if left, err := e.store.Notices(t.Context(), 0, 1); err == nil && len(left) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	<-done
	if d := cmp.Diff(want, f.sent); d != "" {
		t.Error(d)
	}
}

func TestTee(t *testing.T) {
	var base strings.Builder
	tee := NewTee(slog.NewTextHandler(&base, &slog.HandlerOptions{Level: slog.LevelDebug - 4}))
	log := slog.New(tee.Handler())
	log.Debug("not logged")
	log.With("chassis", "c1").WithGroup("g").Info("one", "n", 1, "error", errors.New("no"), slog.Group("in", "ok", true), "f", 1.5)
	slog.New(tee.Base()).Error("of the bus itself")
	tee.Set(slog.LevelWarn, true)
	log.Info("too quiet")
	tee.Set(slog.LevelDebug, false)
	log.Debug("not published")
	tee.Set(slog.LevelInfo, true)
	log.Log(t.Context(), slog.LevelInfo+2, strings.Repeat("x", 100_000))
	b := bus.NewMemory(slog.New(slog.DiscardHandler))
	defer b.Close()
	var mu sync.Mutex
	got := map[string][]rackhd.LogEvent{}
	if err := b.Subscribe(t.Context(), bus.Subscription{Exchange: rackhd.Logging, Keys: []string{"#"}, Handle: func(_ context.Context, m bus.Message) *bus.Message {
		var e rackhd.LogEvent
		if err := rackhd.Decode(m.ContentType, m.Body, &e); err != nil || m.Type != rackhd.TypeLog {
			t.Errorf("%s: %v", m.Type, err)
		}
		mu.Lock()
		got[m.Key] = append(got[m.Key], e)
		mu.Unlock()
		return nil
	}}); err != nil {
		t.Fatal(err)
	}
	// Nobody takes them yet: what is too much is left out, at once.
	began := time.Now()
	for i := range 5 * teeQueue {
		log.Info("many", "i", i)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("logging waits for the bus: %v", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tee.Run(ctx, b) }()
	tee.Flush(10 * time.Second)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for s := b.Stats(); s.Received < s.Published; s = b.Stats() {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // the last is being handled
	mu.Lock()
	defer mu.Unlock()
	first := got["info"][0]
	if d := cmp.Diff(map[string]any{"chassis": "c1", "g.n": 1., "g.error": "no", "g.in.ok": true, "g.f": "1.5"}, first.Context); d != "" {
		t.Error(d)
	}
	if first.Subject != "c1" || first.Message != "one" || !strings.Contains(first.Caller, "TestTee") {
		t.Errorf("%+v", first)
	}
	if len(got["notice"]) != 1 || len(got["notice"][0].Message) != maxText || len(got["error"]) != 0 || len(got["debug"]) != 0 {
		t.Errorf("notice %d, error %d, debug %d", len(got["notice"]), len(got["error"]), len(got["debug"]))
	}
	if n := len(got["info"]); n < 900 || n > teeQueue+1 {
		t.Errorf("%d messages were published", n)
	}
	if len(got["warning"]) != 1 || !strings.Contains(got["warning"][0].Message, "were not published") {
		t.Errorf("what was left out is not told: %v", got["warning"])
	}
	for _, c := range []struct {
		text string
		want bool
	}{{"not logged", false}, {"too quiet", false}, {"not published", true}, {"of the bus itself", true}, {"one", true}} {
		if strings.Contains(base.String(), c.text) != c.want {
			t.Errorf("%q in the log: %v", c.text, !c.want)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add("methods.runTaskGraph", `{"name":"Graph.Reboot","options":{"defaults":{}},"target":"`+strings.Repeat("a", 24)+`"}`)
	f.Add("methods.getActiveTaskGraphs", `{"filter":{"target":5}}`)
	f.Add("methods.defineTaskGraph", `{"definition":{"tasks":[{}]}}`)
	f.Add("methods.respondCommands."+strings.Repeat("a", 24), `{"value":{"tasks":[{"error":1}]}}`)
	f.Add("ipmi.command.power.x", `{"value":{"node":{}}}`)
	f.Add("schedule", `{"taskName":"x","overrides":{"target":1}}`)
	f.Add("methods.set", `{"key":"log.level","value":{}}`)
	f.Fuzz(func(t *testing.T, key, body string) {
		e := fuzzEstate(t)
		for _, g := range e.groups() {
			answer := e.answer(t.Context(), g, bus.Message{Exchange: g.exchange, Key: key, Type: "Object", Body: []byte(body), ReplyTo: "x"})
			if answer != nil {
				if err := rackhd.Check(answer.ContentType, answer.Body); err != nil || answer.ContentType != rackhd.ContentType {
					t.Fatalf("%s %s is answered with %q: %v", key, body, answer.Body, err)
				}
			}
		}
	})
}

var (
	fuzzOnce    sync.Once
	fuzzService *Service
)

// fuzzEstate is one for all inputs: a store is slow to make.
func fuzzEstate(t *testing.T) *Service {
	fuzzOnce.Do(func() {
		dir, err := os.MkdirTemp("", "teeth-fuzz")
		if err != nil {
			t.Fatal(err)
		}
		e := newEstateIn(t, dir, func(func()) {}) // as long as the process
		fuzzService = New(Config{Bus: bus.NewMemory(e.log), Store: e.store, Engine: e.engine, Settings: e.settings, Log: e.log})
	})
	return fuzzService
}
