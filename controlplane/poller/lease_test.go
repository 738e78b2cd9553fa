package poller

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// slow is a BMC that answers when the test lets it, or the poll ends.
type slow struct {
	BMCs
	asked  atomic.Int32
	ended  atomic.Int32
	answer chan power.State
}

func (b *slow) State(ctx context.Context, _ string) (power.State, error) {
	b.asked.Add(1)
	defer b.ended.Add(1)
	select {
	case s := <-b.answer:
		return s, nil
	case <-ctx.Done():
		return power.Unknown, ctx.Err()
	}
}

// A poll that takes longer than a lease keeps its poller; one whose server has died
// is done by another within seconds; one whose poller is changed meanwhile is ended.
func TestLeases(t *testing.T) {
	if lease > store.DeadAfter {
		t.Errorf("a dead server keeps its pollers for %v", lease)
	}
	tick, lease = 10*time.Millisecond, 400*time.Millisecond
	t.Cleanup(func() { tick, lease = time.Second, store.DeadAfter })
	db, sealer, c := estate(t)
	serve := func() *slow {
		b := &slow{answer: make(chan power.State)}
		s := New(Config{Store: db, Sealer: sealer, Log: slog.New(slog.DiscardHandler), BMCs: b})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
		return b
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for start := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Since(start) > 20*time.Second {
				t.Fatalf("waited in vain: %s", what)
			}
		}
	}
	p, err := db.AddPoller(t.Context(), store.Poller{Chassis: c.ID, Kind: Power, Period: 3600, Config: []byte(`{}`), Rules: []byte(`[]`)}, 0)
	if err != nil {
		t.Fatal(err)
	}
	// A server that takes it and dies.
	var dead []store.Poller
	until("the poller is due", func() bool {
		if dead, err = db.TakePollers(t.Context(), 1, lease); err != nil {
			t.Fatal(err)
		}
		return len(dead) == 1
	})
	a, b := serve(), serve()
	until("another polls", func() bool { return a.asked.Load()+b.asked.Load() == 1 })
	if held, err := db.ReportPoll(t.Context(), dead[0], store.Poll{Result: []byte(`{}`)}); err != nil || held {
		t.Errorf("the dead one's result counts: %v, %v", held, err)
	}
	time.Sleep(3 * lease)
	if a.asked.Load()+b.asked.Load() != 1 {
		t.Fatal("a poll under way was taken over")
	}
	holder := a
	if b.asked.Load() > 0 {
		holder = b
	}
	if _, err := db.ChangePoller(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	until("the poll of what it was ends, and what it is is polled", func() bool {
		return holder.ended.Load() == 1 && a.asked.Load()+b.asked.Load() == 2
	})
	select {
	case a.answer <- power.On:
	case b.answer <- power.On:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody polls")
	}
	until("the result is stored", func() bool { _, err := db.LastResult(t.Context(), p.ID); return err == nil })
	if now, err := db.Poller(t.Context(), p.ID); err != nil || now.Failures != 0 || now.Server != "" {
		t.Errorf("%+v, %v", now, err)
	}
}
