package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

// sent is what was measured.
type sent struct {
	mu  sync.Mutex
	all [][]string
}

func (s *sent) send(label string, values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, append([]string{label}, values...))
}

func (s *sent) of(label string) (values []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.all {
		if one[0] == label {
			values = append(values, one[1:]...)
		}
	}
	return
}

func measure(t *testing.T, root string, labels ...string) (*sent, error) {
	t.Helper()
	var s sent
	c := Config{Send: s.send, Root: root, Log: slog.New(slog.DiscardHandler)}
	for _, l := range labels {
		c.Builtin = append(c.Builtin, Builtin{Label: l})
	}
	tl, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range tl.jobs {
		if err := j.run(t.Context()); err != nil {
			return &s, err
		}
	}
	return &s, nil
}

// tree writes files below a folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestMachine(t *testing.T) {
	root := tree(t, map[string]string{
		"proc/meminfo":                            "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:   5513216 kB\nSwapTotal: 1000 kB\nSwapFree: 400 kB\n",
		"proc/loadavg":                            "6.41 5.00 4.00 3/1234 99\n",
		"sys/class/hwmon/hwmon0/name":             "coretemp\n",
		"sys/class/hwmon/hwmon0/temp1_input":      "45500\n",
		"sys/class/hwmon/hwmon0/temp1_label":      "Package id 0\n",
		"sys/class/hwmon/hwmon1/temp2_input":      "-1000\n",
		"sys/class/hwmon/hwmon1/temp3_input":      "bad\n",
		"sys/class/net/lo/statistics/rx_bytes":    "5\n",
		"sys/class/net/eth0/statistics/rx_bytes":  "100\n",
		"sys/class/net/eth0/statistics/tx_errors": "2\n",
	})
	s, err := measure(t, root, "memory", "load_avg", "temperatures", "network")
	if err != nil {
		t.Fatal(err)
	}
	for label, want := range map[string]string{
		"mem_used_kb": "10486784.0", "mem_total_kb": "16000000", "mem_available_kb": "5513216", "swap_used_kb": "600", "load_avg": "6.41",
		"temperatures": `[{"chip":"coretemp","sensor":"Package id 0","celsius":45.5},{"chip":"","sensor":"temp2","celsius":-1}]`,
		"network":      `{"eth0":{"rx_bytes":100,"tx_errors":2}}`,
	} {
		if got := s.of(label); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q", label, got)
		}
	}
}

