package client

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// watching is what Watch reads a stream with.
func watching(do func(Event) error) events {
	return events{do: func(kind string, data []byte) error { return event(kind, data, do) }}
}

func TestEventStream(t *testing.T) {
	var got []string
	w := watching(func(e Event) error {
		switch {
		case e.Task != nil:
			got = append(got, "task "+e.Task.ID)
		case e.Chassis != nil:
			got = append(got, "chassis "+e.Chassis.ID)
		case e.Log != nil:
			got = append(got, "log "+e.Log.Message)
			return io.EOF
		}
		return nil
	})
	stream := ":\n\nid: 4\nevent: task\ndata: {\"id\":\"t\"}\n\nevent: of the future\ndata: {}\n\nid:5\nevent:chassis\ndata:{\"id\":\"c\"}\n\n" +
		"id: 6\nevent: log\ndata: {\"message\":\"m\"}\n\nid: 7\nevent: task\ndata: {\"id\":\"never\"}\n\n"
	err := w.read(strings.NewReader(stream), func() {})
	if !errors.Is(err, io.EOF) || w.stopped != io.EOF || strings.Join(got, ",") != "task t,chassis c,log m" {
		t.Errorf("%v, %q", err, got)
	}
	// What was not dealt with is asked for again.
	if w.last != "5" {
		t.Errorf("goes on from %s", w.last)
	}
	w = watching(func(Event) error { return nil })
	if err := w.read(strings.NewReader("event: task\ndata: {\n\n"), func() {}); err == nil || w.stopped == nil {
		t.Errorf("half an event: %v", err)
	}
	if err := w.read(strings.NewReader("id: 9\nevent: task\nda"), func() {}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("cut stream: %v", err)
	}
}

func FuzzEventStream(f *testing.F) {
	f.Add("id: 4\nevent: task\ndata: {\"id\":\"t\"}\n\n")
	f.Add(":\n\nevent: log\r\ndata:\n\n")
	f.Fuzz(func(t *testing.T, stream string) {
		w := watching(func(e Event) error {
			n := 0
			for _, set := range []bool{e.Task != nil, e.Chassis != nil, e.Log != nil} {
				if set {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%d things in one event", n)
			}
			return nil
		})
		if w.read(strings.NewReader(stream), func() {}) == nil {
			t.Error("a stream that ends is no error")
		}
	})
}
