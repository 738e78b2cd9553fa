package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func says(t *testing.T, s *Store, host, chassis string, set func(*AppHost)) (refused int) {
	t.Helper()
	refused, err := s.TakeAppStatuses(t.Context(), []AppStatus{{Host: host, Chassis: chassis}}, func(_ int, h *AppHost) bool {
		now := time.UnixMilli(1_790_000_000_000).UTC()
		h.State, h.Status, h.Transport, h.Received, h.Told = "ok", json.RawMessage(`{"x":1}`), "amqp", &now, &now
		if set != nil {
			set(h)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return refused
}

func TestAppHosts(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	c := connect(t, s, "52:54:00:00:00:01")
	since, _ := s.Revision()
	h, err := s.DesireApps(ctx, c.ID, c.ID, "somebody", func(h *AppHost) error {
		h.Desired = json.RawMessage(`{"a":1}`)
		return nil
	})
	if err != nil || h.Revision <= since || h.ChangedBy != "somebody" || h.Changed == nil {
		t.Fatalf("%+v, %v", h, err)
	}
	if ids, err := s.AppHostsChanged(ctx, since); err != nil || !cmp.Equal(ids, []string{c.ID}) {
		t.Errorf("%q, %v", ids, err)
	}
	// A status is no change of what is desired.
	says(t, s, "4c", c.ID, func(h *AppHost) { h.Sequence, h.BootID, h.Settled = 7, "b", false })
	if ids, err := s.AppHostsChanged(ctx, h.Revision); err != nil || len(ids) > 0 {
		t.Errorf("%q, %v", ids, err)
	}
	if ids, err := s.AppHostsUnsettled(ctx); err != nil || !cmp.Equal(ids, []string{c.ID}) {
		t.Errorf("%q, %v", ids, err)
	}
	sent := AppSent{ID: c.ID, Revision: h.Revision, At: time.UnixMilli(1_790_000_001_000).UTC(), Attempts: 2, Error: "away"}
	if err := s.SaveAppSent(ctx, sent); err != nil {
		t.Fatal(err)
	}
	sent.Revision, sent.Attempts = h.Revision-1, 9 // of something desired before
	if err := s.SaveAppSent(ctx, sent); err != nil {
		t.Fatal(err)
	}
	got, err := s.AppHost(ctx, c.ID)
	if err != nil || got.Attempts != 2 || got.Error != "away" || got.Sent != h.Revision || got.Host != "4c" || got.Sequence != 7 ||
		string(got.Desired) != `{"a":1}` || string(got.Status) != `{"x":1}` || !got.SentAt.Equal(sent.At) || got.Settled {
		t.Errorf("%+v, %v", got, err)
	}
	if list, err := s.ListAppHosts(ctx, "", 10); err != nil || len(list) != 1 || !cmp.Equal(list[0], got) {
		t.Errorf("%+v, %v", list, err)
	}
	// A change begins the attempts anew; an error in it changes nothing.
	if _, err := s.DesireApps(ctx, c.ID, c.ID, "x", func(*AppHost) error { return ErrInvalid }); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if h, err := s.DesireApps(ctx, c.ID, c.ID, "x", func(h *AppHost) error { h.Settled = true; return nil }); err != nil || h.Attempts != 0 || h.Error != "" {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := s.DesireApps(ctx, "gone", "gone", "x", func(*AppHost) error { return nil }); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	// Forgotten, its apps are left alone; with its chassis it is gone.
	if err := s.ForgetApps(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	if h, err := s.AppHost(ctx, c.ID); err != nil || h.Desired != nil || h.Status == nil {
		t.Errorf("%+v, %v", h, err)
	}
	if err := s.Disconnect(ctx, c.ID, "session-52:54:00:00:00:01"); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget(ctx, c.ID, "test", true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AppHost(ctx, c.ID); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := s.ForgetApps(ctx, c.ID); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	// A status of it that is under way makes it a host of its own.
	says(t, s, "late", c.ID, nil)
	if h, err := s.AppHost(ctx, "late"); err != nil || h.Chassis != "" {
		t.Errorf("%+v, %v", h, err)
	}
	if n, err := s.PruneAppHosts(ctx, time.UnixMilli(1_790_000_000_001)); err != nil || n != 1 {
		t.Error(n, err)
	}
}

func TestChassisOfHost(t *testing.T) {
	s := newStore(t)
	a, b := connect(t, s, "52:54:00:00:00:01"), connect(t, s, "52:54:00:00:00:02")
	for host, want := range map[string]string{a.ID: a.ID, "52:54:00:00:00:02": b.ID, "52:54:00:00:00:AB": "", "": "", "x' OR 1=1 --": ""} {
		if got, err := s.ChassisOfHost(t.Context(), host); err != nil || got != want {
			t.Errorf("%q: %q, %v", host, got, err)
		}
	}
}

// TestStrangers bounds hosts that anybody may have made up.
func TestStrangers(t *testing.T) {
	s := newStore(t)
	all := make([]AppStatus, maxStrangers+5)
	for i := range all {
		all[i].Host = fmt.Sprintf("host-%d", i)
	}
	refused, err := s.TakeAppStatuses(t.Context(), all, func(_ int, h *AppHost) bool { h.State = "ok"; return true })
	if err != nil || refused != 5 {
		t.Fatal(refused, err)
	}
	if refused = says(t, s, "one more", "", nil); refused != 1 {
		t.Error("it is taken")
	}
	if refused = says(t, s, "host-7", "", nil); refused != 0 {
		t.Error("one that is known is refused")
	}
	c := connect(t, s, "52:54:00:00:00:01")
	if refused = says(t, s, "a chassis", c.ID, nil); refused != 0 {
		t.Error("a chassis is refused")
	}
}
