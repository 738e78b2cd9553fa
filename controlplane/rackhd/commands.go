package rackhd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/rackhd"
)

// JobCommands is the job of tasks whose work is commands that a node fetches,
// runs and reports.
const JobCommands = "Job.Linux.Commands"

// reported is how far back a report that is repeated is recognised, in tasks.
const reported = 50

// Commands hands out the commands of tasks, over HTTP and the bus alike. They are
// handed out again until they are reported, so that a lost answer loses nothing;
// a report that is repeated changes nothing.
type Commands struct {
	Store *store.Store
	// Finish ends a task, as workflow.Engine.FinishTask.
	Finish func(ctx context.Context, id, state, msg string, result json.RawMessage) error
}

// command is one entry of the option "commands": a text, or an object with
// RackHD's keys.
type command struct {
	Command               string `json:"command"`
	Cmd                   string `json:"cmd"`
	DownloadURL           string `json:"downloadUrl"`
	AcceptedResponseCodes []int  `json:"acceptedResponseCodes"`
	Catalog               *struct {
		Source string `json:"source"`
		Format string `json:"format"`
	} `json:"catalog"`
	Retries int `json:"retries"`
	Timeout int `json:"timeout"` // ms
}

func (c *command) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &c.Command)
	}
	type plain command
	return json.Unmarshal(b, (*plain)(c))
}

// nodeTasks are the commands of a task as its node gets them.
func nodeTasks(t store.Task) (rackhd.NodeTasks, error) {
	var o struct {
		Commands json.RawMessage `json:"commands"`
		Exit     *rackhd.Exit    `json:"exit"`
	}
	fail := func(err error) (rackhd.NodeTasks, error) {
		return rackhd.NodeTasks{}, fmt.Errorf("task %s: commands: %w", t.ID, err)
	}
	if err := json.Unmarshal(t.Options, &o); err != nil {
		return fail(err)
	}
	if len(o.Commands) > 0 && o.Commands[0] != '[' {
		o.Commands = slices.Concat(json.RawMessage("["), o.Commands, json.RawMessage("]"))
	}
	var list []command
	if err := json.Unmarshal(o.Commands, &list); err != nil {
		return fail(err)
	}
	tasks := rackhd.NodeTasks{Identifier: rackhd.NodeID(t.Chassis), Tasks: make([]rackhd.NodeTask, len(list)), Exit: o.Exit}
	for i, c := range list {
		tasks.Tasks[i] = rackhd.NodeTask{
			Cmd: first(c.Command, c.Cmd), DownloadURL: c.DownloadURL, AcceptedResponseCodes: c.AcceptedResponseCodes,
			Retries: c.Retries, Timeout: c.Timeout,
		}
		if c.Catalog != nil {
			tasks.Tasks[i].Catalog, tasks.Tasks[i].Source, tasks.Tasks[i].Format = true, c.Catalog.Source, c.Catalog.Format
		}
	}
	if err := tasks.Check(); err != nil {
		return fail(err)
	}
	return tasks, nil
}

// Next returns what a chassis is to run, and whether there is anything.
func (q Commands) Next(ctx context.Context, chassis store.Chassis) (rackhd.NodeTasks, bool, error) {
	open, err := q.Store.OpenTasks(ctx, chassis.ID)
	if err != nil {
		return rackhd.NodeTasks{}, false, err
	}
	for _, t := range open {
		if t.Job == JobCommands && t.State == store.Running {
			todo, err := nodeTasks(t)
			return todo, err == nil, err
		}
	}
	return rackhd.NodeTasks{}, false, nil
}

// Report ends the task whose commands these are, by RackHD's rule: it has failed
// if one of them ended with an error whose code is not accepted. Commands that
// were never handed out are ErrConflict.
func (q Commands) Report(ctx context.Context, chassis store.Chassis, done rackhd.NodeTasks) error {
	recent, err := q.Store.ListTasks(ctx, chassis.ID, "", reported)
	if err != nil {
		return err
	}
	known := false
	for _, t := range recent {
		if t.Job != JobCommands || t.State == store.Pending {
			continue
		}
		given, err := nodeTasks(t)
		if err != nil || !same(given, done) {
			continue
		}
		known = true
		if t.State != store.Running {
			continue
		}
		result, err := json.Marshal(done)
		if err != nil {
			return err
		}
		state, msg := store.Succeeded, ""
		if f := done.Failed(); f != nil {
			state, msg = store.Failed, fmt.Sprintf("Encountered a failure running remote commands: %.200q: %s", f.Cmd, reason(*f.Error))
		}
		return q.Finish(ctx, t.ID, state, msg, result)
	}
	if known {
		return nil // reported before: the answer was lost on the way
	}
	return fmt.Errorf("chassis %s reports commands that it was not given: %w", chassis.ID, store.ErrConflict)
}

func reason(e rackhd.NodeError) string {
	switch {
	case e.Text != "":
		return fmt.Sprintf("%.200s", e.Text)
	case e.Signal != "" || e.Killed:
		return "killed by " + e.Signal
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

// same reports whether done are the commands given.
func same(given, done rackhd.NodeTasks) bool {
	return given.Identifier == done.Identifier && slices.EqualFunc(given.Tasks, done.Tasks, func(a, b rackhd.NodeTask) bool {
		return a.Cmd == b.Cmd && a.DownloadURL == b.DownloadURL
	})
}
