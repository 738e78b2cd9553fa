package rackhd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
	"github.com/teeth-metal/teeth/wire/rackhd"
)

// JobCommands is the job of tasks whose work is commands that a node fetches,
// runs and reports.
const JobCommands = "Job.Linux.Commands"

// reported is how far back a report that is repeated is recognised, in tasks.
const reported = 50

// CommandsJob is what makes graphs with such tasks possible: it checks their
// options. The work is done by the node.
func CommandsJob() workflow.Job {
	return workflow.Job{Name: JobCommands, Check: func(options json.RawMessage) error {
		_, err := nodeTasks(store.Task{Options: options})
		return err
	}}
}

// Commands hands out the commands of tasks, over HTTP and the bus alike. They are
// handed out again until they are reported, so that a lost answer loses nothing;
// a report that is repeated changes nothing. RackHD's option runOnlyOnce, which
// says whether they are handed out again, therefore has no effect.
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
	// Catalog is {source, format}, or true with both beside it.
	Catalog json.RawMessage `json:"catalog"`
	Source  string          `json:"source"`
	Format  string          `json:"format"`
	Retries int             `json:"retries"`
	Timeout int             `json:"timeout"` // ms
}

func (c *command) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &c.Command)
	}
	type plain command
	return json.Unmarshal(b, (*plain)(c))
}

// maxSource bounds the name of a catalog, in bytes.
const maxSource = 128

// task is the command as its node gets it.
func (c command) task() (rackhd.NodeTask, error) {
	t := rackhd.NodeTask{
		Cmd: first(c.Command, c.Cmd), DownloadURL: c.DownloadURL, AcceptedResponseCodes: c.AcceptedResponseCodes,
		Retries: c.Retries, Timeout: c.Timeout,
	}
	switch flat := string(c.Catalog); flat {
	case "", "null", "false":
		return t, nil
	case "true":
	default:
		if err := json.Unmarshal(c.Catalog, &struct {
			Source, Format *string
		}{&c.Source, &c.Format}); err != nil {
			return t, fmt.Errorf("catalog: want {source, format}, or true: %w", err)
		}
	}
	t.Catalog, t.Source, t.Format = true, c.Source, first(c.Format, store.CatalogRaw)
	switch {
	case t.Source == "" || len(t.Source) > maxSource || strings.ContainsFunc(t.Source, func(r rune) bool { return r < ' ' || r == 0x7f || r == '/' }):
		return t, fmt.Errorf("catalog: source %.64q: want 1 to %d bytes without control characters and slashes", t.Source, maxSource)
	case t.Format != store.CatalogRaw && t.Format != store.CatalogJSON:
		return t, fmt.Errorf("catalog %q: format %.40q: want raw or json", t.Source, t.Format)
	}
	return t, nil
}

// nodeTasks are the commands of a task as its node gets them.
func nodeTasks(t store.Task) (rackhd.NodeTasks, error) {
	var o struct {
		Commands json.RawMessage `json:"commands"`
		Exit     *rackhd.Exit    `json:"exit"`
	}
	if err := json.Unmarshal(t.Options, &o); err != nil {
		return rackhd.NodeTasks{}, fmt.Errorf("commands: %w", err)
	}
	if len(o.Commands) > 0 && o.Commands[0] != '[' {
		o.Commands = slices.Concat(json.RawMessage("["), o.Commands, json.RawMessage("]"))
	}
	var list []command
	if err := json.Unmarshal(o.Commands, &list); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			err = fmt.Errorf("a JSON %s stands where there cannot be one: %s", wrong.Value, first(wrong.Field, "commands"))
		}
		return rackhd.NodeTasks{}, fmt.Errorf("commands: want a text, or a list of texts and of objects with command: %w", err)
	}
	tasks := rackhd.NodeTasks{Identifier: rackhd.NodeID(t.Chassis), TaskID: t.ID, Tasks: make([]rackhd.NodeTask, len(list)), Exit: o.Exit}
	for i, c := range list {
		var err error
		if tasks.Tasks[i], err = c.task(); err != nil {
			return rackhd.NodeTasks{}, fmt.Errorf("command %d: %w", i, err)
		}
	}
	return tasks, tasks.Check()
}

// Next returns what a chassis is to run, and whether there is anything.
func (q Commands) Next(ctx context.Context, chassis store.Chassis) (rackhd.NodeTasks, bool, error) {
	open, err := q.Store.OpenTasks(ctx, chassis.ID)
	if err != nil {
		return rackhd.NodeTasks{}, false, err
	}
	for _, t := range open {
		if t.Job != JobCommands || t.State != store.Running {
			continue
		}
		batch, err := nodeTasks(t)
		if err == nil {
			return batch, true, nil
		}
		// It would never be better, and hold up what comes after it.
		if err := q.Finish(ctx, t.ID, store.Failed, err.Error(), nil); err != nil {
			return rackhd.NodeTasks{}, false, err
		}
	}
	return rackhd.NodeTasks{}, false, nil
}

