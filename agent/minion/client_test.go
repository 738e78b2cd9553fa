package minion

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/agent/minion/spool"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

func both(t *testing.T, f func(t *testing.T, p *peer)) {
	t.Run("ours", func(t *testing.T) { f(t, newPeer(t, false)) })
	t.Run("original", func(t *testing.T) { f(t, newPeer(t, true)) })
}

func TestDeliver(t *testing.T) {
	both(t, func(t *testing.T, p *peer) {
		c := client(t, Options{})
		c.Log("agent", "before anything is known")
		run(t, c)
		c.Log("agent", "two\nlines\n")
		aim(t, c, target(p.address))
		long := strings.Repeat("ü", 9000)
		c.Log("app", long)
		c.Log("app", "bad \xff and \x00")
		if err := c.Telemetry("load_avg", "0.1", "0.2"); err != nil {
			t.Fatal(err)
		}
		if err := c.Telemetry("big", strings.Repeat("x", 9000)); err == nil {
			t.Error("took what fits in no frame")
		}
		past := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
		c.LogAt(past, "kernel", "of old")
		c.LogAt(past, "kernel", "at the same time")
		flush(t, c)
		p.has(10)
		if got := p.lines("agent"); !slices.Equal(got, []string{"before anything is known", "two", "lines"}) {
			t.Errorf("%q", got)
		}
		if got := p.lines("app"); len(got) != 4 || strings.Join(got[:3], "") != long || got[3] != "bad \uFFFD and \uFFFD" {
			t.Errorf("%d parts, last %q", len(got), got[len(got)-1])
		}
		var seen []kept
		for _, k := range p.all() {
			if k.data[0].Text == "kernel" || k.verb == wire.Telemetry {
				seen = append(seen, k)
			}
		}
		if len(seen) != 3 || len(seen[0].data) != 3 || seen[0].text() != "0.2" {
			t.Fatalf("%+v", seen)
		}
		if at := seen[1].id.Time(); !at.Equal(past) || !seen[2].id.Time().After(at) {
			t.Errorf("at %v and %v", at, seen[2].id.Time())
		}
		peer, ok := c.Connected()
		if !ok || peer.Address != p.address || peer.Trusted || peer.Streams == p.original {
			t.Errorf("%+v, %v", peer, ok)
		}
		if st := c.spool.Stats(); st.Records != 0 {
			t.Errorf("left: %+v", st)
		}
	})
}

