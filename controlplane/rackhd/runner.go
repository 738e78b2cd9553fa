package rackhd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
	"github.com/teeth-metal/teeth/wire/rackhd"
)

// maxActive is how many active graphs one answer lists.
const maxActive = 500

// selector says which graph or definition a message means.
type selector struct {
	GraphID        string `json:"graphId"`
	InstanceID     string `json:"instanceId"`
	ID             string `json:"id"`
	Target         string `json:"target"`
	NodeID         string `json:"nodeId"`
	Node           string `json:"node"`
	InjectableName string `json:"injectableName"`
	GraphName      string `json:"graphName"`
	Domain         string `json:"domain"`
}

func (f selector) graph() string { return first(f.GraphID, f.InstanceID, f.ID) }
func (f selector) node() string  { return first(f.Target, f.NodeID, f.Node) }
func (f selector) name() string  { return first(f.InjectableName, f.GraphName) }

func first(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// selection reads {filter: {…}} and {…} alike: the requests differ in it. A filter
// with a key that we do not know selects less than we would: it is refused.
func (c call) selection() (selector, error) {
	var in struct {
		selector
		Filter json.RawMessage `json:"filter"`
	}
	if err := c.decode(&in); err != nil {
		return selector{}, err
	}
	if len(in.Filter) == 0 || string(in.Filter) == "null" {
		return in.selector, nil
	}
	var f selector
	if err := rackhd.Decode("", in.Filter, &f); err != nil {
		return selector{}, fmt.Errorf("filter: %w", err)
	}
	strict := json.NewDecoder(bytes.NewReader(in.Filter))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&selector{}); err != nil {
		return selector{}, badRequest("filter: %.100s: there are graphId, target, injectableName and domain", strings.TrimPrefix(err.Error(), "json: "))
	}
	return f, nil
}

// object is a graph or a task of one, with RackHD's names.
type object = map[string]any

func graphObject(g store.Graph) object {
	status := g.State
	if g.Paused && !g.Final() {
		status = "paused"
	}
	o := object{
		"id": g.ID, "instanceId": g.ID, "graphId": g.ID, "injectableName": g.Name, "friendlyName": g.Friendly, "graphName": g.Name,
		"domain": g.Domain, "status": status, "_status": g.State, "paused": g.Paused, "createdAt": rackhd.Timestamp(g.Created),
		"context": object{"graphId": g.ID, "graphName": g.Name},
	}
	if g.Chassis != "" {
		node := rackhd.NodeID(g.Chassis)
		o["node"], o["chassis"] = node, g.Chassis
		o["context"] = object{"graphId": g.ID, "graphName": g.Name, "target": node}
	}
	if g.Tasks != nil {
		tasks := object{}
		for _, t := range g.Tasks {
			tasks[t.ID] = taskObject(t)
		}
		o["tasks"] = tasks
	}
	return o
}

// taskObject leaves out options, which may hold secrets.
func taskObject(t store.Task) object {
	o := object{
		"instanceId": t.ID, "taskId": t.ID, "label": t.Label, "injectableName": t.Name, "taskName": t.Name, "friendlyName": t.Friendly,
		"runJob": t.Job, "state": t.State, "percent": t.Percent, "step": t.Step, "graphId": t.Graph, "terminalOnStates": t.Terminal,
	}
	if t.Msg != "" {
		o["message"] = t.Msg
	}
	if t.Chassis != "" {
		o["target"] = rackhd.NodeID(t.Chassis)
	}
	return o
}

func (s *Service) runnerMethods() []method {
	return []method{
		{key: "methods.getTaskGraphLibrary", handle: library(s, func(l workflow.Library) []definition.Graph { return l.Graphs },
			func(g definition.Graph) string { return g.InjectableName })},
		{key: "methods.getTaskLibrary", handle: library(s, func(l workflow.Library) []definition.Task { return l.Tasks },
			func(t definition.Task) string { return t.InjectableName })},
		{key: "methods.getActiveTaskGraph", handle: func(ctx context.Context, c call) (any, error) {
			g, err := s.selected(ctx, c)
			if errors.Is(err, store.ErrNotFound) || err == nil && g.Final() {
				return rackhd.Result{}, nil
			}
			return rackhd.Result{Value: graphObject(g)}, err
		}},
		{key: "methods.getActiveTaskGraphs", handle: func(ctx context.Context, c call) (any, error) {
			f, err := c.selection()
			if err != nil {
				return nil, err
			}
			graphs, err := s.active(ctx, f)
			list := make([]object, len(graphs))
			for i, g := range graphs {
				list[i] = graphObject(g)
			}
			return rackhd.Result{Value: list}, err
		}},
		{key: "methods.defineTaskGraph", handle: define(s.c.Engine.DefineGraph)},
		{key: "methods.defineTask", handle: define(s.c.Engine.DefineTask)},
		{key: "methods.runTaskGraph", handle: func(ctx context.Context, c call) (any, error) { return s.run(ctx, c, "") }},
		// 2.x has a graph stored first and then tells the runners of its domain. Of
		// one that is not stored, this is the form in between: by name.
		{key: "methods.runTaskGraph.*", handle: func(ctx context.Context, c call) (any, error) {
			f, err := c.selection()
			if err != nil {
				return nil, err
			}
			if f.graph() == "" {
				return s.run(ctx, c, c.words[0])
			}
			g, err := s.graph(ctx, f.graph())
			if err == nil && !g.Final() {
				s.c.Engine.Wake(g.Chassis)
			}
			return rackhd.Result{Value: g.ID}, err
		}},
		{key: "methods.cancelTaskGraph", handle: s.change(s.c.Engine.CancelGraph)},
		{key: "methods.pauseTaskGraph", handle: s.change(s.c.Engine.PauseGraph)},
		{key: "methods.resumeTaskGraph", handle: s.change(s.c.Engine.ResumeGraph)},
		{key: "methods.getTaskGraphProperties", handle: func(ctx context.Context, c call) (any, error) {
			g, err := s.selected(ctx, c)
			return rackhd.Result{Value: graphObject(g)}, err
		}},
	}
}

