package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/agent/host"
	"github.com/teeth-metal/teeth/controlplane"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// After hand-off the agent of the installed system, with what agent-config has written,
// goes on under the chassis' id: its lines are the chassis' log, and a command that was
// given for the chassis is carried out. Only an admin gets it, and that is audited.
func TestAgentConfig(t *testing.T) {
	dir := t.TempDir()
	ids := map[string]string{}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), filepath.Join(data, "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	for serial, mac := range map[string]string{"SN1": "02:00:00:00:00:01", "SN2": "02:00:00:00:00:02"} {
		c, err := db.Connect(t.Context(), store.Session{ID: serial, Handshake: teeth.Handshake{ID: mac, MACs: []string{mac}, Serial: serial, BootID: "b", Version: "1"}, Endpoint: "127.0.0.1", Secure: true})
		if err != nil {
			t.Fatal(err)
		}
		ids[serial] = c.ID
	}
	if err := db.Approve(t.Context(), ids["SN1"], "ann"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	serveConfig(t, controlplane.Config{DataDir: data, BootDir: dir})
	run := commands(t)

	operator := filepath.Join(dir, "ann.json")
	run(0, "user", "add", "ann", "--role", "operator")
	run(0, "token", "create", "laptop", "--user", "ann", "--role", "operator", "--client-file", operator)
	if out := run(1, "chassis", "agent-config", "SN1", "--client", operator); !strings.Contains(out, "needs the role admin") || strings.Contains(out, "group_key") {
		t.Error(out)
	}
	if out := run(1, "chassis", "agent-config", "SN2"); !strings.Contains(out, "not approved") {
		t.Error(out)
	}
	run(3, "chassis", "agent-config", "SN3")
	shown := run(0, "chassis", "agent-config", "SN1")
	path := filepath.Join(dir, "config.yml")
	run(0, "chassis", "agent-config", "SN1", "--file", path)
	b, err := os.ReadFile(path)
	if st, serr := os.Stat(path); err != nil || serr != nil || string(b) != shown || st.Mode().Perm() != 0o600 {
		t.Errorf("%s, %v, %v", b, err, serr)
	}
	run(1, "chassis", "agent-config", "SN1", "--file", path) // what is there is not written over
	if out := run(0, "audit"); strings.Count(out, "/v1/chassis/SN1/agent-config") < 3 || !strings.Contains(out, "403") {
		t.Errorf("not audited: %s", out)
	}

	// Its log and its spool are in the test's folder.
	if err := os.WriteFile(path, append(b, "spool: "+filepath.Join(dir, "spool")+"\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := host.Run(t.Context(), "teeth-agent/1.0.0", []string{"-t", "--config", path}, t.Output(), t.Output()); code != 0 {
		t.Fatal("-t", code)
	}
	run(0, "command", "run", "SN1", "--", "echo", "for the installed system")
	working, stop := context.WithCancel(context.Background())
	left := make(chan int, 1)
	go func() {
		left <- host.Run(working, "teeth-agent/1.0.0", []string{"-r", "--config", path}, t.Output(), t.Output())
	}()
	until := func(what string, ask ...string) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			out := run(0, ask...)
			if strings.Contains(out, what) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("teeth %v has no %q: %s", ask, what, out)
			}
		}
	}
	until("agent starts", "log", "SN1")
	until("command ended", "log", "SN1")
	if out := run(0, "command", "run", "SN1", "--wait", "--", "echo", "now"); !strings.Contains(out, "now") {
		t.Error(out)
	}

	// Another chassis' id does not go with this key, also once that is approved.
	run(0, "chassis", "approve", "SN2")
	forged := filepath.Join(dir, "forged.yml")
	if err := os.WriteFile(forged, []byte(strings.ReplaceAll(string(b), ids["SN1"], ids["SN2"])), 0o600); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	if code := host.Run(t.Context(), "teeth-agent/1.0.0", []string{"-t", "--config", forged}, t.Output(), &said); code != 1 || !strings.Contains(said.String(), "denies access") {
		t.Errorf("%d: %s", code, said.String())
	}
	stop()
	if code := <-left; code != 0 {
		t.Error("it ends with", code)
	}
	until("agent ends", "log", "SN1")
}
