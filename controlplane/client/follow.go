package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client/live"
)

// Follow calls show with the tasks of a graph and of those inside it, in their
// order, whenever one changes, until the graph has ended, and returns it as it
// ended. The error says which task is why it did not succeed. Show may be nil.
func (c *Client) Follow(ctx context.Context, graph string, show func([]Task)) (Graph, error) {
	g, err := c.Graph(ctx, graph)
	if err != nil {
		return Graph{}, err
	}
	tasks := slices.Clone(g.Tasks)
	ended := errors.New("the graph has ended")
	err = c.Watch(ctx, Filter{Graph: g.ID}, func(e Event) error {
		switch {
		case e.Task != nil:
			tasks = place(tasks, *e.Task)
			if show != nil {
				show(shown(tasks))
			}
		case e.Graph != nil && e.Graph.ID == g.ID && e.Graph.Final():
			return ended
		}
		return nil
	})
	if !errors.Is(err, ended) {
		return g, err
	}
	if g, err = c.Graph(ctx, g.ID); err != nil || g.State == "succeeded" {
		return g, err
	}
	return g, fmt.Errorf("graph %s (%s): %s: %s", g.ID, g.Name, g.State, g.Msg)
}

// place puts a task where it belongs: in its own place, behind the attempt before
// it, or, of a graph inside this one, at the end.
func place(tasks []Task, t Task) []Task {
	if i := slices.IndexFunc(tasks, func(o Task) bool { return o.ID == t.ID }); i >= 0 {
		tasks[i] = t
		return tasks
	}
	at := len(tasks)
	for i, o := range tasks {
		if o.Graph == t.Graph && o.Position <= t.Position {
			at = i + 1
		}
	}
	return slices.Insert(tasks, at, t)
}

// shown are the tasks without those that another attempt has replaced.
func shown(tasks []Task) []Task {
	return slices.DeleteFunc(slices.Clone(tasks), func(t Task) bool { return t.Retried })
}

// Live is what a terminal shows of the task.
func (t Task) Live() live.Task {
	title := t.Label
	if _, method, ok := strings.Cut(t.Label, "."); ok { // of a run of an earlier version
		title = method
	}
	if t.Attempt > 1 {
		title = fmt.Sprintf("%s (%d)", title, t.Attempt)
	}
	l := live.Task{ID: t.ID, Title: title, State: t.State, Step: t.Step, Msg: t.Msg, Percent: t.Percent, Final: t.Final()}
	if t.ETA != nil {
		left := time.Duration(*t.ETA * float64(time.Second))
		l.ETA = &left
	}
	return l
}
