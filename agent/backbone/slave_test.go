package backbone

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/app"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

func TestConverges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, newHost(t, "old"), newLine(wire.MasterDeclared), nil)
		defer r.stop()
		first := r.want("ok")[0] // with what is there
		if _, ok := first.Apps["old"]; !ok || first.DesiredApps != nil {
			t.Errorf("first status: %+v", first)
		}
		if first.HostID != "host-1" || first.HostAgent.Status != "running" || first.Info.Hostname != "h" || first.Timestamp == "" {
			t.Errorf("first status: %+v", first)
		}
		r.tell(web)
		list := r.want("converging ok")
		if c := list[0]; len(c.DesiredApps) != 1 || c.DesiredApps["web"].URL == "" || len(c.Apps) != 1 || c.Apps["web"].Version != "" {
			t.Errorf("converging has apps as before and those desired: %+v", c)
		}
		ok := list[1]
		if ok.DesiredApps != nil || ok.Apps["web"].Version != "1" || ok.Apps["web"].URL != "" || ok.Apps["web"].Running == nil || !*ok.Apps["web"].Running {
			t.Errorf("ok: %+v", ok)
		}
		if !wire.Satisfies(list[0].DesiredApps, ok.Apps) {
			t.Error("the master would not be satisfied")
		}
		r.wantDone("remove old", "install web 1")
		r.wait(2*time.Minute + time.Second)
		r.want("ok ok") // heartbeats
		r.wantDone()
		r.tell("{}")
		r.want("converging ok")
		r.wantDone("remove web")
	})
}

func TestFailedAfterAllAttempts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		h.fail = func(what, name string) error { return fmt.Errorf("app %s: no such package", name) }
		r := start(t, h, newLine(wire.MasterDeclared), func(c *Config) {
			c.MaxAttempts, c.Heartbeat, c.RetryMin = 4, time.Hour, 10*time.Second
		})
		defer r.stop()
		r.want("ok")
		began := time.Now()
		r.tell(web)
		var at []time.Duration
		for len(at) < 3 {
			list := r.want("converging retrying")
			if rep := report(t, list[1]); rep.Reason == "" || rep.Apps["web"].Error == "" || list[1].DesiredApps == nil || rep.Attempt != len(at)+1 {
				t.Errorf("retrying: %+v", rep)
			}
			for r.count() < len(at)+2 {
				r.wait(100 * time.Millisecond)
			}
			at = append(at, time.Since(began))
		}
		for i, least := range []time.Duration{5, 15, 35} { // half of 10, 20 and 40 each
			if at[i] < least*time.Second || at[i] > 2*least*time.Second+time.Second {
				t.Errorf("attempt %d after %v", i+2, at[i])
			}
		}
		r.want("converging failed")
		r.wait(2 * time.Hour)
		for _, st := range r.want("failed failed") {
			if st.DesiredApps == nil {
				t.Error("failed without desired_apps")
			}
		}
		h.change(func() { h.fail = nil })
		r.tell(web) // the same is another beginning
		r.wait(11 * time.Second)
		r.want("converging ok")
	})
}

// The document has one word for both.
func TestDocumentWords(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		h.fail = func(string, string) error { return errors.New("no") }
		r := start(t, h, newLine(wire.Document), func(c *Config) { c.MaxAttempts, c.Heartbeat = 2, time.Hour })
		defer r.stop()
		r.want("ok")
		r.tell(web)
		r.wait(time.Minute)
		if list := r.want("converging errors converging errors"); list[0].DesiredApps != nil {
			t.Error("the document's status has no desired_apps")
		}
		h.change(func() { h.fail = nil })
		r.tell(strings.ReplaceAll(web, "'1'", "'2'"))
		if list := r.want("converging ok"); list[1].Apps["web"].URL != "http://h/web-1.deb" || list[1].HostAgent.Status != "" {
			t.Errorf("the document's apps have a URL, and it knows no host_agent: %+v", list[1])
		}
		r.tell(`{'web': {}}`)
		r.want("errors") // of a message, as there is no other word
	})
}

func TestOverlap(t *testing.T) {
	app := func(version, config string) string {
		return fmt.Sprintf(`{'web': {'version': '%s', 'url': 'http://h/web-%s.deb', 'running': true, 'config': {'x': %s}}}`, version, version, config)
	}
	for name, c := range map[string]struct {
		second string
		states string
		done   []string
	}{
		"another version": {app("2", "1"), "converging converging ok", []string{"install web 1", "install web 2"}},
		"not at all":      {`{}`, "converging converging ok", []string{"install web 1"}},
		"another config":  {app("1", "2"), "converging converging ok", []string{"install web 1", "configure web"}},
		"the same":        {app("1", "1"), "converging converging ok", []string{"install web 1"}},
		"one more": {strings.TrimSuffix(app("1", "1"), "}") + `, 'more': {'version': '1', 'url': 'http://h/more', 'config': {}}}`,
			"converging converging ok", []string{"install web 1", "install more 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := newHost(t)
				h.takes = 9 * time.Second // no status of progress
				r := start(t, h, newLine(wire.MasterDeclared), nil)
				defer r.stop()
				r.want("ok")
				r.tell(app("1", "1"))
				r.wait(3 * time.Second)
				r.tell(c.second)
				r.wait(25 * time.Second)
				r.want(c.states)
				r.wantDone(c.done...)
			})
		})
	}
}

func TestRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "backbone")
		h := newHost(t)
		h.fail = func(string, string) error { return errors.New("not now") }
		at := func(c *Config) { c.Dir = dir }
		r := start(t, h, newLine(wire.MasterDeclared), at)
		r.line.in <- wire.Envelope{Opcode: wire.SetConfig, Revision: 7, Data: json.RawMessage(strings.ReplaceAll(web, "'", `"`))}
		r.want("ok converging retrying")
		r.stop()
		info, err := os.Stat(filepath.Join(dir, stateFile))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("state: %v, %v", info, err)
		}
		h.change(func() { h.fail = nil })
		r = start(t, h, newLine(wire.MasterDeclared), at) // without a message
		list := r.want("converging ok")
		if rep := report(t, list[0]); rep.Revision != 7 || len(list[0].DesiredApps) != 1 {
			t.Errorf("%+v", rep)
		}
		r.stop()
		if left, _ := filepath.Glob(filepath.Join(dir, "*part*")); left != nil {
			t.Errorf("left behind: %v", left)
		}
		for _, bad := range []string{"", "{", `{"apps": {"web": {}}}`, `{"apps": 3}`, strings.Repeat(" ", 3<<20)} {
			if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			r = start(t, h, newLine(wire.MasterDeclared), at)
			r.want("ok") // with what there is
			r.done()
			r.tell(`{}`)
			r.want("converging ok")
			r.tell(web)
			r.want("converging ok")
			r.stop()
		}
	})
}

func TestProgress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		h.takes = 50 * time.Second
		r := start(t, h, newLine(wire.MasterDeclared), nil)
		defer r.stop()
		r.want("ok")
		r.tell(web)
		r.wait(51 * time.Second)
		list := r.want("converging converging converging converging converging converging ok")
		before := -1.0
		for _, st := range list[:6] {
			p := report(t, st).Apps["web"].Percent
			if p <= before && p != 0 {
				t.Errorf("progress from %v to %v percent", before, p)
			}
			before = p
		}
	})
}

func TestAnnounce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, newHost(t, "a", "b"), newLine(wire.MasterDeclared), nil)
		defer r.stop()
		r.want("ok")
		r.up <- struct{}{}
		r.want("ok")
		if got := strings.Join(r.names, " "); got != "a b" {
			t.Errorf("topics of apps: %q", got)
		}
		r.tell(web)
		if got := strings.Join(r.names, " "); got != "web" {
			t.Errorf("topics of apps: %q", got)
		}
	})
}

// A fault in an app's work is an error of that app.
func TestPanic(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		h.panics = "web 1"
		r := start(t, h, newLine(wire.MasterDeclared), nil)
		defer r.stop()
		r.tell(web)
		if reason := report(t, r.want("ok converging retrying")[2]).Reason; !strings.Contains(reason, "an app's fault") {
			t.Error(reason)
		}
		h.change(func() { h.panics = "" })
		r.wait(6 * time.Second)
		r.want("converging ok")

		h.change(func() { h.panics = "all" })
		r.tell(`{}`)
		r.want("")
		h.change(func() { h.panics = "" })
		r.wait(time.Minute)
		r.want("converging ok")
	})
}

func TestNotReadable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		h.missing = errors.New("apps cannot be listed")
		r := start(t, h, newLine(wire.MasterDeclared), nil)
		defer r.stop()
		r.want("converging retrying")
		h.change(func() { h.missing = nil })
		r.wait(6 * time.Second)
		r.want("ok")
	})
}

// A status that does not fit is sent without what makes it so large.
func TestLargeStatus(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		h.read = func(st app.State) app.State {
			st.Config = json.RawMessage(`{"a": {"x": 1}, "b": "` + strings.Repeat("x", 2<<20) + `"}`)
			return st
		}
		r := start(t, h, newLine(wire.MasterDeclared), nil)
		defer r.stop()
		r.tell(web)
		if st := r.want("ok converging ok")[2]; string(st.Apps["web"].Config) != "{}" {
			t.Errorf("%.200q", st.Apps["web"].Config)
		}
	})
}
