package store_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
	"github.com/teeth-metal/teeth/internal/need"
)

// life is a server's time with a database: an engine whose jobs are counted.
type life struct {
	store  *store.Store
	engine *workflow.Engine
	cancel context.CancelFunc

	mu   sync.Mutex
	runs map[string]int // by task id
}

func live(t *testing.T, path string, committed func()) *life {
	t.Helper()
	s, err := store.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	s.OnCommit(committed)
	l := &life{store: s, runs: map[string]int{}}
	l.engine = workflow.New(workflow.Config{Store: s, Log: slog.New(slog.DiscardHandler), Poll: 50 * time.Millisecond, Watch: 20 * time.Millisecond})
	l.engine.Register(workflow.Job{Name: "Job.Count", Run: func(_ context.Context, w *workflow.Work) (any, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.runs[w.Task.ID]++
		if w.Task.Label == "fails" && w.Task.Attempt == 1 {
			return nil, context.Canceled
		}
		return map[string]int{"n": 1}, nil
	}})
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go l.engine.Run(ctx)
	return l
}

// The server is killed after its first commit, after its second, and so on to the
// last: the graph always ends as it should, and no task whose end was recorded is
// done again.
func TestKilledAtEveryCommit(t *testing.T) {
	need.Time(t, "opens a database twice for every commit")
	graph := func() *definition.Graph {
		count := &definition.Task{InjectableName: "Task.Count", RunJob: "Job.Count", Options: map[string]any{"x": nil}}
		late := &definition.Task{InjectableName: "Task.Late", RunJob: "Job.Count", Options: map[string]any{"x": "{{ context.a.n }}"}}
		after := func(label, state string) definition.WaitOn {
			return definition.WaitOn{All: map[string][]string{label: {state}}}
		}
		return &definition.Graph{InjectableName: "Graph.Test", Tasks: []definition.Step{
			{Label: "a", TaskDefinition: count},
			{Label: "b", TaskDefinition: late, WaitOn: after("a", "succeeded")},
			{Label: "fails", TaskDefinition: count, WaitOn: after("a", "succeeded"), Retries: 1, RetryDelay: definition.Duration(time.Millisecond)},
			{Label: "never", TaskDefinition: count, WaitOn: after("a", "failed")},
			{Label: "end", TaskDefinition: count, WaitOn: definition.WaitOn{All: map[string][]string{"b": {"succeeded"}, "fails": {"succeeded"}}}},
		}}
	}
	killed := 0
	for n := int32(1); ; n++ {
		path := filepath.Join(t.TempDir(), "teeth.db")
		var commits atomic.Int32
		dead, zombie := make(chan struct{}), make(chan struct{})
		first := live(t, path, func() {
			if commits.Add(1) == n {
				close(dead)
				<-zombie // nobody is told of this commit, and there is no other
			}
		})
		go first.engine.RunGraph(context.Background(), workflow.Request{Inline: graph()})
		over := false
		for wait := time.After(20 * time.Second); !over; {
			select {
			case <-dead:
				over = true
			case <-wait:
				t.Fatalf("commit %d does not come", n)
			case <-time.After(5 * time.Millisecond):
				if all, err := first.store.ListGraphs(context.Background(), store.GraphFilter{}, "", 0); err == nil && len(all) == 1 && all[0].Final() {
					// Past the last commit: the whole graph went by.
					first.cancel()
					close(zombie)
					first.store.Close()
					if killed < 8 {
						t.Fatalf("only %d commits", killed)
					}
					t.Logf("killed after each of %d commits", killed)
					return
				}
			}
		}
		killed++
		first.cancel()
		all, err := first.store.ListGraphs(context.Background(), store.GraphFilter{}, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		var before store.Graph
		if len(all) == 1 { // else it was killed before it was asked for anything
			if before, err = first.store.Graph(context.Background(), all[0].ID); err != nil {
				t.Fatal(err)
			}
		}
		second := live(t, path, nil)
		if len(all) == 1 {
			check(t, n, second, before)
		}
		second.cancel()
		if err := second.store.Close(); err != nil {
			t.Error(err)
		}
		close(zombie)
		first.store.Close()
	}
}

// check lets the second server finish what the first, dead after commit n, has
// left as before.
func check(t *testing.T, n int32, l *life, before store.Graph) {
	t.Helper()
	var err error
	now := before
	for end := time.Now().Add(20 * time.Second); !now.Final(); time.Sleep(5 * time.Millisecond) {
		if now, err = l.store.Graph(context.Background(), before.ID); err != nil || time.Now().After(end) {
			t.Fatalf("killed at commit %d: the graph does not end: %+v, %v", n, now, err)
		}
	}
	if now.State != store.Succeeded || len(now.Tasks) != 6 {
		t.Errorf("killed at commit %d: %s, %s, %d tasks", n, now.State, now.Msg, len(now.Tasks))
	}
	ended := map[string]bool{}
	for _, task := range before.Tasks {
		ended[task.ID] = task.Final()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, task := range now.Tasks {
		want := 1
		if ended[task.ID] || task.Label == "never" {
			want = 0
		}
		if got := l.runs[task.ID]; got != want {
			t.Errorf("killed at commit %d: %s, attempt %d, was run %d times by the second server, want %d", n, task.Label, task.Attempt, got, want)
		}
	}
}
