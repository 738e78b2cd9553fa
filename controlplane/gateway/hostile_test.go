package gateway

import (
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/internal/need"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// An approval that is carried out after it was taken back must not reach the
// session of whoever claims the MAC address since.
func TestApprovalThatWasTakenBack(t *testing.T) {
	w := newSite(t)
	m := w.machine("", "", macA, "boot1", "estate token")
	if r := m.connect(); r != "" {
		t.Fatal(r)
	}
	w.try(w.s.Approve(t.Context(), m.chassis, "ann"))
	list, err := w.s.Decisions(t.Context(), 0, 0)
	if err != nil || len(list) != 1 || list[0].Verdict != store.Approved {
		t.Fatalf("%+v, %v", list, err)
	}
	w.eventually("approved", func() bool { _, ok := w.g.Session(m.chassis); return ok })
	stranger := w.machine("", "", macA, "boot2", "estate token")
	if r := stranger.connect(); r != "" || stranger.chassis != m.chassis {
		t.Fatal(r)
	}
	w.eventually("inspected", func() bool { _, ok := w.g.present(m.chassis); return ok })
	w.try(w.g.decided(t.Context(), list[0]))
	if _, ok := w.g.Session(m.chassis); ok {
		t.Error("another machine has the approval")
	}
}

func TestMoreDecisionsThanAPage(t *testing.T) {
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const n = store.MaxPage + 10
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			_, err := s.Connect(t.Context(), store.Session{ID: fmt.Sprint(i), Rules: []store.Rule{{Kind: store.RuleAll}},
				Handshake: teeth.Handshake{ID: fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256), Version: "1"}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	g := New(Config{Store: s, Handler: nothing{}, Log: slog.New(slog.DiscardHandler)})
	after, more := g.carryOut(t.Context(), 0)
	if !more || g.decisions.Load() != store.MaxPage {
		t.Errorf("%d carried out, more: %v", g.decisions.Load(), more)
	}
	if _, more = g.carryOut(t.Context(), after); more || g.decisions.Load() != n {
		t.Errorf("%d carried out in the end, more: %v", g.decisions.Load(), more)
	}
}

// Peers that begin a handshake and go no further do not keep others out.
func TestStalledHandshakesGiveWay(t *testing.T) {
	need.Time(t, "takes seconds")
	w := newSite(t)
	for _, from := range []string{"127.0.0.2", "127.0.0.3"} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		for range maxServed / 2 {
			conn, err := d.DialContext(t.Context(), "tcp", w.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
	}
	w.eventually("all slots are taken", func() bool { return len(w.g.slots) == maxServed })
	began := time.Now()
	m := w.machine(uuidA, "SN1", macA, "boot1", "estate token")
	if r := m.connect(); r != "" {
		t.Fatal(r)
	}
	if took := time.Since(began); took > maxHeld+2*time.Second {
		t.Errorf("let in after %v", took)
	}
	w.eventually("no slot is lost", func() bool { return len(w.g.slots) == 0 })
}

// One chassis cannot have the store to itself.
func TestReportsHaveARate(t *testing.T) {
	address, s := serve(t, Config{Reports: 10})
	const log = `{"id": "2", "version": "v1", "method": "log", "params": {"message": "m"}}` + "\n"
	began := time.Now()
	exchange(t, address, hello+strings.Repeat(log, 121)+fatal("bye"))
	if took := time.Since(began); took < 1500*time.Millisecond {
		t.Errorf("121 messages in %v", took)
	}
	list, err := s.ListChassis(t.Context(), "", 0)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if events, err := s.Events(t.Context(), list[0].ID, 0); err != nil || len(events) != 121 {
		t.Errorf("%d messages are kept, %v", len(events), err)
	}
}
