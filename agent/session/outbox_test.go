package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

func TestFinalStateSurvivesCuts(t *testing.T) {
	bubble(t, testConfig(), func(t *testing.T, b *bench) {
		status := func(id string, state teeth.State, seq uint64) {
			b.Report(teeth.TaskStatus{TaskID: id, State: state, Seq: seq})
		}
		p := b.accept().welcome()
		status("a", teeth.Running, 1)
		if s := p.expectStatus(); s.Seq != 1 {
			t.Fatalf("%+v", s)
		}
		status("a", teeth.Complete, 2) // sent at once, although the running one is not answered
		status("b", teeth.Failed, 5)
		for _, want := range []uint64{2, 5} {
			if s := p.expectStatus(); s.Seq != want {
				t.Fatalf("%+v, want seq %d", s, want)
			}
		}
		p.nc.Close() // cut before any answer

		p = b.accept().welcome()
		s, m := p.expectStatusMessage() // the running one is not worth sending again
		if s.TaskID != "a" || s.Seq != 2 {
			t.Fatalf("%+v", s)
		}
		p.result(m, nil)
		synctest.Wait()
		p.nc.Close() // cut between the two

		p = b.accept().welcome()
		s, m = p.expectStatusMessage()
		if s.TaskID != "b" || s.Seq != 5 || s.State != teeth.Failed {
			t.Fatalf("%+v", s)
		}
		status("b", teeth.Failed, 5) // the manager repeats it while it is under way
		p.result(m, struct{}{})
		p.quiet(time.Minute)
		p.nc.Close()
		b.accept().welcome().quiet(time.Minute)
		if got := b.deliveries(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("delivered %v", got)
		}
		if err := b.Flush(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func TestRefusedFinalStateIsSentAgain(t *testing.T) {
	bubble(t, testConfig(), func(t *testing.T, b *bench) {
		p := b.accept().welcome()
		b.Report(teeth.TaskStatus{TaskID: "a", State: teeth.Complete})
		began := time.Now()
		_, m := p.expectStatusMessage()
		p.refuse(m, "database is locked")
		_, m = p.expectStatusMessage()
		if d := time.Since(began); d != 20*time.Second {
			t.Errorf("again after %v", d)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := b.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("flushed: %v", err)
		}
		p.result(m, nil)
		p.quiet(time.Minute)
		if got := b.deliveries(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("delivered %v", got)
		}
	})
}

func TestRunningUpdatesCoalesce(t *testing.T) {
	bubble(t, testConfig(), func(t *testing.T, b *bench) {
		report := func(id string, seq uint64) {
			b.Report(teeth.TaskStatus{TaskID: id, State: teeth.Running, Seq: seq})
		}
		for seq := range uint64(100) {
			report("a", seq)
			report("b", seq)
		}
		p := b.accept().welcome()
		var first teeth.Message
		for _, id := range []string{"a", "b"} {
			s, m := p.expectStatusMessage()
			if s.TaskID != id || s.Seq != 99 {
				t.Fatalf("%+v", s)
			}
			if id == "a" {
				first = m
			}
		}
		report("a", 100)
		report("a", 101)
		p.quiet(time.Second) // one of a task at a time
		p.result(first, nil)
		if s := p.expectStatus(); s.TaskID != "a" || s.Seq != 101 {
			t.Fatalf("%+v", s)
		}
	})
}

func TestLogs(t *testing.T) {
	bubble(t, testConfig(), func(t *testing.T, b *bench) {
		for i := range maxLogs + 10 {
			b.Log(fmt.Sprint("message ", i), map[string]any{"n": i})
		}
		var all []teeth.Log
		read := func(p *peer, n int, answer bool) {
			for range n {
				var l teeth.Log
				m := p.expect(teeth.MethodLog)
				if err := json.Unmarshal(m.Params, &l); err != nil {
					t.Fatal(err)
				}
				if answer {
					all = append(all, l)
					p.result(m, nil)
				}
			}
		}
		p := b.accept().welcome()
		read(p, logWindow, false)
		p.quiet(time.Second)
		p.nc.Close()
		p = b.accept().welcome()
		read(p, maxLogs+1, true)
		p.quiet(time.Minute)
		if n, _ := all[0].Fields["dropped"].(json.Number); n != "10" {
			t.Errorf("first message %+v does not tell of 10 dropped", all[0])
		}
		for i, l := range all[1:] {
			if l.Message != fmt.Sprint("message ", i+10) {
				t.Fatalf("message %d is %+v", i, l)
			}
		}
		if want := float64(time.Now().Unix()); all[0].Time < want-600 || all[0].Time > want {
			t.Errorf("time %v, now %v", all[0].Time, want)
		}
	})
}

func TestLogsAreBounded(t *testing.T) {
	o := newOutbox()
	o.log(strings.Repeat("\x01", 1<<20), map[string]any{"k": "v"})
	if n := len(o.logs[0].params); n > maxLogSize || !strings.Contains(string(o.logs[0].params), "cut_from_bytes") {
		t.Errorf("%d bytes: %.100s", n, o.logs[0].params)
	}
	o.log("m", map[string]any{"f": func() {}})
	if !strings.Contains(string(o.logs[1].params), "fields_lost") {
		t.Errorf("%s", o.logs[1].params)
	}
	for range 1000 {
		o.log(strings.Repeat("x", 8<<10), nil)
	}
	size := 0
	for _, it := range o.logs {
		size += len(it.params)
	}
	if size > maxLogBytes || size != o.logBytes || size < maxLogBytes/2 {
		t.Errorf("%d bytes kept, %d counted", size, o.logBytes)
	}
}