func TestMachineWithout(t *testing.T) {
	if s, err := measure(t, t.TempDir(), "temperatures", "network"); err != nil || len(s.all) != 0 {
		t.Error(err, s.all)
	}
	for _, text := range []string{"", "MemTotal: 5 kB\nMemAvailable: 6 kB\n", "MemTotal: x\n"} {
		if _, err := measure(t, tree(t, map[string]string{"proc/meminfo": text}), "memory"); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

// The numbers are those of df(1).
func TestDiskUsageIsThatOfDf(t *testing.T) {
	s, err := measure(t, "/", "disk_usage")
	if err != nil {
		t.Fatal(err)
	}
	var all []usage
	for _, text := range s.of("disk_usage") {
		var part []usage
		if err := json.Unmarshal([]byte(text), &part); err != nil {
			t.Fatal(err)
		}
		all = append(all, part...)
	}
	if len(all) == 0 {
		t.Fatal("nothing is mounted")
	}
	compared := 0
	for _, u := range all {
		out, err := exec.Command("df", "-Pk", u.MountedOn).Output()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		f := strings.Fields(lines[len(lines)-1])
		if len(f) < 6 || f[5] != u.MountedOn {
			continue // another mount lies over it
		}
		blocks, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if u.Blocks != blocks || !strings.HasSuffix(u.Capacity, "%") && u.Capacity != "-" {
			t.Errorf("%+v, df says %q", u, f)
		}
		compared++
	}
	if compared == 0 {
		t.Error("nothing was compared")
	}
}

func TestPickFiles(t *testing.T) {
	dir := tree(t, map[string]string{
		"a.json": ` {"a": 1.50, "b": [1, 2]} `, "b.yml": "x: 1\ny: [a, b]\n", "c.csv": "name,n\nfoo,1\nbar,2\n",
		"d.txt": "not ours", ".hidden.json": "{}", "e.json": "{", "long.json": `["` + strings.Repeat("x", 5000) + `","` + strings.Repeat("y", 5000) + `"]`,
		"huge.json": `["` + strings.Repeat("x", 9000) + `"]`, "done/a.json": "an earlier one", "now.json": "{}",
	})
	old := time.Now().Add(-time.Minute)
	for _, name := range []string{"a.json", "b.yml", "c.csv", "d.txt", ".hidden.json", "e.json", "long.json", "huge.json"} {
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link.json")); err != nil {
		t.Fatal(err)
	}
	done := filepath.Join(dir, "done")
	var s sent
	tl, err := New(Config{Send: s.send, Builtin: []Builtin{{"pick_files", []string{dir, done}}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	err = tl.jobs[0].run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "e.json") || !strings.Contains(err.Error(), "huge.json") {
		t.Errorf("complaint: %v", err)
	}
	var labels []string
	for _, one := range s.all {
		labels = append(labels, one[0])
	}
	want := []string{
		`JSON:{"a":1.50,"b":[1,2]}`, `JSON:{"x":1,"y":["a","b"]}`, `JSON:[{"n":"1","name":"foo"},{"n":"2","name":"bar"}]`,
		`JSON:["` + strings.Repeat("x", 5000) + `"]`, `JSON:["` + strings.Repeat("y", 5000) + `"]`,
	}
	if !slices.Equal(labels, want) {
		t.Errorf("%.300q", labels)
	}
	for _, name := range []string{"done/a.json", "done/1-a.json", "done/b.yml", "done/c.csv", "done/long.json", "done/rejected/e.json", "done/rejected/huge.json", "now.json", "link.json", "d.txt", ".hidden.json"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(done, "a.json")); string(b) != "an earlier one" {
		t.Error("a file was replaced", err)
	}
	s.all = nil
	if err := tl.jobs[0].run(t.Context()); err != nil || len(s.all) != 0 {
		t.Errorf("again: %v, %v", err, s.all)
	}
}

func TestCustom(t *testing.T) {
	var s sent
	c := Config{Send: s.send, Log: slog.New(slog.DiscardHandler)}
	if err := yaml.Unmarshal([]byte(`
- {name: words, command: printf, args: ["%s", "a  b"], interval: 2}
- {name: line, command: "echo x | tr x y"}
- {name: bad, command: sh, args: [-c, "echo no >&2; exit 3"]}
- {name: slow, command: sleep, args: ["100"], interval: 1}
- {name: big, command: "yes | head -c 100000"}
`), &c.Custom); err != nil {
		t.Fatal(err)
	}
	tl, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	var errs []error
	for _, j := range tl.jobs {
		errs = append(errs, j.run(t.Context()))
	}
	if tl.jobs[0].interval != 2*time.Second || tl.jobs[1].interval != DefaultInterval {
		t.Error(tl.jobs)
	}
	if !slices.Equal(s.of("words"), []string{"a  b"}) || !slices.Equal(s.of("line"), []string{"y"}) || errs[0] != nil || errs[1] != nil {
		t.Error(s.all, errs)
	}
	if errs[2] == nil || !strings.Contains(errs[2].Error(), "exit status 3: no") {
		t.Error(errs[2])
	}
	if errs[3] == nil || !strings.Contains(errs[3].Error(), "killed") {
		t.Error(errs[3])
	}
	if big := s.of("big"); len(big) != 1 || len(big[0]) > room || len(big[0]) < room-2 {
		t.Errorf("%d of %d", len(big), len(big[0]))
	}
}

// Measurements are made again and again, not all in the same moment, and end.
func TestRun(t *testing.T) {
	var s sent
	tl := &Telemetry{c: Config{Log: slog.New(slog.DiscardHandler)}}
	var mu sync.Mutex
	first := map[string]time.Time{}
	for i := range 20 {
		name := fmt.Sprint(i)
		tl.jobs = append(tl.jobs, job{name, 100 * time.Millisecond, func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if _, ok := first[name]; !ok {
				first[name] = time.Now()
			}
			s.send(name)
			return fmt.Errorf("fails, and is tried again")
		}})
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- tl.Run(ctx) }()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		n := len(s.all)
		s.mu.Unlock()
		if n >= 100 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d measurements", n)
		}
	}
	cancel()
	if err := <-ended; err != context.Canceled {
		t.Error(err)
	}
	var min, max time.Time
	for _, at := range first {
		if min.IsZero() || at.Before(min) {
			min = at
		}
		if at.After(max) {
			max = at
		}
	}
	if len(first) != 20 || max.Sub(min) < 20*time.Millisecond {
		t.Errorf("%d, all within %v", len(first), max.Sub(min))
	}
}

func TestConfigThatMakesNoSense(t *testing.T) {
	for _, text := range []string{
		"builtin: [cpu]", "builtin: [{label: memory, arguments: [x]}]", "builtin: [pick_files]", "builtin: [{label: pick_files, arguments: [a, b]}]",
		"builtin: [{label: pick_files, arguments: [/a, /a/]}]", "custom: [{name: x}]", "custom: [{command: x}]", "custom: [{name: x, command: x, interval: 0.1}]",
		"custom: [{name: x, command: x, interval: -1}]", "interval: 1ms", "interval: 999h",
	} {
		var c Config
		if err := yaml.Unmarshal([]byte(text), &c); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		c.Send, c.Log = func(string, ...string) {}, slog.New(slog.DiscardHandler)
		if _, err := New(c); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}

func FuzzPick(f *testing.F) {
	for ext, text := range map[string]string{".json": `[1,{"a":null}]`, ".yaml": "a: &x [1]\nb: *x\n? [c]\n: d\n", ".csv": "a,b\n1,\"2\"\n"} {
		f.Add(ext, []byte(text))
	}
	f.Fuzz(func(t *testing.T, ext string, b []byte) {
		decode, ok := decoders[ext]
		if !ok || len(b) > 1<<16 {
			return
		}
		frames, err := framesOf(b, decode)
		for _, text := range frames {
			if err != nil || !json.Valid([]byte(text)) || len(text) > room+2 {
				t.Errorf("%v: %.100q", err, text)
			}
		}
	})
}
