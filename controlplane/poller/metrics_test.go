package poller

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/metrics"
	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// bmcs answer as the test says.
type bmcs struct {
	BMCs
	state func() (power.State, error)
}

func (b bmcs) State(context.Context, string) (power.State, error) { return b.state() }

// sel is a BMC with an event log.
type sel struct {
	BMCs
	log power.EventLog
}

func (b sel) Events(context.Context, string, string, int) (power.EventLog, error) { return b.log, nil }

func TestMetrics(t *testing.T) {
	db, sealer, c := estate(t)
	var down atomic.Bool
	during := func() {}
	s := New(Config{Store: db, Sealer: sealer, Log: slog.New(slog.DiscardHandler), BMCs: bmcs{state: func() (power.State, error) {
		during()
		if down.Load() {
			return power.Unknown, errors.New("no answer")
		}
		return power.On, nil
	}}})
	v, err := s.Add(t.Context(), Spec{Chassis: c.ID, Kind: Power})
	if err != nil {
		t.Fatal(err)
	}
	poll := func() {
		t.Helper()
		var taken []store.Poller
		for end := time.Now().Add(20 * time.Second); len(taken) == 0; time.Sleep(20 * time.Millisecond) {
			// What is defined anew is due at once.
			p, err := db.Poller(t.Context(), v.ID)
			if err == nil {
				_, err = db.ChangePoller(t.Context(), p)
			}
			if err == nil {
				taken, err = db.TakePollers(t.Context(), 1, lease)
			}
			if err != nil || time.Now().After(end) {
				t.Fatal("no poller is due: ", err)
			}
		}
		s.poll(t.Context(), taken[0])
	}
	poll()
	poll()
	down.Store(true)
	poll()
	during = func() {
		if err := db.RemovePoller(t.Context(), v.ID); err != nil {
			t.Error(err)
		}
	}
	poll()
	m := metrics.New("test")
	if err := m.Register(s); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		`teeth_polls_total{kind="power",result="ok"} 2`, `teeth_polls_total{kind="power",result="failed"} 1`,
		`teeth_polls_total{kind="power",result="dropped"} 1`, `teeth_poll_seconds_count{kind="power"} 4`, "teeth_pollers_busy 0",
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}
}
