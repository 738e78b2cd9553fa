package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/wire/teeth"
)

func TestApproval(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	c, err := s.Connect(ctx, Session{ID: "1", Handshake: hello(uuidA, "SN1", macA)})
	if err != nil {
		t.Fatal(err)
	}
	state := func(want string) Chassis {
		t.Helper()
		c, err := s.Chassis(ctx, c.ID)
		if err != nil || c.State != want {
			t.Fatalf("chassis is %s (%v), want %s", c.State, err, want)
		}
		return c
	}
	if err := state(Discovered).MayWork(); !errors.Is(err, ErrConflict) {
		t.Error(err)
	}
	if err := s.Approve(ctx, c.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if c := state(Inspecting); c.ApprovedBy != "ann" || c.MayWork() != nil {
		t.Errorf("%+v", c)
	}
	if err := s.Reject(ctx, c.ID, "bob"); err != nil {
		t.Fatal(err)
	}
	if err := state(Rejected).MayWork(); !errors.Is(err, ErrConflict) {
		t.Error(err)
	}
	again := Session{ID: "2", Handshake: hello(uuidA, "SN1", macA), Rules: []Rule{{Kind: RuleAll}}}
	if _, err := s.Connect(ctx, again); !errors.Is(err, ErrRefused) {
		t.Errorf("rejected chassis: %v", err)
	}
	if err := s.Approve(ctx, c.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Connect(ctx, again); err != nil {
		t.Error(err)
	}
	for _, do := range []func() error{
		func() error { return s.Approve(ctx, "x", "ann") },
		func() error { return s.Reject(ctx, "x", "ann") },
		func() error { return s.Forget(ctx, "x", "ann", true) },
	} {
		if err := do(); !errors.Is(err, ErrNotFound) {
			t.Errorf("unknown chassis: %v", err)
		}
	}
	log, err := s.Decisions(ctx, 0, 0)
	var verdicts []string
	for _, d := range log {
		verdicts = append(verdicts, d.Verdict+" "+d.By)
	}
	if got := strings.Join(verdicts, ", "); err != nil || got != "approved ann, rejected bob, approved ann" {
		t.Errorf("%s, %v", got, err)
	}
	if later, err := s.Decisions(ctx, log[1].Rev, 1); err != nil || len(later) != 1 || later[0].Rev != log[2].Rev {
		t.Errorf("%+v, %v", later, err)
	}
}

func TestForget(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	c := connect(t, s, macA)
	newGraph(t, s, c.ID, teeth.MethodDiskErase)
	if err := s.AddEvent(ctx, Event{Chassis: c.ID, Message: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget(ctx, c.ID, "ann", false); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "connected") {
		t.Errorf("connected: %v", err)
	}
	if err := s.Disconnect(ctx, c.ID, "session-"+macA); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget(ctx, c.ID, "ann", false); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "to finish") {
		t.Errorf("with tasks: %v", err)
	}
	if err := s.Forget(ctx, c.ID, "ann", true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Chassis(ctx, c.ID); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if tasks, err := s.ListTasks(ctx, "", "", 0); err != nil || len(tasks) != 0 {
		t.Errorf("%d tasks are left, %v", len(tasks), err)
	}
	if again := connect(t, s, macA); again.ID == c.ID {
		t.Error("the same record again")
	}
}

func TestRules(t *testing.T) {
	for text, want := range map[string]string{
		"all": "all", "token": "token", "subnet=192.0.2.77/24": "subnet=192.0.2.0/24", "subnet=fd00::/8": "subnet=fd00::/8",
		"serial=CN77*": "serial=CN77*", "mac=52-54-00-AB-00-01": "mac=52:54:00:ab:00:01", "mac=52:54:00:*": "mac=52:54:00:*",
		"": "", "any": "", "all=x": "", "subnet": "", "subnet=192.0.2.1": "", "serial=": "", "serial=[": "", "mac=*": "", "mac=52:54": "",
	} {
		r, err := ParseRule(text)
		if err == nil && r.String() != want || (err != nil) != (want == "") || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %q, %v", text, r, err)
		}
	}
	c := candidate{identity: identityOf(hello(uuidA, "CN7701", macA)), address: "192.0.2.5"}
	bare := candidate{identity: identityOf(hello(uuidA, "", macB)), address: "2001:db8::1"}
	for text, want := range map[string][2]bool{
		"all": {true, true}, "token": {}, "subnet=192.0.2.0/24": {true, false}, "subnet=0.0.0.0/0": {true, false},
		"serial=cn77*": {true, false}, "serial=*": {true, false}, "serial=CN8*": {}, "mac=52:54:00:*": {true, true}, "mac=" + macA: {true, false},
	} {
		r, err := ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]bool{r.approves(c), r.approves(bare)}; got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if c.token = true; !(Rule{Kind: RuleToken}).approves(c) {
		t.Error("token")
	}
}

func TestStoredRules(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	waiting, err := s.Connect(ctx, Session{ID: "1", Handshake: hello(uuidA, "CN1", macA)})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.AddRule(ctx, Rule{Kind: RuleSerial, Value: "CN*", By: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := s.Chassis(ctx, waiting.ID); err != nil || c.Approved == nil || c.ApprovedBy != "rule serial=CN*" {
		t.Errorf("one that waits: %+v, %v", c, err)
	}
	if same, err := s.AddRule(ctx, Rule{Kind: RuleSerial, Value: "CN*", By: "bob"}); err != nil || same.ID != r.ID || same.By != "ann" {
		t.Errorf("a second time: %+v, %v", same, err)
	}
	if c, err := s.Connect(ctx, Session{ID: "2", Handshake: hello(uuidB, "CN2", macB)}); err != nil || c.Approved == nil {
		t.Errorf("one that comes: %+v, %v", c, err)
	}
	if list, err := s.Rules(ctx); err != nil || len(list) != 1 || list[0] != r {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.RemoveRule(ctx, r.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveRule(ctx, r.ID); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if c, err := s.Connect(ctx, Session{ID: "3", Handshake: hello("", "CN3", macC)}); err != nil || c.Approved != nil {
		t.Errorf("without the rule: %+v, %v", c, err)
	}
}

// Certificates are as good as the approval, and in the boot they were made in.
func TestCertificates(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	h := hello(uuidA, "SN1", macA)
	token, err := s.IssueBootToken(ctx, uuidA, macA)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Connect(ctx, Session{ID: "1", Handshake: h, Secure: true, BootToken: token})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CertificateIssued(ctx, c.ID, "boot1"); !errors.Is(err, ErrConflict) {
		t.Errorf("before approval: %v", err)
	}
	if err := s.Approve(ctx, c.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if err := s.CertificateIssued(ctx, c.ID, "boot0"); !errors.Is(err, ErrConflict) {
		t.Errorf("for another boot: %v", err)
	}
	if err := s.CertificateIssued(ctx, c.ID, "boot1"); err != nil {
		t.Fatal(err)
	}
	if err := s.CertificateSent(ctx, c.ID, "boot1"); err != nil {
		t.Fatal(err)
	}
	// It may have been lost on the way.
	if _, err := s.Connect(ctx, Session{ID: "2", Handshake: h, Secure: true, BootToken: token}); err != nil {
		t.Error(err)
	}
	show := func(h teeth.Handshake) error {
		_, err := s.Connect(ctx, Session{ID: "3", Handshake: h, Secure: true, Certificate: c.ID})
		return err
	}
	if err := show(h); err != nil {
		t.Error(err)
	}
	if _, err := s.Connect(ctx, Session{ID: "4", Handshake: h, Secure: true, BootToken: token}); !errors.Is(err, ErrRefused) {
		t.Errorf("the token after the certificate: %v", err)
	}
	if _, err := s.Connect(ctx, Session{ID: "5", Handshake: h}); !errors.Is(err, ErrRefused) {
		t.Errorf("in the clear: %v", err)
	}
	nic := h
	nic.MACs, nic.ID = []string{macB}, macB
	if err := show(nic); err != nil {
		t.Errorf("another NIC: %v", err)
	}
	boot := h
	boot.BootID = "boot2"
	for name, h := range map[string]teeth.Handshake{"boot": boot, "UUID": hello(uuidB, "SN1", macA), "serial": hello(uuidA, "SN2", macC), "no UUID": hello("", "SN1", macA)} {
		if err := show(h); !errors.Is(err, ErrRefused) {
			t.Errorf("stolen, %s: %v", name, err)
		}
	}
	if err := s.Reject(ctx, c.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if err := show(h); !errors.Is(err, ErrRefused) {
		t.Errorf("rejected: %v", err)
	}
	if err := s.Approve(ctx, c.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	if err := show(h); !errors.Is(err, ErrRefused) {
		t.Errorf("a certificate from before it was rejected: %v", err)
	}
	if err := s.Forget(ctx, c.ID, "ann", true); err != nil {
		t.Fatal(err)
	}
	if err := show(h); !errors.Is(err, ErrRefused) {
		t.Errorf("forgotten: %v", err)
	}
}

// A board that only a MAC address tells from others is approved for one boot.
func TestWeakIdentity(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	h := hello("", "", macA)
	in := Session{ID: "1", Handshake: h, Secure: true}
	c, err := s.Connect(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Approve(ctx, c.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	in.ID = "2"
	if c, err = s.Connect(ctx, in); err != nil || c.Approved == nil {
		t.Errorf("a reconnect: %+v, %v", c, err)
	}
	in.Handshake.BootID = "boot2"
	if c, err = s.Connect(ctx, in); err != nil || c.Approved != nil || len(c.Notes) != 1 {
		t.Errorf("a reboot, or somebody with its MAC address: %+v, %v", c, err)
	}
	in.Rules = []Rule{{Kind: RuleAll}}
	if c, err = s.Connect(ctx, in); err != nil || c.Approved == nil {
		t.Errorf("with a rule: %+v, %v", c, err)
	}
}

// While another server that lives has the session of the boot with the
// certificate, a boot without one does not take the chassis over.
func TestTakeoverFromAnotherServer(t *testing.T) {
	ctx := t.Context()
	s := newStore(t)
	in := Session{ID: "1", Handshake: hello(uuidA, "SN1", macA), Secure: true, Rules: []Rule{{Kind: RuleAll}}}
	c, err := s.Connect(ctx, in)
	if err == nil {
		err = s.CertificateIssued(ctx, c.ID, "boot1")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`INSERT INTO servers (id, started, seen) VALUES ('other', ?, ?)`, t.now, t.now)
		return errors.Join(err, ignore(t.Exec(`UPDATE chassis SET server = 'other'`)))
	}); err != nil {
		t.Fatal(err)
	}
	rebooted := in
	rebooted.ID, rebooted.Handshake.BootID = "2", "boot2"
	if _, err := s.Connect(ctx, rebooted); !errors.Is(err, ErrRefused) {
		t.Errorf("another boot: %v", err)
	}
	back := in
	back.ID, back.Certificate = "3", c.ID
	if _, err := s.Connect(ctx, back); err != nil {
		t.Errorf("the same boot: %v", err)
	}
	log, err := s.Decisions(ctx, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if keep, ok := log[len(log)-1].Keep(); !ok || keep != "3" {
		t.Errorf("the other server is not told: %+v", log)
	}
	if err := s.update(ctx, func(t *tx) error {
		return ignore(t.Exec(`UPDATE chassis SET server = 'other'; UPDATE servers SET seen = seen - 60000`))
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Connect(ctx, rebooted); err != nil {
		t.Errorf("the other server is dead: %v", err)
	}
}

func ignore[T any](_ T, err error) error { return err }
