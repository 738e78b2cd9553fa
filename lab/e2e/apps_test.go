package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/app/apptest"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/lab/estate"
	"github.com/teeth-metal/teeth/lab/netns"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// worker is a chassis in the ramdisk that is given apps and commands.
type worker struct {
	*estate.ControlPlane
	network *netns.Net
	chassis *lab.Chassis
	web     http.Client    // in the chassis' network
	at      string         // the chassis' address
	version string         // of its agent
	files   *http.ServeMux // on the network's address, port 9000
}

// TestAppsAndLogs gives one chassis apps while its disk is erased, commands, and an
// operating system, and has its logs throughout.
func TestAppsAndLogs(t *testing.T) {
	t.Parallel()
	w := &worker{network: network(t), files: http.NewServeMux()}
	w.ControlPlane = controlWith(t, estate.Options{Network: w.network, Flags: append([]string{"--auto-approve", "all"}, ownServers...)})
	w.serveFiles(t)
	w.chassis = power(t, direct(lab.Spec{
		Name: "worker", Dir: t.TempDir(), Network: w.network.Name, Memory: 768 << 20, Disks: []lab.Disk{{Bus: "nvme", Size: 3 * gib}},
	}, ""))
	ch := booted(t, w.ControlPlane, "LAB-WORKER", inspected)
	w.at, w.version = ch.Address, ch.Version
	for _, step := range []struct {
		name string
		run  func(*testing.T, *worker)
	}{
		{"Apps", apps},
		{"Commands", commands},
		{"Logs", logs},
	} {
		t.Run(step.name, func(t *testing.T) { step.run(t, w) })
	}
}

// serveFiles starts a server of packages, and the client that reads apps' pages.
func (w *worker) serveFiles(t *testing.T) {
	t.Helper()
	var l net.Listener
	if err := w.network.Do(func() (err error) { l, err = net.Listen("tcp", "192.0.2.1:9000"); return err }); err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: w.files}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	w.web = http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			if e := w.network.Do(func() error { conn, err = net.Dial(network, address); return nil }); e != nil {
				return nil, e
			}
			return conn, err
		},
	}}
}

// publish serves a package and returns its URL.
func (w *worker) publish(name string, b []byte) string {
	w.files.HandleFunc("GET /"+name, func(rw http.ResponseWriter, r *http.Request) {
		http.ServeContent(rw, r, "", time.Time{}, bytes.NewReader(b))
	})
	return "http://192.0.2.1:9000/" + name
}

// page is what an app on the chassis serves, or why nobody answers.
func (w *worker) page(port int) (string, error) {
	resp, err := w.web.Get(fmt.Sprintf("http://%s:%d/", w.at, port))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// shows waits until an app's page is what it should be; "" means that nobody serves it.
func (w *worker) shows(t *testing.T, port int, want string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		got, err := w.page(port)
		if got == want && (err != nil) == (want == "") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("port %d shows %q (%v), want %q", port, got, err, want)
		}
	}
}

// webApp are the files of a package with the web server in it.
func webApp(t *testing.T, version string, port int) apptest.Files {
	t.Helper()
	program := filepath.Join(t.TempDir(), "web")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", program, "./testdata/web")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return apptest.Files{
		"usr/bin/web": b,
		"teeth-app.yaml": fmt.Appendf(nil, "services:\n  web:\n    command: [/usr/bin/web, --listen, \":%d\", --config, /etc/web.ini]\n"+
			"config: {path: /etc/web.ini, format: ini}\nlimits: {memory: 64MiB, pids: 32}\n", port),
	}
}

// apps are a .deb and an .rpm that are installed, configured anew, upgraded, stopped
// and removed, while a disk is erased.
func apps(t *testing.T, w *worker) {
	w.erased(t, func(still func()) {
		for _, kind := range []struct {
			app   string
			port  int
			file  func(version string) string
			build func(f apptest.Files, version string) []byte
		}{
			{"web", 8000, func(v string) string { return "web_" + v + "_amd64.deb" }, func(f apptest.Files, v string) []byte { return f.Deb(t, "web", v) }},
			{"webr", 8001, func(v string) string { return "webr-" + v + "-1.x86_64.rpm" }, func(f apptest.Files, v string) []byte { return f.RPM(t, "webr", v) }},
		} {
			set := func(args ...string) {
				t.Helper()
				must(t, w.ControlPlane, append(append([]string{"app", "set", "LAB-WORKER", kind.app}, args...), "--wait", "--timeout", "2m")...)
			}
			shows := func(want string) {
				t.Helper()
				w.shows(t, kind.port, want)
			}
			url := func(version string) string {
				return w.publish(kind.file(version), kind.build(webApp(t, version, kind.port), version))
			}
			set("--url", url("1.0"), "--config", "page.greeting=hello", "--running")
			shows("1.0: hello")
			set("--config", "page.greeting=good day")
			shows("1.0: good day")
			if kind.app == "web" { // all of this, at least, was beside the erasure
				still()
			}
			set("--url", url("2.0"))
			shows("2.0: good day")
			set("--stopped")
			shows("")
			set("--running")
			shows("2.0: good day")
			out := must(t, w.ControlPlane, "app", "status", "LAB-WORKER")
			expect(t, out, kind.app, "2.0", "ok")
		}
		must(t, w.ControlPlane, "app", "remove", "LAB-WORKER", "web", "--wait", "--timeout", "2m")
		w.shows(t, 8000, "")
		w.shows(t, 8001, "2.0: good day")
		must(t, w.ControlPlane, "app", "remove", "LAB-WORKER", "webr", "--wait", "--timeout", "2m")
	})
}

