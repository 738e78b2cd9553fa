package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	uuidA = "4c4c4544-0043-3010-8052-b4c04f564231"
	uuidB = "4c4c4544-0043-3010-8052-b4c04f564232"
	macA  = "52:54:00:00:00:0a"
	macB  = "52:54:00:00:00:0b"
	macC  = "52:54:00:00:00:0c"
)

func hello(uuid, serial string, macs ...string) teeth.Handshake {
	return teeth.Handshake{ID: macs[0], UUID: uuid, Serial: serial, MACs: macs, Version: "1", BootID: "boot1"}
}

// Who is taken for whom. Everything an agent says of itself can be forged by
// whoever may show a token, so what matters is that less than the whole never
// opens another's record.
func TestIdentity(t *testing.T) {
	for _, c := range []struct {
		name      string
		known, by teeth.Handshake
		same      bool
	}{
		{"same board", hello(uuidA, "SN1", macA), hello(uuidA, "SN1", macA), true},
		{"other spelling", hello(uuidA, "SN1", macA), hello(strings.ToUpper(uuidA), "sn1", macA), true},
		{"replaced NIC", hello(uuidA, "SN1", macA), hello(uuidA, "SN1", macB), true},
		{"boots from its second NIC", hello(uuidA, "SN1", macA, macB), hello(uuidA, "SN1", macB, macA), true},
		{"forged MAC", hello(uuidA, "SN1", macA), hello(uuidB, "SN2", macA), false},
		{"forged MAC and serial", hello(uuidA, "SN1", macA), hello(uuidB, "SN1", macA), false},
		{"forged MAC, no UUID", hello(uuidA, "SN1", macA), hello("", "", macA), false},
		{"forged MAC and serial, no UUID", hello(uuidA, "SN1", macA), hello("", "SN1", macA), false},
		{"forged UUID, other serial", hello(uuidA, "SN1", macA), hello(uuidA, "SN2", macB), false},
		{"forged UUID, no serial", hello(uuidA, "SN1", macA), hello(uuidA, "", macB), false},
		{"serial written anew", hello(uuidA, "SN1", macA), hello(uuidA, "SN9", macA), true},
		{"no serial, NIC replaced", hello(uuidA, "", macA), hello(uuidA, "To be filled by O.E.M.", macB), true},
		{"no UUID", hello("", "SN1", macA), hello("00000000-0000-0000-0000-000000000000", "SN1", macB, macA), true},
		{"no UUID, serial alone", hello("", "SN1", macA), hello("", "SN1", macB), false},
		{"no UUID, forged MAC", hello("", "SN1", macA), hello("", "SN2", macA), false},
		{"no UUID, forged MAC, no serial", hello("", "SN1", macA), hello("", "", macA), false},
		{"board maker's sample UUID", hello("03000200-0400-0500-0006-000700080009", "", macA), hello("03000200-0400-0500-0006-000700080009", "", macB), false},
		{"MAC is all there is", hello("", "", macA), hello("", "Default string", macA), true},
		{"MAC is all there is, another", hello("", "", macA), hello("", "", macB), false},
		{"no MAC address is none", hello("", "", "00:00:00:00:00:00"), hello("", "", "00:00:00:00:00:00"), false},
	} {
		if got := identityOf(c.known).same(identityOf(c.by)); got != c.same {
			t.Errorf("%s: same is %v", c.name, got)
		}
		if identityOf(c.known).same(identityOf(c.by)) != identityOf(c.by).same(identityOf(c.known)) {
			t.Errorf("%s: depends on the order", c.name)
		}
		// The store comes to the same answer.
		s := newStore(t)
		first, err := s.Connect(t.Context(), Session{ID: "1", Handshake: c.known})
		if err != nil {
			t.Fatal(err)
		}
		second, err := s.Connect(t.Context(), Session{ID: "2", Handshake: c.by})
		if err != nil {
			t.Fatal(err)
		}
		if (first.ID == second.ID) != c.same {
			t.Errorf("%s: the store has %s and %s", c.name, first.ID, second.ID)
		}
	}
}

