package workflow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
)

// Request asks for a graph to be run.
type Request struct {
	Graph   string            // injectable name, "Graph.Provision"
	Inline  *definition.Graph // or a definition that is not in the library
	Chassis string            // id of the target; "" for graphs without one
	Options map[string]any    // as RackHD: {"defaults": {...}, "<label>": {...}}
	Domain  string            // "" = "default"
	By      string            // user, for the log
}

// RunGraph creates an instance of a graph and has it started. What can be known
// to be wrong with it is refused now: errors are ErrInvalid, definition.ErrUnknown,
// store.ErrNotFound, or store.ErrConflict for a chassis that is not approved or
// has a graph to finish.
func (e *Engine) RunGraph(ctx context.Context, r Request) (store.Graph, error) {
	in, err := e.instance(ctx, r, true)
	if err != nil {
		return store.Graph{}, err
	}
	g, err := e.c.Store.CreateGraph(ctx, in)
	if err != nil {
		return store.Graph{}, err
	}
	e.c.Log.Info("graph created", "graph", g.ID, "name", g.Name, "chassis", g.Chassis, "by", g.By)
	e.Wake(g.Chassis)
	return g, nil
}

// RunTask runs a graph of one task, whose label is "task".
func (e *Engine) RunTask(ctx context.Context, taskName, chassis string, options map[string]any) (store.Graph, error) {
	name := "Graph.Of." + strings.TrimPrefix(taskName, "Task.")
	r := Request{Chassis: chassis, Inline: &definition.Graph{
		InjectableName: name, Tasks: []definition.Step{{Label: "task", TaskName: taskName}},
	}}
	if len(options) > 0 {
		r.Options = map[string]any{"task": options}
	}
	return e.RunGraph(ctx, r)
}

// instance turns a request into what is stored. With deep, graphs that it runs in
// their turn are looked into as well; what those run is not, or a graph that runs
// itself would be looked into without end.
func (e *Engine) instance(ctx context.Context, r Request, deep bool) (store.NewGraph, error) {
	fail := func(err error) (store.NewGraph, error) { return store.NewGraph{}, err }
	lib, err := e.Library(ctx)
	if err != nil {
		return fail(err)
	}
	var def definition.Graph
	if r.Inline != nil {
		def = *r.Inline
		if err := lib.CheckInline(def, e.knownJob); err != nil {
			return fail(err)
		}
	} else if def, err = lib.Graph(r.Graph); err != nil {
		return fail(err)
	}
	options, err := byLabel(r.Options)
	if err != nil {
		return fail(err)
	}
	steps, err := lib.Resolve(def, options, e.can)
	if err != nil {
		return fail(err)
	}
	var c store.Chassis
	if r.Chassis != "" {
		if c, err = e.c.Store.Chassis(ctx, r.Chassis); err != nil {
			return fail(err)
		}
		if c.Approved == nil {
			return fail(fmt.Errorf("chassis %s is not approved, so nothing is done with it: approve it first: %w", c.ID, store.ErrConflict))
		}
	}
	body, err := json.Marshal(def)
	if err != nil {
		return fail(err)
	}
	in := store.NewGraph{Name: def.InjectableName, Friendly: def.FriendlyName, Domain: r.Domain, Chassis: c.ID, By: r.By, Definition: body}
	scope, err := e.scope(c)
	if err != nil {
		return fail(err)
	}
	for _, step := range steps {
		t, err := e.newTask(ctx, c, step, scope, def.InjectableName, deep)
		if err != nil {
			return fail(fmt.Errorf("task %q: %w", step.Label, err))
		}
		in.Tasks = append(in.Tasks, t)
	}
	return in, nil
}

// byLabel takes a request's options apart.
func byLabel(options map[string]any) (map[string]map[string]any, error) {
	out := map[string]map[string]any{}
	for _, label := range slices.Sorted(maps.Keys(options)) {
		if options[label] == nil {
			continue
		}
		m, ok := options[label].(map[string]any)
		if !ok {
			return nil, invalid("options: %.80q: want an object of options; those for all tasks go under \"defaults\"", label)
		}
		out[label] = m
	}
	return out, nil
}

