package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// teethCommand runs the program with args and returns what it prints on both
// outputs, as main does, and the exit code.
func teethCommand(t *testing.T, args ...string) (out, errs string, code int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetIn(strings.NewReader(""))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := root.ExecuteContext(ctx)
	if err != nil {
		stderr.WriteString("teeth: " + err.Error() + "\n")
	}
	return stdout.String(), stderr.String(), exitCode(err)
}

// commands runs the program, of which each run must exit with want, and returns what
// it prints.
func commands(t *testing.T) func(want int, args ...string) string {
	return func(want int, args ...string) string {
		t.Helper()
		out, errs, code := teethCommand(t, args...)
		if code != want {
			t.Fatalf("teeth %s: %d, want %d: %s%s", strings.Join(args, " "), code, want, out, errs)
		}
		return out + errs
	}
}

// serve runs a control plane that approves every chassis until the test ends, and makes
// it the one that commands talk to.
func serve(t *testing.T) controlplane.Info {
	t.Helper()
	dir := t.TempDir()
	return serveConfig(t, controlplane.Config{
		DataDir: dir, BootDir: dir, InsecureAgents: "127.0.0.1:0",
		Enrolment: controlplane.EnrolmentConfig{AutoApprove: []store.Rule{{Kind: store.RuleAll}}},
	})
}

// serveConfig is serve with a Config, of which it sets the addresses.
func serveConfig(t *testing.T, c controlplane.Config) controlplane.Info {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan controlplane.Info, 1), make(chan error, 1)
	c.Version, c.Log = "test", slog.New(slog.DiscardHandler)
	c.Agents, c.API, c.Boot, c.Minion.Address = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	c.Ready = func(i controlplane.Info) { ready <- i }
	go func() { done <- controlplane.Serve(ctx, c) }()
	select {
	case info := <-ready:
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("control plane: %v", err)
			}
		})
		t.Setenv("TEETH_CLIENT", info.ClientFile)
		return info
	case err := <-done:
		cancel()
		t.Fatalf("control plane: %v", err)
	}
	panic("unreachable")
}

// introduce makes a chassis known.
func introduce(t *testing.T, info controlplane.Info, serial string) {
	t.Helper()
	conn, err := net.Dial("tcp", info.InsecureAgents)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m, err := teeth.NewCommand(teeth.NewID(), teeth.MethodHandshake, teeth.Handshake{ID: "52:54:00:00:00:01", Version: "test", Serial: serial, BootID: "1"})
	if err != nil {
		t.Fatal(err)
	}
	line, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(line); err != nil {
		t.Fatal(err)
	}
	// The answer comes when the chassis is in the store.
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestUsage(t *testing.T) {
	t.Setenv("TEETH_CLIENT", filepath.Join(t.TempDir(), "absent.json")) // never got to
	notImage := filepath.Join(t.TempDir(), "image.vhd")
	for _, tt := range []struct {
		args string
		says string
	}{
		{"", "teeth needs a command"},
		{"bogus", `unknown command "bogus" for "teeth"`},
		{"--bogus", "unknown flag: --bogus"},
		{"chassis", "teeth chassis needs a command"},
		{"chassis bogus", `unknown command "bogus" for "teeth chassis"`},
		{"chassis show", "usage: teeth chassis show CHASSIS"},
		{"chassis show a b", "accepts 1 arg(s), received 2"},
		{"chassis list a", "usage: teeth chassis list"},
		{"chassis list -o xml", "write table or json"},
		{"chassis list --output", "flag needs an argument"},
		{"chassis decommission x --spec /nonexistent/spec", "/nonexistent/spec"},
		{"chassis provision x", "--image is missing"},
		{"chassis provision x --image i --ssh-key /nonexistent/key", "/nonexistent/key"},
		{"chassis provision x --image i --user-data /nonexistent/data", "/nonexistent/data"},
		{"chassis provision x --image i --file /etc/motd", "write PATH=FILE"},
		{"chassis provision x --image i --wait=maybe", "invalid argument"},
		{"task show", "usage: teeth task show TASK"},
		{"task list --limit many", "invalid argument"},
		{"image add", "usage: teeth image add FILE|URL"},
		{"image add " + notImage, "its ending does not tell the format; give --format"},
		{"serve --insecure", "go together"},
		{"serve extra", "usage: teeth serve"},
		{"initramfs build -o yaml", "choose table or json"},
		{"lab up --disks floppy:1M", "floppy"},
		{"lab up --memory much", "much"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			out, errs, code := teethCommand(t, strings.Fields(tt.args)...)
			if code != 2 || !strings.Contains(errs, tt.says) || out != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q; want 2 and %q", code, out, errs, tt.says)
			}
		})
	}
}

