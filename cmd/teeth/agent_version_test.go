package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/internal/need"
	"github.com/teeth-metal/teeth/internal/testlog"
)

const installedHost = "77777777-2222-3333-4444-555555555555"

// buildAgent builds the agent as a version.
func buildAgent(t *testing.T, version, to string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-ldflags", "-X main.version="+version, "-o", to, "../teeth-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// A version is made, signed and published with the commands an operator has; an agent
// on an installed host, told so by a command, fetches, verifies and tests it, becomes
// it, and stays it. Files that somebody else signed do not get that far.
func TestAgentVersion(t *testing.T) {
	need.Time(t, "builds the agent")
	dir := t.TempDir()
	groups := filepath.Join(dir, "groups.yml")
	logs := filepath.Join(dir, "host.log")
	if err := os.WriteFile(groups, []byte("groups: [{id: hosts, key: sesame-2, services: [{service: agent, type: file, destination: "+logs+", default: true}]}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	bootDir := t.TempDir()
	info := serveConfig(t, controlplane.Config{DataDir: filepath.Join(dir, "data"), BootDir: bootDir, Minion: controlplane.MinionConfig{Groups: groups}})
	run := commands(t)

	release := filepath.Join(dir, "release")
	key, _ := strings.CutPrefix(strings.TrimSpace(run(0, "agent-version", "keygen", release)), "upgrade_key: ")
	run(1, "agent-version", "keygen", release) // a key is not written over
	newer := filepath.Join(bootDir, "teeth-agent-"+runtime.GOARCH+"-1.1.0")
	buildAgent(t, "1.1.0", newer)
	version := []string{"--version", "1.1.0", newer}
	run(2, append([]string{"agent-version", "add", "--key", release + ".pub"}, version...)...) // not signed yet
	for _, do := range [][]string{{"sign", "--key", release + ".key"}, {"add", "--key", release + ".pub"}} {
		if out := run(2, append(append([]string{"agent-version"}, do...), "--version", "1.1.0", "--arch", "s390x", newer)...); !strings.Contains(out, "--arch "+runtime.GOARCH) {
			t.Error(out)
		}
	}
	run(0, append([]string{"agent-version", "sign", "--key", release + ".key"}, version...)...)
	if out := run(1, "agent-version", "add", "--key", release+".pub", "--version", "1.2.0", newer); !strings.Contains(out, "signature is of version") {
		t.Error(out)
	}
	run(0, append([]string{"agent-version", "add", "--key", release + ".pub"}, version...)...)
	if out := run(1, append([]string{"agent-version", "add", "--key", release + ".pub"}, version...)...); !strings.Contains(out, "is there") {
		t.Error(out)
	}
	if out := run(0, "agent-version", "list"); !strings.Contains(out, "1.1.0") || !strings.Contains(out, "/boot/teeth-agent-") || !strings.Contains(out, "yes") {
		t.Error(out)
	}

	// The host.
	root := filepath.Join(dir, "opt")
	for _, d := range []string{"bin", "versions"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	buildAgent(t, "1.0.0", filepath.Join(root, "versions/teeth-agent-1.0.0"))
	link := filepath.Join(root, "bin/teeth-agent")
	if err := os.Symlink("../versions/teeth-agent-1.0.0", link); err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(info.Minion)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("server_id: %s\ngroup_id: hosts\ngroup_key: sesame-2\nstreamserver_host: %s\nstreamserver_port: %s\nca_sha256: %s\nspool: %s\nupgrade: http://%s/api/v1/minion\nupgrade_key: %s\n",
		installedHost, host, port, info.CASHA256, filepath.Join(dir, "spool"), info.Boot, key)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(link, "-t", "--config", config).CombinedOutput(); err != nil {
		t.Fatalf("-t: %v: %s", err, out)
	}
	var said testlog.Buffer
	agent := exec.Command(link, "-r", "--config", config)
	agent.Stdout, agent.Stderr = &said, &said
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() error {
		stopped = true
		if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		return agent.Wait()
	}
	t.Cleanup(func() {
		if !stopped {
			stop()
		}
		if t.Failed() {
			t.Logf("the agent: %s", said.String())
		}
	})
	var ask func(argv ...string) client.Run
	ask = func(argv ...string) client.Run {
		t.Helper()
		conf, err := client.Load(info.ClientFile)
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.New(conf)
		if err != nil {
			t.Fatal(err)
		}
		command, err := c.RunCommand(t.Context(), client.NewCommand{Servers: []string{installedHost}, Internal: true, Argv: argv})
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			r, err := c.Run(t.Context(), command.ID, installedHost)
			if err == nil && r.Final() {
				if strings.Contains(r.Stderr, "the agent is ending") { // the one that was just replaced
					return ask(argv...)
				}
				return r
			}
			if time.Now().After(deadline) {
				t.Fatalf("%v: %+v, %v", argv, r, err)
			}
		}
	}
	if r := ask("version"); !strings.Contains(r.Stdout, `"teeth-agent/1.0.0"`) {
		t.Fatalf("%+v", r)
	}
	pid := agent.Process.Pid
	if r := ask("upgrade"); !r.Succeeded() || !strings.Contains(r.Stdout, `"version":"1.1.0"`) {
		t.Fatalf("%+v", r)
	}
	if r := ask("version"); !strings.Contains(r.Stdout, `"teeth-agent/1.1.0"`) {
		t.Fatalf("%+v", r)
	}
	if target, err := os.Readlink(link); err != nil || target != "../versions/teeth-agent-1.1.0" {
		t.Error(target, err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(root, "versions/trial.json")); os.IsNotExist(err) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the trial goes on although the new version is connected")
		}
	}
	if agent.Process.Pid != pid || syscall.Kill(pid, 0) != nil {
		t.Error("it is another process")
	}
	if r := ask("upgrade"); r.Succeeded() || !strings.Contains(r.Stderr, "not newer") {
		t.Errorf("again: %+v", r)
	}

	// A file that was changed after it was signed.
	list := run(0, "agent-version", "list", "-o", "json")
	if !strings.Contains(list, `"id": 1`) {
		t.Fatal(list)
	}
	run(0, "agent-version", "remove", "1")
	run(3, "agent-version", "remove", "1")
	if r := ask("upgrade"); r.Succeeded() || !strings.Contains(r.Stderr, "no such version") {
		t.Errorf("%+v", r)
	}
	other := filepath.Join(dir, "other")
	run(0, "agent-version", "keygen", other)
	evil := filepath.Join(bootDir, "teeth-agent-evil")
	if err := os.WriteFile(evil, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	run(0, "agent-version", "sign", "--key", other+".key", "--version", "9.0.0", evil)
	run(0, "agent-version", "add", "--key", other+".pub", "--version", "9.0.0", evil)
	if r := ask("upgrade"); r.Succeeded() || !strings.Contains(r.Stderr, "is signed by key") {
		t.Errorf("%+v", r)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(logs)
	if err != nil || !strings.Contains(string(b), "agent ends") || !strings.Contains(string(b), "is kept") {
		t.Errorf("%s, %v", b, err)
	}
}
