package store

import (
	"encoding/json"
	"errors"
	"testing"
	"time"
)

func TestRoles(t *testing.T) {
	for i, r := range Roles {
		for j, other := range Roles {
			if got := r.Includes(other); got != (i >= j) {
				t.Errorf("%s includes %s: %v", r, other, got)
			}
		}
	}
	if Role("").Includes("") || Role("root").Includes(Viewer) || Admin.Includes("root") {
		t.Error("a text that is no role may something")
	}
}

func TestUsersAndTokens(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	if _, err := s.AddUser(ctx, "ann", Operator); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddUser(ctx, "ann", Admin); !errors.Is(err, ErrConflict) {
		t.Errorf("a second ann: %v", err)
	}
	if _, err := s.AddToken(ctx, Token{User: "ann", Name: "x", Role: Admin}, "d0"); !errors.Is(err, ErrConflict) {
		t.Errorf("a token that may more than its user: %v", err)
	}
	if _, err := s.AddToken(ctx, Token{User: "bob", Name: "x", Role: Viewer}, "d0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a token of nobody: %v", err)
	}
	expires := time.Now().Add(time.Hour).Truncate(time.Millisecond).UTC()
	tok, err := s.AddToken(ctx, Token{User: "ann", Name: "laptop", Role: Operator, Expires: &expires}, "d1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddToken(ctx, Token{User: "ann", Name: "laptop", Role: Viewer}, "d2"); !errors.Is(err, ErrConflict) {
		t.Errorf("a second token of the name: %v", err)
	}
	used := time.Now().Truncate(time.Millisecond).UTC()
	if err := s.TouchTokens(ctx, map[string]time.Time{tok.ID: used, "gone": used}); err != nil {
		t.Fatal(err)
	}
	got, err := s.TokenByDigest(ctx, "d1")
	if err != nil || got.ID != tok.ID || got.Role != Operator || !got.Expires.Equal(expires) || !got.LastUsed.Equal(used) {
		t.Errorf("%+v, %v", got, err)
	}
	// A user who may less takes the tokens along.
	if err := s.SetUserRole(ctx, "ann", Viewer); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Token(ctx, tok.ID); err != nil || got.Role != Viewer {
		t.Errorf("%+v, %v", got, err)
	}
	if users, err := s.ListUsers(ctx, "", 10); err != nil || len(users) != 1 || users[0].Tokens != 1 || users[0].Role != Viewer {
		t.Errorf("%+v, %v", users, err)
	}
	if err := s.RemoveUser(ctx, "ann"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.TokenByDigest(ctx, "d1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the token of a removed user: %v", err)
	}
	for what, err := range map[string]error{
		"remove user": s.RemoveUser(ctx, "ann"), "set role": s.SetUserRole(ctx, "ann", Admin), "remove token": s.RemoveToken(ctx, tok.ID),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestAuditIsKeptInOrderAndBounded(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	var ids []string
	for _, user := range []string{"ann", "bob", "ann", "ann"} {
		id, err := s.BeginAudit(ctx, AuditEntry{User: user, Method: "POST", Path: "/v1/x", Address: "192.0.2.1", Target: "c-" + user})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := s.EndAudit(ctx, ids[1], 409, "busy", 5*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	list, err := s.ListAudit(ctx, AuditFilter{}, "", 2)
	if err != nil || len(list) != 2 || list[0].ID != ids[3] || list[1].ID != ids[2] || list[0].Status != 0 {
		t.Fatalf("%+v, %v", list, err)
	}
	if list, err = s.ListAudit(ctx, AuditFilter{}, list[1].ID, 2); err != nil || len(list) != 2 || list[0].ID != ids[1] || list[0].Status != 409 || list[0].Detail != "busy" || list[0].Millis != 5 {
		t.Fatalf("%+v, %v", list, err)
	}
	if list, err = s.ListAudit(ctx, AuditFilter{User: "bob"}, "", 9); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err = s.ListAudit(ctx, AuditFilter{Target: "c-ann"}, "", 9); err != nil || len(list) != 3 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.PruneAudit(ctx, 3); err != nil {
		t.Fatal(err)
	}
	if list, err = s.ListAudit(ctx, AuditFilter{}, "", 9); err != nil || len(list) != 3 || list[2].ID != ids[1] {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestSpecs(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	for _, body := range []string{`{"cpu":{"min_cores":1}}`, `{"cpu":{"min_cores":2}}`} {
		if _, err := s.PutSpec(ctx, "r1", json.RawMessage(body)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Spec(ctx, "r1"); err != nil || string(got.Spec) != body {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if list, err := s.ListSpecs(ctx, "", 10); err != nil || len(list) != 1 || list[0].Spec != nil {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.RemoveSpec(ctx, "r1"); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveSpec(ctx, "r1"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
