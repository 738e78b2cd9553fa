package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/wire/minion"
)

// Lines that were written while the server was away, and while the agent was, arrive
// once and in order.
func TestOutage(t *testing.T) {
	s := serveStream(t)
	log := filepath.Join(t.TempDir(), "app.log")
	path := configured(t, s, "tail_logs: [{service: app, file: "+log+"}]")
	add := func(text string) {
		f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	stop := start(t, path)
	s.line("agent", "agent starts")
	time.Sleep(700 * time.Millisecond) // it has seen that there is no file yet
	add("1\n")
	s.line("app", "1")
	s.mu.Lock()
	s.conn.Close()
	s.mu.Unlock()
	add("2\n")
	s.line("app", "2")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	add("3\n")
	stop = start(t, path)
	s.line("app", "3")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range s.frames {
		if f.Verb == minion.Log && f.Data[2].Text == "app" {
			got = append(got, f.Data[3].Text)
		}
	}
	if !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("%q", got)
	}
}

func TestOneAgentASpool(t *testing.T) {
	s := serveStream(t)
	path := configured(t, s, "")
	start(t, path)
	s.line("agent", "agent starts")
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	h := newHost("x", path, c, t.Output())
	if err := h.run(t.Context()); err == nil || !strings.Contains(err.Error(), "another agent") || !h.inUse() {
		t.Error(err)
	}
}

func TestCommandLine(t *testing.T) {
	s := serveStream(t)
	path := configured(t, s, "")
	denied := configured(t, s, "")
	b, err := os.ReadFile(denied)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(denied, []byte(strings.Replace(string(b), "sesame", "wrong", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args         []string
		code         int
		stdout, says string
	}{
		{[]string{"-v"}, 0, "1.0.0\n", ""},
		{[]string{"-t", "--config", path}, 0, "", ""},
		{[]string{"-t", "--config", denied}, 1, "", "denies access"},
		{[]string{"-t", "-u"}, 2, "", "Usage"},
		{[]string{"-t", "x"}, 2, "", "Usage"},
		{[]string{"--force"}, 2, "", "Usage"},
		{[]string{"--nonsense"}, 2, "", "Usage"},
		{[]string{"-h"}, 0, "", "Usage"},
		{[]string{"-t", "--config", path + ".absent"}, 2, "", "absent"},
		{[]string{"-u", "--config", path}, 1, "", "cannot be upgraded by itself"},
	} {
		var stdout, stderr strings.Builder
		code := Run(t.Context(), "teeth-agent/1.0.0", tt.args, &stdout, &stderr)
		if code != tt.code || stdout.String() != tt.stdout || !strings.Contains(stderr.String(), tt.says) {
			t.Errorf("%v: exit %d, %q, %q", tt.args, code, stdout.String(), stderr.String())
		}
	}
	t.Setenv("CONFIG", path)
	if code := Run(t.Context(), "1", []string{"-t"}, t.Output(), t.Output()); code != 0 {
		t.Errorf("$CONFIG: exit %d", code)
	}
}
