package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"
)

// Filter selects what is watched. A graph selects itself, those inside it and
// their tasks, and nothing else.
type Filter struct {
	Chassis string
	Graph   string
}

// Event is something as it is now. Exactly one of the pointers is set.
type Event struct {
	Task    *Task
	Graph   *Graph // without tasks
	Chassis *Chassis
	Log     *LogEvent
}

const (
	maxOutage = 5 * time.Minute // how long Watch tries to get back to a server
	silence   = time.Minute     // the server sends a sign of life more often than that
	maxEvent  = 1 << 20
)

// Watch calls do with every change, until ctx ends or do returns an error, which
// Watch then returns. It begins with how things are: with a graph and all its tasks, or
// a chassis and its unfinished tasks; without a filter there is no beginning. A
// server that goes away is waited for up to five minutes, and nothing is missed
// meanwhile but states that lasted shorter.
func (c *Client) Watch(ctx context.Context, f Filter, do func(Event) error) error {
	query := url.Values{}
	if f.Chassis != "" {
		query.Set("chassis", f.Chassis)
	}
	if f.Graph != "" {
		query.Set("graph", f.Graph)
	}
	return c.follow(ctx, "/v1/events", query, func(kind string, data []byte) error { return event(kind, data, do) })
}

func event(kind string, data []byte, do func(Event) error) error {
	var e Event
	var err error
	switch kind {
	case "task":
		err = json.Unmarshal(data, &e.Task)
	case "graph":
		err = json.Unmarshal(data, &e.Graph)
	case "chassis":
		err = json.Unmarshal(data, &e.Chassis)
	case "log":
		err = json.Unmarshal(data, &e.Log)
	default:
		return nil // of a newer server
	}
	switch {
	case err != nil:
		err = fmt.Errorf("event %s: %w", kind, err)
	case e == Event{}: // null
	default:
		err = do(e)
	}
	return err
}
