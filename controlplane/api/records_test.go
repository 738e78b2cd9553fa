package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/minion"
	"github.com/teeth-metal/teeth/controlplane/minion/records"
	"github.com/teeth-metal/teeth/controlplane/store"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// recordsDesk is a desk with a records database.
func recordsDesk(t *testing.T) (*desk, *records.DB) {
	t.Helper()
	d := newDesk(t, Limits{PerToken: -1, PerAddress: -1})
	db, err := records.Open(t.Context(), filepath.Join(t.TempDir(), "records.db"), records.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	d.handler = Handler(t.Context(), Config{Store: d.store, Records: db, Token: "builtin", Log: slog.New(slog.DiscardHandler), Limits: Limits{PerToken: -1, PerAddress: -1}})
	return d, db
}

var recordIDs = wire.NewGenerator(wire.RandomNode())

func logLines(t *testing.T, db *records.DB, server string, messages ...string) {
	t.Helper()
	var list []minion.Entry
	for _, m := range messages {
		list = append(list, minion.Entry{Verb: wire.Log, ID: recordIDs.Next(), Server: server, Service: "agent", Message: m})
	}
	if err := db.Write(t.Context(), list); err != nil {
		t.Error(err)
	}
}

func TestLogPages(t *testing.T) {
	d, db := recordsDesk(t)
	server := uuid.NewString()
	logLines(t, db, server, "one", "two", "three", "four", "five")
	type page struct {
		Items         []records.Log
		Next, Earlier string
		More          bool
	}
	var got []string
	query := "/v1/logs?limit=2&server=" + server
	for next := ""; ; {
		var p page
		d.ask("builtin", "GET "+query+next, "", 200, &p)
		for _, l := range p.Items {
			got = append(got, l.Message)
		}
		next = "&page=" + p.Next
		if !p.More {
			// What comes later comes on the next page.
			if p = (page{}); len(got) == 5 {
				logLines(t, db, server, "six")
				d.ask("builtin", "GET "+query+next, "", 200, &p)
				if len(p.Items) != 1 || p.Items[0].Message != "six" {
					t.Errorf("%+v", p)
				}
			}
			break
		}
	}
	if strings.Join(got, " ") != "one two three four five" {
		t.Errorf("%q", got)
	}
	var p page
	d.ask("builtin", "GET "+query+"&newest=true", "", 200, &p)
	if len(p.Items) != 2 || p.Items[1].Message != "six" {
		t.Errorf("%+v", p)
	}
	d.ask("builtin", "GET "+query+"&newest=true&before="+strconv.FormatInt(p.Items[0].Seq, 10), "", 200, &p)
	if len(p.Items) != 2 || p.Items[1].Message != "four" {
		t.Errorf("%+v", p)
	}
	for _, bad := range []string{"limit=0", "since=yesterday", "until=1", "newest=maybe", "follow=2", "regexp=(", "regexp=" + strings.Repeat("a", 1001), "page=-1", "before=0", "page=x"} {
		d.ask("builtin", "GET /v1/logs?"+bad, "", 400, nil)
	}
	d.ask("builtin", "GET /v1/logs?chassis=nowhere", "", 404, nil)
	d.ask("builtin", "GET /v1/telemetry", "", 400, nil)
	newDesk(t, Limits{}).ask("builtin", "GET /v1/logs", "", 503, nil)
}

// events reads a stream of events until done says so, and returns the last id.
func streamed(t *testing.T, d *desk, path, last string, done func(kind, data string) bool) (id string) {
	t.Helper()
	s := httptest.NewServer(d.handler)
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel() // before the server is closed, which waits for streams
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer builtin")
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %d %s", path, resp.StatusCode, b)
	}
	kind := ""
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			id = value
		case "event":
			kind = value
		case "data":
			if done(kind, value) {
				return id
			}
		}
	}
	t.Fatalf("%s: the stream ended: %v", path, lines.Err())
	return ""
}

// Whoever follows the log and comes back goes on where it was.
func TestLogIsFollowed(t *testing.T) {
	d, db := recordsDesk(t)
	server := uuid.NewString()
	logLines(t, db, server, "one", "two", "three")
	var got []string
	note := func(want int) func(kind, data string) bool {
		return func(kind, data string) bool {
			var l records.Log
			if err := json.Unmarshal([]byte(data), &l); err != nil || kind != "line" {
				t.Errorf("%s %s %v", kind, data, err)
			}
			if got = append(got, l.Message); len(got) == 2 {
				go logLines(t, db, server, "four", "five")
			}
			return len(got) == want
		}
	}
	path := "/v1/logs?follow=true&newest=true&limit=2&server=" + server
	id := streamed(t, d, path, "", note(3))
	streamed(t, d, "/v1/logs?follow=true&server="+server, id, note(4))
	if strings.Join(got, " ") != "two three four five" {
		t.Errorf("%q", got)
	}
}

