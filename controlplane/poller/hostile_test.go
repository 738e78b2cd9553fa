package poller

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// A device that says what costs the rules most ends as a poll that failed, and
// says why; no worker is gone for long.
func TestCostlyReading(t *testing.T) {
	ruleTime = 200 * time.Millisecond
	t.Cleanup(func() { ruleTime = 10 * time.Second })
	db, sealer, c := estate(t)
	events := make([]power.Event, 2000)
	for i := range events {
		events[i] = power.Event{ID: fmt.Sprint(i), SensorType: "Other", Message: strings.Repeat("a", 4096)}
	}
	s := New(Config{Store: db, Sealer: sealer, Log: slog.New(slog.DiscardHandler), BMCs: sel{log: power.EventLog{Events: events, Total: len(events)}}})
	rules, err := json.Marshal([]Rule{{Name: "a", Message: "(.*){300}x"}})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	report := s.try(t.Context(), store.Poller{ID: "p", Chassis: c.ID, Kind: SEL, Period: 60, Rules: rules, State: json.RawMessage(`{"begun":true}`)})
	if report.Result != nil || !strings.Contains(report.Error, "simpler") || report.State != nil {
		t.Errorf("%.200s %s", report.Result, report.Error)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}
