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

// Graph is tasks of which each starts when those it waits for have ended as it
// wants. Its state is Pending until the first of them starts, then Running, and
// at last Succeeded unless a task has ended otherwise and no other task was
// there for that case.
type Graph struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"` // of its definition, "Graph.Provision"
	Friendly string     `json:"friendly_name,omitempty"`
	Domain   string     `json:"domain"`
	Chassis  string     `json:"chassis,omitempty"`
	Parent   string     `json:"parent,omitempty"` // the task whose job is to run this graph
	Root     string     `json:"root"`             // the outermost graph it is inside of; itself, if in none
	By       string     `json:"by,omitempty"`     // who has started it
	State    string     `json:"state"`
	Msg      string     `json:"msg,omitempty"`
	Paused   bool       `json:"paused"`
	Cancel   bool       `json:"cancel_requested,omitempty"`
	Created  time.Time  `json:"created"`
	Started  *time.Time `json:"started,omitempty"`
	Finished *time.Time `json:"finished,omitempty"`
	Tasks    []Task     `json:"tasks,omitempty"` // in order; lists leave them out

	// Definition is the graph as it was defined. Its options may hold secrets, so
	// it is not shown with the instance.
	Definition json.RawMessage `json:"-"`

	depth int
	rev   int64
}

// Final reports whether the graph's state will not change any more.
func (g Graph) Final() bool { return Final(g.State) }

// MaxDepth is how many graphs may be inside each other.
const MaxDepth = 8

// maxInside is how many graphs one may run, be it through others.
const maxInside = 1000

// NewGraph is a graph that is to be created.
type NewGraph struct {
	Name, Friendly, Domain, Chassis, By string
	Definition                          json.RawMessage
	Tasks                               []NewTask
}

// NewTask is a task of a graph that is to be created.
type NewTask struct {
	ID       string // a UUID; "": one is made
	Label    string // unique in the graph
	Name     string // of its definition
	Friendly string
	Job      string
	Kind     string // who does it: KindAgent, ...
	Waits    Waits
	Terminal []string // states that no other task of the graph waits for

	IgnoreFailure bool
	Timeout       time.Duration // from its start; 0: none
	Retries       int
	RetryDelay    time.Duration // before the first retry; twice as long before each further one

	Options json.RawMessage // an object
	Late    bool            // Options are to be filled in when it starts, and Command is not known yet
	Command Command         // of a task of KindAgent
}

// Command is what a task has its agent do.
type Command struct {
	Method string
	Params json.RawMessage // an object, without task_id
	// Image, if set, is the id of an image that must be there.
	Image string
	// PhoneHome, if set, is a secret by which the installed system will report
	// that it is up (see PhoneHome).
	PhoneHome string
	// ChassisName, if set, is what the chassis is called from here.
	ChassisName string
}

const graphColumns = `g.id, g.name, g.friendly, g.domain, COALESCE(g.chassis, ''), g.parent, g.root, g.depth, g.author, g.state, g.msg,
	g.paused, g.cancel, g.body, g.created, g.started, g.finished, g.rev`

func scanGraph(row scanner) (Graph, error) {
	var (
		g                 Graph
		body              string
		created           int64
		started, finished sql.NullInt64
	)
	err := row.Scan(&g.ID, &g.Name, &g.Friendly, &g.Domain, &g.Chassis, &g.Parent, &g.Root, &g.depth, &g.By, &g.State, &g.Msg,
		&g.Paused, &g.Cancel, &body, &created, &started, &finished, &g.rev)
	g.Definition = json.RawMessage(body)
	g.Created, g.Started, g.Finished = time.UnixMilli(created).UTC(), timeOf(started), timeOf(finished)
	return g, err
}

// CreateGraph stores a graph and makes the tasks that wait for nothing ready. It
// fails with ErrConflict while its chassis has another that is not finished: a
// destructive step never waits behind something it was not planned with.
func (s *Store) CreateGraph(ctx context.Context, in NewGraph) (Graph, error) {
	var id string
	err := s.update(ctx, func(t *tx) error {
		var err error
		id, err = t.createGraph(in, Task{}, Graph{})
		return err
	})
	if err != nil {
		return Graph{}, err
	}
	return s.Graph(ctx, id)
}

