// Package settings has the part of the servers' configuration that operators
// change while they run. It is kept in the store, so that it holds for all servers
// of an estate, and takes effect on each of them within seconds.
package settings

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// Errors that calls of this package wrap.
var (
	ErrUnknown = errors.New("unknown setting")
	ErrInvalid = errors.New("invalid value")
)

// reload is how often a server looks for what others have set.
const reload = 2 * time.Second

// Values are all settings. Its JSON keys are their names.
type Values struct {
	// LogLevel is from which level on the servers log: silly, debug, info, notice,
	// warning, error, alert, emerg.
	LogLevel string `json:"log.level"`
	// LogToBus has what is logged published on the bus as well.
	LogToBus bool `json:"log.bus"`
	// KernelArgs are further kernel parameters of chassis that boot the ramdisk,
	// after those of the server's command line.
	KernelArgs string `json:"boot.kernel_args"`
	// ExternalEvents has events published in RackHD's external format 1.0, too.
	ExternalEvents bool `json:"events.external"`
	// HTTPEvents has an event published for each file that a chassis fetches.
	HTTPEvents bool `json:"events.http"`
	// HeartbeatSeconds is how often a server says on the bus that it lives.
	HeartbeatSeconds int `json:"events.heartbeat_seconds"`
	// Severities of external events: information, warning, critical.
	SeverityGraphFailed  string `json:"events.severity.graph_failed"`
	SeverityInaccessible string `json:"events.severity.node_inaccessible"`
	// TokenlessNodes lets RackHD's own ramdisks, which can show no token, fetch and
	// report commands from the address that their chassis has a lease of.
	TokenlessNodes bool `json:"rackhd.tokenless_nodes"`
}

// Default returns the settings that nobody has changed.
func Default() Values {
	return Values{
		LogLevel: "info", LogToBus: true,
		ExternalEvents: true, HTTPEvents: true, HeartbeatSeconds: 10,
		SeverityGraphFailed: "information", SeverityInaccessible: "information",
	}
}

// Levels are the names of log levels, and what they are here, the loudest last.
var levels = []struct {
	name  string
	level slog.Level
}{
	{"silly", slog.LevelDebug - 4}, {"debug", slog.LevelDebug}, {"info", slog.LevelInfo}, {"notice", slog.LevelInfo + 2},
	{"warning", slog.LevelWarn}, {"error", slog.LevelError}, {"alert", slog.LevelError + 4}, {"emerg", slog.LevelError + 8},
}

// Level returns the level that a name stands for; Info for an unknown one.
func Level(name string) slog.Level {
	for _, l := range levels {
		if l.name == name {
			return l.level
		}
	}
	return slog.LevelInfo
}

var severities = []string{"information", "warning", "critical"}

func (v Values) check() error {
	var names []string
	for _, l := range levels {
		names = append(names, l.name)
	}
	for _, c := range []struct {
		key, value string
		want       []string
	}{
		{"log.level", v.LogLevel, names},
		{"events.severity.graph_failed", v.SeverityGraphFailed, severities},
		{"events.severity.node_inaccessible", v.SeverityInaccessible, severities},
	} {
		if !slices.Contains(c.want, c.value) {
			return fmt.Errorf("%w: %s: %.40q: want one of %s", ErrInvalid, c.key, c.value, strings.Join(c.want, ", "))
		}
	}
	if v.HeartbeatSeconds < 1 || v.HeartbeatSeconds > 3600 {
		return fmt.Errorf("%w: events.heartbeat_seconds: %d: want 1 to 3600", ErrInvalid, v.HeartbeatSeconds)
	}
	if len(v.KernelArgs) > 1024 || strings.ContainsFunc(v.KernelArgs, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune("$`\"'\\{};&|<>", r) }) {
		return fmt.Errorf("%w: boot.kernel_args: want at most 1024 printable ASCII characters without $ ` \" ' \\ { } ; & | < >", ErrInvalid)
	}
	return nil
}

