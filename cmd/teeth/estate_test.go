package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/client"
)

func TestServersAndSettings(t *testing.T) {
	info := serve(t)
	introduce(t, info, "SN-1")
	run := commands(t)
	var servers []client.Server
	if err := json.Unmarshal([]byte(run(0, "server", "list", "-o", "json")), &servers); err != nil || len(servers) != 1 ||
		!servers[0].Alive || servers[0].Version != "test" {
		t.Errorf("%+v %v", servers, err)
	}
	if out := run(0, "server", "list"); !strings.Contains(out, "alive") || !strings.Contains(out, servers[0].ID) {
		t.Error(out)
	}

	if out := run(0, "setting", "list"); !strings.Contains(out, "boot.kernel_args") || !strings.Contains(out, "further kernel parameters") {
		t.Error(out)
	}
	for _, c := range []struct {
		key, typed string
		code       int
		now        string
	}{
		{"log.level", "debug", 0, "debug"},
		{"log.level", "loud", 2, "debug"},
		{"boot.kernel_args", "7", 0, "7"}, // a text that looks like a number
		{"boot.kernel_args", "console=ttyS1 quiet", 0, "console=ttyS1 quiet"},
		{"events.heartbeat_seconds", "soon", 2, "10"},
		{"events.heartbeat_seconds", "0", 2, "10"},
		{"events.heartbeat_seconds", "null", 2, "10"},
		{"events.heartbeat_seconds", "60", 0, "60"},
		{"log.bus", "false", 0, "false"},
	} {
		run(c.code, "setting", "set", c.key, c.typed)
		if out := run(0, "setting", "get", c.key); strings.TrimSpace(out) != c.now {
			t.Errorf("%s after %s: %q, want %q", c.key, c.typed, out, c.now)
		}
	}
	run(3, "setting", "get", "log.loudness")
	run(3, "setting", "set", "log.loudness", "11")
	run(3, "setting", "reset", "log.loudness")
	if out := run(0, "setting", "reset", "log.level"); !strings.Contains(out, "info") || strings.Contains(out, "local-admin") {
		t.Error(out)
	}
	var all []client.Setting
	if err := json.Unmarshal([]byte(run(0, "setting", "list", "-o", "json")), &all); err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		changed := string(s.Value) != string(s.Default)
		if changed != (s.By == "local-admin") || changed != (s.Changed != nil) {
			t.Errorf("%+v", s)
		}
	}

	// Who is no admin may look, and no more; all of it is in the trail.
	file := filepath.Join(t.TempDir(), "ann.json")
	run(0, "user", "add", "ann", "--role", "operator")
	run(0, "token", "create", "x", "--user", "ann", "--role", "operator", "--client-file", file)
	run(0, "setting", "get", "log.bus", "--client", file)
	if out := run(1, "setting", "set", "log.bus", "true", "--client", file); !strings.Contains(out, "needs the role admin") {
		t.Error(out)
	}
	run(1, "setting", "reset", "log.bus", "--client", file)
	if out := run(0, "audit", "--limit", "0"); !strings.Contains(out, "PUT /v1/settings/log.bus") || !strings.Contains(out, "DELETE /v1/settings/log.level") {
		t.Error(out)
	}
	if out := run(0, "__complete", "setting", "set", "log.l"); !strings.Contains(out, "log.level") || strings.Contains(out, "log.bus") {
		t.Error(out)
	}
}