func TestHelpListsVerbs(t *testing.T) {
	for args, verbs := range map[string]string{
		"--help":           "serve chassis task image initramfs lab",
		"chassis --help":   "list show watch decommission provision",
		"task --help":      "list show watch cancel",
		"image --help":     "add list remove",
		"initramfs --help": "build",
		"lab --help":       "up run down console",
	} {
		out, errs, code := teethCommand(t, strings.Fields(args)...)
		if code != 0 || errs != "" {
			t.Errorf("teeth %s: exit code %d, %q", args, code, errs)
		}
		var listed []string
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(line, "  ") {
				listed = append(listed, f[0])
			}
		}
		for _, v := range strings.Fields(verbs) {
			if !slices.Contains(listed, v) {
				t.Errorf("teeth %s does not list %s:\n%s", args, v, out)
			}
		}
	}
	if out, _, code := teethCommand(t, "--version"); code != 0 || !strings.Contains(out, version) {
		t.Errorf("%d, %q", code, out)
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close() // nobody listens there now
	file := filepath.Join(t.TempDir(), "client.json")
	conf, err := json.Marshal(client.Config{URL: "https://" + address, CASHA256: strings.Repeat("ab", 32), Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, conf, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, client := range []string{file, file + ".absent"} {
		_, errs, code := teethCommand(t, "chassis", "list", "--client", client)
		if code != 4 || !strings.Contains(errs, "control plane not reachable") {
			t.Errorf("%s: exit code %d, %q", client, code, errs)
		}
	}
}

func TestAgainstControlPlane(t *testing.T) {
	info := serve(t)
	introduce(t, info, "SN1")
	image := filepath.Join(t.TempDir(), "tiny.raw")
	if err := os.WriteFile(image, bytes.Repeat([]byte{1}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		code int
		says string // on stdout where the code is 0
	}{
		{"chassis list", 0, "SN1"},
		{"chassis show sn1", 0, "52:54:00:00:00:01"},
		{"image add " + image, 0, "tiny  raw"},
		{"image list", 0, "1048576"},
		{"image add " + image + " --name other --sha256 " + strings.Repeat("ab", 32), 2, "expected abab"},
		{"image add /nonexistent/disk.raw", 2, "/nonexistent/disk.raw"},
		{"image add " + filepath.Dir(image) + " --format raw", 2, "not a plain file"},
		{"task list --chassis SN1", 0, "TASK"},
		{"chassis show nowhere", 3, "nowhere"},
		{"chassis decommission nowhere", 3, "nowhere"},
		{"chassis provision nowhere --image tiny", 3, "nowhere"},
		{"chassis watch nowhere", 3, "nowhere"},
		{"task show nothing", 3, "nothing"},
		{"task cancel nothing", 3, "nothing"},
		{"task list --chassis nowhere", 3, "nowhere"},
		{"image remove nothing", 3, "nothing"},
		{"chassis provision SN1 --image nothing", 3, "nothing"},
		{"image remove tiny", 0, ""},
	} {
		t.Run(tt.args, func(t *testing.T) {
			out, errs, code := teethCommand(t, strings.Fields(tt.args)...)
			said := errs
			if tt.code == 0 {
				said = out
			}
			if code != tt.code || !strings.Contains(strings.ToLower(said), strings.ToLower(tt.says)) || code != 0 && strings.Count(errs, "\n") != 1 {
				t.Errorf("exit code %d, stdout %q, stderr %q; want %d and %q", code, out, errs, tt.code, tt.says)
			}
		})
	}
}

func TestJSON(t *testing.T) {
	info := serve(t)
	introduce(t, info, "SN1")
	image := filepath.Join(t.TempDir(), "tiny.img")
	if err := os.WriteFile(image, bytes.Repeat([]byte{1}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	show := func(into any, args string) {
		t.Helper()
		out, errs, code := teethCommand(t, append(strings.Fields(args), "-o", "json")...)
		dec := json.NewDecoder(strings.NewReader(out))
		dec.DisallowUnknownFields()
		if err := dec.Decode(into); code != 0 || errs != "" || err != nil || dec.More() {
			t.Errorf("teeth %s: exit code %d, %q, %v, stdout %s", args, code, errs, err, out)
		}
	}
	var tasks []client.Task
	if show(&tasks, "task list"); tasks == nil || len(tasks) > 0 {
		t.Errorf("an empty list is %v", tasks)
	}
	var all []client.Chassis
	if show(&all, "chassis list"); len(all) != 1 || all[0].Serial != "SN1" {
		t.Errorf("%+v", all)
	}
	var one client.Chassis
	if show(&one, "chassis show SN1"); one.ID != all[0].ID {
		t.Errorf("%+v", one)
	}
	var img client.Image
	if show(&img, "image add "+image); img.Name != "tiny" || img.Format != "raw" || img.Size != 1<<20 {
		t.Errorf("%+v", img)
	}
	var images []client.Image
	if show(&images, "image list"); len(images) != 1 || images[0].ID != img.ID {
		t.Errorf("%+v", images)
	}
	var run client.Graph
	if show(&run, "chassis decommission SN1 --steps qc"); len(run.Tasks) == 0 {
		t.Fatalf("%+v", run)
	}
	var task client.Task
	if show(&task, "task show "+run.Tasks[0].ID); task.Graph != run.ID {
		t.Errorf("%+v", task)
	}
	show(&task, "task cancel "+run.Tasks[0].ID)
	// A run that did not go well is a failure, with the JSON all the same.
	out, errs, code := teethCommand(t, "task", "watch", run.Tasks[0].ID, "-o", "json")
	if err := json.Unmarshal([]byte(out), &run); code != 1 || errs == "" || err != nil || !run.Tasks[0].Final() {
		t.Errorf("exit code %d, %q, %v, %s", code, errs, err, out)
	}
}
