package records

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/minion"
	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// Retention drops what is older, in partitions or by the row, and nothing else.
func testRetention(t *testing.T, d *DB) {
	server := uuid.NewString()
	now := time.Now()
	write(t, d,
		lineAt(now.Add(-20*time.Hour), server, "old"),
		lineAt(now.Add(-400*24*time.Hour), server, "replayed from long ago"),
		lineAt(now, server, "new"),
		minion.Entry{Verb: wire.Telemetry, ID: ids.Next(), Server: server, Service: "x", Values: []string{"1"}},
	)
	c, err := d.Issue(t.Context(), NewCommand{Servers: []string{server}, Argv: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.tidy(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if got := messages(t, d, Search{}); len(got) != 3 {
		t.Errorf("after nothing was old: %q", got)
	}
	if err := d.tidy(t.Context(), now.Add(40*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := messages(t, d, Search{}); len(got) != 0 {
		t.Errorf("after 40 days: %q", got)
	}
	if list, err := d.Latest(t.Context(), server); err != nil || len(list) != 0 {
		t.Error(list, err)
	}
	if _, err := d.Command(t.Context(), c.ID); err == nil {
		t.Error("the command is still there")
	}
	if d.pg == nil {
		return
	}
	// Lines go on to be taken, and partitions are made again where some lie.
	write(t, d, lineAt(now.Add(-time.Hour), server, "into the default partition"))
	if err := d.makeSlices(t.Context()); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := d.r.QueryRow(`SELECT count(*) FROM logs_default`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d lines left in the default partition: %v", n, err)
	}
	if got := messages(t, d, Search{}); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

func testSizeIsBounded(t *testing.T, d *DB) {
	server := uuid.NewString()
	var lines []minion.Entry
	for i := range 4000 {
		lines = append(lines, lineAt(time.Now().Add(-time.Duration(4000-i)*20*time.Second), server, strings.Repeat("x", 300)+fmt.Sprint(i)))
	}
	write(t, d, lines...)
	d.o.MaxBytes = 1 << 20
	if err := d.shrink(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := messages(t, d, Search{})
	if len(got) == 0 || len(got) > 3500 || !strings.HasSuffix(got[len(got)-1], "x3999") {
		t.Errorf("%d lines are left", len(got))
	}
}

// Agents with a clock that is wrong do not fill the disk either.
func TestDefaultPartitionIsBounded(t *testing.T) {
	d := open(t, postgrestest.Start(t, "fsync=off").Database(t), Options{Keep: kept})
	var lines []minion.Entry
	for range 4000 {
		lines = append(lines, lineAt(time.Unix(86400, 0), uuid.NewString(), strings.Repeat("x", 300)))
	}
	write(t, d, lines...)
	d.o.MaxBytes = 4 << 20
	for range 3 {
		if err := d.shrink(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := messages(t, d, Search{}); len(got) < 1000 || len(got) > 2001 {
			t.Errorf("%d lines are left", len(got))
		}
	}
}

// A page of long lines is cut before it takes much memory, and goes on.
func TestLongLines(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "records.db"), Options{})
	var lines []minion.Entry
	for i := range 300 {
		lines = append(lines, line("a", "agent", strings.Repeat("x", 60_000)+fmt.Sprint(i)))
	}
	write(t, d, lines...)
	p, err := d.Find(t.Context(), Search{})
	if err != nil || len(p.Lines) > 150 || !p.More {
		t.Errorf("%d lines, more %v: %v", len(p.Lines), p.More, err)
	}
	if got := messages(t, d, Search{}); len(got) != 300 {
		t.Errorf("%d lines", len(got))
	}
	p, err = d.Find(t.Context(), Search{Newest: true})
	if err != nil || !p.More || !strings.HasSuffix(p.Lines[len(p.Lines)-1].Message, "x299") {
		t.Fatalf("%v %v", p.More, err)
	}
	if p, err = d.Find(t.Context(), Search{Newest: true, Before: p.Earlier}); err != nil || len(p.Lines) == 0 {
		t.Error(err)
	}
}
