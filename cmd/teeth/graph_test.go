package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
)

func TestGraphs(t *testing.T) {
	info := serve(t)
	introduce(t, info, "SN1")
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good.yaml", `
injectableName: Graph.Mine
friendlyName: mine
tasks:
  - {label: check, taskName: Task.Agent.QC}
  - {label: again, taskName: Task.Agent.QC, waitOn: {check: failed}}
`)
	circle := write("circle.json", `{"injectableName":"Graph.Circle","tasks":[{"label":"a","taskName":"Task.Agent.QC","waitOn":{"a":"succeeded"}}]}`)
	builtIn := write("builtin.yaml", "injectableName: Graph.Reboot\ntasks: [{label: a, taskName: Task.Agent.QC}]")
	spec := write("spec.json", `{"defaults":{"spec":{"no_such_key":1}}}`)
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"graph list", 0, "Graph.DecommissionAndProvision"},
		{"graph show Graph.Provision", 0, "image*"},
		{"graph define " + good, 0, "Graph.Mine is in the library"},
		{"graph show Graph.Mine", 0, "check: failed"},
		{"graph define " + circle, 2, "a waits for a"},
		{"graph define " + builtIn, 1, "comes with the program"},
		{"graph define /nonexistent", 2, "nonexistent"},
		{"graph remove Graph.Reboot", 1, "comes with the program"},
		{"graph remove Graph.Nowhere", 3, "Graph.Nowhere"},
		{"graph show Graph.Nowhere", 3, "Graph.Nowhere"},
		{"graph show nothing", 3, "nothing"},
		{"graph cancel nothing", 3, "nothing"},
		{"graph run Graph.Nowhere SN1", 3, "Graph.Nowhere"},
		{"graph run Graph.Mine nowhere", 3, "nowhere"},
		{"graph run Graph.Mine", 2, "say which chassis"},
		{"graph run Graph.Mine SN1 --option spek=1", 2, "spek"},
		{"graph run Graph.Mine SN1 --option nonsense", 2, "NAME=VALUE"},
		{"graph run Graph.Mine SN1 --options " + spec, 2, "no_such_key"},
		{"graph run Graph.Provision SN1", 2, "image"},
		{"graph run Graph.Provision SN1 --option image=nothing", 3, "nothing"},
		{"graph list --active", 0, "GRAPH"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			out, errs, code := teethCommand(t, strings.Fields(tt.args)...)
			said := errs
			if tt.code == 0 {
				said = out
			}
			if code != tt.code || !strings.Contains(said, tt.says) || code != 0 && strings.Count(errs, "\n") != 1 {
				t.Errorf("exit code %d, stdout %q, stderr %q; want %d and %q", code, out, errs, tt.code, tt.says)
			}
		})
	}
	show := func(v any, args string) {
		t.Helper()
		out, errs, code := teethCommand(t, append(strings.Fields(args), "-o", "json")...)
		if err := json.Unmarshal([]byte(out), v); code != 0 || err != nil {
			t.Fatalf("%s: exit code %d, %q, %v", args, code, errs, err)
		}
	}
	var left []client.Graph
	show(&left, "graph list --all")
	if len(left) > 0 {
		t.Errorf("refused requests have left %+v", left)
	}
	var g client.Graph
	show(&g, "graph run Graph.Mine SN1")
	if g.Name != "Graph.Mine" || g.State != "pending" || len(g.Tasks) != 2 || g.By == "" {
		t.Errorf("%+v", g)
	}
	if _, errs, code := teethCommand(t, "graph", "run", "Graph.Mine", "SN1"); code != 1 || !strings.Contains(errs, g.ID) {
		t.Errorf("a second one: exit code %d, %q", code, errs)
	}
	if show(&g, "graph pause "+g.ID); !g.Paused {
		t.Errorf("%+v", g)
	}
	if show(&g, "graph resume "+g.ID[:8]); g.Paused {
		t.Errorf("%+v", g)
	}
	if show(&g, "graph cancel "+g.ID); g.State != "cancelled" {
		t.Errorf("%+v", g)
	}
	if _, _, code := teethCommand(t, "graph", "remove", "Graph.Mine"); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestOptionValues(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, []byte("#cloud-config\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readOptions(&cobra.Command{}, "", []string{"image=debian-12", "run.hostname=web1", `erase.disks=["S1"]`, "n=3", `text="3"`,
		"yes=true", "eq=a=b", "run.user_data=@" + file, "odd={not json"})
	want := map[string]map[string]any{
		"defaults": {"image": "debian-12", "n": json.Number("3"), "text": "3", "yes": true, "eq": "a=b", "odd": "{not json"},
		"run":      {"hostname": "web1", "user_data": "#cloud-config\n"},
		"erase":    {"disks": []any{"S1"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%#v, %v", got, err)
	}
}
