package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"
)

// States of a task and of a graph.
const (
	Pending   = "pending" // waits for other tasks, for its chassis, or for its turn
	Running   = "running"
	Succeeded = "succeeded"
	Failed    = "failed"
	Timeout   = "timeout"
	Cancelled = "cancelled"
)

// Final reports whether state is one that nothing follows.
func Final(state string) bool {
	return state == Succeeded || state == Failed || state == Timeout || state == Cancelled
}

// Kinds of task: who does it, and how it is found out that it has ended.
const (
	KindAgent     = "agent"     // the chassis' agent, which reports
	KindLocal     = "local"     // a server, which holds a lease
	KindOutside   = "outside"   // somebody who calls Finish
	KindGraph     = "graph"     // another graph
	KindConnected = "connected" // the chassis, by connecting
)

// Waits is what a task waits for: everything in All and, if there is anything in
// Any, one of that. Keys are labels, values the states of which one will do.
type Waits struct {
	All map[string][]string `json:"all,omitempty"`
	Any map[string][]string `json:"any,omitempty"`
}

// Task is one step of a graph. The id of one that an agent does is the task_id of
// the protocol.
type Task struct {
	ID       string          `json:"id"`
	Graph    string          `json:"graph"`
	Chassis  string          `json:"chassis,omitempty"`
	Position int             `json:"position"` // in its graph, from 0
	Label    string          `json:"label"`    // its name in the graph
	Name     string          `json:"name"`     // of its definition, "Task.Agent.DiskErase"
	Friendly string          `json:"friendly_name,omitempty"`
	Job      string          `json:"job"`
	Kind     string          `json:"kind"`             // agent, local, outside, graph, connected
	Method   string          `json:"method,omitempty"` // of the agent's command
	Waits    Waits           `json:"waits"`
	State    string          `json:"state"`
	Percent  float64         `json:"percent"`
	ETA      *float64        `json:"eta,omitempty"` // seconds left
	Step     string          `json:"step,omitempty"`
	Msg      string          `json:"msg,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Attempt  int             `json:"attempt"`           // from 1
	Retried  bool            `json:"retried,omitempty"` // another attempt has taken its place
	Skipped  bool            `json:"skipped,omitempty"` // what it waited for can be no more
	Cancel   bool            `json:"cancel_requested,omitempty"`
	BootID   string          `json:"boot_id,omitempty"` // of the agent it was given to
	Server   string          `json:"server,omitempty"`  // that does it, of a local one
	Created  time.Time       `json:"created"`
	Started  *time.Time      `json:"started,omitempty"`
	Deadline *time.Time      `json:"deadline,omitempty"`
	Finished *time.Time      `json:"finished,omitempty"`

	// Options and Params hold user data and tokens, so they are never shown.
	// Params lack the task_id.
	Options json.RawMessage `json:"-"`
	Params  json.RawMessage `json:"-"`
	// Late says that Options have templates yet to be filled in.
	Late bool `json:"-"`
	// NotBefore is the earliest time of another attempt.
	NotBefore time.Time `json:"-"`
	Lease     string    `json:"-"` // differs for every start of a local task
	Terminal  []string  `json:"-"` // states that no other task of the graph waits for

	ready, ignoreFailure, paused bool
	cancel                       int
	cancelled                    sql.NullInt64
	timeLimit, retryDelay        int64 // ms
	retries                      int
	seq                          int64 // of the newest update
	rev                          int64
}

// Reasons why a task is to end before it has.
const (
	cancelAsked   = 1
	cancelTimeout = 2
)

// Final reports whether the task's state will not change any more.
func (t Task) Final() bool { return Final(t.State) }

// Ready reports whether the task may be started: what it waits for is there, and
// its graph is not paused.
func (t Task) Ready() bool { return t.State == Pending && t.ready && !t.paused }

// Revision grows with every change of the task, an agent's update among them.
func (t Task) Revision() int64 { return t.rev }

const taskColumns = `id, graph, COALESCE(chassis, ''), position, label, name, friendly, job, kind, method, waits, terminal, state, percent, eta,
	step, msg, result, attempt, superseded, skipped, cancel, cancelled, boot_id, server, lease, created, started, deadline, finished,
	options, params, late, not_before, ready, ignore_failure, time_limit, retry_delay, retries, seq, rev,
	(SELECT g.paused FROM graphs g WHERE g.id = tasks.graph)`

func scanTask(row scanner) (Task, error) {
	var (
		t                                Task
		waits, terminal, options, params string
		eta                              sql.NullFloat64
		result                           sql.NullString
		created, notBefore               int64
		started, deadline, finished      sql.NullInt64
	)
	err := row.Scan(&t.ID, &t.Graph, &t.Chassis, &t.Position, &t.Label, &t.Name, &t.Friendly, &t.Job, &t.Kind, &t.Method, &waits, &terminal,
		&t.State, &t.Percent, &eta, &t.Step, &t.Msg, &result, &t.Attempt, &t.Retried, &t.Skipped, &t.cancel, &t.cancelled, &t.BootID,
		&t.Server, &t.Lease, &created, &started, &deadline, &finished, &options, &params, &t.Late, &notBefore, &t.ready, &t.ignoreFailure,
		&t.timeLimit, &t.retryDelay, &t.retries, &t.seq, &t.rev, &t.paused)
	if err != nil {
		return Task{}, err
	}
	if err := json.Unmarshal([]byte(waits), &t.Waits); err != nil {
		return Task{}, fmt.Errorf("task %s: what it waits for: %w", t.ID, err)
	}
	if err := json.Unmarshal([]byte(terminal), &t.Terminal); err != nil {
		return Task{}, fmt.Errorf("task %s: terminal states: %w", t.ID, err)
	}
	t.Cancel = t.cancel != 0
	t.Options, t.Params = json.RawMessage(options), json.RawMessage(params)
	if eta.Valid {
		t.ETA = &eta.Float64
	}
	if result.Valid {
		t.Result = json.RawMessage(result.String)
	}
	t.NotBefore = time.UnixMilli(notBefore).UTC()
	t.Created, t.Started, t.Deadline, t.Finished = time.UnixMilli(created).UTC(), timeOf(started), timeOf(deadline), timeOf(finished)
	return t, nil
}

// wholeID is the length of an id, a UUID in text.
const wholeID = 36

// Task returns the task with this id or, if only one begins so, that one.
func (s *Store) Task(ctx context.Context, id string) (Task, error) {
	// Most ask with the whole id, which is looked up without reading all others.
	found, err := s.tasksWhere(ctx, `id = ?`, id)
	if err == nil && len(found) == 0 && len(id) < wholeID {
		found, err = s.tasksWhere(ctx, `id LIKE ? ESCAPE '!' ORDER BY id LIMIT 2`, likeEscape(id)+"%")
	}
	switch {
	case err != nil:
		return Task{}, err
	case id == "" || len(found) == 0:
		return Task{}, fmt.Errorf("task %.64q: %w", id, ErrNotFound)
	case len(found) > 1:
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
// of their graphs and then of the tasks in them; with "" those of no chassis.
func (s *Store) OpenTasks(ctx context.Context, chassis string) ([]Task, error) {
	const order = ` AND state IN ('pending', 'running') ORDER BY (SELECT g.number FROM graphs g WHERE g.id = tasks.graph), position, number`
	if chassis == "" {
		return s.tasksWhere(ctx, `chassis IS NULL`+order)
	}
	return s.tasksWhere(ctx, `chassis = ?`+order, chassis)
}

// ChassisWithOpenTasks returns the ids of all chassis that have something to do,
// and "" if there is something to do with none.
func (s *Store) ChassisWithOpenTasks(ctx context.Context) ([]string, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT DISTINCT COALESCE(chassis, '') FROM tasks WHERE state IN ('pending', 'running')`)
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
	return collectTasks(rows)
}

func (t *tx) tasksWhere(where string, args ...any) ([]Task, error) {
	rows, err := t.Query(`SELECT `+taskColumns+` FROM tasks WHERE `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	return collectTasks(rows)
}

func collectTasks(rows *sql.Rows) ([]Task, error) {
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
