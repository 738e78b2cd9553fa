package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/agent/minion"
	"github.com/teeth-metal/teeth/agent/minion/command"
	"github.com/teeth-metal/teeth/agent/minion/spool"
	"github.com/teeth-metal/teeth/agent/session"
	"github.com/teeth-metal/teeth/controlplane"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/internal/testlog"
	wire "github.com/teeth-metal/teeth/wire/minion"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// reporter is a chassis as far as its session and its records go.
type reporter struct {
	*minion.Client
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

// report runs what a chassis' agent does with a StreamServer, until stop or the end of
// the test.
func report(t *testing.T, info controlplane.Info, serial string) *reporter {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(filepath.Dir(info.ClientFile), "enrol.token"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	memory, err := spool.Open(spool.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	runner, err := command.New(command.Config{Internal: map[string]command.Func{"version": command.Version("test")}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	r := &reporter{}
	r.Client, err = minion.New(minion.Options{Spool: memory, Log: log, Orders: func(ctx context.Context, o wire.Order, from minion.Peer, answer func(wire.Result)) {
		runner.Run(ctx, o, command.Peer{Address: from.Address, Trusted: from.Trusted, Streams: from.Streams}, answer)
	}})
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig, err := session.TLSConfig(info.CASHA256)
	if err != nil {
		t.Fatal(err)
	}
	s, err := session.New(session.Config{
		Endpoints: []string{info.Agents}, CASHA256: info.CASHA256, Handler: &polled{}, Log: log,
		Welcomed: func(h teeth.HandshakeResult) {
			if m := h.Minion; m != nil {
				if err := r.SetTarget(minion.Target{Addresses: m.Addresses, TLS: tlsConfig, Group: m.Group, Server: m.ID, Key: m.Key}); err != nil {
					t.Error(err)
				}
			}
		},
		Handshake: func() teeth.Handshake {
			return teeth.Handshake{ID: "52:54:00:00:00:02", Version: "test", Serial: serial, BootID: "1", Token: strings.TrimSpace(string(token))}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.ended.Go(func() { s.Run(ctx) })
	r.ended.Go(func() { r.Run(ctx) })
	t.Cleanup(r.stop)
	return r
}

func (r *reporter) stop() {
	r.cancel()
	r.ended.Wait()
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what + ": it does not happen")
		}
	}
}

// TestLogsAndCommands goes from an operator's command line to a chassis' agent and back,
// through all that a real one would but for the machine.
func TestLogsAndCommands(t *testing.T) {
	info := serve(t)
	chassis := report(t, info, "SN1")
	until(t, "the chassis is known", func() bool {
		_, _, code := teethCommand(t, "chassis", "show", "SN1")
		return code == 0
	})
	var followed testlog.Buffer
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		root := rootCommand()
		root.SetArgs([]string{"log", "SN1", "--follow", "--text", "disk"})
		root.SetOut(&followed)
		root.ExecuteContext(ctx)
	})
	defer following.Wait()
	defer stop()
	chassis.Log("kernel", "disk sda: \x1b[31mfailed")
	chassis.Log("agent", "all is well")
	chassis.Log("agent", "disk sdb passed")
	if err := chassis.Telemetry("load_avg", "0.5", "0.4"); err != nil {
		t.Fatal(err)
	}
	until(t, "teeth log --follow shows lines", func() bool {
		return strings.Contains(followed.String(), "kernel: disk sda:  [31mfailed\n") && strings.Contains(followed.String(), "disk sdb passed")
	})
	stop()
	if strings.Contains(followed.String(), "well") {
		t.Errorf("what does not match is shown: %q", followed.String())
	}
	for _, tt := range []struct {
		args        []string
		out, errs   string
		code        int
		onlyContain bool
	}{
		{args: []string{"log", "SN1", "--grep", "sd[ab] passed", "-n", "5"}, out: "agent: disk sdb passed\n", onlyContain: true},
		{args: []string{"log", "SN1", "--since", "1h", "--service", "agent", "-o", "json"}, out: `"message":"all is well"`, onlyContain: true},
		{args: []string{"log", "--until", "1h"}},
		{args: []string{"log", "nowhere"}, errs: "nowhere", code: 3, onlyContain: true},
		{args: []string{"log", "SN1", "--since", "yesterday"}, errs: "write an age", code: 2, onlyContain: true},
		{args: []string{"log", "SN1", "--grep", "("}, errs: "regexp", code: 2, onlyContain: true},
		{args: []string{"telemetry", "SN1"}, out: "load_avg  0.5 0.4", onlyContain: true},
		{args: []string{"command", "run", "SN1", "--wait", "--", "printf", "a b\\nc"}, out: "a b\nc"},
		{args: []string{"command", "run", "SN1", "--wait", "--shell", "--env", "X=1", "--", "echo out; echo err >&2; exit $((X + 2))"}, out: "out\n", errs: "err\nteeth: exit code 3\n", code: 1},
		{args: []string{"command", "run", "SN1", "--wait", "--timeout", "200ms", "--", "sleep", "60"}, errs: "longer than it may", code: 1, onlyContain: true},
		{args: []string{"command", "run", "SN1", "--wait", "--", "no-such-program"}, errs: "no-such-program", code: 1, onlyContain: true},
		{args: []string{"command", "run", "--all", "--wait", "--internal", "-o", "json", "--", "version"}, out: `"state": "done"`, onlyContain: true},
		{args: []string{"command", "run", "SN1"}, errs: "no program given", code: 2, onlyContain: true},
		{args: []string{"command", "run", "--", "true"}, errs: "name chassis, or --all", code: 2, onlyContain: true},
		{args: []string{"command", "run", "nowhere", "--", "true"}, errs: "nowhere", code: 3, onlyContain: true},
		{args: []string{"command", "show", "nothing"}, errs: "nothing", code: 3, onlyContain: true},
		{args: []string{"command", "list", "--chassis", "SN1"}, out: "printf a b", onlyContain: true},
		{args: []string{"audit"}, out: "printf", onlyContain: true},
	} {
		out, errs, code := teethCommand(t, tt.args...)
		same := out == tt.out && errs == tt.errs
		if tt.onlyContain {
			same = strings.Contains(out, tt.out) && strings.Contains(errs, tt.errs)
		}
		if !same || code != tt.code {
			t.Errorf("teeth %q: %d\n%q\n%q", tt.args, code, out, errs)
		}
	}
	// A chassis that is away has its command when it comes, once.
	chassis.stop()
	run := func(want string) client.Command {
		t.Helper()
		out, errs, code := teethCommand(t, "command", "run", "SN1", "-o", "json", "--", "echo", want)
		var c client.Command
		if err := json.Unmarshal([]byte(out), &c); err != nil || code != 0 {
			t.Fatalf("%d %s %s %v", code, out, errs, err)
		}
		return c
	}
	later, never := run("later"), run("never")
	if out, _, code := teethCommand(t, "command", "cancel", never.ID); code != 0 || !strings.Contains(out, "1 cancelled") {
		t.Errorf("%d %s", code, out)
	}
	report(t, info, "SN1")
	until(t, "the command is sent", func() bool {
		out, _, _ := teethCommand(t, "command", "show", later.ID, "SN1")
		return out == "later\n"
	})
	if out, _, _ := teethCommand(t, "command", "show", never.ID); !strings.Contains(out, "cancelled") {
		t.Error(out)
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 3, 2, 15, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                     {},
		"90s":                  now.Add(-90 * time.Second),
		"1.5d":                 now.Add(-36 * time.Hour),
		"2026-01-31":           time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC),
		"2026-01-31T14:30":     time.Date(2026, 1, 31, 14, 30, 0, 0, time.UTC),
		"2026-01-31T14:30:00Z": time.Date(2026, 1, 31, 14, 30, 0, 0, time.UTC),
		"14:30":                time.Date(2026, 3, 2, 14, 30, 0, 0, time.UTC),
	} {
		if got, err := parseTime(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"-1h", "x", "d", "-2d", "25:00", "1e300d"} {
		if got, err := parseTime(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestPrefixer(t *testing.T) {
	var out bytes.Buffer
	p := &prefixer{w: &out, prefix: "web1: "}
	for _, s := range []string{"a", "b\nc\n\n", "", "d"} {
		if n, err := p.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := p.end(); err != nil || out.String() != "web1: ab\nweb1: c\nweb1: \nweb1: d\n" {
		t.Errorf("%q %v", out.String(), err)
	}
}
