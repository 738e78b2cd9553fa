package client

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// Waits is what a task waits for: everything in All and, if there is anything in
// Any, one of that. Keys are labels, values the states of which one will do.
type Waits struct {
	All map[string][]string `json:"all,omitempty"`
	Any map[string][]string `json:"any,omitempty"`
}

// Task is one step of a graph. State is pending, running, succeeded, failed,
// timeout or cancelled.
type Task struct {
	ID       string          `json:"id"`
	Graph    string          `json:"graph"`
	Chassis  string          `json:"chassis,omitempty"`
	Position int             `json:"position"`
	Label    string          `json:"label"` // its name in the graph
	Name     string          `json:"name"`  // of its definition
	Friendly string          `json:"friendly_name,omitempty"`
	Job      string          `json:"job"`
	Kind     string          `json:"kind"` // who does it: agent, local, outside, graph, connected
	Method   string          `json:"method,omitempty"`
	Waits    Waits           `json:"waits"`
	State    string          `json:"state"`
	Percent  float64         `json:"percent"`
	ETA      *float64        `json:"eta,omitempty"` // seconds left
	Step     string          `json:"step,omitempty"`
	Msg      string          `json:"msg,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Attempt  int             `json:"attempt"`           // from 1
	Retried  bool            `json:"retried,omitempty"` // another attempt has taken its place
	Skipped  bool            `json:"skipped,omitempty"` // what it waited for can be no more
	Cancel   bool            `json:"cancel_requested,omitempty"`
	BootID   string          `json:"boot_id,omitempty"`
	Server   string          `json:"server,omitempty"`
	Created  time.Time       `json:"created"`
	Started  *time.Time      `json:"started,omitempty"`
	Deadline *time.Time      `json:"deadline,omitempty"`
	Finished *time.Time      `json:"finished,omitempty"`
}

// Final reports whether the task has ended.
func (t Task) Final() bool { return final(t.State) }

func final(state string) bool {
	return slices.Contains([]string{"succeeded", "failed", "timeout", "cancelled"}, state)
}

// Graph is tasks that wait for each other. State is as that of a task.
type Graph struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"` // of its definition
	Friendly string     `json:"friendly_name,omitempty"`
	Domain   string     `json:"domain"`
	Chassis  string     `json:"chassis,omitempty"`
	Parent   string     `json:"parent,omitempty"` // the task whose job is to run this graph
	Root     string     `json:"root"`             // the outermost graph it is inside of
	By       string     `json:"by,omitempty"`     // who has started it
	State    string     `json:"state"`
	Msg      string     `json:"msg,omitempty"`
	Paused   bool       `json:"paused"`
	Cancel   bool       `json:"cancel_requested,omitempty"`
	Created  time.Time  `json:"created"`
	Started  *time.Time `json:"started,omitempty"`
	Finished *time.Time `json:"finished,omitempty"`
	Tasks    []Task     `json:"tasks,omitempty"`
}

// Final reports whether the graph has ended.
func (g Graph) Final() bool { return final(g.State) }

// TaskDefinition is a task of the library.
type TaskDefinition struct {
	Name     string         `json:"injectableName"`
	Friendly string         `json:"friendlyName,omitempty"`
	About    string         `json:"description,omitempty"`
	Base     string         `json:"implementsTask,omitempty"`
	Job      string         `json:"runJob,omitempty"`
	Options  map[string]any `json:"options,omitempty"`
	Required []string       `json:"requiredOptions,omitempty"`
	Makes    map[string]any `json:"properties,omitempty"`
	Needs    map[string]any `json:"requiredProperties,omitempty"`
}

// GraphDefinition is a graph of the library.
type GraphDefinition struct {
	Name     string                    `json:"injectableName"`
	Friendly string                    `json:"friendlyName,omitempty"`
	About    string                    `json:"description,omitempty"`
	Options  map[string]map[string]any `json:"options,omitempty"`
	Tasks    []GraphStep               `json:"tasks"`
}

