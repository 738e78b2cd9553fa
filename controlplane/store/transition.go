package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// Start says how a task is begun.
type Start struct {
	Session string          // the chassis' session the command goes out on, of a task of KindAgent
	BootID  string          // of the agent, ditto; otherwise the chassis' newest is recorded
	Options json.RawMessage // of a task whose Options were late, filled in; nil: they were not
	Command *Command        // ditto
	Lease   string          // of a task of KindLocal
}

// MarkStarted records, before it happens, that a ready task is begun. It fails
// with ErrConflict if the task is not ready (any more), its graph is paused, or
// its chassis' session is another by now: a server whose connection is dead
// without its knowledge must not send. A task that overwrites disks ends the
// chassis' service here.
func (s *Store) MarkStarted(ctx context.Context, id string, how Start) (Task, error) {
	var task Task
	err := s.update(ctx, func(t *tx) error {
		var err error
		task, err = s.startTask(t, id, how)
		return err
	})
	return task, err
}

func (s *Store) startTask(t *tx, id string, how Start) (Task, error) {
	task, err := t.task(id)
	if err != nil {
		return task, err
	}
	g, err := t.graph(task.Graph)
	switch {
	case err != nil:
		return task, err
	case !task.Ready() || g.Final() || g.Cancel:
		return task, fmt.Errorf("task %s is not to be started (any more): %w", id, ErrConflict)
	}
	if task.Chassis != "" {
		var session, boot string
		var approved sql.NullInt64
		if err := t.QueryRow(`SELECT session, boot_id, approved FROM chassis WHERE id = ?`, task.Chassis).Scan(&session, &boot, &approved); err != nil {
			return task, fmt.Errorf("chassis %s: %w", task.Chassis, err)
		}
		if task.Kind == KindAgent && !approved.Valid { // perhaps rejected just now, with the session still there
			return task, fmt.Errorf("task %s: chassis %s is not approved: %w", id, task.Chassis, ErrConflict)
		}
		if task.Kind == KindAgent && session != how.Session {
			return task, fmt.Errorf("task %s: chassis %s has another session by now: %w", id, task.Chassis, ErrConflict)
		}
		if how.BootID == "" {
			how.BootID = boot
		}
	}
	if how.Options != nil && how.Command != nil {
		params := how.Command.Params
		if params == nil {
			params = json.RawMessage("{}")
		}
		if _, err := t.Exec(`UPDATE tasks SET options = ?, method = ?, params = ?, late = 0 WHERE id = ?`,
			string(how.Options), how.Command.Method, string(params), id); err != nil {
			return task, err
		}
		if err := t.prepare(id, task.Chassis, *how.Command); err != nil {
			return task, err
		}
	}
	server, instance := "", ""
	if task.Kind == KindLocal {
		server, instance = s.server, s.instance
	}
	deadline := sql.NullInt64{Int64: t.now + task.timeLimit, Valid: task.timeLimit > 0}
	if _, err := t.Exec(`UPDATE tasks SET state = 'running', boot_id = ?, seq = 0, server = ?, instance = ?, lease = ?, deadline = ?, msg = '',
		started = COALESCE(started, ?), rev = ? WHERE id = ?`, how.BootID, server, instance, how.Lease, deadline, t.now, t.nextRev(), id); err != nil {
		return task, err
	}
	if g.State == Pending {
		if err := t.begin(g); err != nil {
			return task, err
		}
	}
	if task.Started == nil { // else it is begun again, which is nobody's business
		if err := t.notice(NoticeTaskStarted, task.Chassis, task.ID, map[string]any{
			"taskName": task.Name, "graphId": g.ID, "graphName": g.Name,
		}); err != nil {
			return task, err
		}
	}
	if task, err = t.task(id); err != nil || task.Method != teeth.MethodDiskErase && task.Method != teeth.MethodPrepareImage {
		return task, err
	}
	// The system that is about to be overwritten may not call back any more.
	if _, err := t.Exec(`DELETE FROM phone_home WHERE chassis = ? AND task NOT IN (
		SELECT t.id FROM tasks t JOIN graphs g ON g.id = t.graph WHERE g.root = ?)`, task.Chassis, g.Root); err != nil {
		return task, err
	}
	_, err = t.Exec(`UPDATE chassis SET installed = NULL, in_service = NULL, rev = ? WHERE id = ?`, t.nextRev(), task.Chassis)
	return task, err
}

// Requeue makes a started task of an agent that does not know it, or of a server
// that has died, ready again. One that was to end is ended here.
func (s *Store) Requeue(ctx context.Context, id string) error {
	return s.update(ctx, func(t *tx) error {
		task, err := t.task(id)
		if err != nil || task.State != Running {
			return err
		}
		return t.requeue(task)
	})
}

