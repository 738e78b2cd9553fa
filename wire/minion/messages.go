package minion

import (
	"fmt"
	"strconv"
	"strings"
)

// What an agent asks for in a Command frame, after its group and its own id.
const (
	Authenticate = "authenticate-agent" // with the key, a text or a list of one
	Heartbeat    = "heartbeat"
	Acknowledge  = "acknowledge" // ours
)

// What a server answers in a Response frame, after the id of the request.
const (
	Accepted        = "accepted"
	Denied          = "denied"
	Recorded        = "recorded"         // to a heartbeat
	Acknowledging   = "acknowledging"    // ours
	RecordedThrough = "recorded-through" // ours; the id is that of the last record kept
)

// Kinds of a command to an agent.
const (
	External = "external" // a program and its arguments
	Internal = "internal" // a function of the agent's own: status, version…
)

// States of a command that an agent that acknowledges reports.
const (
	StateRunning = "running" // the output is one part of a stream
	StateDone    = "done"
	StateTimeout = "timeout"
	StateRefused = "refused"
	StateKilled  = "killed"
)

// JSON begins the value of a telemetry frame that is one JSON text.
const JSON = "JSON:"

// Request returns what an agent sends to be answered: Authenticate, Heartbeat or
// Acknowledge, with a key in the form of the original's newest agent, if any.
func Request(id ID, group, server, what string, key ...string) Frame {
	f := Frame{Verb: Command, ID: id, Data: Texts(group, server, what)}
	if len(key) > 0 {
		f.Data = append(f.Data, List(key...))
	}
	return f
}

// Reply returns a server's answer to the request with that id.
func Reply(id, request ID, answer string) Frame {
	return Frame{Verb: Response, ID: id, Data: Texts(request.String(), answer)}
}

// LogLine returns a log frame.
func LogLine(id ID, group, server, service, message string) Frame {
	return Frame{Verb: Log, ID: id, Data: Texts(group, server, service, message)}
}

// Measurement returns a telemetry frame.
func Measurement(id ID, group, server, label string, values ...string) Frame {
	return Frame{Verb: Telemetry, ID: id, Data: append(Texts(group, server, label), Texts(values...)...)}
}

// Order is a command for an agent.
type Order struct {
	ID      ID       // the answers name it
	Kind    string   // External or Internal
	Options []string // "timeout=30" and the like; only for agents that acknowledge
	Argv    []string
}

// Frame returns the order as a server sends it. Options make a list of their own,
// second in data, which the original never has there.
func (o Order) Frame() Frame {
	f := Frame{Verb: Command, ID: o.ID, Data: Texts(o.Kind)}
	if len(o.Options) > 0 {
		f.Data = append(f.Data, List(o.Options...))
	}
	f.Data = append(f.Data, Texts(o.Argv...)...)
	return f
}

// OrderOf reads an order from a Command frame of a server.
func OrderOf(f Frame) (Order, error) {
	if f.Verb != Command || len(f.Data) == 0 || f.Data[0].IsList {
		return Order{}, fmt.Errorf("frame %s is not a command of a server", f.ID)
	}
	o := Order{ID: f.ID, Kind: f.Data[0].Text}
	rest := f.Data[1:]
	if len(rest) > 0 && rest[0].IsList {
		o.Options, rest = rest[0].List, rest[1:]
	}
	for _, item := range rest {
		if item.IsList {
			return Order{}, fmt.Errorf("command %s: an argument is a list", f.ID)
		}
		o.Argv = append(o.Argv, item.Text)
	}
	return o, nil
}

// Result is an agent's answer to an order, or a part of it.
type Result struct {
	ID             ID // of the frame
	Group, Server  string
	Order          ID
	Stdout, Stderr []string
	// What only agents that acknowledge say; State is "" otherwise.
	Exit     int
	State    string
	Sequence int // of the part, from 0
}

// Frame returns the answer as an agent sends it.
func (r Result) Frame() Frame {
	f := Frame{Verb: Response, ID: r.ID, Data: append(Texts(r.Group, r.Server, r.Order.String()), List(r.Stdout...), List(r.Stderr...))}
	if r.State != "" {
		f.Data = append(f.Data, Texts(strconv.Itoa(r.Exit), r.State, strconv.Itoa(r.Sequence))...)
	}
	return f
}

// ResultOf reads an answer from a Response frame of an agent. An output may be a
// text instead of a list.
func ResultOf(f Frame) (Result, error) {
	if f.Verb != Response || len(f.Data) < 4 || f.Data[0].IsList || f.Data[1].IsList || f.Data[2].IsList {
		return Result{}, fmt.Errorf("frame %s is not an agent's response: want group, server, the command's id, output and errors", f.ID)
	}
	order, err := ParseID(f.Data[2].Text)
	if err != nil {
		return Result{}, fmt.Errorf("response %s: command: %w", f.ID, err)
	}
	r := Result{ID: f.ID, Group: f.Data[0].Text, Server: f.Data[1].Text, Order: order, Stdout: f.Data[3].texts()}
	if len(f.Data) > 4 {
		r.Stderr = f.Data[4].texts()
	}
	if len(f.Data) < 8 {
		return r, nil
	}
	r.State = f.Data[6].Text
	if r.Exit, err = strconv.Atoi(f.Data[5].Text); err == nil {
		r.Sequence, err = strconv.Atoi(f.Data[7].Text)
	}
	if err != nil {
		return Result{}, fmt.Errorf("response %s: exit code and sequence number: %w", f.ID, err)
	}
	return r, nil
}

func (i Item) texts() []string {
	if i.IsList {
		return i.List
	}
	return []string{i.Text}
}

// Key returns the key of a request to authenticate: a text, or the joined texts of a
// list.
func (i Item) Key() string { return strings.Join(i.texts(), "") }
