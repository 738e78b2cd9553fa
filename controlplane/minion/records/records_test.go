package records

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/minion"
	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

func open(t testing.TB, dsn string, o Options) *DB {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	d, err := Open(t.Context(), dsn, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// suite is what either database must do.
var suite = map[string]func(*testing.T, *DB){
	"LinesAreKeptOnceAndInOrder": testLinesAreKeptOnceAndInOrder,
	"Search":                     testSearch,
	"SegmentsAreSkipped":         testSegmentsAreSkipped,
	"Telemetry":                  testTelemetry,
	"Retention":                  testRetention,
	"SizeIsBounded":              testSizeIsBounded,
	"AgentsAreRegistered":        testAgentsAreRegistered,
	"Commands":                   testCommands,
	"CommandsWait":               testCommandsWait,
	"Responses":                  testResponses,
}

// kept makes few partitions.
const kept = 24 * time.Hour

func TestSQLite(t *testing.T) {
	for name, do := range suite {
		t.Run(name, func(t *testing.T) {
			do(t, open(t, filepath.Join(t.TempDir(), "records.db"), Options{Keep: kept}))
		})
	}
}

func TestPostgreSQL(t *testing.T) {
	server := postgrestest.Start(t, "fsync=off", "max_stack_depth=100kB") // so that little of JSON is too deep
	for name, do := range suite {
		t.Run(name, func(t *testing.T) {
			do(t, open(t, server.Database(t), Options{Keep: kept, Schema: "minion"}))
		})
	}
}

var ids = wire.NewGenerator(wire.RandomNode())

func line(server, service, message string) minion.Entry {
	return minion.Entry{Verb: wire.Log, ID: ids.Next(), Group: "chassis", Server: server, Service: service, Message: message}
}

func lineAt(at time.Time, server, message string) minion.Entry {
	e := line(server, "agent", message)
	e.ID = wire.NewID(at, wire.RandomNode())
	return e
}

func write(t testing.TB, d *DB, entries ...minion.Entry) {
	t.Helper()
	if err := d.Write(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
}

func messages(t testing.TB, d *DB, s Search) []string {
	t.Helper()
	list := []string{}
	for {
		p, err := d.Find(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range p.Lines {
			if l.Seq <= s.After {
				t.Fatalf("line %d after %d", l.Seq, s.After)
			}
			list = append(list, l.Message)
		}
		if !p.More {
			return list
		}
		if p.Next <= s.After {
			t.Fatalf("the search does not go on after %d", p.Next)
		}
		s.After = p.Next
	}
}

func testLinesAreKeptOnceAndInOrder(t *testing.T, d *DB) {
	a, b := uuid.NewString(), "not-a-uuid"
	var sent []minion.Entry
	var want []string
	for i := range 120 {
		m := fmt.Sprint("line ", i)
		sent, want = append(sent, line([]string{a, b}[i%2], "agent", m)), append(want, m)
	}
	write(t, d, sent[:70]...)
	write(t, d, sent[60:]...) // ten of them again
	write(t, d, sent...)
	write(t, d, append(slices.Clone(sent[:2]), sent[:2]...)...)
	if got := messages(t, d, Search{Limit: 7}); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := messages(t, d, Search{Servers: []string{b}}); len(got) != 60 || got[0] != "line 1" {
		t.Errorf("of %s: %q", b, got)
	}
	if got := messages(t, d, Search{Newest: true, Limit: 3}); !slices.Equal(got, want[117:]) {
		t.Errorf("newest: %q", got)
	}
	p, err := d.Find(t.Context(), Search{Servers: []string{a}, Limit: 1})
	if err != nil || len(p.Lines) != 1 || !p.More {
		t.Fatalf("%+v %v", p, err)
	}
	if l := p.Lines[0]; l.Server != a || l.ID != sent[0].ID.String() || l.Service != "agent" || !l.Time.Equal(timeOf(sent[0].ID)) || time.Since(l.Received) > time.Minute {
		t.Errorf("%+v", l)
	}
}

func testSearch(t *testing.T, d *DB) {
	a, b := uuid.NewString(), uuid.NewString()
	now := time.Now()
	write(t, d,
		lineAt(now.Add(-48*time.Hour), a, "Disk sda failed: SMART status BAD"),
		lineAt(now.Add(-47*time.Hour), b, "disk sdb passed"),
		lineAt(now.Add(-time.Hour), a, "eth0: link is up, 25 Gb/s"),
		lineAt(time.Unix(86400, 0), a, "no battery in the clock"),
		lineAt(time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC), a, "Übergröße 100%_x\ttab"),
		line(b, "kernel", "disk sda: reset"),
	)
	check := func(name string) {
		for _, tt := range []struct {
			s    Search
			want string
		}{
			{Search{Text: "DISK sda"}, "Disk sda failed: SMART status BAD|disk sda: reset"},
			{Search{Text: "sd"}, ""}, // words, not parts of them
			{Search{Text: "übergröße"}, "Übergröße 100%_x\ttab"},
			{Search{Text: "100 x"}, "Übergröße 100%_x\ttab"},
			{Search{Text: "..."}, "*"},
			{Search{Text: "sda", Servers: []string{a}}, "Disk sda failed: SMART status BAD"},
			{Search{Services: []string{"kernel", "x"}}, "disk sda: reset"},
			{Search{Regexp: regexp.MustCompile(`sd[ab]`)}, "Disk sda failed: SMART status BAD|disk sdb passed|disk sda: reset"},
			{Search{Regexp: regexp.MustCompile(`^eth\d: link is`)}, "eth0: link is up, 25 Gb/s"},
			{Search{Regexp: regexp.MustCompile(`(?i)DISK.*passed`)}, "disk sdb passed"},
			{Search{Regexp: regexp.MustCompile(`failed: SMART status`)}, "Disk sda failed: SMART status BAD"},
			{Search{Regexp: regexp.MustCompile(`100%_x`)}, "Übergröße 100%_x\ttab"},
			// All have just arrived.
			{Search{Since: now.Add(-time.Minute)}, "*"},
			{Search{Since: now.Add(-49 * time.Hour), Until: now.Add(-47*time.Hour + time.Second)}, "Disk sda failed: SMART status BAD|disk sdb passed"},
			{Search{Until: now.Add(-30 * time.Hour)}, "Disk sda failed: SMART status BAD|disk sdb passed|no battery in the clock"},
			{Search{Since: now.Add(time.Hour)}, "Übergröße 100%_x\ttab"},
		} {
			got := strings.Join(messages(t, d, tt.s), "|")
			if tt.want == "*" {
				tt.want = strings.Join(messages(t, d, Search{}), "|")
			}
			if got != tt.want {
				t.Errorf("%s: %+v: got %q, want %q", name, tt.s, got, tt.want)
			}
		}
	}
	check("not summarised")
	// As if ten minutes had passed.
	if closed, err := d.segmentNext(t.Context(), now.Add(segmentAge+time.Minute)); err != nil || !closed {
		t.Fatal(closed, err)
	}
	check("summarised")
	if closed, err := d.segmentNext(t.Context(), now.Add(segmentAge+time.Minute)); err != nil || closed {
		t.Error("a segment of nothing", closed, err)
	}
}

// A search for a rare word reads only segments that may have it.
func testSegmentsAreSkipped(t *testing.T, d *DB) {
	server := uuid.NewString()
	for i := range 5 {
		var lines []minion.Entry
		for k := range 200 {
			lines = append(lines, line(server, "agent", fmt.Sprintf("part %d of x%d", k, i)))
		}
		write(t, d, lines...)
		if closed, err := d.segmentNext(t.Context(), time.Now().Add(2*segmentAge)); err != nil || !closed {
			t.Fatal(closed, err)
		}
	}
	write(t, d, line(server, "agent", "x3 again"))
	head, err := d.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := Search{Text: "x3"}
	spans, err := d.spans(t.Context(), s, d.condition(s), head)
	if err != nil || len(spans) != 2 {
		t.Errorf("%v %v", spans, err)
	}
	if got := messages(t, d, s); len(got) != 201 {
		t.Errorf("%d lines", len(got))
	}
	s = Search{Until: time.Now().Add(-time.Hour)}
	if spans, err = d.spans(t.Context(), s, d.condition(s), head); err != nil || len(spans) != 1 || spans[0].first != head {
		t.Errorf("%v %v", spans, err)
	}
}

func testTelemetry(t *testing.T, d *DB) {
	server := uuid.NewString()
	now := time.Now()
	measured := func(ago time.Duration, label string, values ...string) minion.Entry {
		return minion.Entry{Verb: wire.Telemetry, ID: wire.NewID(now.Add(-ago), wire.RandomNode()), Server: server, Service: label, Values: values}
	}
	all := []minion.Entry{
		measured(time.Minute, "load_avg", "0.10", "0.2", "0.3"),
		measured(0, "load_avg", "0.90", "0.2", "0.3"),
		measured(2*time.Minute, "disks", `JSON:{"sda": {"temp": 40, "\u0000": "a\\u0000"}}`),
		measured(3*time.Minute, "odd", `JSON:{"no`),
		measured(3*time.Minute, "", "x"),
		measured(3*time.Minute, "huge", `JSON:1e999999`),
	}
	write(t, d, all...)
	write(t, d, all...)
	list, err := d.Latest(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, m := range list {
		got[m.Label] = strings.ReplaceAll(string(m.Data), " ", "")
	}
	var disks map[string]any
	if err := json.Unmarshal([]byte(got["disks"]), &disks); err != nil {
		t.Error(err)
	}
	if inner, _ := disks["sda"].(map[string]any); inner["temp"] != 40.0 || inner["\ufffd"] != `a\u0000` {
		t.Errorf("%q", disks)
	}
	if got["load_avg"] != `["0.90","0.2","0.3"]` || got["odd"] != `["JSON:{\"no"]` || got[""] != `["x"]` {
		t.Errorf("%q", got)
	}
	m, err := d.Measurements(t.Context(), server, "load_avg", time.Time{}, time.Time{}, 10)
	if err != nil || len(m) != 2 || !m[0].Time.Before(m[1].Time) {
		t.Errorf("%+v %v", m, err)
	}
	if m, err = d.Measurements(t.Context(), server, "", now.Add(-90*time.Second), now.Add(time.Second), 10); err != nil || len(m) != 2 {
		t.Errorf("%+v %v", m, err)
	}
}

func testAgentsAreRegistered(t *testing.T, d *DB) {
	a := uuid.NewString()
	d.Register(minion.Agent{Server: a, Group: "chassis", Address: "192.0.2.1:1"})
	d.Heartbeat(minion.Agent{Server: a, Group: "chassis", Address: "192.0.2.2:1"}, time.Now())
	d.Register(minion.Agent{Server: "web 1", Group: "g", Address: "[2001:db8::1]:5"})
	var list []Server
	eventually(t, func() bool {
		var err error
		if list, err = d.Servers(t.Context(), "", 10); err != nil {
			t.Fatal(err)
		}
		return len(list) == 2
	})
	for _, s := range list {
		if s.ID == a && (s.Heartbeat == nil || !slices.Equal(s.Addresses, []string{"192.0.2.2"})) ||
			s.ID != a && (s.Name != "web 1" || s.Group != "g" || s.Heartbeat != nil) {
			t.Errorf("%+v", s)
		}
	}
}

func eventually(t testing.TB, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not happen")
		}
	}
}

func TestClosed(t *testing.T) {
	d, err := Open(context.Background(), filepath.Join(t.TempDir(), "records.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if err := d.Write(t.Context(), []minion.Entry{line("a", "b", "c")}); err != ErrClosed {
		t.Error(err)
	}
}
