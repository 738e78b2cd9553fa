package records

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/minion"
	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// The database dies while lines are written, some of them again. What was written is
// there, once, in the order of its agent; what has failed is written again.
func TestPostgreSQLDies(t *testing.T) {
	server := postgrestest.Start(t)
	d := open(t, server.Database(t), Options{Keep: kept})
	agent := uuid.NewString()
	done := make(chan []string)
	stop := make(chan struct{})
	go func() {
		var want []string
		var last []minion.Entry
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- want
				return
			default:
			}
			batch := slices.Clone(last[:min(len(last), i%3)]) // as after a lost acknowledgement
			fresh := make([]minion.Entry, 0, 50)
			for k := range 50 {
				m := fmt.Sprint(i, " ", k)
				fresh, want = append(fresh, line(agent, "agent", m)), append(want, m)
			}
			batch, last = append(batch, fresh...), fresh
			for d.Write(t.Context(), batch) != nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
	}()
	for range 3 {
		before, err := d.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { head, err := d.Head(t.Context()); return err == nil && head > before+100 })
		server.Kill(t)
		if _, err := d.Find(t.Context(), Search{}); err == nil {
			t.Error("a search without a database")
		}
		server.Run(t)
	}
	close(stop)
	want := <-done
	if got := messages(t, d, Search{Servers: []string{agent}}); !slices.Equal(got, want) {
		t.Errorf("%d lines, want %d", len(got), len(want))
	}
}

// Two servers write; whoever follows the log by seq misses none of their lines.
func TestFollowersMissNothing(t *testing.T) {
	dsn := postgrestest.Start(t, "fsync=off").Database(t)
	both := []*DB{open(t, dsn, Options{Keep: kept}), open(t, dsn, Options{Keep: kept})}
	const batches, size = 40, 25
	var writers sync.WaitGroup
	for n, d := range both {
		writers.Go(func() {
			for i := range batches {
				var batch []minion.Entry
				for k := range size {
					batch = append(batch, line(uuid.NewString(), "agent", fmt.Sprint(n, i, k)))
				}
				if err := d.Write(t.Context(), batch); err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := map[string]bool{}
	s := Search{Limit: 100}
	for len(seen) < 2*batches*size {
		changed := both[0].Lines()
		p, err := both[0].Find(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range p.Lines {
			if seen[l.ID] {
				t.Fatal("seen twice")
			}
			seen[l.ID] = true
		}
		s.After = p.Next
		if len(p.Lines) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			t.Fatalf("only %d lines", len(seen))
		}
	}
	writers.Wait()
}

func FuzzWords(f *testing.F) {
	f.Add("Disk sda: Übergröße 0x1F\x00\xff")
	f.Fuzz(func(t *testing.T, text string) {
		list := wordsOf(text)
		if !hasAll(text, list) {
			t.Errorf("%q has not its own words %q", text, list)
		}
		hashes := map[uint64]struct{}{}
		for _, w := range list {
			hashes[hash([]byte(w))] = struct{}{}
		}
		filter := newFilter(hashes)
		for h := range hashes {
			if !filter.has(h) {
				t.Errorf("the filter of %q lacks a word", text)
			}
		}
	})
}

func FuzzWithoutNUL(f *testing.F) {
	f.Add([]byte(`{"a\u0000":"\\u0000\\\u0000"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !json.Valid(b) {
			return
		}
		out := withoutNUL(b)
		var v any
		if err := json.Unmarshal(out, &v); err != nil {
			t.Errorf("%q becomes %q: %v", b, out, err)
		}
		if text := fmt.Sprint(v); strings.Contains(text, "\x00") {
			t.Errorf("%q becomes %q", b, out)
		}
	})
}

func init() {
	suite["HostileResponses"], suite["DeepTelemetry"] = testHostileResponses, testDeepTelemetry
}

// What an agent says of its commands is kept or dropped, whatever it is: an error would
// hold up the responses of all agents for ever.
func testHostileResponses(t *testing.T, d *DB) {
	agent := uuid.NewString()
	for _, r := range []wire.Result{
		{State: Done, Exit: math.MaxInt64},
		{State: Done, Exit: math.MinInt64, Sequence: math.MaxInt64},
		{State: Running, Exit: math.MaxInt64, Sequence: math.MinInt64},
		{State: Killed, Stdout: []string{"\x00\xff"}, Stderr: []string{"", "\xed\xa0\x80"}},
	} {
		c := issue(t, d, NewCommand{Servers: []string{agent}, Argv: []string{"x"}})
		run := ready(t, d, agent)[0]
		claim(t, d, run)
		r.Order = run.Order.ID
		respond(t, d, agent, r)
		got, err := d.Run(t.Context(), c.ID, agent)
		if err != nil || got.State != r.State || r.Exit != 0 && got.State == Done && (got.Exit == nil || *got.Exit == 0) {
			t.Errorf("%+v: %+v, %v", r, got, err)
		}
	}
}

// One agent's telemetry, of JSON as deep as a frame can hold, does not hold up what
// others have to say.
func testDeepTelemetry(t *testing.T, d *DB) {
	agent := uuid.NewString()
	deep := line(agent, "deep", "")
	deep.Verb = wire.Telemetry
	deep.Values = []string{wire.JSON + strings.Repeat("[", 9990) + strings.Repeat("]", 9990)}
	objects := line(agent, "objects", "")
	objects.Verb = wire.Telemetry
	objects.Values = []string{wire.JSON + strings.Repeat(`{"":`, 9990) + "0" + strings.Repeat("}", 9990)}
	huge := line(agent, "huge", "")
	huge.Verb, huge.Values = wire.Telemetry, []string{wire.JSON + "1e999999"}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := d.Write(ctx, []minion.Entry{line(agent, "s", "before"), deep, objects, huge, line(agent, "s", "after")}); err != nil {
		t.Fatal(err)
	}
	if got := messages(t, d, Search{Servers: []string{agent}}); !slices.Equal(got, []string{"before", "after"}) {
		t.Errorf("%q", got)
	}
}