func (t *tx) requeue(task Task) error {
	switch task.cancel {
	case cancelAsked:
		return t.finish(task, Cancelled, "cancelled before it was done", nil)
	case cancelTimeout:
		return t.finish(task, Timeout, "its time was over before it was done", nil)
	}
	t.work = append(t.work, task.Chassis)
	_, err := t.Exec(`UPDATE tasks SET state = 'pending', eta = NULL, step = '', seq = 0, server = '', lease = '', deadline = NULL, rev = ? WHERE id = ?`,
		t.nextRev(), task.ID)
	return err
}

// ApplyStatus records an agent's update. It reports whether the update changed
// anything: what comes after the final state, or out of order, does not. A task
// that chassis was never given is ErrNotFound. What the end of the task means for
// its graph is decided in the same transaction.
func (s *Store) ApplyStatus(ctx context.Context, chassis, bootID string, st teeth.TaskStatus) (applied bool, err error) {
	err = s.update(ctx, func(t *tx) error {
		applied = false
		task, err := t.task(st.TaskID)
		if err != nil {
			return err
		}
		if task.Chassis != chassis || task.Kind != KindAgent {
			return fmt.Errorf("task %q is not of chassis %s: %w", st.TaskID, chassis, ErrNotFound)
		}
		if task.Final() {
			return nil
		}
		applied = true
		switch st.State {
		case teeth.Complete:
			return t.finish(task, Succeeded, st.Msg, st.Result)
		case teeth.Failed:
			return t.finish(task, ended(task), st.Msg, st.Result)
		}
		if st.Seq != 0 && bootID == task.BootID && int64(st.Seq) <= task.seq {
			applied = false
			return nil
		}
		percent := task.Percent
		if st.Percent != nil {
			percent = min(max(*st.Percent, 0), 100)
		}
		_, err = t.Exec(`UPDATE tasks SET state = 'running', percent = ?, eta = ?, step = ?, msg = ?, seq = ?, boot_id = ?,
			started = COALESCE(started, ?), rev = ? WHERE id = ?`,
			percent, st.ETA, st.Step, st.Msg, int64(st.Seq), bootID, t.now, t.nextRev(), task.ID)
		return err
	})
	return applied, err
}

// ended is the state of a task whose doer says that it has failed: being told to
// stop is why, if it was.
func ended(task Task) string {
	switch task.cancel {
	case cancelAsked:
		return Cancelled
	case cancelTimeout:
		return Timeout
	}
	return Failed
}

// Finish records a final state that is not the agent's own report. It does
// nothing to a task that has one. A lease other than "" must be the task's, or it
// is ErrConflict: another server does it by now.
func (s *Store) Finish(ctx context.Context, id, lease, state, msg string, result json.RawMessage) error {
	if !Final(state) {
		return fmt.Errorf("task %s cannot end as %.20q: want succeeded, failed, timeout or cancelled", id, state)
	}
	return s.update(ctx, func(t *tx) error {
		task, err := t.task(id)
		if err != nil || task.Final() {
			return err
		}
		if lease != "" && task.Lease != lease {
			return fmt.Errorf("task %s is another server's by now: %w", id, ErrConflict)
		}
		if lease != "" && state == Failed {
			state = ended(task)
		}
		return t.finish(task, state, msg, result)
	})
}

// Release makes a local task ready again whose server stops before it was done.
// ErrConflict: it is another server's by now.
func (s *Store) Release(ctx context.Context, id, lease string) error {
	return s.update(ctx, func(t *tx) error {
		task, err := t.task(id)
		if err != nil || task.Final() {
			return err
		}
		if task.Lease != lease {
			return fmt.Errorf("task %s is another server's by now: %w", id, ErrConflict)
		}
		return t.requeue(task)
	})
}

// Progress records how far a local task is. ErrConflict: it has ended, or another
// server does it by now.
func (s *Store) Progress(ctx context.Context, id, lease string, percent float64, eta *float64, step string) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`UPDATE tasks SET percent = ?, eta = ?, step = ?, rev = ? WHERE id = ? AND lease = ? AND state = 'running'`,
			min(max(percent, 0), 100), eta, step, t.nextRev(), id, lease)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("task %s has ended, or is another server's: %w", id, ErrConflict))
		}
		return nil
	})
}

func (t *tx) markCancel(task Task, why int) error {
	if why == cancelAsked && task.cancel != cancelAsked {
		if err := t.notice(NoticeTaskCancel, task.Chassis, task.ID, nil); err != nil {
			return err
		}
	}
	t.work = append(t.work, task.Chassis)
	// One that is away may still be at work: only it can say that it is not.
	_, err := t.Exec(`UPDATE tasks SET cancel = ?, cancelled = ?, rev = ?, msg = CASE
		WHEN kind <> 'agent' OR EXISTS (SELECT 1 FROM chassis c WHERE c.id = tasks.chassis AND c.connected <> 0) THEN msg
		ELSE 'to be cancelled when the chassis is back: it is not connected' END WHERE id = ?`, why, t.now, t.nextRev(), task.ID)
	return err
}

