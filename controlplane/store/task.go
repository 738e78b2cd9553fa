package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
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
	seq    int64           // of the newest update
	rev    int64
}

// Final reports whether the task's state will not change any more.
func (t Task) Final() bool {
	return t.State == Complete || t.State == Failed || t.State == Cancelled
}

// Revision grows with every change of the task, an agent's update among them.
func (t Task) Revision() int64 { return t.rev }

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
	// Image, if set, is the id of an image that must be there when the run is created.
	Image string
	// PhoneHome, if set, is a secret by which the installed system will report
	// that it is up (see PhoneHome).
	PhoneHome string
}

const taskColumns = `id, run, chassis, position, COALESCE(waits_for, ''), method, params, state, percent, eta, step, msg,
	result, cancel, boot_id, created, started, finished, seq, rev`

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
		&t.Step, &t.Msg, &result, &t.Cancel, &t.BootID, &created, &started, &finished, &t.seq, &t.rev)
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
		for _, step := range steps {
			if step.Image == "" {
				continue
			}
			var there int
			err := t.QueryRow(`SELECT COUNT(*) FROM images WHERE id = ?`, step.Image).Scan(&there)
			if err != nil || there == 0 {
				return errors.Join(err, fmt.Errorf("image %s was removed meanwhile: %w", step.Image, ErrNotFound))
			}
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
