package settings

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
)

func open(t *testing.T) (*store.Store, *slog.Logger) {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, slog.New(slog.NewTextHandler(io.Discard, nil))
}

func TestSet(t *testing.T) {
	s, log := open(t)
	var told []Values
	l, err := Open(t.Context(), s, log, func(v Values) { told = append(told, v) })
	if err != nil {
		t.Fatal(err)
	}
	if err := Default().check(); err != nil {
		t.Fatalf("the defaults are not valid: %v", err)
	}
	for _, c := range []struct {
		key, value string
		is         error
		says       string
	}{
		{"log.level", `"debug"`, nil, ""},
		{"log.level", `"loud"`, ErrInvalid, "want one of silly, debug"},
		{"log.level", `3`, ErrInvalid, "want string"},
		{"log.level", `null`, ErrInvalid, "null"},
		{"log.bus", `"yes"`, ErrInvalid, "want bool"},
		{"log.leveL", `"debug"`, ErrUnknown, "there are boot.kernel_args"},
		{"events.heartbeat_seconds", `0`, ErrInvalid, "1 to 3600"},
		{"events.heartbeat_seconds", `1.5`, ErrInvalid, "want int"},
		{"events.heartbeat_seconds", `60`, nil, ""},
		{"boot.kernel_args", `"quiet\nkernel http://elsewhere"`, ErrInvalid, "printable"},
		{"boot.kernel_args", `"console=ttyS1"`, nil, ""},
		{"events.severity.node_inaccessible", `"bad"`, ErrInvalid, "critical"},
		{"", `1`, ErrUnknown, ""},
		{"log.level", `{`, ErrInvalid, ""},
	} {
		err := l.Set(t.Context(), c.key, json.RawMessage(c.value), "test")
		if !errors.Is(err, c.is) || c.is != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("set %s to %s: %v, want %v with %q", c.key, c.value, err, c.is, c.says)
		}
	}
	want := Default()
	want.LogLevel, want.HeartbeatSeconds, want.KernelArgs = "debug", 60, "console=ttyS1"
	if l.Values() != want || told[len(told)-1] != want {
		t.Errorf("after setting: %+v", l.Values())
	}
	if err := l.Set(t.Context(), "log.level", nil, "test"); err != nil {
		t.Fatal(err)
	}
	if v, err := l.Get("log.level"); err != nil || string(v.(json.RawMessage)) != `"info"` {
		t.Errorf("back to the default: %s %v", v, err)
	}
	if _, err := l.Get("nonsense"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	set, err := s.Settings(t.Context())
	if err != nil || len(set) != 2 || set[0].Key != "boot.kernel_args" || set[0].By != "test" {
		t.Errorf("stored: %+v %v", set, err)
	}
}

// TestOtherServer sees what another server of the estate has set, and is not
// troubled by what another version has.
func TestOtherServer(t *testing.T) {
	s, log := open(t)
	changed := make(chan Values, 10)
	l, err := Open(t.Context(), s, log, func(v Values) { changed <- v })
	if err != nil {
		t.Fatal(err)
	}
	<-changed
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	for key, value := range map[string]string{"of.the.future": `1`, "log.level": `"warning"`, "events.heartbeat_seconds": `-1`} {
		if err := s.Set(t.Context(), key, json.RawMessage(value), "other"); err != nil {
			t.Fatal(err)
		}
	}
	for {
		select {
		case v := <-changed:
			if v.LogLevel != "warning" {
				continue
			}
			if v.HeartbeatSeconds != 10 || Level(v.LogLevel) != slog.LevelWarn {
				t.Errorf("%+v", v)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("what another server has set is not seen")
		}
		break
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func FuzzWith(f *testing.F) {
	f.Add("log.level", `"debug"`)
	f.Add("events.heartbeat_seconds", `1e3`)
	f.Fuzz(func(t *testing.T, key, value string) {
		v, err := Default().with(key, json.RawMessage(value))
		if err == nil && v.check() != nil {
			t.Fatalf("%s=%s makes invalid settings", key, value)
		}
	})
}

func TestList(t *testing.T) {
	s, log := open(t)
	l, err := Open(t.Context(), s, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	// As another server would, or one of another version.
	for key, value := range map[string]string{"log.level": `"debug"`, "events.heartbeat_seconds": `-1`, "of.the.future": `1`} {
		if err := s.Set(t.Context(), key, json.RawMessage(value), "ann"); err != nil {
			t.Fatal(err)
		}
	}
	list, err := l.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := Default().all()
	if err != nil || len(list) != len(defaults) || len(about) != len(defaults) {
		t.Fatalf("%d of %d settings, %d are described: %v", len(list), len(defaults), len(about), err)
	}
	for i, one := range list {
		if i > 0 && list[i-1].Key >= one.Key || one.About == "" || string(one.Default) != string(defaults[one.Key]) {
			t.Errorf("%+v", one)
		}
		want := string(one.Default)
		if one.Key == "log.level" {
			want = `"debug"`
		}
		if string(one.Value) != want || (one.Key == "log.level") != (one.By == "ann" && one.Changed != nil) {
			t.Errorf("%s is %s by %q, want %s", one.Key, one.Value, one.By, want)
		}
	}
	if one, err := l.One(t.Context(), "log.level"); err != nil || string(one.Value) != `"debug"` {
		t.Errorf("%+v %v", one, err)
	}
	if _, err := l.One(t.Context(), "log.leveL"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "there are") {
		t.Error(err)
	}
}
