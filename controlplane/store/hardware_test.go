package store

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

func TestPollersAreLeased(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	c, err := s.Connect(ctx, Session{ID: "s", Handshake: teeth.Handshake{ID: "52:54:00:00:00:01", BootID: "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetBMC(ctx, BMC{Chassis: c.ID, Protocol: "ipmi", Address: "a", Username: "u", Password: "sealed", Insecure: true}); err != nil {
		t.Fatal(err)
	}
	if b, err := s.BMC(ctx, c.ID); err != nil || !b.Insecure || b.Password != "sealed" {
		t.Errorf("%+v, %v", b, err)
	}
	if list, err := s.ListBMCs(ctx, "", 10); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if err := s.SetBMC(ctx, BMC{Chassis: "nobody"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("BMC of no chassis: %v", err)
	}
	p, err := s.AddPoller(ctx, Poller{Chassis: c.ID, Kind: "power", Period: 60, Config: json.RawMessage(`{}`), Rules: json.RawMessage(`[]`)}, 0)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := s.TakePollers(ctx, 10, time.Minute)
	if err != nil || len(taken) != 1 || taken[0].ID != p.ID {
		t.Fatalf("%+v, %v", taken, err)
	}
	if twice, err := s.TakePollers(ctx, 10, time.Minute); err != nil || len(twice) != 0 {
		t.Errorf("taken twice: %+v, %v", twice, err)
	}
	alert := Alert{Rule: "r", Item: "i", Severity: "warning", Message: "m"}
	poll := Poll{Result: json.RawMessage(`{"n":1}`), State: json.RawMessage(`{"x":1}`), Raise: []Alert{alert, alert}}
	if held, err := s.ReportPoll(ctx, taken[0], poll); err != nil || !held {
		t.Fatalf("%v, %v", held, err)
	}
	if held, err := s.ReportPoll(ctx, taken[0], poll); err != nil || held {
		t.Errorf("reported after the lease: %v, %v", held, err)
	}
	if r, err := s.LastResult(ctx, p.ID); err != nil || string(r.Result) != `{"n":1}` {
		t.Errorf("%s, %v", r.Result, err)
	}
	if list, err := s.Alerts(ctx, AlertFilter{Chassis: c.ID, Poller: p.ID}, 10); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	for range maxPollerResults + 3 { // due at once, as Next is 0
		taken, err := s.TakePollers(ctx, 10, time.Minute)
		if err != nil || len(taken) != 1 || string(taken[0].State) != `{"x":1}` {
			t.Fatalf("%+v, %v", taken, err)
		}
		if _, err := s.ReportPoll(ctx, taken[0], Poll{Result: json.RawMessage(`{}`), Clear: []Alert{alert}}); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := s.PollerResults(ctx, p.ID, 100); err != nil || len(list) != maxPollerResults {
		t.Errorf("%d results, %v", len(list), err)
	}
	if open, err := s.Alerts(ctx, AlertFilter{}, 10); err != nil || len(open) != 0 {
		t.Errorf("%+v, %v", open, err)
	}
	if all, err := s.Alerts(ctx, AlertFilter{Cleared: true}, 10); err != nil || len(all) != 1 || all[0].Cleared == nil {
		t.Errorf("%+v, %v", all, err)
	}
	taken, err = s.TakePollers(ctx, 10, time.Minute)
	if err != nil || len(taken) != 1 {
		t.Fatalf("%+v, %v", taken, err)
	}
	gone := taken[0]
	gone.Lease = "another"
	if lost, err := s.RenewPollers(ctx, []Poller{taken[0], gone, {ID: p.ID}}, -time.Minute); err != nil || len(lost) != 2 || lost[0].Lease != "another" {
		t.Errorf("%+v, %v", lost, err)
	}
	// It is over at once, and taken again.
	if taken, err = s.TakePollers(ctx, 10, time.Minute); err != nil || len(taken) != 1 {
		t.Fatalf("%+v, %v", taken, err)
	}
	// The process dies; the next one need not wait for what it was polling.
	if err := s.register(ctx, Options{}); err != nil {
		t.Fatal(err)
	}
	if taken, err = s.TakePollers(ctx, 10, time.Minute); err != nil || len(taken) != 1 {
		t.Fatalf("%+v, %v", taken, err)
	}
	if err := s.ReleasePoller(ctx, taken[0]); err != nil {
		t.Error(err)
	}
	p.Rules, p.Paused = json.RawMessage(`[{"name":"x"}]`), true
	if p, err = s.ChangePoller(ctx, p); err != nil || string(p.State) != "{}" || !p.Paused {
		t.Errorf("%+v, %v", p, err)
	}
	if taken, err := s.TakePollers(ctx, 10, time.Minute); err != nil || len(taken) != 0 {
		t.Errorf("paused, yet taken: %+v, %v", taken, err)
	}
	if err := s.Forget(ctx, c.ID, "jane", true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Poller(ctx, p.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("poller of a chassis that is forgotten: %v", err)
	}
}

func TestSKUs(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	c, err := s.Connect(ctx, Session{ID: "s", Handshake: teeth.Handshake{ID: "52:54:00:00:00:01", BootID: "b"}})
	if err == nil {
		err = s.SaveStatus(ctx, c.ID, teeth.Status{Inventory: json.RawMessage(`{}`)})
	}
	if err != nil {
		t.Fatal(err)
	}
	k, err := s.PutSKU(ctx, SKU{Name: "a", Rules: json.RawMessage(`[]`), Graph: "Graph.A"})
	if err != nil {
		t.Fatal(err)
	}
	if list, _, err := s.SKUsToAssign(ctx, 10); err != nil || len(list) != 0 {
		t.Errorf("of chassis that are not approved: %+v, %v", list, err)
	}
	if err := s.Approve(ctx, c.ID, "jane"); err != nil {
		t.Fatal(err)
	}
	list, version, err := s.SKUsToAssign(ctx, 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	for range 2 {
		if err := s.AssignSKU(ctx, list[0], version, k.ID); err != nil {
			t.Fatal(err)
		}
	}
	start, err := s.SKUGraphsToStart(ctx, 10)
	if err != nil || len(start) != 1 || start[0].Name != "a" {
		t.Fatalf("%+v, %v", start, err)
	}
	if id, err := s.SKUGraphOf(ctx, start[0], "Graph.A", "sku"); err != nil || id != "" {
		t.Errorf("%q, %v", id, err)
	}
	start[0].Step, start[0].Graph = SKUGraphStarted, "g"
	if err := s.SetSKUGraph(ctx, start[0], 0); err != nil {
		t.Error(err)
	}
	if a, err := s.SKUOf(ctx, c.ID); err != nil || a.Graph != "g" || a.SKU != k.ID {
		t.Errorf("%+v, %v", a, err)
	}
	if all, err := s.SKUAssignments(ctx, k.ID, "", 10); err != nil || len(all) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	if list, _, err = s.SKUsToAssign(ctx, 10); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.RemoveSKU(ctx, k.ID); err != nil {
		t.Error(err)
	}
	if list, _, err = s.SKUsToAssign(ctx, 10); err != nil || len(list) != 1 {
		t.Errorf("after the SKU is gone: %+v, %v", list, err)
	}
}
