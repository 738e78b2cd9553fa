package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
)

// errUnknown is of a name that is not in the library.
var errUnknown = definition.ErrUnknown

// Job is a kind of work, named by the definitions of tasks.
type Job struct {
	Name string // "Job.Power"
	// Run does the work. It ends with ctx, which ends when the task is cancelled,
	// when its time is over, and when the server stops; then the task is begun anew
	// by the next server, so that Run must bear being repeated. A task whose Run
	// has returned while ctx had not ended is never begun again. The result must be
	// something that JSON can express. Nil: the work is done by somebody who calls
	// FinishTask.
	Run func(ctx context.Context, w *Work) (result any, err error)
	// Check refuses options that the job cannot take, before a graph is run; nil:
	// it takes all. It is not asked of a job that the engine knows by itself.
	Check func(options json.RawMessage) error
}

// Work is what a Job's Run is given.
type Work struct {
	Task    store.Task
	Chassis store.Chassis   // its zero value, for a graph of no chassis
	Options json.RawMessage // an object, all templates filled in
	// Progress tells how much of it is done. It may be called often.
	Progress func(done, total int64, step string)
}

// Names of jobs that the engine itself knows how to do, beside those of agents.
const (
	JobWaitConnected = "Job.Wait.Connected"
	JobGraphRun      = "Job.Graph.Run"
)

// Register makes a job known. It is called before Run, once for each name.
func (e *Engine) Register(j Job) {
	if e.can(j.Name) {
		panic(fmt.Sprintf("workflow: job %s is registered twice", j.Name))
	}
	e.jobs[j.Name] = j
}

// can reports whether there is somebody to do a job.
func (e *Engine) can(name string) bool {
	_, registered := e.jobs[name]
	_, agents := agentJobs[name]
	return registered || agents || name == JobWaitConnected || name == JobGraphRun
}

// kind is who does a job.
func (e *Engine) kind(name string) string {
	if _, ok := agentJobs[name]; ok {
		return store.KindAgent
	}
	switch name {
	case JobWaitConnected:
		return store.KindConnected
	case JobGraphRun:
		return store.KindGraph
	}
	if e.jobs[name].Run != nil {
		return store.KindLocal
	}
	return store.KindOutside
}

// progressPeriod is how often the progress of a local task is stored.
const progressPeriod = time.Second

// startLocal leases a task to this server and does it.
func (e *Engine) startLocal(ctx context.Context, t store.Task, how store.Start) (again bool, err error) {
	job, ok := e.jobs[t.Job]
	if !ok {
		// Another server, of another configuration, may do it.
		return false, nil
	}
	w := &Work{Options: t.Options}
	if t.Chassis != "" {
		if w.Chassis, err = e.c.Store.Chassis(ctx, t.Chassis); err != nil {
			return false, err
		}
	}
	how.Lease = uuid.NewString()
	w.Task, err = e.c.Store.MarkStarted(ctx, t.ID, how)
	if errors.Is(err, store.ErrConflict) { // taken by another server, or cancelled
		return false, nil
	}
	if err != nil {
		return false, err
	}
	e.mu.Lock()
	working, cancel := context.WithCancel(e.running)
	e.working[how.Lease] = cancel
	e.mu.Unlock()
	e.local.Go(func() {
		defer cancel()
		e.do(working, job, w)
		e.mu.Lock()
		delete(e.working, how.Lease)
		e.mu.Unlock()
		e.Wake(t.Chassis)
	})
	return true, nil
}

// stop ends a local task's work, if this server does it.
func (e *Engine) stop(lease string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if cancel, ok := e.working[lease]; ok {
		cancel()
	}
}

// do does a local task and records its end.
func (e *Engine) do(ctx context.Context, job Job, w *Work) {
	log := e.c.Log.With("chassis", w.Task.Chassis, "task", w.Task.ID, "job", job.Name)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if w.Task.Deadline != nil {
		ctx, cancel = context.WithDeadline(ctx, *w.Task.Deadline)
		defer cancel()
	}
	var reports sync.WaitGroup
	report := &reporter{store: e.c.Store, task: w.Task, lost: cancel, news: make(chan struct{}, 1)}
	w.Progress = report.progress
	reports.Go(func() { report.run(ctx) })
	log.Info("task begun")
	result, err := perform(ctx, job, w)
	deadline := errors.Is(ctx.Err(), context.DeadlineExceeded)
	cancel()
	reports.Wait()
	state, msg := store.Succeeded, ""
	if err != nil {
		state, msg = store.Failed, err.Error()
		if deadline {
			state = store.Timeout
		}
	}
	raw, jsonErr := json.Marshal(result)
	if jsonErr != nil {
		state, msg, raw = store.Failed, fmt.Sprintf("its result cannot be kept: %v", jsonErr), nil
	}
	err = e.record(ctx, func(ctx context.Context) error {
		if err != nil && !deadline && e.stopping() {
			return e.c.Store.Release(ctx, w.Task.ID, w.Task.Lease)
		}
		return e.c.Store.Finish(ctx, w.Task.ID, w.Task.Lease, state, msg, raw)
	})
	switch {
	case errors.Is(err, store.ErrConflict):
		log.Warn("the task was taken over by another server, what was done here does not count", "error", err)
	case err != nil:
		log.Error("cannot record the end of a task; it will be done again", "state", state, "error", err)
	default:
		log.Info("task ended", "state", state, "msg", msg)
	}
}

