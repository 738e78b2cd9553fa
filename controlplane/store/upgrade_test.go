package store

import (
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// A database of the first version, with runs in all states, becomes one of
// graphs: what had ended has, and what was under way goes on.
func TestUpgradeOfRuns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "teeth.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	script, err := migrations.ReadFile("schema/01-first.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`CREATE TABLE schema_version (version INTEGER NOT NULL)`, `INSERT INTO schema_version (version) VALUES (1)`, string(script),
		`INSERT INTO chassis (id, identity, mac, last_seen, created, rev) VALUES ('c1', 'mac:1', '52:54:00:00:00:01', 1, 1, 1), ('c2', 'mac:2', 'm2', 1, 1, 2)`,
		`INSERT INTO runs (id, chassis, kind, created) VALUES ('r1', 'c1', 'decommission', 10), ('r2', 'c1', 'provision', 20), ('r3', 'c2', 'decommission', 30), ('r4', 'c1', 'decommission', 15)`,
		`INSERT INTO tasks (id, number, run, chassis, position, waits_for, method, params, state, percent, msg, result, boot_id, created, started, finished, rev) VALUES
			('t1', 1, 'r1', 'c1', 0, NULL, 'decom.disk_erase', '{"task_id":"t1"}', 'complete', 100, '', '{"a":1}', 'b', 10, 11, 12, 3),
			('t2', 2, 'r1', 'c1', 1, 't1', 'decom.qc', '{"task_id":"t2"}', 'complete', 100, '', NULL, 'b', 10, 12, 13, 4),
			('t3', 5, 'r2', 'c1', 0, NULL, 'standbye.cache_images', '{"task_id":"t3"}', 'complete', 100, '', NULL, 'b', 20, 21, 22, 5),
			('t4', 6, 'r2', 'c1', 1, 't3', 'standbye.prepare_image', '{"task_id":"t4","image_id":"i"}', 'sent', 0, '', NULL, 'b', 20, NULL, NULL, 6),
			('t5', 7, 'r2', 'c1', 2, 't4', 'standbye.run_image', '{"task_id":"t5"}', 'pending', 0, '', NULL, '', 20, NULL, NULL, 7),
			('t6', 8, 'r3', 'c2', 0, NULL, 'decom.disk_erase', '{"task_id":"t6"}', 'pending', 0, '', NULL, '', 30, NULL, NULL, 8),
			('t7', 9, 'r3', 'c2', 1, 't6', 'decom.qc', '{"task_id":"t7"}', 'pending', 0, '', NULL, '', 30, NULL, NULL, 9),
			('t8', 3, 'r4', 'c1', 0, NULL, 'decom.disk_erase', '{"task_id":"t8"}', 'error', 40, 'bad disk', NULL, 'b', 15, 16, 17, 10),
			('t9', 4, 'r4', 'c1', 1, 't8', 'decom.qc', '{"task_id":"t9"}', 'cancelled', 0, 'not run', NULL, '', 15, NULL, 17, 11)`,
		`INSERT INTO phone_home (token_sha256, chassis, task, created) VALUES ('` + tokenDigest("secret") + `', 'c1', 't5', 20)`,
	} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatalf("%.60s: %v", statement, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ctx := t.Context()
	for id, want := range map[string]struct {
		name, state string
		tasks       []string
	}{
		"r1": {"Graph.Decommission", Succeeded, []string{Succeeded, Succeeded}},
		"r2": {"Graph.Provision", Running, []string{Succeeded, Running, Pending}},
		"r3": {"Graph.Decommission", Pending, []string{Pending, Pending}},
		"r4": {"Graph.Decommission", Failed, []string{Failed, Cancelled}},
	} {
		g, err := s.Graph(ctx, id)
		if err != nil || g.Name != want.name || g.State != want.state || g.Root != id || len(g.Tasks) != len(want.tasks) {
			t.Fatalf("%s: %+v, %v", id, g, err)
		}
		for i, state := range want.tasks {
			if g.Tasks[i].State != state {
				t.Errorf("%s: task %d is %s, want %s", id, i, g.Tasks[i].State, state)
			}
		}
		if Final(g.State) != (g.Finished != nil) {
			t.Errorf("%s: finished %v", id, g.Finished)
		}
	}
	if task, err := s.Task(ctx, "t1"); err != nil || string(task.Result) != `{"a":1}` {
		t.Errorf("%+v, %v", task, err)
	}
	// What was sent is done by the agent still; the next one follows.
	if _, err := s.ApplyStatus(ctx, "c1", "b", teeth.TaskStatus{TaskID: "t4", State: teeth.Complete}); err != nil {
		t.Fatal(err)
	}
	if task, err := s.Task(ctx, "t5"); err != nil || !task.Ready() || task.Method != teeth.MethodRunImage {
		t.Errorf("%+v, %v", task, err)
	}
	if err := begin(ctx, s, "t7"); !errors.Is(err, ErrConflict) {
		t.Errorf("a task was begun before the one it waits for: %v", err)
	}
	for _, id := range []string{"t5", "t6"} {
		if err := begin(ctx, s, id); err != nil {
			t.Error(err)
		}
	}
	if _, first, err := s.PhoneHome(ctx, "secret"); err != nil || !first {
		t.Errorf("phone home: %v, %v", first, err)
	}
	if g, err := s.Graph(ctx, "r2"); err != nil || g.State != Succeeded {
		t.Errorf("%+v, %v", g, err)
	}
	if _, err := s.ApplyStatus(ctx, "c2", "b", teeth.TaskStatus{TaskID: "t6", State: teeth.Failed, Msg: "no"}); err != nil {
		t.Fatal(err)
	}
	if g, err := s.Graph(ctx, "r3"); err != nil || g.State != Failed || !g.Tasks[1].Skipped {
		t.Errorf("%+v, %v", g, err)
	}
}