// with returns the settings with one changed; a nil value means its default.
func (v Values) with(key string, value json.RawMessage) (Values, error) {
	all, err := v.all()
	if err != nil {
		return v, err
	}
	if _, ok := all[key]; !ok {
		var names []string
		for name := range all {
			names = append(names, name)
		}
		slices.Sort(names)
		return v, fmt.Errorf("%w %.80q: there are %s", ErrUnknown, key, strings.Join(names, ", "))
	}
	if value == nil {
		defaults, err := Default().all()
		if err != nil {
			return v, err
		}
		value = defaults[key]
	}
	if string(bytes.TrimSpace(value)) == "null" {
		return v, fmt.Errorf("%w: %s: null", ErrInvalid, key)
	}
	one, err := json.Marshal(map[string]json.RawMessage{key: value})
	if err != nil {
		return v, fmt.Errorf("%w: %s: %w", ErrInvalid, key, err)
	}
	if err := json.Unmarshal(one, &v); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return v, fmt.Errorf("%w: %s: a JSON %s: want %s", ErrInvalid, key, wrong.Value, wrong.Type)
		}
		return v, fmt.Errorf("%w: %s: %w", ErrInvalid, key, err)
	}
	return v, v.check()
}

func (v Values) all() (map[string]json.RawMessage, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	return all, json.Unmarshal(b, &all)
}

// Live is the settings of a running server. It is safe for concurrent use.
type Live struct {
	store  *store.Store
	log    *slog.Logger
	now    atomic.Pointer[Values]
	mu     sync.Mutex // one refresh at a time
	change func(Values)
}

// Open reads the settings. change, unless nil, is called with them now and
// whenever they have changed, by one goroutine at a time; it may not block.
func Open(ctx context.Context, s *store.Store, log *slog.Logger, change func(Values)) (*Live, error) {
	if change == nil {
		change = func(Values) {}
	}
	l := &Live{store: s, log: log, change: change}
	v, err := l.read(ctx)
	if err != nil {
		return nil, err
	}
	l.now.Store(&v)
	change(v)
	return l, nil
}

// read starts from the defaults. What an older or newer program has stored and
// this one does not take is reported and passed over.
func (l *Live) read(ctx context.Context) (Values, error) {
	set, err := l.store.Settings(ctx)
	v := Default()
	if err != nil {
		return v, err
	}
	for _, s := range set {
		next, err := v.with(s.Key, s.Value)
		if err != nil {
			l.log.Debug("a stored setting is not used", "error", err)
			continue
		}
		v = next
	}
	return v, nil
}

// Run keeps up with what is set, here or on other servers, until ctx ends.
func (l *Live) Run(ctx context.Context) error {
	tick := time.NewTicker(reload)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := l.refresh(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn("cannot read the settings", "error", err)
		}
	}
}

func (l *Live) refresh(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, err := l.read(ctx)
	if err == nil && v != *l.now.Load() {
		l.now.Store(&v)
		l.change(v)
	}
	return err
}

// Values returns the settings as they are.
func (l *Live) Values() Values { return *l.now.Load() }

// Get returns one setting, or all with key "".
func (l *Live) Get(key string) (any, error) {
	all, err := l.Values().all()
	if err != nil || key == "" {
		return all, err
	}
	value, ok := all[key]
	if !ok {
		_, err := l.Values().with(key, nil)
		return nil, err
	}
	return value, nil
}

// Set checks and stores one setting; a nil value returns it to its default. It
// takes effect on this server at once, on others within 2 s.
func (l *Live) Set(ctx context.Context, key string, value json.RawMessage, by string) error {
	if _, err := l.Values().with(key, value); err != nil {
		return err
	}
	if err := l.store.Set(ctx, key, value, by); err != nil {
		return err
	}
	return l.refresh(ctx)
}