func FuzzIdentity(f *testing.F) {
	f.Add(uuidA, "SN1", macA, uuidA, "SN1", macB)
	f.Add("", "", macA, uuidA, "", macA)
	f.Fuzz(func(t *testing.T, u1, s1, m1, u2, s2, m2 string) {
		a, b := identityOf(hello(u1, s1, m1)), identityOf(hello(u2, s2, m2))
		if a.same(b) != b.same(a) {
			t.Fatalf("%+v, %+v: depends on the order", a, b)
		}
		if a.same(b) && a.uuid == "" && !a.sharesMAC(b) {
			t.Fatalf("%+v, %+v: nothing in common", a, b)
		}
		if a.uuid != "" && !a.same(a) {
			t.Fatalf("%+v is not itself", a)
		}
	})
}

func TestTwinsAreSaidOnce(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	if _, err := s.Connect(ctx, Session{ID: "1", Handshake: hello(uuidA, "SN1", macA)}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		c, err := s.Connect(ctx, Session{ID: fmt.Sprint("2", i), Handshake: hello(uuidA, "SN2", macB)})
		if err != nil {
			t.Fatal(err)
		}
		if said := len(c.Notes) > 0 && strings.Contains(c.Notes[0], "two boards"); said != (i == 0) {
			t.Errorf("session %d: %v", i, c.Notes)
		}
	}
	// A third, whose record would have the key of one that was renamed since.
	c, err := s.Connect(ctx, Session{ID: "3", Handshake: hello(uuidA, "SN3", macB)}) // SN2 renamed: shares its MAC
	if err != nil || len(c.Notes) != 1 {
		t.Fatal(c.Notes, err)
	}
	if c, err = s.Connect(ctx, Session{ID: "4", Handshake: hello(uuidA, "SN2", macC)}); err != nil || len(c.Notes) != 1 {
		t.Fatal(c.Notes, err)
	}
	if all, err := s.ListChassis(ctx, "", 0); err != nil || len(all) != 3 {
		t.Errorf("%d chassis, %v", len(all), err)
	}
}

func TestBootTokens(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	issue := func(uuid, mac string) string {
		t.Helper()
		token, err := s.IssueBootToken(ctx, uuid, mac)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	show := func(token string, h teeth.Handshake, boot string) (Chassis, error) {
		h.BootID = boot
		return s.Connect(ctx, Session{ID: boot + h.ID, Handshake: h, Secure: true, BootToken: token})
	}
	board, other := hello(uuidA, "SN1", macA, macB), hello(uuidB, "SN2", macC)
	token := issue(strings.ToUpper(uuidA), macB)
	for name, try := range map[string]func() (Chassis, error){
		"guessed":         func() (Chassis, error) { return show("guess", board, "boot1") },
		"another machine": func() (Chassis, error) { return show(token, other, "boot1") },
		"UUID alone":      func() (Chassis, error) { return show(token, hello(uuidA, "SN1", macC), "boot1") },
		"MAC alone":       func() (Chassis, error) { return show(token, hello(uuidB, "SN1", macB), "boot1") },
		"no boot id":      func() (Chassis, error) { return show(token, board, "") },
	} {
		if _, err := try(); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if all, err := s.ListChassis(ctx, "", 0); err != nil || len(all) != 0 {
		t.Fatalf("refused sessions have left %d chassis, %v", len(all), err)
	}
	c, err := show(token, board, "boot1")
	if err != nil {
		t.Fatal(err)
	}
	if c.State != Discovered {
		t.Errorf("state %s", c.State)
	}
	if _, err := show(token, board, "boot1"); err != nil {
		t.Errorf("reconnect of the same boot: %v", err)
	}
	if _, err := show(token, board, "boot2"); !errors.Is(err, ErrRefused) {
		t.Errorf("another boot: %v", err)
	}
	if _, err := show(issue("44454c4c-4300-1030-8052-b4c04f564231", macA), board, "boot3"); err != nil {
		t.Errorf("UUID in the other byte order: %v", err)
	}
	if _, err := show(issue("", macC), other, "boot1"); err != nil {
		t.Errorf("firmware that tells no UUID: %v", err)
	}
	// An hour later, for one that nobody has shown.
	late := issue(uuidA, macA)
	if err := s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`UPDATE boot_tokens SET created = created - 3600001 WHERE used IS NULL`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := show(late, board, "boot4"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
	if _, err := s.IssueBootToken(ctx, uuidA, ""); !errors.Is(err, ErrInvalid) {
		t.Errorf("token for no machine: %v", err)
	}
}
