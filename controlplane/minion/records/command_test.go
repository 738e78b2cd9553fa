package records

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/minion"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// ready returns the runs that wait.
func ready(t *testing.T, d *DB, server string) []Ready {
	t.Helper()
	list, err := d.Ready(t.Context(), server, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func issue(t *testing.T, d *DB, in NewCommand) Command {
	t.Helper()
	c, err := d.Issue(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func claim(t *testing.T, d *DB, r Ready) {
	t.Helper()
	if ok, err := d.Claim(t.Context(), r.Order.ID); err != nil || !ok {
		t.Fatal(ok, err)
	}
}

func testCommands(t *testing.T, d *DB) {
	a, b := uuid.NewString(), "web 1"
	changed := d.Commands()
	c := issue(t, d, NewCommand{Servers: []string{a, b, a}, Argv: []string{"echo", "hi there", ""}, Options: []string{"timeout=30"}, By: "anna", RunLimit: time.Minute})
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Error("nobody is told")
	}
	if c.Type != "external" || !slices.Equal(c.Argv, []string{"echo", "hi there", ""}) || c.By != "anna" || c.RunLimit != 60 || !maps.Equal(c.States, map[string]int{Waiting: 2}) {
		t.Errorf("%+v", c)
	}
	list := ready(t, d, "")
	if len(list) != 2 || len(ready(t, d, b)) != 1 || ready(t, d, b)[0].Name != b {
		t.Fatalf("%+v", list)
	}
	r := ready(t, d, a)[0]
	if r.Server != a || r.Name != a || r.Command != c.ID || !slices.Equal(r.Order.Argv, c.Argv) || !slices.Equal(r.Order.Options, []string{"timeout=30"}) {
		t.Errorf("%+v", r)
	}
	claim(t, d, r)
	if ok, err := d.Claim(t.Context(), r.Order.ID); ok || err != nil {
		t.Error("claimed twice", err)
	}
	// It could not be sent: it waits again, and only then.
	if err := d.Unclaim(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	claim(t, d, ready(t, d, a)[0])
	if err := d.Settle(t.Context(), time.Now()); err != nil || len(ready(t, d, "")) != 1 {
		t.Error("what waits for another server is gone", err)
	}
	respond(t, d, a, wire.Result{Order: r.Order.ID, Stdout: []string{"hi there \n"}, Exit: 3, State: Done})
	if n, err := d.Cancel(t.Context(), c.ID); err != nil || n != 1 {
		t.Error(n, err)
	}
	c, err := d.Command(t.Context(), c.ID)
	if err != nil || !maps.Equal(c.States, map[string]int{Done: 1, Cancelled: 1}) {
		t.Errorf("%+v %v", c, err)
	}
	run, err := d.Run(t.Context(), c.ID, a)
	if err != nil || run.State != Done || *run.Exit != 3 || run.Stdout != "hi there \n" || run.Dispatched == nil || run.Responded == nil {
		t.Errorf("%+v %v", run, err)
	}
	if run, err = d.Run(t.Context(), c.ID, b); err != nil || run.State != Cancelled {
		t.Errorf("%+v %v", run, err)
	}
	other := issue(t, d, NewCommand{Servers: []string{b}, Argv: []string{"version"}, Internal: true})
	all, err := d.ListCommands(t.Context(), "", "", 10)
	if err != nil || len(all) != 2 || all[0].ID != other.ID || all[0].Type != "internal" {
		t.Errorf("%+v %v", all, err)
	}
	if all, err = d.ListCommands(t.Context(), a, all[0].ID, 10); err != nil || len(all) != 1 || all[0].ID != c.ID {
		t.Errorf("%+v %v", all, err)
	}
	runs, err := d.Runs(t.Context(), c.ID, "", time.Time{}, 1)
	if err != nil || len(runs) != 1 {
		t.Fatal(runs, err)
	}
	if runs, err = d.Runs(t.Context(), c.ID, runs[0].ID, time.Time{}, 10); err != nil || len(runs) != 1 {
		t.Error(runs, err)
	}
	for _, in := range []NewCommand{
		{Servers: []string{a}}, {Argv: []string{"x"}}, {Servers: []string{a}, Argv: []string{""}},
		{Servers: []string{a}, Argv: []string{"a\x00"}}, {Servers: []string{a}, Argv: []string{strings.Repeat("x", 9000)}},
	} {
		if _, err := d.Issue(t.Context(), in); err == nil {
			t.Errorf("%.100v is issued", in)
		}
	}
}

// A command waits for its server until it is sent, its time is over, or the queue
// has no row of it.
func testCommandsWait(t *testing.T, d *DB) {
	a := uuid.NewString()
	now := time.Now()
	expires := issue(t, d, NewCommand{Servers: []string{a}, Argv: []string{"one"}, Expires: now.Add(time.Hour)})
	limited := issue(t, d, NewCommand{Servers: []string{a}, Argv: []string{"two"}, RunLimit: time.Minute})
	list := ready(t, d, a)
	if len(list) != 2 || list[0].Command != expires.ID {
		t.Fatalf("%+v", list)
	}
	claim(t, d, list[1])
	if err := d.Settle(t.Context(), now.Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	state := func(command string) string {
		t.Helper()
		r, err := d.Run(t.Context(), command, a)
		if err != nil {
			t.Fatal(err)
		}
		return r.State
	}
	if s := state(limited.ID); s != Sent {
		t.Error(s)
	}
	if err := d.Settle(t.Context(), now.Add(4*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if s := state(limited.ID); s != Lost {
		t.Error(s)
	}
	if s := state(expires.ID); s != Waiting {
		t.Error(s)
	}
	// A response that comes after all is taken.
	respond(t, d, a, wire.Result{Order: list[1].Order.ID, Stdout: []string{"late"}})
	if s := state(limited.ID); s != Done {
		t.Error(s)
	}
	if err := d.Settle(t.Context(), now.Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if s := state(expires.ID); s != Expired || len(ready(t, d, "")) != 0 {
		t.Error(s)
	}
	var queued int
	if err := d.r.QueryRow(`SELECT COUNT(*) FROM command_queues`).Scan(&queued); err != nil || queued != 0 {
		t.Error(queued, err)
	}
}

func respond(t *testing.T, d *DB, server string, r wire.Result) {
	t.Helper()
	r.ID = ids.Next()
	if err := d.Respond(t.Context(), minion.Agent{Server: server}, r); err != nil {
		t.Fatal(err)
	}
}

func testResponses(t *testing.T, d *DB) {
	a, b := uuid.NewString(), uuid.NewString()
	c := issue(t, d, NewCommand{Servers: []string{a, b}, Argv: []string{"cat"}})
	list := ready(t, d, "")
	if list[0].Server != a {
		slices.Reverse(list)
	}
	for _, r := range list {
		claim(t, d, r)
	}
	run := func(server string) Run {
		t.Helper()
		r, err := d.Run(t.Context(), c.ID, server)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	respond(t, d, b, wire.Result{Order: list[0].Order.ID, Stdout: []string{"forged"}}) // another's
	respond(t, d, a, wire.Result{Order: wire.ID{1}, Stdout: []string{"no such command"}})
	respond(t, d, a, wire.Result{Order: list[0].Order.ID, State: "bogus"})
	for _, n := range []int{0, 1, 1, 0} {
		respond(t, d, a, wire.Result{Order: list[0].Order.ID, Stdout: []string{fmt.Sprintln("part", n)}, State: Running, Sequence: n})
	}
	if r := run(a); r.State != Running || r.Stdout != "part 0\npart 1\n" || r.Exit != nil {
		t.Errorf("%+v", r)
	}
	for range 2 {
		respond(t, d, a, wire.Result{Order: list[0].Order.ID, Stderr: []string{"end\x00\xff"}, Exit: 1, State: Killed, Sequence: 2})
	}
	r := run(a)
	if r.State != Killed || r.Stdout != "part 0\npart 1\n" || r.Stderr != "end\ufffd\ufffd" || *r.Exit != 1 {
		t.Errorf("%+v", r)
	}
	// The same text, divided otherwise: as the original finds rows, it would be a's.
	respond(t, d, b, wire.Result{Order: list[1].Order.ID, Stdout: []string{"part 0\npart 1\n", "end\ufffd\ufffd"}})
	if r = run(b); r.State != Done || r.Stdout != "part 0\npart 1\nend\ufffd\ufffd" || r.Stderr != "" || r.Exit != nil {
		t.Errorf("%+v", r)
	}
	// Identical output is one row.
	again := issue(t, d, NewCommand{Servers: []string{a}, Argv: []string{"cat"}})
	next := ready(t, d, a)[0]
	claim(t, d, next)
	respond(t, d, a, wire.Result{Order: next.Order.ID, Stdout: []string{"part 0\n", "part 1\n"}, Stderr: []string{"end\ufffd\ufffd"}, State: Done})
	var rows int
	if err := d.r.QueryRow(`SELECT COUNT(*) FROM command_responses`).Scan(&rows); err != nil || rows != 2 {
		t.Error(rows, err)
	}
	// Output without end is cut.
	c = again
	again = issue(t, d, NewCommand{Servers: []string{b}, Argv: []string{"yes"}})
	next = ready(t, d, b)[0]
	claim(t, d, next)
	d.maxOutput = 16<<10 - 100
	for n := range 18 {
		respond(t, d, b, wire.Result{Order: next.Order.ID, Stdout: []string{strings.Repeat("y", 1<<10)}, State: Running, Sequence: n})
	}
	respond(t, d, b, wire.Result{Order: next.Order.ID, Stdout: []string{strings.Repeat("y", 1<<10)}, State: Running, Sequence: 3}) // sent again
	// What would fit again does not follow on what was kept.
	respond(t, d, b, wire.Result{Order: next.Order.ID, Stdout: []string{"!"}, State: Timeout, Exit: -1, Sequence: 18})
	c = again
	if r = run(b); r.State != Timeout || r.Stdout != strings.Repeat("y", 15<<10) || r.Dropped != 3<<10+1 {
		t.Errorf("%s: %d bytes, %d dropped", r.State, len(r.Stdout), r.Dropped)
	}
}
