package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

func connect(t testing.TB, s *Store, mac string) Chassis {
	t.Helper()
	c, err := s.Connect(t.Context(), Session{ID: "session-" + mac, Handshake: teeth.Handshake{ID: mac, Version: "1", MACs: []string{mac}, BootID: "boot1"},
		Rules: []Rule{{Kind: RuleAll}}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// steps are tasks of an agent, each of which waits for the one before.
func steps(methods ...string) []NewTask {
	var list []NewTask
	for i, m := range methods {
		n := NewTask{Label: m, Name: "Task." + m, Job: "Job." + m, Kind: KindAgent, Command: Command{Method: m, Params: json.RawMessage(`{"a":1}`)}}
		if i > 0 {
			n.Waits.All = map[string][]string{methods[i-1]: {Succeeded}}
		}
		list = append(list, n)
	}
	return list
}

func newGraph(t testing.TB, s *Store, chassis string, methods ...string) Graph {
	t.Helper()
	g, err := s.CreateGraph(t.Context(), NewGraph{Name: "Graph.Test", Chassis: chassis, Tasks: steps(methods...)})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// begin starts a task over its chassis' session, whichever that is.
func begin(ctx context.Context, s *Store, id string) error {
	var session string
	if err := s.r.QueryRowContext(ctx, `SELECT COALESCE((SELECT c.session FROM chassis c WHERE c.id = t.chassis), '') FROM tasks t WHERE t.id = ?`, id).Scan(&session); err != nil {
		return err
	}
	_, err := s.MarkStarted(ctx, id, Start{Session: session, BootID: "boot1"})
	return err
}

func apply(t testing.TB, s *Store, chassis string, st teeth.TaskStatus) bool {
	t.Helper()
	applied, err := s.ApplyStatus(t.Context(), chassis, "boot1", st)
	if err != nil {
		t.Fatal(err)
	}
	return applied
}

func ptr(f float64) *float64 { return &f }

func TestTaskStatusOrderAndFinality(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	r := newGraph(t, s, c.ID, teeth.MethodDiskErase, teeth.MethodQC)
	id := r.Tasks[0].ID
	if err := begin(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	if err := begin(t.Context(), s, id); !errors.Is(err, ErrConflict) {
		t.Fatalf("a task was sent twice: %v", err)
	}
	for i, step := range []struct {
		st      teeth.TaskStatus
		applied bool
		state   string
		percent float64
	}{
		{teeth.TaskStatus{State: teeth.Running, Percent: ptr(10), ETA: ptr(90), Seq: 1}, true, Running, 10},
		{teeth.TaskStatus{State: teeth.Running, Percent: ptr(30), Seq: 3}, true, Running, 30},
		{teeth.TaskStatus{State: teeth.Running, Percent: ptr(20), Seq: 2}, false, Running, 30},
		{teeth.TaskStatus{State: teeth.Running, Percent: ptr(1e9)}, true, Running, 100},
		{teeth.TaskStatus{State: teeth.Complete, Result: json.RawMessage(`{"a":1}`), Seq: 4}, true, Succeeded, 100},
		{teeth.TaskStatus{State: teeth.Complete, Seq: 4}, false, Succeeded, 100},
		{teeth.TaskStatus{State: teeth.Failed, Msg: "late", Seq: 5}, false, Succeeded, 100},
	} {
		step.st.TaskID = id
		if got := apply(t, s, c.ID, step.st); got != step.applied {
			t.Fatalf("update %d: applied = %v", i, got)
		}
		task, err := s.Task(t.Context(), id)
		if err != nil || task.State != step.state || task.Percent != step.percent {
			t.Fatalf("update %d: %+v, %v", i, task, err)
		}
	}
	task, _ := s.Task(t.Context(), id)
	if string(task.Result) != `{"a":1}` || task.Finished == nil || task.ETA != nil {
		t.Fatalf("final task: %+v", task)
	}
	if _, err := s.ApplyStatus(t.Context(), c.ID, "boot1", teeth.TaskStatus{TaskID: "nope", State: teeth.Running}); !errors.Is(err, ErrNotFound) {
		t.Fatalf("unknown task: %v", err)
	}
	other := connect(t, s, "52:54:00:00:00:02")
	if _, err := s.ApplyStatus(t.Context(), other.ID, "boot1", teeth.TaskStatus{TaskID: r.Tasks[1].ID, State: teeth.Complete}); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a chassis finished another's task: %v", err)
	}
}

func TestFailureCancelsTheRest(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	r := newGraph(t, s, c.ID, teeth.MethodDiskErase, teeth.MethodFirmwareSecure, teeth.MethodQC)
	if _, err := s.CreateGraph(t.Context(), NewGraph{Name: "Graph.Test", Chassis: c.ID, Tasks: steps(teeth.MethodQC)}); !errors.Is(err, ErrConflict) {
		t.Fatalf("a second run was accepted: %v", err)
	}
	apply(t, s, c.ID, teeth.TaskStatus{TaskID: r.Tasks[0].ID, State: teeth.Failed, Msg: "bad disk"})
	r, err := s.Graph(t.Context(), r.ID)
	if err != nil || r.State != Failed {
		t.Fatalf("run: %+v, %v", r, err)
	}
	for _, task := range r.Tasks[1:] {
		if task.State != Cancelled || !strings.Contains(task.Msg, "decom.disk_erase") {
			t.Errorf("task after the failed one: %+v", task)
		}
	}
	if c, _ = s.Chassis(t.Context(), c.ID); c.State != Errored {
		t.Errorf("chassis is %s", c.State)
	}
	newGraph(t, s, c.ID, teeth.MethodQC)
	if c, _ = s.Chassis(t.Context(), c.ID); c.State != Working {
		t.Errorf("chassis is %s", c.State)
	}
}

func TestCancel(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	r := newGraph(t, s, c.ID, teeth.MethodDiskErase, teeth.MethodQC)
	id := r.Tasks[0].ID
	if err := begin(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	task, err := s.RequestCancel(t.Context(), id, false)
	if err != nil || task.State != Running || !task.Cancel {
		t.Fatalf("%+v, %v", task, err)
	}
	apply(t, s, c.ID, teeth.TaskStatus{TaskID: id, State: teeth.Failed, Msg: "cancelled"})
	if task, _ = s.Task(t.Context(), id); task.State != Cancelled {
		t.Fatalf("state %s", task.State)
	}
	if _, err := s.RequestCancel(t.Context(), id, false); !errors.Is(err, ErrConflict) {
		t.Fatalf("cancel of a finished task: %v", err)
	}
	r = newGraph(t, s, c.ID, teeth.MethodDiskErase, teeth.MethodQC)
	if task, err = s.RequestCancel(t.Context(), r.Tasks[0].ID, false); err != nil || task.State != Cancelled {
		t.Fatalf("%+v, %v", task, err)
	}
	// Cancelled while the chassis was away, and unknown to it when it is back.
	r = newGraph(t, s, c.ID, teeth.MethodDiskErase)
	begin(t.Context(), s, r.Tasks[0].ID)
	s.RequestCancel(t.Context(), r.Tasks[0].ID, false)
	if err := s.Requeue(t.Context(), r.Tasks[0].ID); err != nil {
		t.Fatal(err)
	}
	if task, _ = s.Task(t.Context(), r.Tasks[0].ID); task.State != Cancelled {
		t.Fatalf("state %s", task.State)
	}
}

// A chassis that is away may still be at work, so its task cannot just end; the
// task says what it waits for.
func TestCancelWhileAway(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	r := newGraph(t, s, c.ID, teeth.MethodDiskErase)
	id := r.Tasks[0].ID
	if err := begin(t.Context(), s, id); err != nil {
		t.Fatal(err)
	}
	if err := s.Disconnect(t.Context(), c.ID, "session-52:54:00:00:00:01"); err != nil {
		t.Fatal(err)
	}
	task, err := s.RequestCancel(t.Context(), id, false)
	if err != nil || task.Final() || !task.Cancel || !strings.Contains(task.Msg, "not connected") {
		t.Errorf("%+v, %v", task, err)
	}
}

func TestServiceLife(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	c := connect(t, s, "52:54:00:00:00:01")
	if c.State != Inspecting {
		t.Fatalf("new chassis is %s", c.State)
	}
	if err := s.SaveStatus(ctx, c.ID, teeth.Status{Inventory: json.RawMessage(`{"disks":[]}`), Phases: []teeth.Phase{{Name: "mounts", Seconds: 1}}}); err != nil {
		t.Fatal(err)
	}
	state := func(want string) {
		t.Helper()
		if c, err := s.Chassis(ctx, c.ID); err != nil || c.State != want {
			t.Fatalf("chassis is %s (%v), want %s", c.State, err, want)
		}
	}
	state(Ready)
	list := steps(teeth.MethodPrepareImage, teeth.MethodRunImage)
	list[1].Command.PhoneHome = "secret"
	r, err := s.CreateGraph(ctx, NewGraph{Name: "Graph.Test", Chassis: c.ID, Tasks: list})
	if err != nil {
		t.Fatal(err)
	}
	state(Working)
	if _, _, err := s.PhoneHome(ctx, "secret"); !errors.Is(err, ErrConflict) {
		t.Fatalf("phone home before the image ran: %v", err)
	}
	apply(t, s, c.ID, teeth.TaskStatus{TaskID: r.Tasks[0].ID, State: teeth.Complete})
	if err := begin(ctx, s, r.Tasks[1].ID); err != nil {
		t.Fatal(err)
	}
	apply(t, s, c.ID, teeth.TaskStatus{TaskID: r.Tasks[1].ID, State: teeth.Complete})
	s.Disconnect(ctx, c.ID, "session-"+c.MAC)
	state(Working)
	if _, _, err := s.PhoneHome(ctx, "guess"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("wrong token: %v", err)
	}
	for _, first := range []bool{true, false} {
		if id, got, err := s.PhoneHome(ctx, "secret"); err != nil || id != c.ID || got != first {
			t.Fatalf("phone home: %s %v %v", id, got, err)
		}
	}
	state(InService)
	r = newGraph(t, s, c.ID, teeth.MethodDiskErase)
	state(InService) // until the agent is there to do it
	connect(t, s, c.MAC)
	state(Working)
	if err := begin(ctx, s, r.Tasks[0].ID); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.PhoneHome(ctx, "secret"); !errors.Is(err, ErrNotFound) {
		t.Errorf("an overwritten system has called back: %v", err)
	}
	apply(t, s, c.ID, teeth.TaskStatus{TaskID: r.Tasks[0].ID, State: teeth.Complete})
	state(Ready)
}

// The agent may lose power or its connection between starting the system and
// the acknowledgement of its last report.
func TestPhoneHomeCompletesRunImage(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	list := steps(teeth.MethodRunImage)
	list[0].Command.PhoneHome = "secret"
	r, err := s.CreateGraph(t.Context(), NewGraph{Name: "Graph.Test", Chassis: c.ID, Tasks: list})
	if err != nil {
		t.Fatal(err)
	}
	if err := begin(t.Context(), s, r.Tasks[0].ID); err != nil {
		t.Fatal(err)
	}
	if _, first, err := s.PhoneHome(t.Context(), "secret"); err != nil || !first {
		t.Fatal(first, err)
	}
	if r, _ = s.Graph(t.Context(), r.ID); r.State != Succeeded {
		t.Fatalf("run is %s", r.State)
	}
}

func TestDisconnectOfAnOlderSession(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	if _, err := s.Connect(t.Context(), Session{ID: "newer", Handshake: teeth.Handshake{ID: c.MAC, Version: "1"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Disconnect(t.Context(), c.ID, "session-"+c.MAC); err != nil {
		t.Fatal(err)
	}
	if c, _ = s.Chassis(t.Context(), c.ID); !c.Connected {
		t.Error("the end of the old session marked the new one as gone")
	}
}

func TestIdentityAndFind(t *testing.T) {
	for uuid, want := range map[string]string{
		"4C4C4544-0043-3010-8052-B4C04F564231": "uuid:4c4c4544-0043-3010-8052-b4c04f564231",
		"00000000-0000-0000-0000-000000000000": "mac:52:54:00:00:00:0a",
		"ffffffff-ffff-ffff-ffff-ffffffffffff": "mac:52:54:00:00:00:0a",
		"03000200-0400-0500-0006-000700080009": "mac:52:54:00:00:00:0a",
		"":                                     "mac:52:54:00:00:00:0a",
		"Not Settable":                         "mac:52:54:00:00:00:0a",
	} {
		if got := Identity(teeth.Handshake{ID: "52:54:00:00:00:0A", UUID: uuid}); got != want {
			t.Errorf("Identity(%q) = %s, want %s", uuid, got, want)
		}
	}
	s := newStore(t)
	ctx := t.Context()
	uuid := "4c4c4544-0043-3010-8052-b4c04f564231"
	c, err := s.Connect(ctx, Session{ID: "1", Handshake: teeth.Handshake{ID: "52:54:00:00:00:0a", UUID: uuid, Serial: "SN_1",
		MACs: []string{"52:54:00:00:00:0a", "52:54:00:00:00:0b"}}})
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Connect(ctx, Session{ID: "2", Handshake: teeth.Handshake{ID: "52:54:00:00:00:0b", UUID: uuid, Serial: "SN_1",
		MACs: []string{"52:54:00:00:00:0a", "52:54:00:00:00:0b"}}})
	if err != nil || again.ID != c.ID {
		t.Fatalf("booted from its other NIC it became another chassis: %v %v", again.ID, err)
	}
	connect(t, s, "52:54:00:00:00:ff")
	if err := s.SetName(ctx, c.ID, "web1"); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{c.ID, c.ID[:8], "web1", "WEB1", "sn_1", "52:54:00:00:00:0A", "52-54-00-00-00-0b", strings.ToUpper(uuid)} {
		if got, err := s.FindChassis(ctx, ref); err != nil || got.ID != c.ID {
			t.Errorf("FindChassis(%q): %s, %v", ref, got.ID, err)
		}
	}
	for _, ref := range []string{"", "%", "_", "sn%1", "nothing", strings.Repeat("a", 1000)} {
		if got, err := s.FindChassis(ctx, ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("FindChassis(%q): %s, %v", ref, got.ID, err)
		}
	}
	if got, err := s.FindBooting(ctx, "", "52:54:00:00:00:0a"); err != nil || got.ID != c.ID {
		t.Errorf("FindBooting by MAC: %s, %v", got.ID, err)
	}
	if got, err := s.FindBooting(ctx, uuid, "52:54:00:99:99:99"); err != nil || got.ID != c.ID {
		t.Errorf("FindBooting by UUID: %s, %v", got.ID, err)
	}
}

func TestReopenKeepsEverything(t *testing.T) {
	path := newDSN(t)
	s := open(t, path)
	c := connect(t, s, "52:54:00:00:00:01")
	r := newGraph(t, s, c.ID, teeth.MethodDiskErase)
	rev, _ := s.Revision()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.SetName(t.Context(), c.ID, "late"); !errors.Is(err, ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
	s = open(t, path)
	// That the chassis is not connected any more is one change, and a notice of it.
	if got, _ := s.Revision(); got != rev+2 {
		t.Errorf("revision %d after reopening, was %d", got, rev)
	}
	if got, err := s.Chassis(t.Context(), c.ID); err != nil || got.Connected || got.OpenGraph != r.ID {
		t.Errorf("chassis after reopening: %+v, %v", got, err)
	}
	if open, err := s.ChassisWithOpenTasks(t.Context()); err != nil || len(open) != 1 {
		t.Errorf("open tasks after reopening: %v, %v", open, err)
	}
}

// A chassis that a restart has disconnected has changed, and watchers that come
// back hear of it.
func TestRestartIsAChange(t *testing.T) {
	path := newDSN(t)
	s := open(t, path)
	a, b := connect(t, s, "52:54:00:00:00:01"), connect(t, s, "52:54:00:00:00:02")
	since, _ := s.Revision()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	var got []string
	revs := map[int64]bool{}
	changes, _, err := s.Changes(t.Context(), since, Filter{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, ch := range changes {
		if ch.Chassis != nil && !ch.Chassis.Connected {
			got = append(got, ch.Chassis.ID)
			revs[ch.Rev] = true
		}
	}
	if len(got) != 2 || len(revs) != 2 {
		t.Errorf("changes since the restart: %v at %v, want %s and %s", got, revs, a.ID, b.ID)
	}
}

func TestRefusesANewerSchema(t *testing.T) {
	path := newDSN(t)
	s := open(t, path)
	if _, err := s.w.Exec(`INSERT INTO schema_version (version) VALUES (999)`); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "newer program") {
		t.Errorf("opened a newer schema: %v", err)
	}
}

// A write that fails, or panics, takes none of those it shares a commit with
// down with it.
func TestGroupCommitIsolation(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			var err error
			switch i % 4 {
			case 0:
				err = s.AddImage(context.Background(), Image{ID: fmt.Sprint("id", i), Name: fmt.Sprint("name", i)})
			case 1:
				if err = s.AddImage(context.Background(), Image{ID: fmt.Sprint("id", i), Name: "same"}); errors.Is(err, ErrConflict) {
					err = nil
				}
			case 2:
				if s.update(context.Background(), func(tx *tx) error {
					tx.Exec(`INSERT INTO images VALUES ('x', 'undone', '', 0, '', 0)`)
					panic("boom")
				}) == nil {
					err = errors.New("a panic was a success")
				}
			case 3:
				err = s.AddEvent(context.Background(), Event{Chassis: c.ID, Time: time.Now(), Message: fmt.Sprint(i)})
			}
			if err != nil {
				t.Error(i, err)
			}
		})
	}
	wg.Wait()
	images, err := s.ListImages(t.Context(), "", 0)
	if err != nil || len(images) != 51 {
		t.Errorf("%d images, %v", len(images), err)
	}
	if events, err := s.Events(t.Context(), c.ID, 0); err != nil || len(events) != 50 {
		t.Errorf("%d events, %v", len(events), err)
	}
}

func TestEventsAreBounded(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 150 {
				if err := s.AddEvent(context.Background(), Event{Chassis: c.ID, Time: time.Now(), Message: fmt.Sprint(i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var n int
	if err := s.r.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM events`).Scan(&n); err != nil || n != maxEvents {
		t.Errorf("%d events kept, %v", n, err)
	}
}

func TestChanges(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	c := connect(t, s, "52:54:00:00:00:01")
	since, changed := s.Revision()
	r := newGraph(t, s, c.ID, teeth.MethodDiskErase, teeth.MethodQC)
	select {
	case <-changed:
	default:
		t.Error("nobody was told of the change")
	}
	apply(t, s, c.ID, teeth.TaskStatus{TaskID: r.Tasks[0].ID, State: teeth.Running, Percent: ptr(5)})
	apply(t, s, c.ID, teeth.TaskStatus{TaskID: r.Tasks[0].ID, State: teeth.Running, Percent: ptr(6)})
	s.AddEvent(ctx, Event{Chassis: c.ID, Time: time.Now(), Message: "hello", Fields: json.RawMessage(`{"a":1}`)})
	all, upTo, err := s.Changes(ctx, since, Filter{}, 0)
	if err != nil || len(all) != 5 {
		t.Fatalf("%d changes, %v", len(all), err)
	}
	if rev, _ := s.Revision(); rev != upTo {
		t.Errorf("goes on from %d, store is at %d", upTo, rev)
	}
	var oneByOne []Change
	for from := since; ; {
		next, to, err := s.Changes(ctx, from, Filter{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(next) == 0 {
			break
		}
		oneByOne, from = append(oneByOne, next...), to
	}
	if len(oneByOne) != len(all) {
		t.Errorf("one by one %d changes, at once %d", len(oneByOne), len(all))
	}
	for _, ch := range all {
		if ch.Task != nil && ch.Task.ID == r.Tasks[0].ID && ch.Task.Percent != 6 {
			t.Errorf("a change shows an old state: %+v", ch.Task)
		}
	}
	if of, _, _ := s.Changes(ctx, since, Filter{Graph: r.ID}, 0); len(of) != 3 { // itself and its tasks
		t.Errorf("%d changes of the graph", len(of))
	}
	if of, _, _ := s.Changes(ctx, since, Filter{Chassis: "other"}, 0); len(of) != 0 {
		t.Errorf("%d changes of another chassis", len(of))
	}
}

func TestImageInUseStays(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	c := connect(t, s, "52:54:00:00:00:01")
	img := Image{ID: "11111111-2222-4333-8444-555555555555", Name: "debian"}
	if err := s.AddImage(ctx, img); err != nil {
		t.Fatal(err)
	}
	list := steps(teeth.MethodPrepareImage)
	list[0].Command.Params = json.RawMessage(`{"image_id":"` + img.ID + `"}`)
	r, err := s.CreateGraph(ctx, NewGraph{Name: "Graph.Test", Chassis: c.ID, Tasks: list})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveImage(ctx, img.ID); !errors.Is(err, ErrConflict) {
		t.Fatalf("removed an image in use: %v", err)
	}
	if _, err := s.RequestCancel(ctx, r.Tasks[0].ID, false); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveImage(ctx, img.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Image(ctx, "debian"); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
}

// An image may be removed between the look at it and the run that needs it.
func TestRunOfARemovedImage(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	plan := steps(teeth.MethodCacheImages)
	plan[0].Command.Image = "5f2f0c5c-6a53-4dc5-9d8c-2f5f2b1a0c11"
	if r, err := s.CreateGraph(t.Context(), NewGraph{Name: "Graph.Test", Chassis: c.ID, Tasks: plan}); !errors.Is(err, ErrNotFound) {
		t.Errorf("%+v, %v", r, err)
	}
	if err := s.AddImage(t.Context(), Image{ID: plan[0].Command.Image, Name: "debian"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateGraph(t.Context(), NewGraph{Name: "Graph.Test", Chassis: c.ID, Tasks: plan}); err != nil {
		t.Error(err)
	}
}

func TestPaging(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	for i := range 5 {
		c := connect(t, s, fmt.Sprintf("52:54:00:00:00:%02x", i))
		newGraph(t, s, c.ID, teeth.MethodQC)
	}
	seen := map[string]bool{}
	for after := ""; ; {
		page, err := s.ListChassis(ctx, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, c := range page {
			seen[c.ID] = true
		}
		after = page[len(page)-1].ID
	}
	newest := time.Now().Add(time.Hour)
	for before := ""; ; {
		page, err := s.ListTasks(ctx, "", before, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, task := range page {
			if task.Created.After(newest) {
				t.Error("tasks are not newest first")
			}
			seen[task.ID], before, newest = true, task.ID, task.Created
		}
	}
	if len(seen) != 10 {
		t.Errorf("saw %d things, want 10", len(seen))
	}
}
