package rackhd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// Bounds of what a node is told and reports.
const (
	MaxNodeTasks = 256
	MaxNodePost  = 32 << 20 // bytes of a report over HTTP
	MaxOutput    = 5 << 20  // bytes of one command's output
	maxExit      = 255
)

// NodeTasks is what a node fetches to do, and, with the outcome of each task
// filled in, what it posts back.
type NodeTasks struct {
	Identifier string `json:"identifier"` // the node's id
	// TaskID tells a report on these tasks from one on others with the same
	// commands. RackHD has no such key; its nodes post back what they got.
	TaskID string     `json:"taskId,omitempty"`
	Tasks  []NodeTask `json:"tasks"`
	Exit   *Exit      `json:"exit,omitempty"` // end polling after these
}

// NodeTask is one command. An empty one asks whether the node is there.
type NodeTask struct {
	Cmd         string `json:"cmd"` // for /bin/sh -c
	DownloadURL string `json:"downloadUrl,omitempty"`
	// AcceptedResponseCodes are exit codes besides 0 that are no failure.
	AcceptedResponseCodes []int  `json:"acceptedResponseCodes,omitempty"`
	Catalog               bool   `json:"catalog,omitempty"` // keep the output as a catalog
	Source                string `json:"source,omitempty"`  // of the catalog: its name
	Format                string `json:"format,omitempty"`  // of the catalog: raw or json
	Retries               int    `json:"retries,omitempty"`
	Timeout               int    `json:"timeout,omitempty"` // milliseconds

	// Filled in by the node. A task that was not reached has none of them.
	Stdout *string    `json:"stdout,omitempty"`
	Stderr *string    `json:"stderr,omitempty"`
	Error  *NodeError `json:"error,omitempty"`
}

// NodeError says why a command failed: as Node's child_process does, or as text.
type NodeError struct {
	Code   int    `json:"code"`
	Killed bool   `json:"killed"`
	Signal string `json:"signal,omitempty"`
	Cmd    string `json:"cmd,omitempty"`
	Text   string `json:"-"` // an error that is not of a command's exit
}

// UnmarshalJSON accepts an object, whose code may be a text such as ENOENT, or a
// text.
func (e *NodeError) UnmarshalJSON(b []byte) error {
	*e = NodeError{}
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &e.Text)
	}
	var o struct {
		Code   json.RawMessage `json:"code"`
		Killed bool            `json:"killed"`
		Signal *string         `json:"signal"`
		Cmd    string          `json:"cmd"`
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	e.Killed, e.Cmd = o.Killed, o.Cmd
	if o.Signal != nil {
		e.Signal = *o.Signal
	}
	if len(o.Code) == 0 || string(o.Code) == "null" {
		return nil
	}
	if o.Code[0] == '"' { // the command was not even started
		*e = NodeError{}
		return json.Unmarshal(o.Code, &e.Text)
	}
	return json.Unmarshal(o.Code, &e.Code)
}

// MarshalJSON implements json.Marshaler.
func (e NodeError) MarshalJSON() ([]byte, error) {
	if e.Text != "" {
		return json.Marshal(e.Text)
	}
	type plain NodeError
	return json.Marshal(plain(e))
}

// Exit is the code a node ends polling with: 1 or another reboots it, 2 cycles
// its power, 127 leaves it up. On the wire it is a text, a number, or an object
// with "code".
type Exit int

// UnmarshalJSON accepts all three forms.
func (e *Exit) UnmarshalJSON(b []byte) error {
	b = bytes.TrimSpace(b)
	if len(b) > 0 && b[0] == '{' {
		var o struct {
			Code json.RawMessage `json:"code"`
		}
		if err := json.Unmarshal(b, &o); err != nil {
			return err
		}
		if b = bytes.TrimSpace(o.Code); len(b) > 0 && b[0] == '{' {
			return fmt.Errorf("%w: exit: want a code from 0 to %d", ErrInvalid, maxExit)
		}
	}
	text := string(b)
	if len(b) > 0 && b[0] == '"' {
		if err := json.Unmarshal(b, &text); err != nil {
			return err
		}
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxExit {
		return fmt.Errorf("%w: exit %.20q: want a code from 0 to %d", ErrInvalid, text, maxExit)
	}
	*e = Exit(n)
	return nil
}

// MarshalJSON writes the text that RackHD's template makes of it.
func (e Exit) MarshalJSON() ([]byte, error) { return json.Marshal(strconv.Itoa(int(e))) }

// ParseNodeTasks reads what a node is told or posts, of at most limit bytes.
func ParseNodeTasks(body []byte, limit int) (NodeTasks, error) {
	var t NodeTasks
	if err := CheckBody(body, limit); err != nil {
		return t, err
	}
	if err := json.Unmarshal(body, &t); err != nil {
		return t, fmt.Errorf("%w: tasks of a node: %w", ErrInvalid, err)
	}
	return t, t.Check()
}

// Check bounds what is in t.
func (t NodeTasks) Check() error {
	if len(t.Identifier) > 64 {
		return fmt.Errorf("%w: tasks of a node: identifier %.64q has more than 64 bytes", ErrInvalid, t.Identifier)
	}
	if len(t.TaskID) > 64 {
		return fmt.Errorf("%w: tasks of a node: taskId %.64q has more than 64 bytes", ErrInvalid, t.TaskID)
	}
	if len(t.Tasks) > MaxNodeTasks {
		return fmt.Errorf("%w: %d tasks for a node, the most is %d", ErrInvalid, len(t.Tasks), MaxNodeTasks)
	}
	for i, task := range t.Tasks {
		for what, text := range map[string]*string{"stdout": task.Stdout, "stderr": task.Stderr} {
			if text != nil && len(*text) > MaxOutput {
				return fmt.Errorf("%w: task %d of a node: %s has %d bytes, the most is %d", ErrInvalid, i, what, len(*text), MaxOutput)
			}
		}
		if task.Retries < 0 || task.Timeout < 0 {
			return fmt.Errorf("%w: task %d of a node: retries and timeout cannot be negative", ErrInvalid, i)
		}
	}
	return nil
}

// Failed returns the first task that failed by RackHD's rule: it has an error
// whose code is not accepted. It is nil if none did.
func (t NodeTasks) Failed() *NodeTask {
	for i := range t.Tasks {
		e := t.Tasks[i].Error
		if e == nil {
			continue
		}
		accepted := e.Text == "" && e.Code == 0 && !e.Killed && e.Signal == ""
		for _, code := range t.Tasks[i].AcceptedResponseCodes {
			accepted = accepted || e.Text == "" && e.Code == code
		}
		if !accepted {
			return &t.Tasks[i]
		}
	}
	return nil
}