func TestCommandRequests(t *testing.T) {
	d, db := recordsDesk(t)
	server := uuid.NewString()
	var c records.Command
	d.ask("builtin", "POST /v1/commands", fmt.Sprintf(`{"servers":[%q],"argv":["printf","a b"],"timeout":1.5,"shell":true,"env":{"A":"=","B":"s3cret"},"output":9,"expires":60}`, server), 201, &c)
	if strings.Join(c.Options, " ") != "env=A=(hidden) env=B=(hidden) limit=9 shell=1 timeout=1.5" || c.By != localAdmin || c.Expires == nil || c.States["waiting"] != 1 {
		t.Errorf("%+v", c)
	}
	for body, want := range map[string]int{
		`{"argv":["x"]}`:                                              400, // nowhere
		`{"servers":["a"]}`:                                           400,
		`{"servers":["a"],"argv":["x"],"all":true}`:                   400,
		`{"servers":[""],"argv":["x"]}`:                               400,
		`{"chassis":["nowhere"],"argv":["x"]}`:                        404,
		`{"servers":["a"],"argv":["x"],"timeout":-1}`:                 400,
		`{"servers":["a"],"argv":["x"],"timeout":90000}`:              400,
		`{"servers":["a"],"argv":["x"],"env":{"":"x"}}`:               400,
		`{"servers":["a"],"argv":["x"],"bogus":1}`:                    400,
		`{"servers":["a"],"argv":["x"],"internal":true,"shell":true}`: 400,
	} {
		d.ask("builtin", "POST /v1/commands", body, want, nil)
	}
	var trail struct{ Items []store.AuditEntry }
	d.ask("builtin", "GET /v1/audit?limit=1000", "", 200, &trail)
	if first := trail.Items[len(trail.Items)-1]; first.Status != 201 ||
		first.Detail != fmt.Sprintf(`command %s on %s in a shell with ["A" "B"]: ["printf" "a b"]`, c.ID, server) {
		t.Errorf("the audit trail lacks what was run: %+v", first)
	}
	if ready, err := db.Ready(t.Context(), server, 0, 1); err != nil || len(ready) != 1 || !slices.Contains(ready[0].Order.Options, "env=B=s3cret") {
		t.Errorf("the agent is not given the variables: %+v, %v", ready, err)
	}
	// Its output comes as it grows, each byte once, and to who comes later at once.
	ready, err := db.Ready(t.Context(), server, 0, 10)
	if err != nil || len(ready) != 1 {
		t.Fatal(ready, err)
	}
	answer := func(r wire.Result) {
		r.ID, r.Order = recordIDs.Next(), ready[0].Order.ID
		if err := db.Respond(context.Background(), minion.Agent{Server: server}, r); err != nil {
			t.Error(err)
		}
	}
	if ok, err := db.Claim(t.Context(), ready[0].Order.ID); !ok || err != nil {
		t.Fatal(ok, err)
	}
	long := strings.Repeat("ü", 50_000) // more than one event
	watch := func(each func(step int)) (stdout, stderr, states string) {
		step := 0
		streamed(t, d, "/v1/commands/"+c.ID+"/output", "", func(kind, data string) bool {
			var o Output
			var r records.Run
			switch kind {
			case "output":
				if err := json.Unmarshal([]byte(data), &o); err != nil {
					t.Error(err)
				}
				at := &stdout
				if o.Stream == "stderr" {
					at = &stderr
				}
				if o.Offset != len(*at) {
					t.Errorf("output at %d after %d", o.Offset, len(*at))
				}
				*at += o.Text
			case "run":
				if err := json.Unmarshal([]byte(data), &r); err != nil {
					t.Error(err)
				}
				states += r.State + " "
				each(step)
				step++
			}
			return kind == "end"
		})
		return stdout, stderr, states
	}
	for range 2 {
		stdout, stderr, states := watch(func(step int) {
			switch step {
			case 0:
				answer(wire.Result{Stdout: []string{"a\n"}, State: records.Running})
			case 1:
				answer(wire.Result{Stdout: []string{long}, Stderr: []string{"e"}, State: records.Running, Sequence: 1})
				answer(wire.Result{Stdout: []string{"b\n"}, State: records.Done, Exit: 2, Sequence: 2})
			}
		})
		if stdout != "a\n"+long+"b\n" || stderr != "e" || !strings.HasSuffix(states, "done ") {
			t.Errorf("%d bytes, %q, %q", len(stdout), stderr, states)
		}
	}
	var runs struct{ Items []records.Run }
	d.ask("builtin", "GET /v1/commands/"+c.ID+"/runs", "", 200, &runs)
	if len(runs.Items) != 1 || *runs.Items[0].Exit != 2 || runs.Items[0].Stdout != "" {
		t.Errorf("%+v", runs)
	}
	var list struct{ Items []records.Command }
	d.ask("builtin", "GET /v1/commands?server="+server, "", 200, &list)
	if len(list.Items) != 1 || list.Items[0].States["done"] != 1 {
		t.Errorf("%+v", list)
	}
	d.ask("builtin", "POST /v1/commands/"+c.ID+"/cancel", "", 200, nil)
	for _, path := range []string{"/v1/commands/x", "/v1/commands/" + uuid.NewString(), "/v1/commands/" + c.ID + "/runs/" + uuid.NewString(), "/v1/commands/x/output"} {
		d.ask("builtin", "GET "+path, "", 404, nil)
	}
	d.ask("builtin", "POST /v1/commands/x/cancel", "", 404, nil)
}
