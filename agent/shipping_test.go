package agent

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"testing"
	"testing/slogtest"
	"time"
)

// TestShippingContract holds the handler against the contract of slog.Handler.
func TestShippingContract(t *testing.T) {
	var sent map[string]any
	slogtest.Run(t, func(*testing.T) slog.Handler {
		return shipping{next: slog.NewTextHandler(io.Discard, nil), send: func(msg string, fields map[string]any) {
			sent = maps.Clone(fields)
			sent[slog.MessageKey] = msg
			sent[slog.TimeKey] = time.Now() // the session's own
		}}
	}, func(t *testing.T) map[string]any {
		if t.Name() == "TestShippingContract/zero-time" {
			delete(sent, slog.TimeKey)
		}
		return sent
	})
}

func TestShipping(t *testing.T) {
	type message struct {
		text   string
		fields map[string]any
	}
	var sent []message
	var console bytes.Buffer
	log := slog.New(shipping{
		next: slog.NewTextHandler(&console, &slog.HandlerOptions{ReplaceAttr: func(_ []string, at slog.Attr) slog.Attr {
			if at.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return at
		}}),
		send: func(text string, fields map[string]any) { sent = append(sent, message{text, fields}) },
	})
	log.Debug("not sent")
	with := log.With("disk", "sda")
	with.WithGroup("erase").With("method", "zeroout").Warn("slow", "bytes", 5, slog.Group("rate", "now", 1.5))
	with.Info("ok", "err", errors.New("none"), "level", "mine")
	want := []message{
		{"slow", map[string]any{"level": "WARN", "disk": "sda", "erase": map[string]any{
			"method": "zeroout", "bytes": "5", "rate": map[string]any{"now": "1.5"},
		}}},
		{"ok", map[string]any{"level": "INFO", "disk": "sda", "err": "none"}},
	}
	if !reflect.DeepEqual(sent, want) {
		t.Errorf("sent %+v\nwant %+v", sent, want)
	}
	if got, want := console.String(), `level=WARN msg=slow disk=sda erase.method=zeroout erase.bytes=5 erase.rate.now=1.5
level=INFO msg=ok disk=sda err=none level=mine
`; got != want {
		t.Errorf("console got\n%swant\n%s", got, want)
	}
}
