package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// States of a task.
const (
	Pending   = "pending" // waits for the task before it, or for its chassis
	Sent      = "sent"    // given to the agent, or about to be
	Running   = "running"
	Complete  = "complete"
	Failed    = "error"
	Cancelled = "cancelled"
)

// Task is one command to one chassis. Its id is the task_id of the protocol.
type Task struct {
	ID       string          `json:"id"`
	Run      string          `json:"run"`
	Chassis  string          `json:"chassis"`
	Position int             `json:"position"`        // in its run, from 0
	After    string          `json:"after,omitempty"` // the task it waits for
	Method   string          `json:"method"`
	State    string          `json:"state"`
	Percent  float64         `json:"percent"`
	ETA      *float64        `json:"eta,omitempty"` // seconds left
	Step     string          `json:"step,omitempty"`
	Msg      string          `json:"msg,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Cancel   bool            `json:"cancel_requested,omitempty"`
	BootID   string          `json:"boot_id,omitempty"` // of the agent it was given to
	Created  time.Time       `json:"created"`
	Started  *time.Time      `json:"started,omitempty"`
	Finished *time.Time      `json:"finished,omitempty"`

	// Params hold user data and tokens, so they are never shown.
	Params json.RawMessage `json:"-"`
	rev    int64
}

// Final reports whether the task's state will not change any more.
func (t Task) Final() bool {
	return t.State == Complete || t.State == Failed || t.State == Cancelled
}

// Run is a sequence of tasks on one chassis, each of which waits for the one
// before. Its state is Pending, Running, or that of the task it ended with.
type Run struct {
	ID      string    `json:"id"`
	Chassis string    `json:"chassis"`
	Kind    string    `json:"kind"`
	State   string    `json:"state"`
	Created time.Time `json:"created"`
	Tasks   []Task    `json:"tasks"`
}

// Step is a task of a run that is to be created. Params is given the id that
// the task will have.
type Step struct {
	Method string
	Params func(taskID string) (any, error)
	// PhoneHome, if set, is a secret by which the installed system will report
	// that it is up (see PhoneHome).
	PhoneHome string
}

const taskColumns = `id, run, chassis, position, COALESCE(waits_for, ''), method, params, state, percent, eta, step, msg,
	result, cancel, boot_id, created, started, finished, rev`

func scanTask(row scanner) (Task, error) {
	var (
		t                 Task
		params            string
		eta               sql.NullFloat64
		result            sql.NullString
		created           int64
		started, finished sql.NullInt64
	)
	err := row.Scan(&t.ID, &t.Run, &t.Chassis, &t.Position, &t.After, &t.Method, &params, &t.State, &t.Percent, &eta,
		&t.Step, &t.Msg, &result, &t.Cancel, &t.BootID, &created, &started, &finished, &t.rev)
	if err != nil {
		return Task{}, err
	}
	t.Params = json.RawMessage(params)
	if eta.Valid {
		t.ETA = &eta.Float64
	}
	if result.Valid {
		t.Result = json.RawMessage(result.String)
	}
	t.Created, t.Started, t.Finished = time.UnixMilli(created).UTC(), timeOf(started), timeOf(finished)
	return t, nil
}

// CreateRun stores a run of these steps. It fails with ErrConflict while the
// chassis has another that is not finished: a destructive step never waits
// behind something it was not planned with.
func (s *Store) CreateRun(ctx context.Context, chassis, kind string, steps []Step) (Run, error) {
	run := uuid.NewString()
	type row struct {
		id, method, params, phoneHome string
	}
	rows := make([]row, len(steps))
	for i, step := range steps {
		id := uuid.NewString()
		params, err := step.Params(id)
		if err != nil {
			return Run{}, fmt.Errorf("%s: %w", step.Method, err)
		}
		b, err := json.Marshal(params)
		if err != nil {
			return Run{}, fmt.Errorf("%s: %w", step.Method, err)
		}
		rows[i] = row{id, step.Method, string(b), step.PhoneHome}
	}
	err := s.update(ctx, func(t *tx) error {
		var open string
		err := t.QueryRow(`SELECT run FROM tasks WHERE chassis = ? AND state IN ('pending', 'sent', 'running') LIMIT 1`, chassis).Scan(&open)
		if err == nil {
			return fmt.Errorf("chassis %s still has run %s to finish: wait for it or cancel its tasks: %w", chassis, open, ErrConflict)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if _, err := t.Exec(`INSERT INTO runs (id, chassis, kind, created) VALUES (?, ?, ?, ?)`, run, chassis, kind, t.now); err != nil {
			return err
		}
		var after sql.NullString
		for i, r := range rows {
			if _, err := t.Exec(`INSERT INTO tasks (id, number, run, chassis, position, waits_for, method, params, state, created, rev)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?)`,
				r.id, t.nextRev(), run, chassis, i, after, r.method, r.params, t.now, t.nextRev()); err != nil {
				return err
			}
			after = sql.NullString{String: r.id, Valid: true}
			if r.phoneHome != "" {
				// Only the newest system may call back.
				if _, err := t.Exec(`DELETE FROM phone_home WHERE chassis = ?`, chassis); err != nil {
					return err
				}
				if _, err := t.Exec(`INSERT INTO phone_home (token_sha256, chassis, task, created) VALUES (?, ?, ?, ?)`,
					tokenDigest(r.phoneHome), chassis, r.id, t.now); err != nil {
					return err
				}
			}
		}
		_, err = t.Exec(`UPDATE chassis SET failed = 0, rev = ? WHERE id = ?`, t.nextRev(), chassis)
		return err
	})
	if err != nil {
		return Run{}, err
	}
	return s.Run(ctx, run)
}

// Run returns a run with its tasks in order.
func (s *Store) Run(ctx context.Context, id string) (Run, error) {
	r := Run{ID: id}
	var created int64
	err := s.r.QueryRowContext(ctx, `SELECT chassis, kind, created FROM runs WHERE id = ?`, id).Scan(&r.Chassis, &r.Kind, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return Run{}, fmt.Errorf("run %q: %w", id, ErrNotFound)
	}
	if err != nil {
		return Run{}, err
	}
	r.Created = time.UnixMilli(created).UTC()
	r.Tasks, err = s.tasksWhere(ctx, `run = ? ORDER BY position`, id)
	r.State = runState(r.Tasks)
	return r, err
}

// runState is that of the first task that did not complete.
func runState(tasks []Task) string {
	for i, t := range tasks {
		switch {
		case t.State == Complete:
		case t.State == Pending && i == 0:
			return Pending
		case !t.Final():
			return Running
		default:
			return t.State
		}
	}
	return Complete
}

// Task returns the task with this id or, if only one begins so, that one.
func (s *Store) Task(ctx context.Context, id string) (Task, error) {
	found, err := s.tasksWhere(ctx, `id = ? OR id LIKE ? ESCAPE '!' ORDER BY id LIMIT 2`, id, likeEscape(id)+"%")
	switch {
	case err != nil:
		return Task{}, err
	case id == "" || len(found) == 0:
		return Task{}, fmt.Errorf("task %.64q: %w", id, ErrNotFound)
	case len(found) > 1 && found[0].ID != id:
		return Task{}, fmt.Errorf("task %q: %w (%s, %s): give more of its id", id, ErrAmbiguous, found[0].ID, found[1].ID)
	}
	return found[0], nil
}

// ListTasks returns up to limit tasks, newest first, that are older than the
// task before; "" begins with the newest. A chassis other than "" selects its.
func (s *Store) ListTasks(ctx context.Context, chassis, before string, limit int) ([]Task, error) {
	return s.tasksWhere(ctx, `(? = '' OR number < (SELECT number FROM tasks WHERE id = ?)) AND (? = '' OR chassis = ?)
		ORDER BY number DESC LIMIT ?`,
		before, before, chassis, chassis, page(limit))
}

// OpenTasks returns the tasks of a chassis that are not finished, in the order
// in which they are to run.
func (s *Store) OpenTasks(ctx context.Context, chassis string) ([]Task, error) {
	return s.tasksWhere(ctx, `chassis = ? AND state IN ('pending', 'sent', 'running') ORDER BY number`, chassis)
}

// ChassisWithOpenTasks returns the ids of all chassis that have something to do.
func (s *Store) ChassisWithOpenTasks(ctx context.Context) ([]string, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT DISTINCT chassis FROM tasks WHERE state IN ('pending', 'sent', 'running')`)
	if err != nil {
		return nil, fmt.Errorf("list open tasks: %w", err)
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("list open tasks: %w", err)
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

func (s *Store) tasksWhere(ctx context.Context, where string, args ...any) ([]Task, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+taskColumns+` FROM tasks WHERE `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	defer rows.Close()
	list := []Task{}
	for rows.Next() {
		t, err := scanTask(rows)
		if err != nil {
			return nil, fmt.Errorf("list tasks: %w", err)
		}
		list = append(list, t)
	}
	return list, rows.Err()
}

// MarkSent records, before it happens, that a pending task is given to the agent
// of boot bootID. It fails with ErrConflict if the task is not pending (any
// more). A task that overwrites disks ends the chassis' service here.
func (s *Store) MarkSent(ctx context.Context, id, bootID string) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`UPDATE tasks SET state = 'sent', boot_id = ?, seq = 0, rev = ? WHERE id = ? AND state = 'pending'`,
			bootID, t.nextRev(), id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("task %s is not pending: %w", id, ErrConflict))
		}
		_, err = t.Exec(`UPDATE chassis SET installed = NULL, in_service = NULL, rev = ?
			WHERE id = (SELECT chassis FROM tasks WHERE id = ? AND method IN (?, ?))`,
			t.nextRev(), id, teeth.MethodDiskErase, teeth.MethodPrepareImage)
		return err
	})
}