// GraphStep is a task in the definition of a graph.
type GraphStep struct {
	Label         string          `json:"label"`
	Task          string          `json:"taskName,omitempty"`
	Definition    *TaskDefinition `json:"taskDefinition,omitempty"`
	WaitOn        json.RawMessage `json:"waitOn,omitempty"`
	IgnoreFailure bool            `json:"ignoreFailure,omitempty"`
	Timeout       json.RawMessage `json:"timeout,omitempty"`
	Retries       int             `json:"retries,omitempty"`
	RetryDelay    json.RawMessage `json:"retryDelay,omitempty"`
	Optional      bool            `json:"optional,omitempty"`
}

// RunGraph asks for a graph of the library to be run. Options are by label; those
// under "defaults" are for every task that knows them.
type RunGraph struct {
	Graph   string                    `json:"graph"`
	Chassis string                    `json:"chassis,omitempty"`
	Options map[string]map[string]any `json:"options,omitempty"`
	Domain  string                    `json:"domain,omitempty"`
}

// Decommission says how a chassis is emptied and checked.
type Decommission struct {
	Disks    []string             `json:"disks,omitempty"`  // by serial number, WWN or kernel name; empty: all
	Method   string               `json:"method,omitempty"` // auto (default), zeroout, overwrite
	Verify   string               `json:"verify,omitempty"` // full (default), sample
	Firmware []teeth.FirmwareItem `json:"firmware,omitempty"`
	Spec     json.RawMessage      `json:"spec,omitempty"`      // of package hwinfo/qc
	SpecName string               `json:"spec_name,omitempty"` // of one that is kept, instead of Spec
	// Steps are what is done, in this order: erase, firmware, qc (default all).
	Steps []string `json:"steps,omitempty"`
}

// Provision says what a chassis is to run.
type Provision struct {
	Image       string            `json:"image"`                 // id or name
	RootDevice  *teeth.RootDevice `json:"root_device,omitempty"` // nil: the smallest disk of at least 4 GiB
	Hostname    string            `json:"hostname,omitempty"`
	SSHKeys     []string          `json:"ssh_keys,omitempty"` // lines of authorized_keys
	UserData    string            `json:"user_data,omitempty"`
	NetworkData json.RawMessage   `json:"network_data,omitempty"` // nil: DHCP on the NIC it booted from
	Files       map[string][]byte `json:"files,omitempty"`        // absolute path to contents
	Boot        string            `json:"boot,omitempty"`         // auto (default), kexec, reboot
}

// Decommission starts a graph that erases the chassis and checks it.
func (c *Client) Decommission(ctx context.Context, ref string, in Decommission) (Graph, error) {
	var out Graph
	err := c.call(ctx, http.MethodPost, chassisPath(ref, "/decommission"), nil, in, &out)
	return out, err
}

// Provision starts a graph that puts an image on the chassis and boots it.
func (c *Client) Provision(ctx context.Context, ref string, in Provision) (Graph, error) {
	var out Graph
	err := c.call(ctx, http.MethodPost, chassisPath(ref, "/provision"), nil, in, &out)
	return out, err
}

// RunGraph runs a graph of the library.
func (c *Client) RunGraph(ctx context.Context, in RunGraph) (Graph, error) {
	var out Graph
	err := c.call(ctx, http.MethodPost, "/v1/graphs", nil, in, &out)
	return out, err
}

// ListGraphs returns up to limit graphs (0: all), newest first, without tasks: of
// one chassis or, with "", of all; only those not finished if active.
func (c *Client) ListGraphs(ctx context.Context, chassis string, active bool, limit int) ([]Graph, error) {
	query := url.Values{"active": {strconv.FormatBool(active)}}
	if chassis != "" {
		query.Set("chassis", chassis)
	}
	return pages[Graph](ctx, c, "/v1/graphs", query, limit)
}

func graphPath(id, rest string) string { return "/v1/graphs/" + url.PathEscape(id) + rest }

// Graph returns the graph with this id, or whose id alone begins so, and its
// tasks.
func (c *Client) Graph(ctx context.Context, id string) (Graph, error) {
	var out Graph
	err := c.call(ctx, http.MethodGet, graphPath(id, ""), nil, nil, &out)
	return out, err
}