// scope is what templates can name, but for what is known only when a task
// starts. A value that is not there is missed only by a template that names it.
func (e *Engine) scope(c store.Chassis) (definition.Scope, error) {
	s := definition.Scope{}
	if c.ID == "" {
		return s, nil
	}
	chassis := map[string]any{
		"id": c.ID, "name": c.Name, "mac": c.MAC, "uuid": c.UUID, "serial": c.Serial, "address": c.Address, "version": c.Version,
	}
	for key, v := range chassis {
		if v == "" {
			delete(chassis, key)
		}
	}
	macs := []any{}
	for _, m := range c.MACs {
		macs = append(macs, m)
	}
	chassis["macs"] = macs
	if len(c.Inventory) > 0 {
		v, err := value(c.Inventory)
		if err != nil {
			return nil, fmt.Errorf("inventory of chassis %s: %w", c.ID, err)
		}
		chassis["inventory"] = v
	}
	s[definition.RootChassis] = chassis
	if url, err := e.c.BootURL(c); err == nil {
		s[definition.RootServer] = map[string]any{"url": url}
	}
	return s, nil
}

// value decodes JSON and keeps its numbers as they are written.
func value(raw json.RawMessage) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	err := dec.Decode(&v)
	return v, err
}

// late are the options of a task that are filled in when it starts.
type late struct {
	Options map[string]any `json:"options"`
	Given   map[string]any `json:"given"`
}

func (e *Engine) newTask(ctx context.Context, c store.Chassis, step definition.Resolved, scope definition.Scope, graph string, deep bool) (store.NewTask, error) {
	t := store.NewTask{
		ID: uuid.NewString(), Label: step.Label, Name: step.Name, Friendly: step.Friendly, Job: step.Job, Kind: e.kind(step.Job),
		Waits: store.Waits(step.Wait), Terminal: step.Terminal, IgnoreFailure: step.IgnoreFailure,
		Timeout: step.Timeout, Retries: step.Retries, RetryDelay: step.RetryDelay,
	}
	if c.ID == "" && (t.Kind == store.KindAgent || t.Kind == store.KindConnected) {
		return t, invalid("%s is work with a chassis: say which chassis graph %s is to be run on", step.Job, graph)
	}
	var err error
	if definition.Late(step.Options) {
		t.Late = true
		t.Options, err = json.Marshal(late{step.Options, step.Given})
		return t, err
	}
	filled, err := definition.Fill(step.Options, step.Given, scope)
	if err != nil {
		return t, invalid("%w", err)
	}
	if t.Options, err = json.Marshal(filled); err != nil {
		return t, err
	}
	return t, e.check(ctx, c, &t, deep)
}

// check refuses options that the task's job cannot take.
func (e *Engine) check(ctx context.Context, c store.Chassis, t *store.NewTask, deep bool) error {
	switch t.Kind {
	case store.KindAgent:
		command, err := e.command(ctx, c, t.Job, t.Options)
		t.Command = command
		return err
	case store.KindGraph:
		var o graphOptions
		if err := decodeOptions(t.Options, &o); err != nil || !deep {
			return err
		}
		_, err := e.inner(ctx, c.ID, "", t.Options)
		return err
	case store.KindConnected:
		return decodeOptions(t.Options, new(connectedOptions))
	}
	if check := e.jobs[t.Job].Check; check != nil {
		if err := check(t.Options); err != nil {
			return invalid("%w", err)
		}
	}
	return nil
}

// invalid is an error about what was asked for.
func invalid(format string, args ...any) error { return mistake{fmt.Errorf(format, args...)} }

type mistake struct{ error }

func (m mistake) Unwrap() error        { return m.error }
func (m mistake) Is(target error) bool { return target == ErrInvalid }