// StartSubgraph starts a ready task of KindGraph by creating the graph that is
// its work. ErrConflict: the task is not to be started (any more).
func (s *Store) StartSubgraph(ctx context.Context, task string, in NewGraph) (Graph, error) {
	var id string
	err := s.update(ctx, func(t *tx) error {
		parent, err := s.startTask(t, task, Start{})
		if err != nil {
			return err
		}
		g, err := t.graph(parent.Graph)
		if err != nil {
			return err
		}
		if g.depth+1 >= MaxDepth {
			return fmt.Errorf("graph %s would be inside %d others, which is too many: does it run itself? %w", in.Name, MaxDepth, ErrConflict)
		}
		id, err = t.createGraph(in, parent, g)
		return err
	})
	if err != nil {
		return Graph{}, err
	}
	return s.Graph(ctx, id)
}

func (t *tx) createGraph(in NewGraph, parent Task, outer Graph) (string, error) {
	id := uuid.NewString()
	if in.Domain == "" {
		in.Domain = "default"
	}
	if len(in.Definition) == 0 {
		in.Definition = json.RawMessage("{}")
	}
	root, depth := id, 0
	if parent.ID != "" {
		root, depth = outer.Root, outer.depth+1
		var inside int
		if err := t.QueryRow(`SELECT COUNT(*) FROM graphs WHERE root = ?`, root).Scan(&inside); err != nil {
			return "", err
		}
		if inside >= maxInside {
			return "", fmt.Errorf("graph %s has run %d others already, which is the most: %w", root, inside, ErrConflict)
		}
	}
	if in.Chassis != "" && in.Chassis != outer.Chassis {
		var open string
		err := t.QueryRow(`SELECT id FROM graphs WHERE chassis = ? AND state IN ('pending', 'running') LIMIT 1`, in.Chassis).Scan(&open)
		if err == nil {
			return "", fmt.Errorf("chassis %s still has graph %s to finish: wait for it or cancel it: %w", in.Chassis, open, ErrConflict)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return "", err
		}
	}
	chassis := sql.NullString{String: in.Chassis, Valid: in.Chassis != ""}
	if _, err := t.Exec(`INSERT INTO graphs (id, number, name, friendly, domain, chassis, parent, root, depth, author, state, paused, body, created, rev)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?)`,
		id, t.nextRev(), in.Name, in.Friendly, in.Domain, chassis, parent.ID, root, depth, in.By,
		flag(outer.Paused), string(in.Definition), t.now, t.nextRev()); err != nil {
		return "", fmt.Errorf("graph %s: %w", in.Name, err)
	}
	for i, task := range in.Tasks {
		if task.ID == "" {
			task.ID = uuid.NewString()
		}
		if err := t.createTask(task, id, chassis, i); err != nil {
			return "", fmt.Errorf("task %s of graph %s: %w", task.Label, in.Name, err)
		}
	}
	if in.Chassis != "" && parent.ID == "" {
		if _, err := t.Exec(`UPDATE chassis SET failed = 0, rev = ? WHERE id = ?`, t.nextRev(), in.Chassis); err != nil {
			return "", err
		}
	}
	return id, t.settle(id)
}

func (t *tx) createTask(n NewTask, graph string, chassis sql.NullString, position int) error {
	for _, missing := range []*json.RawMessage{&n.Options, &n.Command.Params} {
		if len(*missing) == 0 {
			*missing = json.RawMessage("{}")
		}
	}
	if n.Terminal == nil {
		n.Terminal = []string{}
	}
	waits, err := json.Marshal(n.Waits)
	if err != nil {
		return err
	}
	terminal, err := json.Marshal(n.Terminal)
	if err != nil {
		return err
	}
	if _, err := t.Exec(`INSERT INTO tasks (id, number, graph, chassis, position, label, name, friendly, job, kind, waits, terminal,
			ignore_failure, time_limit, retries, retry_delay, options, late, method, params, state, created, rev)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?)`,
		n.ID, t.nextRev(), graph, chassis, position, n.Label, n.Name, n.Friendly, n.Job, n.Kind, string(waits), string(terminal),
		flag(n.IgnoreFailure), n.Timeout.Milliseconds(), n.Retries, n.RetryDelay.Milliseconds(), string(n.Options), flag(n.Late),
		n.Command.Method, string(n.Command.Params), t.now, t.nextRev()); err != nil {
		return err
	}
	return t.prepare(n.ID, chassis.String, n.Command)
}