// CancelGraph cancels a graph: what is pending at once, what is being done when
// its doer has stopped. With force it ends at once, whatever the chassis does.
func (c *Client) CancelGraph(ctx context.Context, id string, force bool) (Graph, error) {
	var out Graph
	err := c.call(ctx, http.MethodPost, graphPath(id, "/cancel"), url.Values{"force": {strconv.FormatBool(force)}}, nil, &out)
	return out, err
}

// PauseGraph keeps further tasks of a graph from being started.
func (c *Client) PauseGraph(ctx context.Context, id string) (Graph, error) {
	var out Graph
	err := c.call(ctx, http.MethodPost, graphPath(id, "/pause"), nil, nil, &out)
	return out, err
}

// ResumeGraph ends a pause.
func (c *Client) ResumeGraph(ctx context.Context, id string) (Graph, error) {
	var out Graph
	err := c.call(ctx, http.MethodPost, graphPath(id, "/resume"), nil, nil, &out)
	return out, err
}

// ListTasks returns up to limit tasks (0: all), newest first, of one chassis or,
// with "", of all.
func (c *Client) ListTasks(ctx context.Context, chassis string, limit int) ([]Task, error) {
	query := url.Values{}
	if chassis != "" {
		query.Set("chassis", chassis)
	}
	return pages[Task](ctx, c, "/v1/tasks", query, limit)
}

// Task returns the task with this id, or whose id alone begins so.
func (c *Client) Task(ctx context.Context, id string) (Task, error) {
	var out Task
	err := c.call(ctx, http.MethodGet, "/v1/tasks/"+url.PathEscape(id), nil, nil, &out)
	return out, err
}

// CancelTask cancels a task, at once if it is pending; otherwise the task ends
// when its doer has stopped. With force it ends at once, whatever the chassis
// does.
func (c *Client) CancelTask(ctx context.Context, id string, force bool) (Task, error) {
	var out Task
	err := c.call(ctx, http.MethodPost, "/v1/tasks/"+url.PathEscape(id)+"/cancel", url.Values{"force": {strconv.FormatBool(force)}}, nil, &out)
	return out, err
}

// GraphLibrary returns the definitions of all graphs, by name.
func (c *Client) GraphLibrary(ctx context.Context) ([]GraphDefinition, error) {
	return pages[GraphDefinition](ctx, c, "/v1/library/graphs", nil, 0)
}

// TaskLibrary returns the definitions of all tasks, by name.
func (c *Client) TaskLibrary(ctx context.Context) ([]TaskDefinition, error) {
	return pages[TaskDefinition](ctx, c, "/v1/library/tasks", nil, 0)
}

// GraphDefinition returns the definition of a graph.
func (c *Client) GraphDefinition(ctx context.Context, name string) (GraphDefinition, error) {
	var out GraphDefinition
	err := c.call(ctx, http.MethodGet, "/v1/library/graphs/"+url.PathEscape(name), nil, nil, &out)
	return out, err
}

// TaskDefinition returns the definition of a task.
func (c *Client) TaskDefinition(ctx context.Context, name string) (TaskDefinition, error) {
	var out TaskDefinition
	err := c.call(ctx, http.MethodGet, "/v1/library/tasks/"+url.PathEscape(name), nil, nil, &out)
	return out, err
}

// Define puts a definition, JSON or YAML, into the library. Kind is "graph" or
// "task".
func (c *Client) Define(ctx context.Context, kind, name string, raw []byte) error {
	resp, err := c.do(ctx, http.MethodPut, "/v1/library/"+kind+"s/"+url.PathEscape(name), nil, "application/yaml", int64(len(raw)), bytes.NewReader(raw), nil)
	if err != nil {
		return err
	}
	return decode(ctx, resp, nil)
}

// Undefine takes a definition out of the library. Kind is "graph" or "task".
func (c *Client) Undefine(ctx context.Context, kind, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/library/"+kind+"s/"+url.PathEscape(name), nil, nil, nil)
}
