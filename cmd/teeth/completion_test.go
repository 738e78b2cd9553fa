package main

import (
	"strings"
	"testing"
)

func TestCompletion(t *testing.T) {
	info := serve(t)
	introduce(t, info, "SN-1")
	run := func(args ...string) string {
		t.Helper()
		out, errs, code := teethCommand(t, args...)
		if code != 0 {
			t.Fatalf("teeth %v: %d %s", args, code, errs)
		}
		return out
	}
	run("user", "add", "ann", "--role", "viewer")
	for _, c := range []struct {
		typed []string
		want  string
		not   string
	}{
		{[]string{"chassis", "show", "SN"}, "SN-1", "52:54"},
		{[]string{"chassis", "show", ""}, "52:54:00:00:00:01", ":0\n"},
		{[]string{"chassis", "show", "SN-1", ""}, ":4", "SN-1"}, // it takes one
		{[]string{"user", "role", "a"}, "ann", "operator"},
		{[]string{"user", "role", "ann", "o"}, "operator", "ann"},
		{[]string{"token", "create", "x", "--user", ""}, "ann", "SN-1"},
		{[]string{"task", "list", "--chassis", "SN"}, "SN-1", "ann"},
		{[]string{"chassis", "show", "--client", "/nonexistent", ""}, ":4", "SN-1"},
		{[]string{"graph", "run", "Graph.D"}, "Graph.Decommission", "Graph.Provision"},
		{[]string{"graph", "run", "Graph.Discover", "SN"}, "SN-1", "Graph"},
		{[]string{"chassis", "approve", "SN-1", "SN"}, "SN-1", "Graph"},
		{[]string{"us"}, "user", "chassis"},
	} {
		out := run(append([]string{"__complete"}, c.typed...)...)
		if !strings.Contains(out, c.want) || strings.Contains(out, c.not) {
			t.Errorf("%q: %q, want %q, not %q", c.typed, out, c.want, c.not)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := run("completion", shell); !strings.Contains(out, "__complete") {
			t.Errorf("%s: %.100q", shell, out)
		}
	}
}