// prepare does what a command needs beside its task.
func (t *tx) prepare(task, chassis string, c Command) error {
	if c.Image != "" {
		var there int
		err := t.QueryRow(`SELECT COUNT(*) FROM images WHERE id = ?`, c.Image).Scan(&there)
		if err != nil || there == 0 {
			return errors.Join(err, fmt.Errorf("image %s was removed meanwhile: %w", c.Image, ErrNotFound))
		}
	}
	if c.PhoneHome != "" {
		// Only the newest system may call back.
		if _, err := t.Exec(`DELETE FROM phone_home WHERE chassis = ?`, chassis); err != nil {
			return err
		}
		if _, err := t.Exec(`INSERT INTO phone_home (token_sha256, chassis, task, created) VALUES (?, ?, ?, ?)`,
			tokenDigest(c.PhoneHome), chassis, task, t.now); err != nil {
			return err
		}
	}
	if c.ChassisName != "" {
		if _, err := t.Exec(`UPDATE chassis SET name = ?, rev = ? WHERE id = ?`, c.ChassisName, t.nextRev(), chassis); err != nil {
			return err
		}
	}
	return nil
}

// Graph returns the graph with this id, or the one whose id alone begins so,
// with its tasks in order. Of a task that was tried again, all attempts are there.
func (s *Store) Graph(ctx context.Context, id string) (Graph, error) {
	found, err := s.graphsWhere(ctx, `g.id = ?`, id)
	if err == nil && len(found) == 0 && len(id) < wholeID {
		found, err = s.graphsWhere(ctx, `g.id LIKE ? ESCAPE '!' ORDER BY g.id LIMIT 2`, likeEscape(id)+"%")
	}
	switch {
	case err != nil:
		return Graph{}, err
	case id == "" || len(found) == 0:
		return Graph{}, fmt.Errorf("graph %.64q: %w", id, ErrNotFound)
	case len(found) > 1:
		return Graph{}, fmt.Errorf("graph %q: %w (%s, %s): give more of its id", id, ErrAmbiguous, found[0].ID, found[1].ID)
	}
	g := found[0]
	g.Tasks, err = s.tasksWhere(ctx, `graph = ? ORDER BY position, attempt`, g.ID)
	return g, err
}

// GraphFilter selects graphs. Its zero value selects all.
type GraphFilter struct {
	Chassis string // id
	Name    string // of the definition
	Active  bool   // not finished
	Root    bool   // that are inside no other
}

// ListGraphs returns up to limit graphs, newest first, that are older than the
// graph before; "" begins with the newest. Their tasks are left out.
func (s *Store) ListGraphs(ctx context.Context, f GraphFilter, before string, limit int) ([]Graph, error) {
	return s.graphsWhere(ctx, `(? = '' OR g.number < (SELECT b.number FROM graphs b WHERE b.id = ?)) AND (? = '' OR g.chassis = ?)
		AND (? = '' OR g.name = ?) AND (? = 0 OR g.state IN ('pending', 'running')) AND (? = 0 OR g.parent = '') ORDER BY g.number DESC LIMIT ?`,
		before, before, f.Chassis, f.Chassis, f.Name, f.Name, flag(f.Active), flag(f.Root), page(limit))
}

func (s *Store) graphsWhere(ctx context.Context, where string, args ...any) ([]Graph, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+graphColumns+` FROM graphs g WHERE `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("list graphs: %w", err)
	}
	defer rows.Close()
	list := []Graph{}
	for rows.Next() {
		g, err := scanGraph(rows)
		if err != nil {
			return nil, fmt.Errorf("list graphs: %w", err)
		}
		list = append(list, g)
	}
	return list, rows.Err()
}

func (t *tx) graph(id string) (Graph, error) {
	g, err := scanGraph(t.QueryRow(`SELECT `+graphColumns+` FROM graphs g WHERE g.id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("graph %.64q: %w", id, ErrNotFound)
	}
	return g, err
}

// flag is a boolean as the database has it.
func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
