package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/agent/rackhd"
	"github.com/teeth-metal/teeth/agent/session"
	"github.com/teeth-metal/teeth/agent/task"
	"github.com/teeth-metal/teeth/controlplane"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// polled is an agent's session and its loop of commands, without the machine.
type polled struct{ capability atomic.Pointer[string] }

func (p *polled) Handle(_ context.Context, method string, _ json.RawMessage) (any, error) {
	if method != teeth.MethodStatus {
		return nil, session.ErrUnknownMethod
	}
	return teeth.Status{BootID: "1", Mode: "ramdisk", Inventory: json.RawMessage(`{"disks":[]}`)}, nil
}

// poll is what a chassis with teeth.rackhd= does, until the test ends.
func poll(t *testing.T, info controlplane.Info) {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(filepath.Dir(info.ClientFile), "enrol.token"))
	if err != nil {
		t.Fatal(err)
	}
	p, log := &polled{}, slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(context.Background())
	tasks := task.NewManager(ctx, func(teeth.TaskStatus) {}, log)
	s, err := session.New(session.Config{
		Endpoints: []string{info.Agents}, CASHA256: info.CASHA256, Handler: p, Log: log,
		Welcomed: func(r teeth.HandshakeResult) { p.capability.Store(&r.NodeCapability) },
		Handshake: func() teeth.Handshake {
			return teeth.Handshake{ID: "52:54:00:00:00:01", Version: "test", Serial: "SN1", BootID: "1", Token: strings.TrimSpace(string(token))}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	n, err := rackhd.New(rackhd.Config{
		URL: "http://" + info.Boot, MAC: "52:54:00:00:00:01", Hold: tasks.Hold, Leave: func(int) {}, Log: log,
		Dir: t.TempDir(), Pause: 50 * time.Millisecond,
		Capability: func() string {
			if c := p.capability.Load(); c != nil {
				return *c
			}
			return ""
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() { done <- s.Run(ctx) }()
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		tasks.Wait()
	})
}

// TestShellCommands goes from an operator's command to a shell on the chassis and
// back, through all that a real one would but for the machine.
func TestShellCommands(t *testing.T) {
	info := serve(t)
	poll(t, info)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if out, _, _ := teethCommand(t, "chassis", "list"); strings.Contains(out, "ready") {
			break
		} else if time.Now().After(end) {
			t.Fatalf("no chassis is ready:\n%s", out)
		}
	}
	run := func(option string) (client.Graph, int) {
		t.Helper()
		out, errs, code := teethCommand(t, "graph", "run", "Graph.ShellCommands", "SN1", "--wait", "-o", "json", "--option", "commands="+option)
		var g client.Graph
		if err := json.Unmarshal([]byte(out), &g); err != nil {
			t.Fatalf("%v: %s %s", err, out, errs)
		}
		return g, code
	}
	g, code := run(`["","echo hello",{"command":"echo '{\"blockdevices\":[]}'","catalog":{"source":"lsblk","format":"json"}},{"command":"printf 'a\\tb\\033\\n'","catalog":{"source":"notes"}}]`)
	if code != 0 || g.State != "succeeded" || !strings.Contains(string(g.Tasks[0].Result), `"hello\n"`) {
		t.Errorf("%d: %s %+v", code, g.State, g.Tasks)
	}
	g, code = run(`["true","exit 7","touch /never"]`)
	if code != 1 || g.State != "failed" || !strings.Contains(g.Tasks[0].Msg, `Encountered a failure running remote commands: "exit 7": exit code 7`) {
		t.Errorf("%d: %s %+v", code, g.State, g.Tasks)
	}
	for _, tt := range []struct {
		args, says string
		code       int
	}{
		{"catalog list SN1", "lsblk", 0},
		{"catalog show SN1 lsblk", "{\"blockdevices\":[]}\n", 0},
		{"catalog show SN1 notes", "a\tb\n", 0},
		{"catalog show SN1 notes -o json", `"data": "a\tb\u001b\n"`, 0},
		{"catalog show SN1 none", "none", 3},
		{"catalog list nowhere", "nowhere", 3},
		{"graph run Graph.ShellCommands SN1 --option commands=5", "list of texts", 2},
	} {
		out, errs, code := teethCommand(t, strings.Fields(tt.args)...)
		if code != tt.code || !strings.Contains(out+errs, tt.says) {
			t.Errorf("teeth %s: %d %q %q", tt.args, code, out, errs)
		}
	}
	resp, err := http.Get("http://" + info.Boot + "/api/current/tasks/bootstrap.js?macAddress=52:54:00:00:00:01")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); resp.StatusCode != http.StatusForbidden || err != nil {
		t.Errorf("whoever knows the MAC address gets %d %s", resp.StatusCode, b)
	}
}
