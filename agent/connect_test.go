package agent

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teeth-metal/teeth/agent/boot"
)

// lines is a log handler that keeps messages.
type lines struct {
	slog.Handler
	all *[]string
}

func (l lines) Handle(_ context.Context, r slog.Record) error {
	*l.all = append(*l.all, r.Message)
	return nil
}

func (l lines) Enabled(context.Context, slog.Level) bool { return true }

// TestWaitForSession: what is missing is said every 30 s, and nothing worse
// happens.
func TestWaitForSession(t *testing.T) {
	server := func() []string { return []string{"10.0.0.1:8081"} }
	tests := []struct {
		name    string
		opt     boot.Options
		servers func() []string
		says    string
	}{
		{"no server", boot.Options{CASHA256: digest}, func() []string { return nil }, "teeth.server=HOST:PORT"},
		{"no pin", boot.Options{}, server, "teeth.ca_sha256=HEX"},
		{"pin and plain", boot.Options{CASHA256: digest, Insecure: true}, server, "exclude each other"},
		{"bad pin", boot.Options{CASHA256: "ab"}, server, "64 hexadecimal digits"},
		{"bad endpoint", boot.Options{CASHA256: digest}, func() []string { return []string{"nowhere"} }, "not host:port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			synctest.Test(t, func(t *testing.T) {
				var said []string
				b.log = slog.New(lines{slog.DiscardHandler, &said})
				b.machine.Options = tt.opt
				ctx, cancel := context.WithTimeout(t.Context(), 95*time.Second)
				defer cancel()
				if s, err := b.waitForSession(ctx, tt.servers); err == nil || s != nil {
					t.Fatal("a session")
				}
				if len(said) != 4 || !strings.Contains(said[0], tt.says) || !strings.Contains(said[3], "ctrl-alt-del") {
					t.Errorf("in 95 s it said %q", said)
				}
			})
		})
	}
}

func TestServerComesLater(t *testing.T) {
	b := newBench(t)
	synctest.Test(t, func(t *testing.T) {
		b.machine.Options.CASHA256 = digest
		began := time.Now()
		s, err := b.waitForSession(t.Context(), func() []string {
			if time.Since(began) < time.Minute {
				return nil
			}
			return []string{"10.0.0.1:8081"}
		})
		if err != nil || s == nil || time.Since(began) != time.Minute {
			t.Errorf("%v, %v after %s", s, err, time.Since(began))
		}
	})
}
