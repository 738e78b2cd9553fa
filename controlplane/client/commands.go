package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"
)

// NewCommand is a command to run on chassis, or on other agents of Minion.
type NewCommand struct {
	Chassis  []string          `json:"chassis,omitempty"`
	Servers  []string          `json:"servers,omitempty"` // agents that are no chassis, by their own id
	All      bool              `json:"all,omitempty"`     // chassis that are approved
	Argv     []string          `json:"argv"`
	Internal bool              `json:"internal,omitempty"` // a function of the agent's own
	Shell    bool              `json:"shell,omitempty"`    // Argv is a line for a shell
	Env      map[string]string `json:"env,omitempty"`
	Timeout  float64           `json:"timeout,omitempty"` // seconds that it may run
	Output   int64             `json:"output,omitempty"`  // bytes of output that the agent sends
	Expires  int64             `json:"expires,omitempty"` // seconds that it waits for an agent that is away
}

// Command is one that was issued, to some chassis or many.
type Command struct {
	ID       string         `json:"id"`
	Type     string         `json:"type"` // external or internal
	Argv     []string       `json:"argv"`
	Options  []string       `json:"options"`
	By       string         `json:"by,omitempty"`
	RunLimit int64          `json:"run_limit,omitempty"` // seconds after which a run is lost that was not answered
	Created  time.Time      `json:"created"`
	Expires  *time.Time     `json:"expires,omitempty"`
	States   map[string]int `json:"states"` // how many of its runs are in which
}

// Run is a command on one chassis. State is waiting, sent, running, done, timeout,
// refused, killed, cancelled, expired or lost.
type Run struct {
	ID         string     `json:"id"`
	Command    string     `json:"command"`
	Server     string     `json:"server"` // the chassis' id
	State      string     `json:"state"`
	Exit       *int       `json:"exit,omitempty"` // unknown of agents that do not say
	Dispatched *time.Time `json:"dispatched,omitempty"`
	Responded  *time.Time `json:"responded,omitempty"`
	Updated    time.Time  `json:"updated"`
	Stdout     string     `json:"stdout,omitempty"` // only where one run is asked for
	Stderr     string     `json:"stderr,omitempty"`
	Dropped    int64      `json:"dropped,omitempty"` // bytes of output beyond what is kept
}

// Final reports whether nothing more comes of the run.
func (r Run) Final() bool {
	switch r.State {
	case "waiting", "sent", "running":
		return false
	}
	return true
}

// Succeeded reports whether the run has ended as its command wanted. Of an agent that
// does not tell the exit code it is taken for 0.
func (r Run) Succeeded() bool { return r.State == "done" && (r.Exit == nil || *r.Exit == 0) }

// Output is a part of what a run has written. Offset is where it begins, in bytes.
type Output struct {
	Run    string `json:"run"`
	Server string `json:"server"`
	Stream string `json:"stream"` // stdout or stderr
	Offset int    `json:"offset"`
	Text   string `json:"text"`
}

// RunCommand issues a command. It waits for chassis that are away.
func (c *Client) RunCommand(ctx context.Context, in NewCommand) (Command, error) {
	var out Command
	err := c.call(ctx, http.MethodPost, "/v1/commands", nil, in, &out)
	return out, err
}

// ListCommands returns up to limit commands (0: all), newest first, of a chassis, or
// of all if that is "".
func (c *Client) ListCommands(ctx context.Context, chassis string, limit int) ([]Command, error) {
	q := url.Values{}
	if chassis != "" {
		q.Set("chassis", chassis)
	}
	return pages[Command](ctx, c, "/v1/commands", q, limit)
}

func commandPath(id, rest string) string { return "/v1/commands/" + url.PathEscape(id) + rest }

// Command returns a command by its id.
func (c *Client) Command(ctx context.Context, id string) (Command, error) {
	var out Command
	err := c.call(ctx, http.MethodGet, commandPath(id, ""), nil, nil, &out)
	return out, err
}

// CancelCommand cancels what of a command is still waiting for its agent.
func (c *Client) CancelCommand(ctx context.Context, id string) (Command, error) {
	var out Command
	err := c.call(ctx, http.MethodPost, commandPath(id, "/cancel"), nil, nil, &out)
	return out, err
}

// Runs returns all runs of a command, without output.
func (c *Client) Runs(ctx context.Context, command string) ([]Run, error) {
	return pages[Run](ctx, c, commandPath(command, "/runs"), url.Values{"limit": {"1000"}}, 0)
}

// Run returns the run of a command on a chassis, with its output.
func (c *Client) Run(ctx context.Context, command, chassis string) (Run, error) {
	var out Run
	err := c.call(ctx, http.MethodGet, commandPath(command, "/runs/"+url.PathEscape(chassis)), nil, nil, &out)
	return out, err
}

// FollowCommand calls output with what a command's runs write, each byte once, and run
// with each whenever its state changes, until all have ended. Both may be nil.
func (c *Client) FollowCommand(ctx context.Context, id string, output func(Output) error, run func(Run) error) error {
	had := map[string]int{} // bytes of the streams of runs; a stream of events made anew begins at the beginning
	err := c.follow(ctx, commandPath(id, "/output"), nil, func(kind string, data []byte) error {
		switch kind {
		case "output":
			var o Output
			if err := json.Unmarshal(data, &o); err != nil {
				return err
			}
			key := o.Run + o.Stream
			if skip := had[key] - o.Offset; skip >= len(o.Text) {
				return nil
			} else if skip > 0 {
				o.Text, o.Offset = o.Text[skip:], o.Offset+skip
			}
			had[key] = o.Offset + len(o.Text)
			if output != nil {
				return output(o)
			}
		case "run":
			var r Run
			if err := json.Unmarshal(data, &r); err != nil {
				return err
			}
			if run != nil {
				return run(r)
			}
		case "end":
			return errEnd
		}
		return nil
	})
	if errors.Is(err, errEnd) {
		return nil
	}
	return err
}
