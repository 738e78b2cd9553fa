// Package definition reads and checks definitions of tasks and graphs, JSON or
// YAML, in the manner of RackHD.
//
// A task names a job that does the work (runJob), or another task that it is a
// variant of (implementsTask), and options for it. A graph is tasks with labels;
// each may wait for others to end in certain states. Options have defaults;
// strings in them may hold templates, {{ options.x }} for instance, which are
// filled in when the graph runs. There is no code in definitions.
//
// A definition is refused, with one sentence that says what is wrong, if it has a
// key that is not known, a cycle, an unknown task or label, a template that can
// never be filled in, or a task that can never run.
package definition

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// ErrInvalid is what all errors about a definition, and about the options of a
// run, are.
var ErrInvalid = errors.New("invalid")

// mistake is an ErrInvalid that says only what is wrong.
type mistake struct{ error }

func (m mistake) Unwrap() error        { return m.error }
func (m mistake) Is(target error) bool { return target == ErrInvalid }

func invalid(format string, args ...any) error { return mistake{fmt.Errorf(format, args...)} }

// Task is the definition of a task.
type Task struct {
	InjectableName string `json:"injectableName"`
	FriendlyName   string `json:"friendlyName,omitempty"`
	Description    string `json:"description,omitempty"`
	// Exactly one of these two is set.
	ImplementsTask string `json:"implementsTask,omitempty"`
	RunJob         string `json:"runJob,omitempty"`

	// Options are defaults. An option that is known but has none is listed in
	// RequiredOptions, or is null.
	Options         map[string]any `json:"options,omitempty"`
	RequiredOptions []string       `json:"requiredOptions,omitempty"`
	// Properties are what is so once the task has succeeded; RequiredProperties
	// must be so before it starts, by tasks that it waits for.
	Properties         map[string]any `json:"properties,omitempty"`
	RequiredProperties map[string]any `json:"requiredProperties,omitempty"`
}

// Graph is the definition of a graph.
type Graph struct {
	InjectableName string `json:"injectableName"`
	FriendlyName   string `json:"friendlyName,omitempty"`
	Description    string `json:"description,omitempty"`
	// Options are by label; those under "defaults" are for every task that knows
	// them.
	Options map[string]map[string]any `json:"options,omitempty"`
	Tasks   []Step                    `json:"tasks"`
}

// Defaults is the key of options that are for every task that knows them.
const Defaults = "defaults"

// Step is a task of a graph.
type Step struct {
	Label string `json:"label"`
	// Exactly one of these two is set.
	TaskName       string `json:"taskName,omitempty"`
	TaskDefinition *Task  `json:"taskDefinition,omitempty"`

	WaitOn        WaitOn   `json:"waitOn,omitzero"`
	IgnoreFailure bool     `json:"ignoreFailure,omitempty"` // its failure is not that of the graph
	Timeout       Duration `json:"timeout,omitempty"`       // from its start; 0: none
	Retries       int      `json:"retries,omitempty"`       // further attempts after a failure
	RetryDelay    Duration `json:"retryDelay,omitempty"`    // before the first, then twice as long each time; 5 s unless set
	// Optional: left out where nothing does its job, or a required option is not
	// given.
	Optional bool `json:"optional,omitempty"`
}

// WaitOn is what a step waits for: everything in All, and one of Any if there is
// anything in it. Keys are labels, values states of which one will do. In JSON,
// All is the object itself, Any its key "anyOf"; a single state may be a string,
// and "finished" is any final state.
type WaitOn struct {
	All map[string][]string
	Any map[string][]string
}

// IsZero reports whether there is nothing to wait for.
func (w WaitOn) IsZero() bool { return len(w.All) == 0 && len(w.Any) == 0 }

// States that a step can wait for, in the order in which they are shown.
var States = []string{"succeeded", "failed", "timeout", "cancelled"}

const finished = "finished"

