package definition

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrUnknown is wrapped by errors about a task or graph that is not in the
// library.
var ErrUnknown = errors.New("not in the library")

// Library is the definitions there are, in the order of their names.
type Library struct {
	Graphs []Graph
	Tasks  []Task
}

// NewLibrary returns a library of these.
func NewLibrary(graphs []Graph, tasks []Task) Library {
	slices.SortFunc(graphs, func(a, b Graph) int { return cmp.Compare(a.InjectableName, b.InjectableName) })
	slices.SortFunc(tasks, func(a, b Task) int { return cmp.Compare(a.InjectableName, b.InjectableName) })
	return Library{Graphs: graphs, Tasks: tasks}
}

// Graph returns the graph of that name.
func (l Library) Graph(name string) (Graph, error) {
	i, ok := slices.BinarySearchFunc(l.Graphs, name, func(g Graph, n string) int { return cmp.Compare(g.InjectableName, n) })
	if !ok {
		return Graph{}, fmt.Errorf("graph %.100q is %w", name, ErrUnknown)
	}
	return l.Graphs[i], nil
}

// Task returns the task of that name.
func (l Library) Task(name string) (Task, error) {
	i, ok := slices.BinarySearchFunc(l.Tasks, name, func(t Task, n string) int { return cmp.Compare(t.InjectableName, n) })
	if !ok {
		return Task{}, fmt.Errorf("task %.100q is %w", name, ErrUnknown)
	}
	return l.Tasks[i], nil
}

// With returns the library with a task and a graph in the place of those of the
// same names; nil is none.
func (l Library) With(g *Graph, t *Task) Library {
	graphs, tasks := slices.Clone(l.Graphs), slices.Clone(l.Tasks)
	if g != nil {
		graphs = append(slices.DeleteFunc(graphs, func(o Graph) bool { return o.InjectableName == g.InjectableName }), *g)
	}
	if t != nil {
		tasks = append(slices.DeleteFunc(tasks, func(o Task) bool { return o.InjectableName == t.InjectableName }), *t)
	}
	return NewLibrary(graphs, tasks)
}

// base is a task with all that it takes from those it implements.
type base struct {
	Task
	job      string
	known    map[string]bool // options
	required map[string]any  // properties
}

// flatten follows implementsTask to the task that has a job.
func (l Library) flatten(t Task) (base, error) {
	b := base{Task: t, known: map[string]bool{}, required: map[string]any{}}
	b.Options, b.Properties, b.RequiredOptions = map[string]any{}, map[string]any{}, nil
	names := []string{}
	for {
		if slices.Contains(names, t.InjectableName) {
			return b, invalid("task %s: tasks implement each other in a circle: %s", names[0], strings.Join(append(names, t.InjectableName), " implements "))
		}
		names = append(names, t.InjectableName)
		for key, v := range t.Options {
			if _, set := b.Options[key]; !set {
				b.Options[key] = v
			}
			b.known[key] = true
		}
		for _, key := range t.RequiredOptions {
			if !b.known[key] || !slices.Contains(b.RequiredOptions, key) {
				b.RequiredOptions = append(b.RequiredOptions, key)
			}
			b.known[key] = true
		}
		for key, v := range t.Properties {
			if _, set := b.Properties[key]; !set {
				b.Properties[key] = v
			}
		}
		for key, v := range t.RequiredProperties {
			b.required[key] = v
		}
		if b.FriendlyName == "" {
			b.FriendlyName = t.FriendlyName
		}
		if t.RunJob != "" {
			b.job = t.RunJob
			return b, nil
		}
		next, err := l.Task(t.ImplementsTask)
		if err != nil {
			return b, invalid("task %s implements task %.100q, which is %w", t.InjectableName, t.ImplementsTask, ErrUnknown)
		}
		t = next
	}
}

func (l Library) step(s Step) (base, error) {
	if s.TaskDefinition != nil {
		return l.flatten(*s.TaskDefinition)
	}
	t, err := l.Task(s.TaskName)
	if err != nil {
		return base{}, invalid("task %q: %w", s.Label, err)
	}
	return l.flatten(t)
}

// timeoutOption is RackHD's way to limit a task's time.
const timeoutOption = "_taskTimeout"

// CheckTask refuses a task that refers to what is not there. Jobs tells whether a
// job of that name is known.
func (l Library) CheckTask(t Task, jobs func(string) bool) error {
	b, err := l.With(nil, &t).flatten(t)
	if err != nil {
		return err
	}
	if !jobs(b.job) {
		return invalid("task %s: job %s is not known", t.InjectableName, b.job)
	}
	if err := b.checkTemplates(b.Options, nil); err != nil {
		return invalid("task %s: %w", t.InjectableName, err)
	}
	return nil
}

