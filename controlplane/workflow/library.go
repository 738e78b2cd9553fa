package workflow

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
)

// Library is the definitions there are: those built in and those that operators
// have added.
type Library = definition.Library

// ErrInvalid is what errors about a request and about a definition are.
var ErrInvalid = definition.ErrInvalid

//go:embed library/*.yaml
var files embed.FS

// builtIn is part of the program; a test reads it too.
var builtIn = func() Library {
	lib, err := readLibrary(files)
	if err != nil {
		panic(err)
	}
	return lib
}()

// readLibrary reads files of definitions, several in one with lines of "---"
// between.
func readLibrary(from fs.FS) (Library, error) {
	names, err := fs.Glob(from, "library/*.yaml")
	if err != nil {
		return Library{}, err
	}
	var graphs []definition.Graph
	var tasks []definition.Task
	for _, name := range names {
		b, err := fs.ReadFile(from, name)
		if err != nil {
			return Library{}, err
		}
		for _, doc := range strings.Split(string(b), "\n---\n") {
			kind, _, err := definition.Kind([]byte(doc))
			if err == nil && kind == store.DefinedGraph {
				var g definition.Graph
				g, err = definition.ParseGraph([]byte(doc))
				graphs = append(graphs, g)
			} else if err == nil {
				var t definition.Task
				t, err = definition.ParseTask([]byte(doc))
				tasks = append(tasks, t)
			}
			if err != nil {
				return Library{}, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return definition.NewLibrary(graphs, tasks), nil
}

// BuiltIn reports whether a task or graph of that name comes with the program.
func BuiltIn(name string) bool {
	_, err := builtIn.Graph(name)
	if err != nil {
		_, err = builtIn.Task(name)
	}
	return err == nil
}

// Library returns all definitions.
func (e *Engine) Library(ctx context.Context) (Library, error) {
	graphs, tasks := slices.Clone(builtIn.Graphs), slices.Clone(builtIn.Tasks)
	added, err := e.c.Store.Definitions(ctx, store.DefinedGraph)
	if err != nil {
		return Library{}, err
	}
	for _, raw := range added {
		var g definition.Graph
		if err := json.Unmarshal(raw, &g); err != nil {
			return Library{}, fmt.Errorf("stored graph: %w", err)
		}
		if !BuiltIn(g.InjectableName) { // a newer program may have brought one of that name
			graphs = append(graphs, g)
		}
	}
	if added, err = e.c.Store.Definitions(ctx, store.DefinedTask); err != nil {
		return Library{}, err
	}
	for _, raw := range added {
		var t definition.Task
		if err := json.Unmarshal(raw, &t); err != nil {
			return Library{}, fmt.Errorf("stored task: %w", err)
		}
		if !BuiltIn(t.InjectableName) {
			tasks = append(tasks, t)
		}
	}
	return definition.NewLibrary(graphs, tasks), nil
}

// knownJob reports whether a job of that name exists, be it switched on or not.
func (e *Engine) knownJob(name string) bool {
	return e.can(name) || slices.ContainsFunc(builtIn.Tasks, func(t definition.Task) bool { return t.RunJob == name })
}

// DefineGraph adds a graph to the library, or replaces one that was added,
// written in JSON or YAML. It returns its name. Errors are ErrInvalid, or
// store.ErrConflict for the name of one that comes with the program.
func (e *Engine) DefineGraph(ctx context.Context, raw []byte) (name string, err error) {
	g, err := definition.ParseGraph(raw)
	if err != nil {
		return "", err
	}
	lib, err := e.Library(ctx)
	if err != nil {
		return "", err
	}
	if err := lib.CheckGraph(g, e.knownJob); err != nil {
		return "", err
	}
	return g.InjectableName, e.define(ctx, store.DefinedGraph, g.InjectableName, g)
}

// DefineTask adds a task to the library, or replaces one that was added, written
// in JSON or YAML. It returns its name. A task is not replaced by one that breaks
// a graph. Errors are as those of DefineGraph.
func (e *Engine) DefineTask(ctx context.Context, raw []byte) (name string, err error) {
	t, err := definition.ParseTask(raw)
	if err != nil {
		return "", err
	}
	lib, err := e.Library(ctx)
	if err != nil {
		return "", err
	}
	if err := lib.CheckTask(t, e.knownJob); err != nil {
		return "", err
	}
	if err := e.checkUses(lib, lib.With(nil, &t)); err != nil {
		return "", fmt.Errorf("task %s cannot be replaced by this: %w", t.InjectableName, err)
	}
	return t.InjectableName, e.define(ctx, store.DefinedTask, t.InjectableName, t)
}

// checkUses refuses a change of the library that breaks what was in order.
func (e *Engine) checkUses(before, after Library) error {
	for _, t := range after.Tasks {
		if err := after.CheckTask(t, e.knownJob); err != nil && before.CheckTask(t, e.knownJob) == nil {
			return err
		}
	}
	for _, g := range after.Graphs {
		if err := after.CheckGraph(g, e.knownJob); err != nil && before.CheckGraph(g, e.knownJob) == nil {
			return err
		}
	}
	return nil
}

func (e *Engine) define(ctx context.Context, kind, name string, v any) error {
	if BuiltIn(name) {
		return fmt.Errorf("%s %s comes with the program and cannot be changed: give yours another name: %w", kind, name, store.ErrConflict)
	}
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return e.c.Store.Define(ctx, kind, name, body)
}

// RemoveGraph takes a graph that was added out of the library. Instances of it
// that are at work go on.
func (e *Engine) RemoveGraph(ctx context.Context, name string) error {
	if BuiltIn(name) {
		return fmt.Errorf("graph %s comes with the program and cannot be removed: %w", name, store.ErrConflict)
	}
	return e.c.Store.Undefine(ctx, store.DefinedGraph, name)
}

// RemoveTask takes a task that was added out of the library, unless a graph or
// another task needs it.
func (e *Engine) RemoveTask(ctx context.Context, name string) error {
	if BuiltIn(name) {
		return fmt.Errorf("task %s comes with the program and cannot be removed: %w", name, store.ErrConflict)
	}
	lib, err := e.Library(ctx)
	if err != nil {
		return err
	}
	tasks := slices.DeleteFunc(slices.Clone(lib.Tasks), func(t definition.Task) bool { return t.InjectableName == name })
	if err := e.checkUses(lib, definition.NewLibrary(slices.Clone(lib.Graphs), tasks)); err != nil {
		return fmt.Errorf("task %s is needed: %w: %w", name, errors.New(err.Error()), store.ErrConflict)
	}
	return e.c.Store.Undefine(ctx, store.DefinedTask, name)
}