// UnmarshalJSON reads the form above.
func (w *WaitOn) UnmarshalJSON(b []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return fmt.Errorf("waitOn: want an object of labels and states: %w", err)
	}
	*w = WaitOn{}
	for label, v := range raw {
		if label != "anyOf" {
			states, err := readStates(label, v)
			if err != nil {
				return err
			}
			if w.All == nil {
				w.All = map[string][]string{}
			}
			w.All[label] = states
			continue
		}
		var some map[string]json.RawMessage
		if err := json.Unmarshal(v, &some); err != nil || len(some) == 0 {
			return errors.New("waitOn: anyOf: want an object of labels and states")
		}
		w.Any = map[string][]string{}
		for label, v := range some {
			states, err := readStates(label, v)
			if err != nil {
				return err
			}
			w.Any[label] = states
		}
	}
	return nil
}

func readStates(label string, v json.RawMessage) ([]string, error) {
	var list []string
	var single string
	if json.Unmarshal(v, &single) == nil {
		list = []string{single}
	} else if err := json.Unmarshal(v, &list); err != nil || len(list) == 0 {
		return nil, fmt.Errorf("waitOn: %.80q: want a state or a list of states", label)
	}
	var out []string
	for _, s := range list {
		switch {
		case s == finished:
			out = slices.Clone(States)
		case !slices.Contains(States, s):
			return nil, fmt.Errorf("waitOn: %.80q: %.40q is no final state: want succeeded, failed, timeout, cancelled or finished", label, s)
		case !slices.Contains(out, s):
			out = append(out, s)
		}
	}
	return out, nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (w WaitOn) MarshalJSON() ([]byte, error) {
	form := func(m map[string][]string) map[string]any {
		out := map[string]any{}
		for label, states := range m {
			switch {
			case len(states) == len(States):
				out[label] = finished
			case len(states) == 1:
				out[label] = states[0]
			default:
				out[label] = states
			}
		}
		return out
	}
	out := form(w.All)
	if len(w.Any) > 0 {
		out["anyOf"] = form(w.Any)
	}
	return json.Marshal(out)
}

// Duration is a time in JSON: a number of milliseconds, as RackHD has it, or a
// string such as "90s" or "2h".
type Duration time.Duration

// maxDuration bounds times in definitions.
const maxDuration = 366 * 24 * time.Hour

// UnmarshalJSON reads either form. RackHD's -1 is no limit, like 0.
func (d *Duration) UnmarshalJSON(b []byte) error {
	v, err := parseDuration(b)
	*d = Duration(v)
	return err
}

func parseDuration(b []byte) (time.Duration, error) {
	var text string
	var ms float64
	var v time.Duration
	if json.Unmarshal(b, &text) == nil {
		var err error
		if v, err = time.ParseDuration(text); err != nil {
			return 0, fmt.Errorf("time %.40q: want milliseconds, or a text like \"90s\" or \"2h\"", text)
		}
	} else if err := json.Unmarshal(b, &ms); err != nil {
		return 0, fmt.Errorf("time %.40s: want milliseconds, or a text like \"90s\" or \"2h\"", b)
	} else if ms == -1 {
		return 0, nil
	} else if ms < 0 || ms > float64(maxDuration.Milliseconds()) {
		v = -1
	} else {
		v = time.Duration(ms * float64(time.Millisecond))
	}
	if v < 0 || v > maxDuration {
		return 0, fmt.Errorf("time %.40s: want up to a year", b)
	}
	return v, nil
}

// MarshalJSON writes the form with a unit.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

var (
	taskPattern  = regexp.MustCompile(`^Task\.[A-Za-z0-9]([A-Za-z0-9._-]{0,120})$`)
	graphPattern = regexp.MustCompile(`^Graph\.[A-Za-z0-9]([A-Za-z0-9._-]{0,120})$`)
	jobPattern   = regexp.MustCompile(`^Job\.[A-Za-z0-9]([A-Za-z0-9._-]{0,120})$`)
	labelPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,62})$`)
	keyPattern   = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})$`)
)