// checkTemplates refuses templates that can never be filled in. Earlier are the
// labels of tasks that have ended before; nil: not known.
func (b base) checkTemplates(options map[string]any, earlier map[string]bool) error {
	for _, key := range slices.Sorted(maps.Keys(options)) {
		if !b.known[key] && key != timeoutOption {
			return fmt.Errorf("option %.80q is not one that %s knows: it knows %s", key, b.InjectableName, listed(b.known))
		}
		all, err := paths(options[key])
		if err != nil {
			return fmt.Errorf("option %q: %w", key, err)
		}
		for _, path := range all {
			names := strings.Split(path, ".")
			known, fixed := fields[names[0]]
			switch {
			case names[0] == RootOptions && !b.known[names[1]]:
				return fmt.Errorf("option %q: template {{ %.80s }}: %s has no such option", key, path, b.InjectableName)
			case names[0] == RootContext && earlier != nil && !earlier[names[1]]:
				return fmt.Errorf("option %q: template {{ %.80s }}: no task %q has ended by then", key, path, names[1])
			case fixed && !slices.Contains(known, names[1]):
				return fmt.Errorf("option %q: template {{ %.80s }}: %s has %s", key, path, names[0], strings.Join(known, ", "))
			case !fixed && names[0] != RootOptions && names[0] != RootContext:
				return fmt.Errorf("option %q: template {{ %.80s }}: want options, chassis, graph, task, context or server first", key, path)
			}
		}
	}
	return nil
}

func listed(known map[string]bool) string {
	if len(known) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(known)), ", ")
}

// CheckGraph refuses a graph that refers to what is not there, or has a task that
// can never run.
func (l Library) CheckGraph(g Graph, jobs func(string) bool) error {
	fail := func(err error) error {
		if errors.Is(err, ErrInvalid) {
			return fmt.Errorf("graph %s: %w", g.InjectableName, err)
		}
		return invalid("graph %s: %w", g.InjectableName, err)
	}
	bases := map[string]base{}
	for _, s := range g.Tasks {
		b, err := l.step(s)
		if err != nil {
			return fail(err)
		}
		if !jobs(b.job) {
			return fail(fmt.Errorf("task %q: job %s is not known", s.Label, b.job))
		}
		bases[s.Label] = b
	}
	if err := g.checkShared(bases); err != nil {
		return fail(err)
	}
	for _, s := range g.Tasks {
		b := bases[s.Label]
		earlier := g.upstream(s)
		for _, options := range []map[string]any{b.Options, g.defaultsFor(b), g.Options[s.Label]} {
			if err := b.checkTemplates(options, earlier); err != nil {
				return fail(fmt.Errorf("task %q: %w", s.Label, err))
			}
		}
		for key, want := range b.required {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(earlier)), func(label string) bool {
				have, ok := bases[label].Properties[key]
				return ok && (want == nil || fmt.Sprint(have) == fmt.Sprint(want))
			}) {
				return fail(fmt.Errorf("task %q: property %.80q must be so before it, and no task that it waits for makes it so", s.Label, key))
			}
		}
	}
	return g.checkReachable()
}

// checkShared refuses defaults that no task knows.
func (g Graph) checkShared(bases map[string]base) error {
	for _, key := range slices.Sorted(maps.Keys(g.Options[Defaults])) {
		if key != timeoutOption && !known(bases, key) {
			return fmt.Errorf("option %.80q of defaults is one that none of its tasks knows", key)
		}
	}
	return nil
}

func known(bases map[string]base, key string) bool {
	for _, b := range bases {
		if b.known[key] {
			return true
		}
	}
	return false
}

// defaultsFor are those of the graph's defaults that a task knows.
func (g Graph) defaultsFor(b base) map[string]any { return selected(g.Options[Defaults], b) }

func selected(defaults map[string]any, b base) map[string]any {
	out := map[string]any{}
	for key, v := range defaults {
		if b.known[key] || key == timeoutOption {
			out[key] = v
		}
	}
	return out
}

// CheckInline refuses a graph that was not read by ParseGraph as that and
// CheckGraph would.
func (l Library) CheckInline(g Graph, jobs func(string) bool) error {
	if err := g.check(); err != nil {
		return err
	}
	return l.CheckGraph(g, jobs)
}