// erased does something while the chassis' disk is erased, and sees that the erasure
// neither stopped nor failed for it; still checks that it goes on.
func (w *worker) erased(t *testing.T, meanwhile func(still func())) {
	t.Helper()
	fill(t, w.chassis.Spec.DiskPath(0), w.chassis.Spec.Disks[0].Size)
	run, err := w.Decommission(t.Context(), "LAB-WORKER", client.Decommission{Method: "overwrite"})
	if err != nil {
		t.Fatal(err)
	}
	erase := func() client.Task {
		t.Helper()
		g, err := w.Graph(t.Context(), run.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range g.Tasks {
			if task.Method == teeth.MethodDiskErase {
				return task
			}
		}
		t.Fatalf("no erasure in %+v", g)
		panic("unreachable")
	}
	ctx := within(t, time.Minute)
	for erase().Percent == 0 {
		select {
		case <-ctx.Done():
			t.Fatalf("the erasure does not begin: %+v", erase())
		case <-time.After(50 * time.Millisecond):
		}
	}
	before := erase()
	meanwhile(func() {
		if now := erase(); now.State != "running" {
			t.Errorf("the erasure is %s already (%s)", now.State, now.Msg)
		}
	})
	if after := erase(); after.ID != before.ID || after.Percent <= before.Percent {
		t.Errorf("the erasure was at %v %% and is at %v %% (%s)", before.Percent, after.Percent, after.State)
	} else {
		t.Logf("the erasure went from %.0f to %.0f %% (%s) meanwhile", before.Percent, after.Percent, after.State)
	}
	end, err := w.Follow(within(t, 8*time.Minute), run.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	allErased(t, end.Tasks[0], w.chassis.Spec.Disks)
	if off, err := lab.NonZero(w.chassis.Spec.DiskPath(0)); err != nil || off >= 0 {
		t.Errorf("the disk holds data at byte %d (%v)", off, err)
	}
}

// commands run on the chassis: output, exit code, a command that is not there.
func commands(t *testing.T, w *worker) {
	out := must(t, w.ControlPlane, "command", "run", "LAB-WORKER", "--wait", "--", "/init", "-v")
	if "teeth-agent/"+strings.TrimSpace(out) != w.version {
		t.Errorf("the agent of version %s says %q", w.version, out)
	}
	out, err := teethCommand(within(t, time.Minute), w.ControlPlane, "command", "run", "LAB-WORKER", "--wait", "--", "/init", "--no-such-flag")
	if err == nil {
		t.Errorf("a command that fails ends well: %s", out)
	}
	expect(t, out, "no-such-flag", "exit code 2")
	if out, err = teethCommand(within(t, time.Minute), w.ControlPlane, "command", "run", "LAB-WORKER", "--wait", "--", "/bin/nothing"); err == nil {
		t.Errorf("a command that is not there ends well: %s", out)
	}
}

// logs are followed while the chassis is provisioned; the last lines are those
// before the kernel of the installed system took over.
func logs(t *testing.T, w *worker) {
	expect(t, must(t, w.ControlPlane, "log", "LAB-WORKER", "--grep", "web 2.0"), "good day")
	if out := must(t, w.ControlPlane, "log", "LAB-WORKER", "--grep", "nobody ever says this"); strings.Contains(out, "says") {
		t.Errorf("found what nobody says: %s", out)
	}
	since := time.Now()
	must(t, w.ControlPlane, "image", "add", osImage.Path, "--name", "debian")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	file := filepath.Join(t.TempDir(), "followed")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	follow := exec.CommandContext(ctx, binary, "log", "LAB-WORKER", "--follow", "--since", "10s")
	follow.Env = append(os.Environ(), "TEETH_CLIENT="+filepath.Join(w.Dir, "data", "client.json"))
	follow.Stdout, follow.Stderr = f, f
	follow.Cancel = func() error { return follow.Process.Signal(os.Interrupt) }
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	before := int64(len(serialLog(t, w.chassis)))
	options, err := json.Marshal(map[string]any{"defaults": map[string]any{
		"image": "debian", "hostname": "e2e-host", "ssh_keys": []string{sshKey}, "root_device": map[string]string{"transport": "nvme"}, "boot": "kexec",
	}})
	if err != nil {
		t.Fatal(err)
	}
	must(t, w.ControlPlane, "graph", "run", "Graph.Provision", "LAB-WORKER", "--options", optionsFile(t, options), "--wait")
	if _, err := w.chassis.ExpectSerial(ctx, before, "Linux version"); err != nil { // the installed one
		t.Fatal(err)
	}
	const last = "leaving this ramdisk by=kexec"
	for text := ""; !strings.Contains(text, last); time.Sleep(100 * time.Millisecond) {
		b, err := os.ReadFile(file)
		if text = string(b); err != nil || ctx.Err() != nil {
			t.Fatalf("the last line was not followed (%v):\n%s", err, text)
		}
	}
	cancel()
	follow.Wait()
	found := must(t, w.ControlPlane, "log", "LAB-WORKER", "--since", time.Since(since).Round(time.Second).String())
	expect(t, found, last)
	if strings.Contains(found, "good day") {
		t.Errorf("--since shows what was before:\n%s", found)
	}
}

func optionsFile(t *testing.T, b []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "options.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
