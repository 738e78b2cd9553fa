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

// Follow calls show with the tasks of a run, in their order, whenever one
// changes, until all have ended, and returns the run as it ended. The error says
// which task failed or was cancelled, and why. Show may be nil.
func (c *Client) Follow(ctx context.Context, run string, show func([]Task)) (Run, error) {
	r, err := c.Run(ctx, run)
	if err != nil {
		return Run{}, err
	}
	ended := errors.New("all tasks have ended")
	err = c.Watch(ctx, Filter{Run: run}, func(e Event) error {
		if e.Task == nil {
			return nil
		}
		i := slices.IndexFunc(r.Tasks, func(t Task) bool { return t.ID == e.Task.ID })
		if i < 0 {
			return nil
		}
		r.Tasks[i] = *e.Task
		if show != nil {
			show(r.Tasks)
		}
		if slices.ContainsFunc(r.Tasks, func(t Task) bool { return !t.Final() }) {
			return nil
		}
		return ended
	})
	if !errors.Is(err, ended) {
		return r, err
	}
	if r, err = c.Run(ctx, run); err != nil {
		return r, err
	}
	for _, t := range r.Tasks {
		if t.State != "complete" {
			return r, fmt.Errorf("task %s (%s): %s: %s", t.ID, t.Method, t.State, t.Msg)
		}
	}
	return r, nil
}

// Live is what a terminal shows of the task.
func (t Task) Live() live.Task {
	_, title, _ := strings.Cut(t.Method, ".")
	l := live.Task{ID: t.ID, Title: title, State: t.State, Step: t.Step, Msg: t.Msg, Percent: t.Percent, Final: t.Final()}
	if t.ETA != nil {
		left := time.Duration(*t.ETA * float64(time.Second))
		l.ETA = &left
	}
	return l
}
