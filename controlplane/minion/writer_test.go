package minion

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// forgetful is a file of which a sync fails, after which the kernel has dropped what was
// written since the last.
type forgetful struct {
	*file
	fail int // syncs from now on
}

func (f *forgetful) sync() error {
	if f.fail == 0 {
		return f.file.sync()
	}
	f.fail--
	if err := os.Truncate(f.path, 0); err != nil {
		return err
	}
	return errors.New("input/output error")
}

// TestSyncFails: lines that could not be made durable are written again before their
// agents hear that they are kept.
func TestSyncFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "minion.log")
	m := newMeters()
	q := newQueue(path, path, 1<<20, true)
	var said []string
	w := &lineWriter{q: q, m: &forgetful{&file{path: path}, 2}, meter: &m,
		trouble: func(_ *queue, err error, _ bool) { said = append(said, err.Error()) }}
	tr := newTracker(1 << 20)
	ended := make(chan struct{})
	go func() { defer close(ended); w.run(context.Background()) }()
	ids := wire.NewGenerator(wire.RandomNode())
	for i, line := range numbered(0, 3) {
		b := &batch{last: ids.Next(), records: 1, bytes: 100}
		tr.register(b)
		b.pending.Store(1)
		p := &part{to: q, batch: b, durable: true, bytes: 100, records: 1, lines: appendLine(nil, b.last, "s", "pg", []byte(line))}
		if err := q.put(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if err := tr.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(raw), line+"\n") {
			t.Errorf("line %d is acknowledged and the file has %q (%v)", i, raw, err)
		}
	}
	q.close()
	<-ended
	if len(said) != 2 || !strings.Contains(said[0], "input/output error") {
		t.Errorf("said %q", said)
	}
}

// TestStuckDestination: one that neither fails nor takes anything is told of.
func TestStuckDestination(t *testing.T) {
	defer func(was time.Duration) { stuckAfter = was }(stuckAfter)
	stuckAfter = 50 * time.Millisecond
	sink := &keep{gate: make(chan struct{})}
	r := start(t, Config{Records: sink})
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	p := acknowledged(t, r, ChassisGroup, chassis1, ChassisKey(secret, chassis1))
	f := p.line("agent", "x")
	p.send(f)
	until(t, "it is told of", func() bool { return r.Err() != nil })
	if !strings.Contains(r.Err().Error(), "records database") || !strings.Contains(r.Err().Error(), "taken nothing") {
		t.Error(r.Err())
	}
	close(sink.gate)
	p.through(f.ID)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// TestTracker: batches that are kept out of order count in order.
func TestTracker(t *testing.T) {
	tr := newTracker(1 << 20)
	ids := wire.NewGenerator(wire.RandomNode())
	var batches []*batch
	for range 4 {
		b := &batch{last: ids.Next(), records: 1, bytes: 10}
		b.ids = []wire.ID{b.last}
		b.pending.Store(1)
		tr.register(b)
		if err := tr.admit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		batches = append(batches, b)
	}
	for _, step := range []struct{ done, through int }{{2, -1}, {0, 0}, {1, 2}, {3, 3}} {
		batches[step.done].partDone()
		id, moved := tr.progress()
		if moved != (step.through >= 0) || moved && id != batches[step.through].last {
			t.Errorf("after %d: through %v, %v", step.done, id, moved)
		}
	}
	want := []wire.ID{batches[0].last, batches[1].last, batches[2].last, batches[3].last}
	if got := tr.leave(); !slices.Equal(got, want) {
		t.Errorf("%v may be sent again, want %v", got, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	full := newTracker(15)
	for i := range 2 {
		b := &batch{bytes: 10}
		full.register(b)
		if err := full.admit(ctx, b); (err != nil) != (i == 1) {
			t.Errorf("batch %d: %v", i, err)
		}
	}
}

// TestPast: what is remembered of agents that have left is bounded.
func TestPast(t *testing.T) {
	var p past
	made := uint32(0)
	list := func(n int) []wire.ID {
		l := make([]wire.ID, n)
		for i := range l {
			made++
			binary.BigEndian.PutUint32(l[i][:], made)
		}
		return l
	}
	who, tr := identity{"g", "first"}, newTracker(1)
	first, newest := list(1000), list(1000)
	p.leave(who, tr, first)
	for range maxRemembered / 1000 {
		p.leave(who, tr, list(1000))
	}
	p.leave(who, tr, newest)
	if n := p.total; n > maxRemembered || n < maxRemembered-1000 {
		t.Errorf("%d remembered of one", n)
	}
	if p.again(who, newest[0]) != tr || p.again(who, first[0]) != nil || p.again(identity{"g", "other"}, newest[0]) != nil {
		t.Error("the newest are not remembered, or the oldest are, or another's")
	}
	const each = maxRemembered
	for i := range maxPastIDs/each + 1 {
		p.leave(identity{"g", strconv.Itoa(i)}, tr, list(each))
	}
	if p.total > maxPastIDs || p.has(who) || p.has(identity{"g", "0"}) || !p.has(identity{"g", "1"}) || len(p.of) != p.order.Len() {
		t.Errorf("%d remembered of %d", p.total, len(p.of))
	}
}
