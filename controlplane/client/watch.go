package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	w := watch{c: c, f: f, do: do}
	lost := time.Now()
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := w.stream(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case w.stopped != nil:
			return w.stopped
		case w.alive:
			lost, wait, w.alive = time.Now(), 250*time.Millisecond, false
		case !w.connected: // the first attempt
			return err
		}
		var refusal *Problem
		if errors.As(err, &refusal) && refusal.Status < 500 || time.Since(lost) > maxOutage {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type watch struct {
	c         *Client
	f         Filter
	do        func(Event) error
	last      string // Last-Event-ID
	connected bool   // once
	alive     bool   // this stream has been opened
	stopped   error  // what do returned, or why it could not be called
}

func (w *watch) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	query := url.Values{}
	if w.f.Chassis != "" {
		query.Set("chassis", w.f.Chassis)
	}
	if w.f.Graph != "" {
		query.Set("graph", w.f.Graph)
	}
	header := http.Header{"Accept": {"text/event-stream"}}
	if w.last != "" {
		header.Set("Last-Event-ID", w.last)
	}
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	resp, err := w.c.do(ctx, http.MethodGet, "/v1/events", query, "", 0, nil, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	w.connected, w.alive = true, true
	return w.read(resp.Body, func() { watchdog.Reset(silence) })
}

// read takes the stream apart (WHATWG HTML, 9.2.6).
func (w *watch) read(r io.Reader, beat func()) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), maxEvent)
	var kind, id string
	var data []byte
	for lines.Scan() {
		beat()
		line := lines.Bytes()
		if len(line) > 0 {
			field, value, _ := bytes.Cut(line, []byte(":"))
			value = bytes.TrimPrefix(value, []byte(" "))
			switch string(field) {
			case "event":
				kind = string(value)
			case "id":
				id = string(value)
			case "data":
				data = append(data, value...)
			}
			continue
		}
		if len(data) > 0 {
			if err := w.event(kind, data); err != nil {
				return err
			}
		}
		if id != "" {
			w.last = id
		}
		kind, id, data = "", "", nil
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return fmt.Errorf("%w: the stream of events has ended", ErrUnreachable)
}

func (w *watch) event(kind string, data []byte) error {
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
		err = w.do(e)
	}
	w.stopped = err
	return err
}