// Report ends the task whose commands these are, by RackHD's rule: it has failed
// if one of them ended with an error whose code is not accepted. Catalogs among
// them are kept. Commands that were never handed out are ErrConflict.
func (q Commands) Report(ctx context.Context, chassis store.Chassis, done rackhd.NodeTasks) error {
	t, err := q.reported(ctx, chassis, done)
	if err != nil || t.Final() {
		return err // reported before: the answer was lost on the way
	}
	state, msg := store.Succeeded, ""
	if f := done.Failed(); f != nil {
		state, msg = store.Failed, fmt.Sprintf("Encountered a failure running remote commands: %.200q: %s", f.Cmd, reason(*f.Error))
	}
	catalogs, unfit := catalogsOf(t, done)
	if unfit != nil && state == store.Succeeded {
		msg = unfit.Error() // as with RackHD, no failure of the commands
	}
	// Before the end of the task, which may be what somebody waits for who reads
	// them. A report that is repeated, as nobody has answered it, writes them again.
	if err := q.Store.SaveCatalogs(ctx, chassis.ID, catalogs); errors.Is(err, store.ErrConflict) {
		state, msg = store.Failed, err.Error()
	} else if err != nil {
		return err
	}
	result, err := json.Marshal(shortened(done))
	if err != nil {
		return err
	}
	return q.Finish(ctx, t.ID, state, msg, result)
}

// reported finds the task that a report is about: by its id, if the node has sent
// that back, or else the one with the same commands, first one that is running.
func (q Commands) reported(ctx context.Context, chassis store.Chassis, done rackhd.NodeTasks) (store.Task, error) {
	unknown := fmt.Errorf("chassis %s reports commands that it was not given: %w", chassis.ID, store.ErrConflict)
	var candidates []store.Task
	if done.TaskID != "" {
		t, err := q.Store.Task(ctx, done.TaskID)
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrAmbiguous) || err == nil && (t.ID != done.TaskID || t.Chassis != chassis.ID) {
			return t, unknown
		}
		if err != nil {
			return t, err
		}
		candidates = []store.Task{t}
	} else {
		var err error
		if candidates, err = q.Store.ListTasks(ctx, chassis.ID, "", reported); err != nil {
			return store.Task{}, err
		}
	}
	var found store.Task
	for _, t := range candidates {
		if t.Job != JobCommands || t.State == store.Pending {
			continue
		}
		given, err := nodeTasks(t)
		if err != nil || !same(given, done) {
			continue
		}
		if !t.Final() {
			return t, nil
		}
		found = t
	}
	if found.ID == "" {
		return found, unknown
	}
	return found, nil
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
	return strings.EqualFold(given.Identifier, done.Identifier) && slices.EqualFunc(given.Tasks, done.Tasks, func(a, b rackhd.NodeTask) bool {
		return a.Cmd == b.Cmd && a.DownloadURL == b.DownloadURL
	})
}

// catalogsOf are the catalogs in a report. What a catalog is called and what is in
// it is taken from what was asked for, not from what came back. One that was to be
// JSON and is not is kept as text, and unfit says so.
func catalogsOf(t store.Task, done rackhd.NodeTasks) (list []store.Catalog, unfit error) {
	given, err := nodeTasks(t)
	if err != nil {
		return nil, err
	}
	for i, asked := range given.Tasks {
		got := done.Tasks[i]
		if !asked.Catalog || got.Stdout == nil || got.Error != nil && done.Failed() == &done.Tasks[i] {
			continue
		}
		c := store.Catalog{Source: asked.Source, Format: asked.Format, Task: t.ID}
		if c.Format == store.CatalogJSON {
			if c.Data = json.RawMessage(strings.TrimSpace(*got.Stdout)); !json.Valid(c.Data) {
				c.Format = store.CatalogRaw
				unfit = errors.Join(unfit, fmt.Errorf("catalog %s: what %.100q wrote is not JSON; it is kept as text", c.Source, asked.Cmd))
			}
		}
		if c.Format == store.CatalogRaw {
			if c.Data, err = json.Marshal(*got.Stdout); err != nil {
				return list, errors.Join(unfit, err)
			}
		}
		list = append(list, c)
	}
	return list, unfit
}

const (
	keptOutput  = 64 << 10 // bytes of one output in a task's result
	keptOutputs = 1 << 20  // and of all of them
)

// shortened is a report as it is kept with its task, which people and other tasks
// read: of long outputs the end, which says how it went.
func shortened(done rackhd.NodeTasks) rackhd.NodeTasks {
	limit := keptOutput
	if n := 2 * len(done.Tasks); n*limit > keptOutputs {
		limit = keptOutputs / n
	}
	short := func(s *string) *string {
		if s == nil || len(*s) <= limit {
			return s
		}
		text := fmt.Sprintf("(%d bytes left out)\n%s", len(*s)-limit, strings.ToValidUTF8((*s)[len(*s)-limit:], ""))
		return &text
	}
	done.Tasks = slices.Clone(done.Tasks)
	for i := range done.Tasks {
		done.Tasks[i].Stdout, done.Tasks[i].Stderr = short(done.Tasks[i].Stdout), short(done.Tasks[i].Stderr)
	}
	return done
}