// record stores the end of a task, for which it waits out a database that is away.
// The end of the server is no end of the work, and worth recording all the same.
func (e *Engine) record(ctx context.Context, save func(context.Context) error) error {
	for {
		saving, done := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		err := save(saving)
		done()
		if !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, store.ErrInDoubt) && !errors.Is(err, context.DeadlineExceeded) || e.stopping() {
			return err
		}
		e.c.Log.Warn("cannot record the end of a task yet", "error", err)
		time.Sleep(time.Second)
	}
}

func (e *Engine) stopping() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running.Err() != nil
}

// perform turns a panic into an error.
func perform(ctx context.Context, job Job, w *Work) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s panicked: %v\n%s", job.Name, p, debug.Stack())
		}
	}()
	return job.Run(ctx, w)
}

// reporter stores the newest progress of a local task, not too often.
type reporter struct {
	store *store.Store
	task  store.Task
	lost  func() // called when the task is not ours any more
	news  chan struct{}

	mu      sync.Mutex
	percent float64
	step    string
}

func (r *reporter) progress(done, total int64, step string) {
	r.mu.Lock()
	if total > 0 {
		r.percent = float64(min(max(done, 0), total)) / float64(total) * 100
	}
	r.step = step
	r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *reporter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.news:
		}
		r.mu.Lock()
		percent, step := r.percent, r.step
		r.mu.Unlock()
		if err := r.store.Progress(ctx, r.task.ID, r.task.Lease, percent, nil, step); errors.Is(err, store.ErrConflict) {
			r.lost()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(progressPeriod):
		}
	}
}

// fill fills in a task's options from what is known when it starts.
func (e *Engine) fill(c store.Chassis, g store.Graph, t store.Task) (json.RawMessage, error) {
	var o late
	v, err := value(t.Options)
	if err != nil {
		return nil, err
	}
	parts, _ := v.(map[string]any)
	o.Options, _ = parts["options"].(map[string]any)
	o.Given, _ = parts["given"].(map[string]any)
	scope, err := e.scope(c)
	if err != nil {
		return nil, err
	}
	results := map[string]any{}
	for _, other := range g.Tasks { // in order of attempts, so that the newest counts
		if other.Final() && len(other.Result) > 0 {
			if results[other.Label], err = value(other.Result); err != nil {
				return nil, fmt.Errorf("result of task %q: %w", other.Label, err)
			}
		}
	}
	scope = maps.Clone(scope)
	scope[definition.RootContext] = results
	scope[definition.RootGraph] = map[string]any{"id": g.ID, "name": g.Name}
	scope[definition.RootTask] = map[string]any{"id": t.ID, "label": t.Label, "name": t.Name}
	filled, err := definition.Fill(o.Options, o.Given, scope)
	if err != nil {
		return nil, err
	}
	return json.Marshal(filled)
}

// graphOptions are those of Job.Graph.Run.
type graphOptions struct {
	Graph   string         `json:"graph"`
	Options map[string]any `json:"options"`
	Chassis string         `json:"chassis"` // id, name, ...; "": that of the graph it is part of
}

// inner is the graph that a task of JobGraphRun runs.
func (e *Engine) inner(ctx context.Context, chassis, outer string, options json.RawMessage) (store.NewGraph, error) {
	var o graphOptions
	if err := decodeOptions(options, &o); err != nil {
		return store.NewGraph{}, err
	}
	if o.Chassis != "" {
		c, err := e.c.Store.FindChassis(ctx, o.Chassis)
		if err != nil {
			return store.NewGraph{}, err
		}
		chassis = c.ID
	}
	r := Request{Graph: o.Graph, Chassis: chassis, Options: o.Options}
	if outer != "" {
		g, err := e.c.Store.Graph(ctx, outer)
		if err != nil {
			return store.NewGraph{}, err
		}
		r.Domain, r.By = g.Domain, g.By
	}
	return e.instance(ctx, r, false)
}
