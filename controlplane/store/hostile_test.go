package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// What anybody on the boot network can make the store keep has bounds.

func TestUnusedBootTokensAreBounded(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	var tokens []string
	for range maxTokensOfMachine + 10 {
		token, err := s.IssueBootToken(ctx, "", macA)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
		time.Sleep(2 * time.Millisecond) // they are told apart by time
	}
	count := func() (n int) {
		t.Helper()
		if err := s.r.QueryRowContext(ctx, `SELECT COUNT(*) FROM boot_tokens`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n > maxTokensOfMachine {
		t.Errorf("%d tokens of one machine are kept, want at most %d", n, maxTokensOfMachine)
	}
	show := func(id, token string) error {
		_, err := s.Connect(ctx, Session{ID: id, Handshake: hello(uuidA, "SN1", macA), Secure: true, BootToken: token})
		return err
	}
	if err := show("1", tokens[0]); !errors.Is(err, ErrRefused) {
		t.Errorf("the oldest: %v", err)
	}
	if err := show("2", tokens[len(tokens)-1]); err != nil {
		t.Errorf("the newest: %v", err)
	}

	// What is out of date goes sooner or later, whoever asks.
	if err := s.update(ctx, func(t *tx) error {
		s.tokens = tokenTidier{}
		_, err := t.Exec(`UPDATE boot_tokens SET created = created - ? WHERE used IS NULL`, 2*bootTokenLife.Milliseconds())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.IssueBootToken(ctx, "", macB); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 2 { // that in use, and the new one
		t.Errorf("%d tokens are left, want 2", n)
	}
}

// A machine without a token that counts learns nothing of, and causes nothing to,
// the session of the chassis that it claims to be.
func TestSessionIsNotHeldAgainstStrangers(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	h := hello(uuidA, "SN1", macA)
	h.BootID = "boot 1"
	c, err := s.Connect(ctx, Session{ID: "1", Handshake: h, Secure: true, Rules: []Rule{{Kind: RuleAll}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CertificateIssued(ctx, c.ID, "boot 1"); err != nil {
		t.Fatal(err)
	}
	h.BootID = "boot 2"
	var held *HeldError
	_, err = s.Connect(ctx, Session{ID: "2", Handshake: h, Secure: true, BootToken: "made up"})
	if !errors.Is(err, ErrRefused) || errors.As(err, &held) || strings.Contains(err.Error(), c.ID) {
		t.Errorf("with a token that is none: %v", err)
	}
	token, err := s.IssueBootToken(ctx, uuidA, macA)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = s.Connect(ctx, Session{ID: "3", Handshake: h, Secure: true, BootToken: token}); !errors.As(err, &held) {
		t.Errorf("with a token: %v", err)
	}
	if _, err = s.Connect(ctx, Session{ID: "4", Handshake: h, Secure: true, BootToken: token, TakeOver: true}); err != nil {
		t.Errorf("when the other session is dead: %v", err)
	}
}

func TestWaitingChassisAreBounded(t *testing.T) {
	defer func(n int) { maxWaiting = n }(maxWaiting)
	maxWaiting = 3
	s, ctx := newStore(t), t.Context()
	meet := func(n int) (Chassis, error) {
		return s.Connect(ctx, Session{ID: fmt.Sprint(n), Handshake: hello("", fmt.Sprintf("SN%d", n), fmt.Sprintf("52:54:00:00:01:%02x", n))})
	}
	var first Chassis
	for n := range maxWaiting {
		c, err := meet(n)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			first = c
		}
	}
	if _, err := meet(4); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "approve or forget") {
		t.Errorf("one more: %v", err)
	}
	if _, err := meet(0); err != nil {
		t.Errorf("one that is known: %v", err)
	}
	if err := s.Approve(ctx, first.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if _, err := meet(4); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// A boot that does not say which it is cannot be told from the approved one.
func TestWeakIdentityWithoutBootID(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	enter := func(id string) Chassis {
		t.Helper()
		h := hello("", "", macA)
		h.BootID = ""
		c, err := s.Connect(ctx, Session{ID: id, Handshake: h, Secure: true})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := enter("1")
	if err := s.Approve(ctx, c.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if c = enter("2"); c.Approved != nil {
		t.Error("whoever claims the MAC address is approved")
	}
}

// A session that is still there when its chassis has been rejected gets nothing.
func TestRejectedChassisStartsNothing(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	c := connect(t, s, macA)
	g := newGraph(t, s, c.ID, teeth.MethodDiskErase)
	if err := s.Reject(ctx, c.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if err := begin(ctx, s, g.Tasks[0].ID); !errors.Is(err, ErrConflict) {
		t.Errorf("rejected: %v", err)
	}
	if err := s.Approve(ctx, c.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if err := begin(ctx, s, g.Tasks[0].ID); err != nil {
		t.Errorf("approved: %v", err)
	}
}

// A rule that approves a whole estate at once must reach each session.
func TestDecisionsOfAWholeEstate(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	decide := func(n int) {
		t.Helper()
		if err := s.update(ctx, func(t *tx) error {
			for range n {
				t.nextRev() // of the chassis
				if err := t.decide("c", Approved, "rule all"); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	count := func() (n int) {
		t.Helper()
		if err := s.r.QueryRowContext(ctx, `SELECT COUNT(*) FROM decisions`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	decide(12_000)
	if n := count(); n != 12_000 {
		t.Errorf("%d decisions of 12000 are there", n)
	}
	defer func(n int) { maxDecisions = n }(maxDecisions)
	maxDecisions = 500
	decide(2 * trimDecisions)
	if n := count(); n > maxDecisions+trimDecisions {
		t.Errorf("%d decisions are kept, want about %d", n, maxDecisions)
	}
}