// library answers with the definitions that fit the filter.
func library[T any](s *Service, all func(workflow.Library) []T, name func(T) string) func(context.Context, call) (any, error) {
	return func(ctx context.Context, c call) (any, error) {
		f, err := c.selection()
		if err != nil {
			return nil, err
		}
		l, err := s.c.Engine.Library(ctx)
		if err != nil {
			return nil, err
		}
		found := []T{}
		for _, d := range all(l) {
			if f.name() == "" || f.name() == name(d) {
				found = append(found, d)
			}
		}
		return rackhd.Result{Value: found}, nil
	}
}

func define(do func(context.Context, []byte) (string, error)) func(context.Context, call) (any, error) {
	return func(ctx context.Context, c call) (any, error) {
		var in struct {
			Definition json.RawMessage `json:"definition"`
		}
		if err := c.decode(&in); err != nil {
			return nil, err
		}
		if len(in.Definition) == 0 {
			return nil, badRequest("%s: no definition given", c.Key)
		}
		name, err := do(ctx, in.Definition)
		return rackhd.Result{Value: name}, err
	}
}

func (s *Service) run(ctx context.Context, c call, domain string) (any, error) {
	var in struct {
		Name           string         `json:"name"`
		GraphName      string         `json:"graphName"`
		InjectableName string         `json:"injectableName"`
		Options        map[string]any `json:"options"`
		Target         string         `json:"target"`
		NodeID         string         `json:"nodeId"`
		Domain         string         `json:"domain"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	r := workflow.Request{Graph: first(in.Name, in.GraphName, in.InjectableName), Options: in.Options, Domain: first(domain, in.Domain), By: author}
	if r.Graph == "" {
		return nil, badRequest("%s: no graph is named", c.Key)
	}
	if node := first(in.Target, in.NodeID); node != "" {
		chassis, err := s.chassis(ctx, node)
		if err != nil {
			return nil, err
		}
		r.Chassis = chassis.ID
	}
	g, err := s.c.Engine.RunGraph(ctx, r)
	return rackhd.Result{Value: graphObject(g)}, err
}

// change answers with the id of the graph, or null if there is none that it
// could still be done to.
func (s *Service) change(do func(context.Context, string) (store.Graph, error)) func(context.Context, call) (any, error) {
	return func(ctx context.Context, c call) (any, error) {
		g, err := s.selected(ctx, c)
		if errors.Is(err, store.ErrNotFound) || err == nil && g.Final() {
			return rackhd.Result{}, nil
		}
		if err == nil {
			g, err = do(ctx, g.ID)
		}
		return rackhd.Result{Value: g.ID}, err
	}
}

// selected is the one graph that a message means: by its id, whether active or
// not, or the active one of a node or name.
func (s *Service) selected(ctx context.Context, c call) (store.Graph, error) {
	f, err := c.selection()
	if err != nil {
		return store.Graph{}, err
	}
	if id := f.graph(); id != "" {
		return s.graph(ctx, id)
	}
	if f == (selector{}) {
		return store.Graph{}, badRequest("%s: want graphId, or target, or injectableName", c.Key)
	}
	found, err := s.active(ctx, f)
	switch {
	case err != nil:
		return store.Graph{}, err
	case len(found) == 0:
		return store.Graph{}, fmt.Errorf("active graph: %w", store.ErrNotFound)
	case len(found) > 1:
		return store.Graph{}, fmt.Errorf("active graph: %w: name it by graphId", store.ErrAmbiguous)
	}
	return s.c.Store.Graph(ctx, found[0].ID)
}

// active lists active graphs that are inside no other.
func (s *Service) active(ctx context.Context, f selector) ([]store.Graph, error) {
	filter := store.GraphFilter{Name: f.name(), Active: true, Root: true}
	if node := f.node(); node != "" {
		chassis, err := s.chassis(ctx, node)
		if err != nil {
			return nil, err
		}
		filter.Chassis = chassis.ID
	}
	all, err := s.c.Store.ListGraphs(ctx, filter, "", maxActive)
	var found []store.Graph
	for _, g := range all {
		if (f.Domain == "" || f.Domain == g.Domain) && (f.graph() == "" || f.graph() == g.ID) {
			found = append(found, g)
		}
	}
	return found, err
}

func (s *Service) schedulerMethods() []method {
	return []method{{key: "schedule", handle: func(ctx context.Context, c call) (any, error) {
		var in struct {
			TaskName  string         `json:"taskName"`
			Overrides map[string]any `json:"overrides"`
			Target    string         `json:"target"`
		}
		if err := c.decode(&in); err != nil {
			return nil, err
		}
		if in.TaskName == "" {
			return nil, badRequest("schedule: no task is named")
		}
		// RackHD's message has no place for the node but among the overrides.
		if node, ok := in.Overrides["target"].(string); ok && in.Target == "" {
			in.Target = node
			delete(in.Overrides, "target")
		}
		chassis := ""
		if in.Target != "" {
			found, err := s.chassis(ctx, in.Target)
			if err != nil {
				return nil, err
			}
			chassis = found.ID
		}
		g, err := s.c.Engine.RunTask(ctx, in.TaskName, chassis, in.Overrides)
		return rackhd.Result{Value: graphObject(g)}, err
	}}}
}