// TestKilled kills the server again and again. Ours has each line once; with an
// original none may have the id of another.
func TestKilled(t *testing.T) {
	both(t, func(t *testing.T, p *peer) {
		p.delay.Store(int64(time.Millisecond))
		c := client(t, Options{})
		aim(t, c, target(p.address))
		run(t, c)
		const n = 3000
		for i := range n {
			had := p.count() // before this one, which may be there at once
			c.Log("s", line(i))
			if i%500 == 250 {
				eventually(t, "some come", func() bool { return p.count() > had })
				p.kill()
				p.start()
			}
			if i%20 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		flush(t, c)
		if !p.original {
			once(t, p.lines("s"), n)
		}
	})
}

// TestStop: what an agent has not delivered at its end comes after the next start, to
// ours under the same ids, to an original under others if it may have it.
func TestStop(t *testing.T) {
	both(t, func(t *testing.T, p *peer) {
		dir := t.TempDir()
		const n = 1200
		lost := 0
		for round := range 4 {
			s, err := spool.Open(spool.Options{Dir: dir, Delay: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			p.delay.Store(int64(20 * time.Millisecond))
			c := client(t, Options{Spool: s})
			aim(t, c, target(p.address))
			stop := run(t, c)
			for i := round * n / 4; i < (round+1)*n/4; i++ {
				c.Log("s", line(i))
				time.Sleep(10 * time.Microsecond)
			}
			if round == 3 {
				flush(t, c)
			}
			stop()
			lost += int(s.Stats().Records)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the last line", func() bool { return slices.Contains(p.lines("s"), line(n-1)) })
		lines := p.lines("s")
		if p.original { // may have some twice, under other ids
			slices.Sort(lines)
			lines = slices.Compact(lines)
		}
		once(t, lines, n)
		t.Logf("%d records were left over a restart, %d frames came", lost, p.frames)
	})
}

func TestDropped(t *testing.T) {
	both(t, func(t *testing.T, p *peer) {
		c := client(t, Options{Spool: memory(t, 64<<10)})
		const n = 4000
		for i := range n {
			c.Log("s", line(i))
		}
		dropped := c.spool.Stats().Dropped
		aim(t, c, target(p.address))
		run(t, c)
		flush(t, c)
		p.has(n - int(dropped) + 1)
		all := p.all()
		if len(all) != n-int(dropped)+1 || all[0].data[0].Text != "agent" || !strings.HasPrefix(all[0].text(), itoa(dropped)+" records were dropped") {
			t.Fatalf("%d records, of which the first is %q; %d were dropped", len(all), all[0].text(), dropped)
		}
		if all[1].text() != line(int(dropped)) {
			t.Errorf("then %q", all[1].text())
		}
	})
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

// TestNoteOnce: word of dropped records that was not acknowledged comes again under
// its id, to be kept once.
func TestNoteOnce(t *testing.T) {
	c := client(t, Options{Spool: memory(t, 64<<10)})
	for i := range 4000 {
		c.Log("s", line(i))
	}
	dropped := c.spool.Stats().Dropped
	out := c.outgoing()
	tgt := target("x:1")
	_, first, _ := out.append(nil, &tgt, false)
	for i := range 4000 {
		c.Log("s", line(i))
	}
	more := c.spool.Stats().Dropped
	out.rewind()
	b, again, _ := out.append(nil, &tgt, false)
	if again.id != first.id || again.seq != dropped || !strings.Contains(string(b), itoa(dropped)+" records") {
		t.Errorf("first %v, then %v: %q", first, again, b)
	}
	b, rest, _ := out.append(nil, &tgt, false)
	if rest.id == first.id || rest.seq != more || !strings.Contains(string(b), itoa(more-dropped)+" records") {
		t.Errorf("then %v: %q", rest, b)
	}
	c.spool.Ack(rest.seq)
	if out.rewind(); len(out.notes) != 0 {
		t.Errorf("%d notes are kept", len(out.notes))
	}
	// An original must not see an id twice.
	for range 2000 {
		c.Log("s", line(1))
	}
	out.rewind()
	_, one, _ := out.append(nil, &tgt, true)
	out.rewind()
	if _, two, _ := out.append(nil, &tgt, true); two.id == one.id || two.seq != one.seq {
		t.Errorf("%v, then %v", one, two)
	}
}

func TestCommands(t *testing.T) {
	order := wire.Order{ID: wire.NewID(time.Now(), wire.RandomNode()), Kind: wire.External, Argv: []string{"echo", "hi there"}}
	both(t, func(t *testing.T, p *peer) {
		got := make(chan wire.Order, 1)
		from := make(chan Peer, 1)
		c := client(t, Options{Orders: func(ctx context.Context, o wire.Order, peer Peer, answer func(wire.Result)) {
			got <- o
			from <- peer
			answer(wire.Result{Stdout: []string{"hi there\n"}, Stderr: []string{"not\x00well\n"}, Exit: 3, State: wire.StateDone})
		}})
		aim(t, c, target(p.address))
		run(t, c)
		eventually(t, "connected", func() bool { _, ok := c.Connected(); return ok })
		p.command(order)
		if o := <-got; !slices.Equal(o.Argv, order.Argv) || o.Kind != order.Kind || o.ID != order.ID {
			t.Errorf("%+v", o)
		}
		if peer := <-from; peer.Streams == p.original || peer.Trusted || peer.Address != p.address {
			t.Errorf("%+v", peer)
		}
		eventually(t, "the answer", func() bool { return len(p.responses()) == 1 })
		r := p.responses()[0]
		want := []string{"not\uFFFDwell\n"}
		if p.original {
			want = append(want, "exit status 3")
		} else if r.Exit != 3 || r.State != wire.StateDone {
			t.Errorf("%+v", r)
		}
		if r.Order != order.ID || !slices.Equal(r.Stdout, []string{"hi there\n"}) || !slices.Equal(r.Stderr, want) || p.original != (r.State == "") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("refused and panicked", func(t *testing.T) {
		for name, orders := range map[string]Orders{
			wire.StateRefused: nil,
			wire.StateKilled:  func(context.Context, wire.Order, Peer, func(wire.Result)) { panic("no") },
		} {
			p := newPeer(t, false)
			c := client(t, Options{Orders: orders})
			aim(t, c, target(p.address))
			run(t, c)
			eventually(t, "connected", func() bool { _, ok := c.Connected(); return ok })
			p.command(order)
			eventually(t, "the answer", func() bool { return len(p.responses()) == 1 })
			if r := p.responses()[0]; r.State != name || r.Exit != 126 {
				t.Errorf("%+v", r)
			}
		}
	})
}

// TestShortReads: either side may get a byte or two at a time.
// TestTooManyCommands has more commands at work than there may be. The connection goes
// on: what waits for room in the spool gets it only by acknowledgements.
func TestTooManyCommands(t *testing.T) {
	p := newPeer(t, false)
	release := make(chan struct{})
	c := client(t, Options{Orders: func(_ context.Context, _ wire.Order, _ Peer, answer func(wire.Result)) {
		<-release
		answer(wire.Result{State: wire.StateDone})
	}})
	aim(t, c, target(p.address))
	run(t, c)
	const more = 3
	ids := wire.NewGenerator(wire.RandomNode())
	for range cap(c.slots) + more {
		p.command(wire.Order{ID: ids.Next(), Kind: wire.Internal, Argv: []string{"wait"}})
	}
	c.Log("s", line(0))
	flush(t, c)
	eventually(t, "what is too much is refused", func() bool { return len(p.responses()) == more })
	for _, r := range p.responses() {
		if r.State != wire.StateRefused {
			t.Errorf("%+v", r)
		}
	}
	close(release)
	eventually(t, "the others are carried out", func() bool { return len(p.responses()) == cap(c.slots)+more })
}

func TestShortReads(t *testing.T) {
	p := newPeer(t, true, func(p *peer) { p.maxRead = 2 })
	c := client(t, Options{})
	aim(t, c, target(p.address))
	run(t, c)
	for i := range 100 {
		c.Log("s", line(i))
	}
	p.has(100)
	once(t, p.lines("s"), 100)
}

// TestClockJump: ids stay unique whatever the clock does; see also package wire/minion.
func TestClockJump(t *testing.T) {
	c := client(t, Options{})
	seen := map[wire.ID]bool{}
	past := time.Now().Add(-time.Hour)
	for i := range 3000 {
		id := c.ids.Next()
		if i%2 == 0 {
			id = c.historicID(past.Add(-time.Duration(i)))
		}
		if seen[id] {
			t.Fatal("twice: ", id)
		}
		seen[id] = true
	}
}

func TestFlushFails(t *testing.T) {
	c := client(t, Options{})
	c.Log("s", "x")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