// Requeue makes a task that was sent, and that the agent does not know, pending
// again. A cancelled one ends here.
func (s *Store) Requeue(ctx context.Context, id string) error {
	return s.update(ctx, func(t *tx) error {
		task, err := t.task(id)
		if err != nil || task.Final() {
			return err
		}
		if task.Cancel {
			return t.finish(task, Cancelled, "cancelled before it was done", nil)
		}
		_, err = t.Exec(`UPDATE tasks SET state = 'pending', eta = NULL, step = '', seq = 0, rev = ? WHERE id = ?`, t.nextRev(), id)
		return err
	})
}

// ApplyStatus records an agent's update. It reports whether the update changed
// anything: what comes after the final state, or out of order, does not. A task
// that chassis was never given is ErrNotFound. When the task fails, those that
// wait for it are cancelled in the same transaction.
func (s *Store) ApplyStatus(ctx context.Context, chassis, bootID string, st teeth.TaskStatus) (applied bool, err error) {
	err = s.update(ctx, func(t *tx) error {
		applied = false
		task, err := t.task(st.TaskID)
		if err != nil {
			return err
		}
		if task.Chassis != chassis {
			return fmt.Errorf("task %q is not of chassis %s: %w", st.TaskID, chassis, ErrNotFound)
		}
		if task.Final() {
			return nil
		}
		applied = true
		switch st.State {
		case teeth.Complete:
			return t.finish(task, Complete, st.Msg, st.Result)
		case teeth.Failed:
			if task.Cancel {
				return t.finish(task, Cancelled, st.Msg, st.Result)
			}
			return t.finish(task, Failed, st.Msg, st.Result)
		}
		var seq int64
		if err := t.QueryRow(`SELECT seq FROM tasks WHERE id = ?`, task.ID).Scan(&seq); err != nil {
			return err
		}
		if st.Seq != 0 && bootID == task.BootID && int64(st.Seq) <= seq {
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

// Finish records a final state that is not the agent's own report: one of
// Complete, Failed and Cancelled. It does nothing to a task that has one.
func (s *Store) Finish(ctx context.Context, id, state, msg string) error {
	return s.update(ctx, func(t *tx) error {
		task, err := t.task(id)
		if err != nil || task.Final() {
			return err
		}
		return t.finish(task, state, msg, nil)
	})
}

// RequestCancel cancels a pending task at once; one that the agent has is marked
// and returned as it is, for the agent to be told. ErrConflict: it is finished.
func (s *Store) RequestCancel(ctx context.Context, id string) (Task, error) {
	var task Task
	err := s.update(ctx, func(t *tx) error {
		var err error
		if task, err = t.task(id); err != nil {
			return err
		}
		switch {
		case task.Final():
			return fmt.Errorf("task %s is already finished (%s): %w", id, task.State, ErrConflict)
		case task.State == Pending:
			err = t.finish(task, Cancelled, "cancelled by the operator", nil)
		default:
			_, err = t.Exec(`UPDATE tasks SET cancel = 1, rev = ? WHERE id = ?`, t.nextRev(), id)
		}
		if err == nil {
			task, err = t.task(id)
		}
		return err
	})
	return task, err
}

func (t *tx) task(id string) (Task, error) {
	task, err := scanTask(t.QueryRow(`SELECT `+taskColumns+` FROM tasks WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("task %.64q: %w", id, ErrNotFound)
	}
	return task, err
}

func (t *tx) finish(task Task, state, msg string, result json.RawMessage) error {
	percent := task.Percent
	if state == Complete {
		percent = 100
	}
	kept := sql.NullString{String: string(result), Valid: len(result) > 0 && string(result) != "null"}
	_, err := t.Exec(`UPDATE tasks SET state = ?, percent = ?, eta = NULL, msg = ?, result = ?,
		started = COALESCE(started, ?), finished = ?, rev = ? WHERE id = ?`,
		state, percent, msg, kept, t.now, t.now, t.nextRev(), task.ID)
	if err != nil {
		return err
	}
	if state == Complete {
		installed := sql.NullInt64{Int64: t.now, Valid: task.Method == teeth.MethodRunImage}
		_, err = t.Exec(`UPDATE chassis SET installed = COALESCE(?, installed), last_seen = ?, rev = ? WHERE id = ?`,
			installed, t.now, t.nextRev(), task.Chassis)
		return err
	}
	reason := fmt.Sprintf("not run: %s before it ended with %s", task.Method, state)
	rows, err := t.Query(`SELECT id FROM tasks WHERE run = ? AND position > ? AND state = 'pending'`, task.Run, task.Position)
	if err != nil {
		return err
	}
	defer rows.Close()
	var waiting []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		waiting = append(waiting, id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, id := range waiting {
		if _, err := t.Exec(`UPDATE tasks SET state = 'cancelled', msg = ?, finished = ?, rev = ? WHERE id = ?`,
			reason, t.now, t.nextRev(), id); err != nil {
			return err
		}
	}
	failed := 0
	if state == Failed {
		failed = 1
	}
	// The system that was to call back will not be installed.
	if _, err := t.Exec(`DELETE FROM phone_home WHERE task IN (SELECT id FROM tasks WHERE run = ?)`, task.Run); err != nil {
		return err
	}
	_, err = t.Exec(`UPDATE chassis SET failed = ?, last_seen = ?, rev = ? WHERE id = ?`, failed, t.now, t.nextRev(), task.Chassis)
	return err
}

func tokenDigest(token string) string {
	d := sha256.Sum256([]byte(token))
	return hex.EncodeToString(d[:])
}

// PhoneHome redeems a token: the system that was installed with it is up. The
// chassis is in service from here, and the task that started the system is
// complete even if its own report was lost on the way. It reports whether the
// token was new; a repeated call changes nothing, so that a client whose answer
// was lost may try again.
func (s *Store) PhoneHome(ctx context.Context, token string) (chassis string, first bool, err error) {
	err = s.update(ctx, func(t *tx) error {
		var id string
		var used sql.NullInt64
		err := t.QueryRow(`SELECT chassis, task, used FROM phone_home WHERE token_sha256 = ?`, tokenDigest(token)).Scan(&chassis, &id, &used)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("phone-home token: %w", ErrNotFound)
		}
		if first = !used.Valid; err != nil || !first {
			return err
		}
		task, err := t.task(id)
		if err != nil {
			return err
		}
		if task.State == Pending {
			return fmt.Errorf("chassis %s calls back before its image was run: %w", chassis, ErrConflict)
		}
		if !task.Final() {
			if err := t.finish(task, Complete, "confirmed by the installed system's call", nil); err != nil {
				return err
			}
		}
		if _, err := t.Exec(`UPDATE phone_home SET used = ? WHERE token_sha256 = ?`, t.now, tokenDigest(token)); err != nil {
			return err
		}
		_, err = t.Exec(`UPDATE chassis SET in_service = ?, last_seen = ?, rev = ? WHERE id = ?`, t.now, t.now, t.nextRev(), chassis)
		return err
	})
	return chassis, first, err
}
