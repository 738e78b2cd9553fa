package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// counted is a job that a test counts the runs of, by the option "id", and can
// have fail.
type counted struct {
	mu   sync.Mutex
	runs map[string]int
	fail map[string]int // how often it is to fail
}

func (c *counted) job() Job {
	return Job{Name: "Job.Count", Run: func(ctx context.Context, w *Work) (any, error) {
		var o struct {
			ID   string `json:"id"`
			Wait string `json:"wait"`
		}
		if err := json.Unmarshal(w.Options, &o); err != nil {
			return nil, err
		}
		if o.Wait != "" {
			d, err := time.ParseDuration(o.Wait)
			if err != nil {
				return nil, err
			}
			w.Progress(1, 2, "waiting")
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(d):
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.runs[o.ID]++
		if c.fail[o.ID] != 0 {
			c.fail[o.ID]--
			return nil, fmt.Errorf("%s is to fail", o.ID)
		}
		return map[string]any{"id": o.ID, "n": 7}, nil
	}}
}

func (c *counted) count(id string) int { c.mu.Lock(); defer c.mu.Unlock(); return c.runs[id] }

// countEngine has the job, on a store of its own.
func countEngine(t *testing.T, session *fake) (*Engine, *store.Store, *counted) {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c := &counted{runs: map[string]int{}, fail: map[string]int{}}
	return serve(t, s, c, session), s, c
}

func serve(t *testing.T, s *store.Store, c *counted, session *fake) *Engine {
	t.Helper()
	return serveEvery(t, s, c, session, 100*time.Millisecond)
}

// serveEvery looks at everything so often, beside what it is woken for.
func serveEvery(t *testing.T, s *store.Store, c *counted, session *fake, period time.Duration) *Engine {
	t.Helper()
	e := New(Config{
		Store: s, Log: slog.New(slog.DiscardHandler), Poll: period, Watch: period / 2,
		Session: func(string) (Session, bool) { return session, session != nil },
		BootURL: func(c store.Chassis) (string, error) { return "http://boot:8082", nil },
	})
	e.Register(c.job())
	e.Register(Job{Name: "Job.Outside"})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e
}

// inline reads a graph whose tasks are counted ones, but for those that say
// otherwise.
func inline(t *testing.T, text string) *definition.Graph {
	t.Helper()
	g, err := definition.ParseGraph([]byte("injectableName: Graph.Test\ntasks:\n" + text))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range g.Tasks {
		if s.TaskName == "Task.Count" {
			g.Tasks[i].TaskName = ""
			g.Tasks[i].TaskDefinition = &definition.Task{InjectableName: "Task.Count", RunJob: "Job.Count",
				Options: map[string]any{"id": s.Label, "wait": nil, "x": nil}}
		}
	}
	return &g
}

func run(t *testing.T, e *Engine, r Request) store.Graph {
	t.Helper()
	g, err := e.RunGraph(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// states are those of a graph's tasks by label, of the newest attempt.
func states(g store.Graph) map[string]string {
	m := map[string]string{}
	for _, t := range g.Tasks {
		m[t.Label] = t.State
		if t.Skipped {
			m[t.Label] = "skipped"
		}
	}
	return m
}

func TestBranches(t *testing.T) {
	e, s, c := countEngine(t, nil)
	for name, k := range map[string]struct {
		text string
		fail string
		want map[string]string
		end  string
	}{
		"a line": {`
  - {label: a, taskName: Task.Count}
  - {label: b, taskName: Task.Count, waitOn: {a: succeeded}}`, "", map[string]string{"a": "succeeded", "b": "succeeded"}, "succeeded"},
		"failure skips the rest": {`
  - {label: a, taskName: Task.Count}
  - {label: b, taskName: Task.Count, waitOn: {a: succeeded}}
  - {label: c, taskName: Task.Count, waitOn: {b: finished}}`, "a", map[string]string{"a": "failed", "b": "skipped", "c": "skipped"}, "failed"},
		"failure that is waited for": {`
  - {label: a, taskName: Task.Count}
  - {label: good, taskName: Task.Count, waitOn: {a: succeeded}}
  - {label: bad, taskName: Task.Count, waitOn: {a: failed}}`, "a", map[string]string{"a": "failed", "good": "skipped", "bad": "succeeded"}, "succeeded"},
		"a cleanup does not make a failure good": {`
  - {label: a, taskName: Task.Count}
  - {label: clean, taskName: Task.Count, waitOn: {a: finished}}`, "a", map[string]string{"a": "failed", "clean": "succeeded"}, "failed"},
		"ignored failure": {`
  - {label: a, taskName: Task.Count, ignoreFailure: true}
  - {label: b, taskName: Task.Count, waitOn: {a: finished}}`, "a", map[string]string{"a": "failed", "b": "succeeded"}, "succeeded"},
		"any of": {`
  - {label: a, taskName: Task.Count}
  - {label: b, taskName: Task.Count, ignoreFailure: true}
  - {label: c, taskName: Task.Count, waitOn: {anyOf: {a: succeeded, b: succeeded}}}
  - {label: d, taskName: Task.Count, waitOn: {anyOf: {b: succeeded}}}`, "b", map[string]string{"a": "succeeded", "b": "failed", "c": "succeeded", "d": "skipped"}, "succeeded"},
		"a diamond": {`
  - {label: a, taskName: Task.Count}
  - {label: b, taskName: Task.Count, waitOn: {a: succeeded}}
  - {label: c, taskName: Task.Count, waitOn: {a: succeeded}}
  - {label: d, taskName: Task.Count, waitOn: {b: succeeded, c: succeeded}}`, "", map[string]string{"a": "succeeded", "b": "succeeded", "c": "succeeded", "d": "succeeded"}, "succeeded"},
	} {
		c.mu.Lock()
		c.runs, c.fail = map[string]int{}, map[string]int{k.fail: 1}
		c.mu.Unlock()
		g := ended(t, s, run(t, e, Request{Inline: inline(t, k.text)}).ID)
		if got := states(g); fmt.Sprint(got) != fmt.Sprint(k.want) || g.State != k.end {
			t.Errorf("%s: %s %v (%s)", name, g.State, got, g.Msg)
		}
		for label, state := range k.want {
			if n, want := c.count(label), map[bool]int{true: 0, false: 1}[state == "skipped"]; n != want {
				t.Errorf("%s: %s was run %d times", name, label, n)
			}
		}
	}
}

func TestRetries(t *testing.T) {
	e, s, c := countEngine(t, nil)
	c.fail["a"] = 2
	g := ended(t, s, run(t, e, Request{Inline: inline(t, `
  - {label: a, taskName: Task.Count, retries: 3, retryDelay: 20ms}
  - {label: b, taskName: Task.Count, waitOn: {a: succeeded}}`)}).ID)
	if g.State != store.Succeeded || c.count("a") != 3 || c.count("b") != 1 || len(g.Tasks) != 4 {
		t.Fatalf("%+v", g)
	}
	for i, want := range []struct {
		state   string
		retried bool
	}{{"failed", true}, {"failed", true}, {"succeeded", false}} {
		if a := g.Tasks[i]; a.State != want.state || a.Retried != want.retried || a.Attempt != i+1 || a.Label != "a" {
			t.Errorf("attempt %d: %+v", i+1, a)
		}
	}
	if g.Tasks[0].ID == g.Tasks[1].ID {
		t.Error("an attempt has the id of the one before, which an agent would not start again")
	}
	c.fail["x"] = 9
	if g = ended(t, s, run(t, e, Request{Inline: inline(t, `
  - {label: x, taskName: Task.Count, retries: 1, retryDelay: 10ms}`)}).ID); g.State != store.Failed || c.count("x") != 2 {
		t.Errorf("%d runs: %+v", c.count("x"), g)
	}
}

func TestTimeouts(t *testing.T) {
	e, s, c := countEngine(t, nil)
	g := ended(t, s, run(t, e, Request{Inline: inline(t, `
  - {label: a, taskName: Task.Count, timeout: 150ms}
  - {label: b, taskName: Task.Count, waitOn: {a: timeout}}
  - {label: o, taskDefinition: {injectableName: Task.O, runJob: Job.Outside, options: {_taskTimeout: 150}}, ignoreFailure: true}`),
		Options: map[string]any{"a": map[string]any{"wait": "1m"}}}).ID)
	if got := states(g); got["a"] != "timeout" || got["b"] != "succeeded" || got["o"] != "timeout" || g.State != store.Succeeded || c.count("a") != 0 {
		t.Errorf("%s %v: %+v", g.State, got, g)
	}
}

func TestTemplates(t *testing.T) {
	session := &fake{}
	e, s, _ := countEngine(t, session)
	c := chassis(t, s, "1.0", inventory)
	seen := make(chan string, 10)
	e.jobs["Job.See"] = Job{Name: "Job.See", Run: func(_ context.Context, w *Work) (any, error) {
		seen <- string(w.Options)
		return nil, nil
	}}
	text := `
  - {label: a, taskName: Task.Count}
  - label: b
    waitOn: {a: succeeded}
    taskDefinition:
      injectableName: Task.See
      runJob: Job.See
      options: {v: '{{ context.a.n }}', text: 'n={{ context.a.n }} of {{ chassis.mac }} by {{ server.url }}', raw: null}
`
	g := ended(t, s, run(t, e, Request{Inline: inline(t, text), Chassis: c.ID, Options: map[string]any{"b": map[string]any{"raw": "{{ jinja }}"}}}).ID)
	if g.State != store.Succeeded {
		t.Fatalf("%+v", g)
	}
	if got := <-seen; got != `{"raw":"{{ jinja }}","text":"n=7 of 52:54:00:00:00:01 by http://boot:8082","v":7}` {
		t.Error(got)
	}
	// A result that is not there fails the task, by name.
	g = ended(t, s, run(t, e, Request{Inline: inline(t, strings.ReplaceAll(text, "context.a.n", "context.a.nope")), Chassis: c.ID}).ID)
	if g.State != store.Failed || !strings.Contains(g.Msg, "context.a.nope") {
		t.Errorf("%s: %s", g.State, g.Msg)
	}
	// What is missing is known at once where it can be.
	if _, err := e.RunGraph(t.Context(), Request{Inline: inline(t, strings.ReplaceAll(text, "context.a.n", "chassis.serial")), Chassis: c.ID}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "chassis.serial") {
		t.Errorf("%v", err)
	}
	if _, err := e.RunGraph(t.Context(), Request{Graph: "Graph.Inspect"}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "chassis") {
		t.Errorf("a graph for a chassis without one: %v", err)
	}
}

func TestGraphInsideGraph(t *testing.T) {
	e, s, c := countEngine(t, nil)
	for _, text := range []string{
		"{injectableName: Task.Count, runJob: Job.Count, options: {id: inner, wait: null}}",
		"{injectableName: Graph.Inner, tasks: [{label: one, taskName: Task.Count}]}",
		"{injectableName: Graph.Ouroboros, tasks: [{label: again, taskName: Task.Graph.Run}], options: {again: {graph: Graph.Ouroboros, options: null}}}",
	} {
		define := e.DefineGraph
		if strings.Contains(text, "runJob") {
			define = e.DefineTask
		}
		if _, err := define(t.Context(), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	outer := `
  - {label: sub, taskName: Task.Graph.Run}
  - {label: after, taskName: Task.Count, waitOn: {sub: succeeded}}
`
	options := func(inner map[string]any) map[string]any {
		return map[string]any{"sub": map[string]any{"graph": "Graph.Inner", "options": map[string]any{"one": inner}}}
	}
	g := ended(t, s, run(t, e, Request{Inline: inline(t, outer), Options: options(nil)}).ID)
	if g.State != store.Succeeded || c.count("inner") != 1 || c.count("after") != 1 {
		t.Fatalf("%+v", g)
	}
	var result struct{ Graph string }
	if err := json.Unmarshal(g.Tasks[0].Result, &result); err != nil {
		t.Fatal(err)
	}
	if sub, err := s.Graph(t.Context(), result.Graph); err != nil || sub.Parent != g.Tasks[0].ID || sub.Root != g.ID {
		t.Errorf("%+v, %v", sub, err)
	}
	c.fail["inner"] = 1
	if g = ended(t, s, run(t, e, Request{Inline: inline(t, outer), Options: options(nil)}).ID); g.State != store.Failed || states(g)["after"] != "skipped" {
		t.Errorf("%+v", g)
	}
	// The end of the outer one is the end of the inner one.
	g = run(t, e, Request{Inline: inline(t, outer), Options: options(map[string]any{"wait": "1m"})})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		inside, err := s.ListGraphs(t.Context(), store.GraphFilter{Active: true, Name: "Graph.Inner"}, "", 0)
		if err != nil || time.Now().After(end) {
			t.Fatal(inside, err)
		}
		if len(inside) == 1 && inside[0].State == store.Running {
			break
		}
	}
	if _, err := e.CancelGraph(t.Context(), g.ID); err != nil {
		t.Fatal(err)
	}
	if g = ended(t, s, g.ID); g.State != store.Cancelled || states(g)["sub"] != "cancelled" {
		t.Errorf("%+v", g)
	}
	if left, err := s.ListGraphs(t.Context(), store.GraphFilter{Active: true}, "", 0); err != nil || len(left) != 0 {
		t.Errorf("left at work: %+v, %v", left, err)
	}
	if g = ended(t, s, run(t, e, Request{Graph: "Graph.Ouroboros"}).ID); g.State != store.Failed || !strings.Contains(g.Msg, "run itself") {
		t.Errorf("a graph that runs itself: %s %s", g.State, g.Msg)
	}
}

// The end of a graph on one chassis is the end of a task of another's: that one
// goes on at once, not when everything is looked at again.
func TestGraphOnOtherChassis(t *testing.T) {
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c := &counted{runs: map[string]int{}, fail: map[string]int{}}
	e := serveEvery(t, s, c, nil, time.Hour)
	one := chassis(t, s, "1.0", inventory)
	other, err := s.Connect(t.Context(), store.Session{ID: "2", Rules: []store.Rule{{Kind: store.RuleAll}}, Handshake: teeth.Handshake{ID: "52:54:00:00:00:02", Version: "1.0", BootID: "b"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"{injectableName: Graph.Inner, tasks: [{label: in, taskName: Task.Inner}]}", "{injectableName: Graph.Held, tasks: [{label: in, taskName: Task.Held}]}"} {
		task := "{injectableName: Task.Inner, runJob: Job.Count, options: {id: inner, wait: null}}"
		if strings.Contains(text, "Held") {
			task = "{injectableName: Task.Held, runJob: Job.Count, options: {id: held, wait: 1h}}"
		}
		if _, err := e.DefineTask(t.Context(), []byte(task)); err != nil {
			t.Fatal(err)
		}
		if _, err := e.DefineGraph(t.Context(), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	outer := `
  - {label: sub, taskName: Task.Graph.Run}
  - {label: after, taskName: Task.Count, waitOn: {sub: succeeded}}
`
	options := func(graph string) map[string]any {
		return map[string]any{"sub": map[string]any{"graph": graph, "chassis": other.ID}}
	}
	g := ended(t, s, run(t, e, Request{Inline: inline(t, outer), Chassis: one.ID, Options: options("Graph.Inner")}).ID)
	if g.State != store.Succeeded || c.count("inner") != 1 || c.count("after") != 1 {
		t.Errorf("%+v", g)
	}
	// So is it stopped there when the outer one is cancelled.
	g = run(t, e, Request{Inline: inline(t, outer), Chassis: one.ID, Options: options("Graph.Held")})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		open, err := s.OpenTasks(t.Context(), other.ID)
		if err != nil || time.Now().After(end) {
			t.Fatal(open, err)
		}
		if len(open) == 1 && open[0].State == store.Running {
			break
		}
	}
	if _, err := e.CancelGraph(t.Context(), g.ID); err != nil {
		t.Fatal(err)
	}
	if g = ended(t, s, g.ID); g.State != store.Cancelled {
		t.Errorf("%+v", g)
	}
}

func TestPauseAndCancel(t *testing.T) {
	e, s, c := countEngine(t, nil)
	text := `
  - {label: a, taskName: Task.Count}
  - {label: b, taskName: Task.Count, waitOn: {a: succeeded}}`
	g := run(t, e, Request{Inline: inline(t, text), Options: map[string]any{"a": map[string]any{"wait": "300ms"}}})
	if g, err := e.PauseGraph(t.Context(), g.ID); err != nil || !g.Paused {
		t.Fatal(g, err)
	}
	time.Sleep(700 * time.Millisecond)
	if now, err := s.Graph(t.Context(), g.ID); err != nil || states(now)["b"] != "pending" || c.count("b") != 0 {
		t.Errorf("paused: %v, %v", states(now), err)
	}
	if g, err := e.ResumeGraph(t.Context(), g.ID); err != nil || g.Paused {
		t.Fatal(g, err)
	}
	if g = ended(t, s, g.ID); g.State != store.Succeeded || c.count("a") != 1 || c.count("b") != 1 {
		t.Errorf("resumed: %+v", g)
	}
	if _, err := e.CancelGraph(t.Context(), g.ID); !errors.Is(err, store.ErrConflict) {
		t.Errorf("cancel of one that has ended: %v", err)
	}
	g = run(t, e, Request{Inline: inline(t, text), Options: map[string]any{"a": map[string]any{"wait": "1m"}}})
	for states(g)["a"] != "running" {
		g, _ = s.Graph(t.Context(), g.ID)
	}
	if _, err := e.CancelGraph(t.Context(), g.ID[:8]); err != nil {
		t.Fatal(err)
	}
	if g = ended(t, s, g.ID); g.State != store.Cancelled || states(g)["a"] != "cancelled" || states(g)["b"] != "skipped" {
		t.Errorf("cancelled: %s %v", g.State, states(g))
	}
}

func TestFinishedFromOutside(t *testing.T) {
	e, s, _ := countEngine(t, nil)
	g := run(t, e, Request{Inline: inline(t, `
  - {label: o, taskDefinition: {injectableName: Task.O, runJob: Job.Outside}}
  - {label: p, taskDefinition: {injectableName: Task.O, runJob: Job.Outside}, waitOn: {o: succeeded}}`)})
	first, second := g.Tasks[0].ID, g.Tasks[1].ID
	for end := time.Now().Add(10 * time.Second); states(g)["o"] != "running"; time.Sleep(5 * time.Millisecond) {
		if g, _ = s.Graph(t.Context(), g.ID); time.Now().After(end) {
			t.Fatal(g)
		}
	}
	if err := e.FinishTask(t.Context(), second, store.Succeeded, "", nil); !errors.Is(err, store.ErrConflict) {
		t.Errorf("one that was not begun: %v", err)
	}
	for range 2 { // the second time its caller did not get the answer
		if err := e.FinishTask(t.Context(), first, store.Succeeded, "", json.RawMessage(`{"x":1}`)); err != nil {
			t.Error(err)
		}
	}
	if task, err := s.Task(t.Context(), first); err != nil || task.State != store.Succeeded || string(task.Result) != `{"x":1}` {
		t.Errorf("%+v, %v", task, err)
	}
	for {
		if err := e.FinishTask(t.Context(), second, store.Failed, "no", nil); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if g = ended(t, s, g.ID); g.State != store.Failed || g.Msg != "p: no" {
		t.Errorf("%+v", g)
	}
}

// Two engines on one store share the work, and no task is done twice.
func TestTwoEngines(t *testing.T) {
	e, s, c := countEngine(t, nil)
	other := serve(t, s, c, nil)
	var graphs []store.Graph
	for range 15 {
		graphs = append(graphs, run(t, e, Request{Inline: inline(t, `
  - {label: a, taskName: Task.Count}
  - {label: b, taskName: Task.Count, waitOn: {a: succeeded}}
  - {label: c, taskName: Task.Count, waitOn: {a: succeeded}}`)}))
		other.Wake("")
	}
	for _, g := range graphs {
		if g = ended(t, s, g.ID); g.State != store.Succeeded {
			t.Errorf("%+v", g)
		}
	}
	for _, label := range []string{"a", "b", "c"} {
		if n := c.count(label); n != len(graphs) {
			t.Errorf("%s was run %d times in %d graphs", label, n, len(graphs))
		}
	}
}

// A server that stops gives back what it has not finished, and the next one does
// it.
func TestStopAndGoOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "teeth.db")
	var begun atomic.Int32
	var id string
	for round := range 2 {
		s, err := store.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		e := New(Config{Store: s, Log: slog.New(slog.DiscardHandler), Watch: 20 * time.Millisecond})
		e.Register(Job{Name: "Job.Count", Run: func(ctx context.Context, w *Work) (any, error) {
			if begun.Add(1) == 1 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		if round == 0 {
			id = run(t, e, Request{Inline: inline(t, "  - {label: a, taskName: Task.Count}")}).ID
			for begun.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
		} else if g := ended(t, s, id); g.State != store.Succeeded || len(g.Tasks) != 1 {
			t.Errorf("%+v", g)
		}
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Error(err)
		}
	}
	if n := begun.Load(); n != 2 {
		t.Errorf("begun %d times", n)
	}
}

func TestLibrary(t *testing.T) {
	e, _, _ := countEngine(t, nil)
	lib, err := e.Library(t.Context())
	if err != nil || len(lib.Graphs) < 11 {
		t.Fatal(len(lib.Graphs), err)
	}
	for _, task := range lib.Tasks {
		if err := lib.CheckTask(task, e.knownJob); err != nil {
			t.Error(err)
		}
	}
	for _, g := range lib.Graphs {
		if err := lib.CheckGraph(g, e.knownJob); err != nil {
			t.Error(err)
		}
		if g.FriendlyName == "" {
			t.Errorf("%s has no name for people", g.InjectableName)
		}
	}
	if _, err := e.RunGraph(t.Context(), Request{Graph: "Graph.Nowhere"}); !errors.Is(err, definition.ErrUnknown) {
		t.Error(err)
	}
	// No part that does IPMI is there.
	if _, err := e.RunGraph(t.Context(), Request{Graph: "Graph.Power.On"}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "Job.Power") {
		t.Error(err)
	}
	mine := []byte("injectableName: Task.Mine\nrunJob: Job.Count\noptions: {id: x}")
	if _, err := e.DefineTask(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	if _, err := e.DefineGraph(t.Context(), []byte("injectableName: Graph.Mine\ntasks: [{label: a, taskName: Task.Mine}]\noptions: {a: {id: y}}")); err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveTask(t.Context(), "Task.Mine"); !errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), "Graph.Mine") {
		t.Errorf("a task in use: %v", err)
	}
	if _, err := e.DefineTask(t.Context(), []byte("injectableName: Task.Mine\nrunJob: Job.Count")); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "Graph.Mine") {
		t.Errorf("a task that breaks a graph: %v", err)
	}
	if _, err := e.DefineTask(t.Context(), []byte("injectableName: Task.Agent.QC\nrunJob: Job.Count")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a task of the program: %v", err)
	}
	if err := errors.Join(e.RemoveGraph(t.Context(), "Graph.Mine"), e.RemoveTask(t.Context(), "Task.Mine")); err != nil {
		t.Error(err)
	}
}