// decodeOptions reads a task's options strictly.
func decodeOptions(options json.RawMessage, v any) error {
	dec := json.NewDecoder(bytes.NewReader(options))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &kind):
		return invalid("option %q: a JSON %s is not what it can be", kind.Field, kind.Value)
	case err != nil:
		return invalid("options: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// CancelGraph has a graph end: what is pending at once, what is being done as
// soon as its doer has stopped. ErrConflict: it has ended.
func (e *Engine) CancelGraph(ctx context.Context, id string) (store.Graph, error) {
	return e.cancelGraph(ctx, id, false)
}

// GiveUpGraph cancels a graph and waits for nobody: for a chassis that is gone
// for good. One that is not may still be at work.
func (e *Engine) GiveUpGraph(ctx context.Context, id string) (store.Graph, error) {
	return e.cancelGraph(ctx, id, true)
}

func (e *Engine) cancelGraph(ctx context.Context, id string, force bool) (store.Graph, error) {
	return e.changeGraph(ctx, id, func(g store.Graph) error { return e.c.Store.CancelGraph(ctx, g.ID, force) })
}

// PauseGraph keeps tasks of a graph from being started. What is being done goes
// on.
func (e *Engine) PauseGraph(ctx context.Context, id string) (store.Graph, error) {
	return e.changeGraph(ctx, id, func(g store.Graph) error { return e.c.Store.PauseGraph(ctx, g.ID, true) })
}

// ResumeGraph ends a pause.
func (e *Engine) ResumeGraph(ctx context.Context, id string) (store.Graph, error) {
	return e.changeGraph(ctx, id, func(g store.Graph) error { return e.c.Store.PauseGraph(ctx, g.ID, false) })
}

func (e *Engine) changeGraph(ctx context.Context, id string, change func(store.Graph) error) (store.Graph, error) {
	g, err := e.c.Store.Graph(ctx, id)
	if err != nil {
		return g, err
	}
	if err := change(g); err != nil {
		return g, err
	}
	e.Wake(g.Chassis)
	return e.c.Store.Graph(ctx, g.ID)
}

// CancelTask cancels a task: at once if it is pending, else by telling its doer,
// now or as soon as it is back. What that means for the graph is as when a task
// fails.
func (e *Engine) CancelTask(ctx context.Context, id string) (store.Task, error) {
	return e.cancelTask(ctx, id, false)
}

// GiveUpTask ends a task at once, for a chassis that is gone for good. One that
// is not may still be at work.
func (e *Engine) GiveUpTask(ctx context.Context, id string) (store.Task, error) {
	return e.cancelTask(ctx, id, true)
}

func (e *Engine) cancelTask(ctx context.Context, id string, force bool) (store.Task, error) {
	t, err := e.c.Store.Task(ctx, id)
	if err != nil {
		return t, err
	}
	if t, err = e.c.Store.RequestCancel(ctx, t.ID, force); err == nil {
		e.Wake(t.Chassis)
	}
	return t, err
}

// FinishTask ends a task whose job is done from outside. It does nothing to one
// that has ended, so that a caller whose answer was lost may try again.
// ErrConflict: it has not been started, or is not done from outside.
func (e *Engine) FinishTask(ctx context.Context, id, state, msg string, result json.RawMessage) error {
	t, err := e.c.Store.Task(ctx, id)
	switch {
	case err != nil:
		return err
	case t.Final():
		return nil
	case t.Kind != store.KindOutside:
		return fmt.Errorf("task %s (%s) is not done from outside: %w", t.ID, t.Job, store.ErrConflict)
	case t.State != store.Running:
		return fmt.Errorf("task %s has not been started: %w", t.ID, store.ErrConflict)
	}
	if err := e.c.Store.Finish(ctx, t.ID, "", state, msg, result); err != nil {
		return err
	}
	e.Wake(t.Chassis)
	return nil
}
