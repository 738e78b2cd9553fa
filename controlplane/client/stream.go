package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// errEnd is what a function returns that handles events when nothing more is to come.
var errEnd = errors.New("the stream has come to its end")

// events is a stream of server-sent events that is made anew when it breaks.
type events struct {
	c     *Client
	path  string
	query url.Values
	do    func(kind string, data []byte) error

	last      string // Last-Event-ID
	connected bool   // once
	alive     bool   // this stream has been opened
	stopped   error  // what do returned
}

// follow calls do with the events of a stream until ctx ends or do returns an error,
// which follow then returns. A server that goes away is waited for up to five minutes;
// the stream goes on after the last event that had an id, or begins anew.
func (c *Client) follow(ctx context.Context, path string, query url.Values, do func(kind string, data []byte) error) error {
	e := events{c: c, path: path, query: query, do: do}
	lost := time.Now()
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := e.stream(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case e.stopped != nil:
			return e.stopped
		case e.alive:
			lost, wait, e.alive = time.Now(), 250*time.Millisecond, false
		case !e.connected: // the first attempt
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

func (e *events) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	header := http.Header{"Accept": {"text/event-stream"}}
	if e.last != "" {
		header.Set("Last-Event-ID", e.last)
		e.query.Del("newest") // it has had those
	}
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	resp, err := e.c.do(ctx, http.MethodGet, e.path, e.query, "", 0, nil, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	e.connected, e.alive = true, true
	return e.read(resp.Body, func() { watchdog.Reset(silence) })
}

// read takes the stream apart (WHATWG HTML, 9.2.6).
func (e *events) read(r io.Reader, beat func()) error {
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
			if err := e.do(kind, data); err != nil {
				e.stopped = err
				return err
			}
		}
		if id != "" {
			e.last = id
		}
		kind, id, data = "", "", nil
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return fmt.Errorf("%w: the stream of events has ended", ErrUnreachable)
}
