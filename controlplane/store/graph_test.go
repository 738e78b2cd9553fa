package store

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// A server whose connection to a chassis has long been replaced does not know
// that yet.
func TestStartOverAnOldSession(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	g := newGraph(t, s, c.ID, teeth.MethodDiskErase)
	if _, err := s.MarkStarted(t.Context(), g.Tasks[0].ID, Start{Session: "of long ago", BootID: "boot0"}); !errors.Is(err, ErrConflict) {
		t.Fatalf("started: %v", err)
	}
	if err := begin(t.Context(), s, g.Tasks[0].ID); err != nil {
		t.Fatal(err)
	}
}

func TestPausedIsNotStarted(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	g := newGraph(t, s, c.ID, teeth.MethodDiskErase)
	if err := s.PauseGraph(t.Context(), g.ID, true); err != nil {
		t.Fatal(err)
	}
	if err := begin(t.Context(), s, g.Tasks[0].ID); !errors.Is(err, ErrConflict) {
		t.Fatalf("started: %v", err)
	}
}

func TestGiveUp(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	g := newGraph(t, s, c.ID, teeth.MethodDiskErase, teeth.MethodQC)
	if err := begin(t.Context(), s, g.Tasks[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := s.CancelGraph(t.Context(), g.ID, false); err != nil {
		t.Fatal(err)
	}
	if g, _ = s.Graph(t.Context(), g.ID); g.Final() || !g.Cancel || !g.Tasks[0].Cancel || g.Tasks[1].State != Cancelled {
		t.Errorf("%+v", g)
	}
	if err := s.CancelGraph(t.Context(), g.ID, true); err != nil {
		t.Fatal(err)
	}
	if g, _ = s.Graph(t.Context(), g.ID); g.State != Cancelled || !strings.Contains(g.Tasks[0].Msg, "may still be at work") {
		t.Errorf("%+v", g)
	}
	if applied := apply(t, s, c.ID, teeth.TaskStatus{TaskID: g.Tasks[0].ID, State: teeth.Complete}); applied {
		t.Error("a task that was given up has ended once more")
	}
}

// The time of an agent's task runs out: one that is there is told, and one that
// is away is not waited for.
func TestDeadline(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	for _, away := range []bool{false, true} {
		c := connect(t, s, "52:54:00:00:00:01")
		list := steps(teeth.MethodDiskErase)
		list[0].Timeout = time.Millisecond
		g, err := s.CreateGraph(ctx, NewGraph{Name: "Graph.Test", Chassis: c.ID, Tasks: list})
		if err != nil {
			t.Fatal(err)
		}
		id := g.Tasks[0].ID
		if err := begin(ctx, s, id); err != nil {
			t.Fatal(err)
		}
		if away {
			if err := s.Disconnect(ctx, c.ID, "session-"+c.MAC); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(20 * time.Millisecond)
		if woken, err := s.Expire(ctx); err != nil || len(woken) != 1 {
			t.Fatal(woken, err)
		}
		task, err := s.Task(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if !away {
			if task.Final() || !task.Cancel {
				t.Errorf("%+v", task)
			}
			apply(t, s, c.ID, teeth.TaskStatus{TaskID: id, State: teeth.Failed, Msg: "cancelled"})
			task, _ = s.Task(ctx, id)
		}
		if task.State != Timeout || away && !strings.Contains(task.Msg, "may still be at work") {
			t.Errorf("away %v: %+v", away, task)
		}
		if g, _ = s.Graph(ctx, g.ID); g.State != Timeout {
			t.Errorf("away %v: %s", away, g.State)
		}
	}
}

// Notices tell of a graph from its first task to its end.
func TestNoticesOfAGraph(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	var after int64
	if old, err := s.Notices(t.Context(), 0, 0); err != nil {
		t.Fatal(err)
	} else if len(old) > 0 {
		after = old[len(old)-1].Number
	}
	g := newGraph(t, s, c.ID, teeth.MethodQC)
	if err := begin(t.Context(), s, g.Tasks[0].ID); err != nil {
		t.Fatal(err)
	}
	apply(t, s, c.ID, teeth.TaskStatus{TaskID: g.Tasks[0].ID, State: teeth.Failed, Msg: "differs"})
	list, err := s.Notices(t.Context(), after, 0)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, n := range list {
		kinds = append(kinds, n.Kind)
		if n.Kind == NoticeTaskEnded && (n.Subject != g.Tasks[0].ID || !strings.Contains(string(n.Data), `"state":"failed"`) || !strings.Contains(string(n.Data), `"error":"differs"`)) {
			t.Errorf("%+v %s", n, n.Data)
		}
	}
	if got := strings.Join(kinds, " "); got != "graph.started task.started task.finished graph.finished" {
		t.Error(got)
	}
}

// That a task is to stop is told when it is asked for, once, and not only when its
// doer has stopped.
func TestNoticesOfACancel(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	kinds := func(do func()) string {
		t.Helper()
		old, err := s.Notices(t.Context(), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		do()
		all, err := s.Notices(t.Context(), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, n := range all[len(old):] {
			list = append(list, n.Kind)
		}
		return strings.Join(list, " ")
	}
	g := newGraph(t, s, c.ID, teeth.MethodQC, teeth.MethodQC)
	running, pending := g.Tasks[0].ID, g.Tasks[1].ID
	if err := begin(t.Context(), s, running); err != nil {
		t.Fatal(err)
	}
	cancel := func() {
		if err := s.CancelGraph(t.Context(), g.ID, false); err != nil {
			t.Error(err)
		}
	}
	if got := kinds(cancel); got != "task.cancel" {
		t.Errorf("asked: %s", got)
	}
	if got := kinds(cancel); got != "" {
		t.Errorf("asked again, as the message comes back to us: %s", got)
	}
	if got := kinds(func() {
		apply(t, s, c.ID, teeth.TaskStatus{TaskID: running, State: teeth.Failed, Msg: "cancelled"})
	}); got != "task.finished graph.finished" {
		t.Errorf("stopped: %s", got)
	}
	if task, err := s.Task(t.Context(), pending); err != nil || !task.Skipped {
		t.Errorf("%+v %v", task, err)
	}
	// One that nobody does yet ends as it is asked.
	g = newGraph(t, s, c.ID, teeth.MethodQC)
	if got := kinds(func() {
		if _, err := s.RequestCancel(t.Context(), g.Tasks[0].ID, false); err != nil {
			t.Error(err)
		}
	}); got != "task.cancel task.finished graph.finished" {
		t.Errorf("pending: %s", got)
	}
	// So does one that is given up, after it was asked.
	g = newGraph(t, s, c.ID, teeth.MethodQC)
	if err := begin(t.Context(), s, g.Tasks[0].ID); err != nil {
		t.Fatal(err)
	}
	for force, want := range []string{"task.cancel", "task.finished graph.finished"} {
		if got := kinds(func() {
			if _, err := s.RequestCancel(t.Context(), g.Tasks[0].ID, force == 1); err != nil {
				t.Error(err)
			}
		}); got != want {
			t.Errorf("force %v: %s", force == 1, got)
		}
	}
}

// What a server was doing when it died is another's to do.
func TestReclaim(t *testing.T) {
	s := newStore(t)
	list := []NewTask{{Label: "a", Name: "Task.A", Job: "Job.A", Kind: KindLocal}}
	g, err := s.CreateGraph(t.Context(), NewGraph{Name: "Graph.Test", Tasks: list})
	if err != nil {
		t.Fatal(err)
	}
	id := g.Tasks[0].ID
	if _, err := s.MarkStarted(t.Context(), id, Start{Lease: "l1"}); err != nil {
		t.Fatal(err)
	}
	if woken, err := s.Reclaim(t.Context()); err != nil || len(woken) != 0 {
		t.Fatalf("of a server that lives: %v, %v", woken, err)
	}
	if err := s.update(t.Context(), func(t *tx) error {
		_, err := t.Exec(`UPDATE tasks SET instance = 'gone' WHERE id = ?`, id)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if woken, err := s.Reclaim(t.Context()); err != nil || len(woken) != 1 {
		t.Fatalf("of a server that is gone: %v, %v", woken, err)
	}
	if _, err := s.MarkStarted(t.Context(), id, Start{Lease: "l2"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Finish(t.Context(), id, "l1", Succeeded, "", nil); !errors.Is(err, ErrConflict) {
		t.Errorf("the one that was thought dead has ended it: %v", err)
	}
	if err := s.Finish(t.Context(), id, "l2", Succeeded, "", nil); err != nil {
		t.Error(err)
	}
}