// Reclaim makes the local tasks of servers that have died ready again, and
// returns the chassis that are to be looked at. A server that has ended, or that
// others have taken for dead (see KeepAlive), has no instance any more. How long
// it is silent is not asked here: after an outage of the database all are.
func (s *Store) Reclaim(ctx context.Context) (chassis []string, err error) {
	const lost = `state = 'running' AND kind = 'local' AND instance <> ?
		AND NOT EXISTS (SELECT 1 FROM servers s WHERE s.instance = tasks.instance)`
	var count int
	if err := s.r.QueryRowContext(ctx, `SELECT COUNT(*) FROM tasks WHERE `+lost, s.instance).Scan(&count); err != nil || count == 0 {
		return nil, err
	}
	err = s.update(ctx, func(t *tx) error {
		chassis = nil
		tasks, err := t.tasksWhere(lost, s.instance)
		if err != nil {
			return err
		}
		for _, task := range tasks {
			if err := t.requeue(task); err != nil {
				return err
			}
			chassis = append(chassis, task.Chassis)
		}
		return nil
	})
	return chassis, err
}

func (t *tx) task(id string) (Task, error) {
	task, err := scanTask(t.QueryRow(`SELECT `+taskColumns+` FROM tasks WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("task %.64q: %w", id, ErrNotFound)
	}
	return task, err
}

// finish ends a task that is not final, starts another attempt if it has one,
// and otherwise decides what its end means for its graph.
func (t *tx) finish(task Task, state, msg string, result json.RawMessage) error {
	percent := task.Percent
	if state == Succeeded {
		percent = 100
	}
	g, err := t.graph(task.Graph)
	if err != nil {
		return err
	}
	again := (state == Failed || state == Timeout) && task.retries > 0 && task.cancel != cancelAsked && !g.Cancel
	kept := sql.NullString{String: string(result), Valid: len(result) > 0 && string(result) != "null"}
	_, err = t.Exec(`UPDATE tasks SET state = ?, percent = ?, eta = NULL, msg = ?, result = ?, server = '', lease = '', deadline = NULL,
		superseded = ?, finished = ?, rev = ? WHERE id = ?`,
		state, percent, msg, kept, flag(again), t.now, t.nextRev(), task.ID)
	if err != nil {
		return err
	}
	data := map[string]any{
		"taskName": task.Name, "graphId": g.ID, "graphName": g.Name, "state": state, "terminalOnStates": task.Terminal,
		"context": map[string]any{"target": task.Chassis, "graphId": g.ID, "graphName": g.Name},
	}
	if state != Succeeded && msg != "" {
		data["error"] = msg
	}
	if state == Cancelled && task.cancel != cancelAsked { // it ends as soon as it is asked for
		if err := t.notice(NoticeTaskCancel, task.Chassis, task.ID, nil); err != nil {
			return err
		}
	}
	if err := t.notice(NoticeTaskEnded, task.Chassis, task.ID, data); err != nil {
		return err
	}
	if task.Started != nil {
		t.ended = append(t.ended, ending{task.Job, state, time.Duration(t.now-task.Started.UnixMilli()) * time.Millisecond})
	}
	if again {
		return t.retry(task)
	}
	installed := sql.NullInt64{Int64: t.now, Valid: state == Succeeded && task.Method == teeth.MethodRunImage}
	if _, err = t.Exec(`UPDATE chassis SET installed = COALESCE(?, installed), last_seen = ?, rev = ? WHERE id = ?`,
		installed, t.now, t.nextRev(), task.Chassis); err != nil {
		return err
	}
	if state != Succeeded {
		// The system that was to call back will not be installed.
		if _, err := t.Exec(`DELETE FROM phone_home WHERE task = ?`, task.ID); err != nil {
			return err
		}
	}
	return t.settle(task.Graph)
}

// maxRetryDelay bounds the wait before another attempt.
const maxRetryDelay = 10 * time.Minute

// retry makes another attempt of a task. It has an id of its own, since an agent
// does not start a second time what it has seen end.
func (t *tx) retry(task Task) error {
	id := uuid.NewString()
	delay := task.retryDelay
	for range task.Attempt - 1 {
		delay = min(2*delay, maxRetryDelay.Milliseconds())
	}
	if _, err := t.Exec(`INSERT INTO tasks (id, number, graph, chassis, position, label, name, friendly, job, kind, waits, terminal, ready,
			ignore_failure, time_limit, retries, retry_delay, attempt, not_before, options, late, method, params, state, created, rev)
		SELECT ?, ?, graph, chassis, position, label, name, friendly, job, kind, waits, terminal, 1,
			ignore_failure, time_limit, retries - 1, retry_delay, attempt + 1, ?, options, late, method, params, 'pending', ?, ?
		FROM tasks WHERE id = ?`, id, t.nextRev(), t.now+delay, t.now, t.nextRev(), task.ID); err != nil {
		return fmt.Errorf("another attempt of task %s: %w", task.ID, err)
	}
	t.work = append(t.work, task.Chassis)
	_, err := t.Exec(`UPDATE phone_home SET task = ? WHERE task = ?`, id, task.ID)
	return err
}
