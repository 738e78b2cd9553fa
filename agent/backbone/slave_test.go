package backbone

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
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

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct{ apps, says string }{
		"no version":       {`{'web': {'url': 'http://h/x.deb', 'config': {}}}`, "app web: version is missing"},
		"no config":        {`{'web': {'version': '1', 'url': 'http://h/x.deb'}}`, "app web: config is missing"},
		"no url":           {`{'web': {'version': '1', 'config': {}}}`, "app web: url is missing"},
		"a list":           {`[]`, "object of apps"},
		"null":             {`null`, "object of apps"},
		"an app that's 3":  {`{'web': 3}`, "app web"},
		"version a number": {`{'web': {'version': 1, 'url': 'http://h/x.deb', 'config': {}}}`, "app web"},
		"config a list":    {`{'web': {'version': '1', 'url': 'http://h/x.deb', 'config': []}}`, "config"},
		"config null":      {`{'web': {'version': '1', 'url': 'http://h/x.deb', 'config': null}}`, "config is missing"},
		"running a text":   {`{'web': {'version': '1', 'url': 'http://h/x.deb', 'config': {}, 'running': 'yes'}}`, "running"},
		"both":             {`{'web': {'version': '1', 'url': 'http://h/x.deb', 'config': {}, 'running': true, 'service_states': {'a': true}}}`, "running and service_states"},
		"rank":             {`{'web': {'version': '1', 'url': 'http://h/x.deb', 'config': {}, 'rank': 'first'}}`, "rank"},
		"template":         {`{'web': {'version': '1', 'url': 'http://%(nobody)s/x.deb', 'config': {}}}`, "template"},
		"scheme":           {`{'web': {'version': '1', 'url': 'file:///etc/passwd', 'config': {}}}`, "url"},
		"name":             {`{'../web': {'version': '1', 'url': 'http://h/x.deb', 'config': {}}}`, "name"},
		"long name":        {`{'` + strings.Repeat("w", 65) + `': {'version': '1', 'url': 'http://h/x.deb', 'config': {}}}`, "name"},
		"digest":           {`{'web': {'version': '1', 'url': 'http://h/x.deb', 'config': {}, 'digest': 'md5:1'}}`, "digest"},
		"another system":   {`{'web': {'version': '1', 'pkginfo': {'baseurl': 'http://h', 'filenames_by_os': {'a': 'a', 'b': 'b'}}, 'config': {}}}`, "ubuntu_22.04"},
		"one of two":       {`{'ok': {'version': '1', 'url': 'http://h/x.deb', 'config': {}}, 'web': {'version': '1', 'config': {}}}`, "app web: url"},
		"too large":        {`{'web': {'version': '1', 'url': 'http://h/x.deb', 'config': {'a': '` + strings.Repeat("x", 500<<10) + `'}}}`, "the most is"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := start(t, newHost(t), newLine(wire.MasterDeclared), nil)
				defer r.stop()
				r.tell(web)
				r.want("ok converging ok")
				r.done()
				r.tell(c.apps)
				refused := report(t, r.want("ok")[0]).Refused
				if refused == nil || !strings.Contains(refused.Reason, c.says) || strings.Contains(refused.Reason, "\n") {
					t.Errorf("refused: %+v, want one that says %q", refused, c.says)
				}
				for range min(50, 100_000/len(c.apps)) { // it is not a way to have statuses sent
					r.tell(c.apps)
				}
				if n := len(r.statuses()); n > 5 {
					t.Errorf("%d statuses for 50 bad messages", n)
				}
				r.wantDone()
				r.wait(time.Minute)
				r.tell(strings.ReplaceAll(web, "'x': 1", "'x': 2"))
				list := r.statuses()
				if last := list[len(list)-1]; report(t, last).Refused != nil || string(last.Apps["web"].Config) != `{"a":{"x":2}}` {
					t.Errorf("after a good one: %+v", last)
				}
			})
		})
	}
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

// A hundred messages at once are one change, and it is the last.
func TestFlood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		h.takes = time.Second
		r := start(t, h, newLine(wire.MasterDeclared), nil)
		defer r.stop()
		for i := range 100 {
			r.line.in <- wire.Envelope{Opcode: wire.SetConfig, Data: json.RawMessage(fmt.Sprintf(`{"web": {"version": "%d", "url": "http://h/web", "config": {}}}`, i))}
		}
		r.wait(3 * time.Second)
		list := r.statuses()
		if last := list[len(list)-1]; last.State != wire.StateOK || last.Apps["web"].Version != "99" {
			t.Errorf("in the end: %+v", last)
		}
		if did := r.done(); len(did) > 101 || did[len(did)-1] != "install web 99" {
			t.Errorf("done: %d, in the end %s", len(did), did[len(did)-1])
		}
	})
}

func TestOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, newHost(t, "z-old", "b", "a"), newLine(wire.MasterDeclared), nil)
		defer r.stop()
		spec := func(rank string) string {
			return `{'version': '1', 'url': 'http://h/x', 'config': {}, 'rank': ` + rank + `}`
		}
		r.tell(`{'a': ` + spec("'3.5'") + `, 'b': ` + spec("2") + `, 'n1': ` + spec("2") + `, 'n2': ` + spec("-1") + `, 'n3': ` + spec("'1'") + `}`)
		r.want("ok converging ok")
		r.wantDone("remove z-old", "install b 1", "install a 1", "install n2 1", "install n3 1", "install n1 1")
	})
}

// One app that fails does not keep the others from being installed.
func TestOneFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		h.fail = func(_, name string) error {
			if strings.HasPrefix(name, "bad") {
				return errors.New("app bad: 404")
			}
			return nil
		}
		r := start(t, h, newLine(wire.MasterDeclared), nil)
		defer r.stop()
		r.tell(`{'bad': {'version': '1', 'url': 'http://h/x', 'config': {}, 'rank': -1}, 'good': {'version': '1', 'url': 'http://h/x', 'config': {}}}`)
		list := r.want("ok converging retrying")
		if rep := report(t, list[2]); rep.Apps["bad"].Error != "app bad: 404" || rep.Reason != "app bad: 404" || list[2].Apps["good"].Version != "1" {
			t.Errorf("%+v", rep)
		}
		r.wantDone("install bad 1", "install good 1")
	})
}

func TestListsAndNulls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, newHost(t), newLine(wire.MasterDeclared), nil)
		defer r.stop()
		set := func(config string) {
			r.tell(`{'web': {'version': '1', 'url': 'http://h/x', 'config': {'s': {'k': ` + config + `}}}}`)
		}
		set(`[1, {'a': null}, [true]]`)
		r.want("ok converging ok")
		set(`[1, {'a': null}, [false]]`)
		r.want("converging ok")
		set(`null`)
		r.want("converging ok")
		r.wantDone("install web 1", "configure web", "configure web")
		set(`null`)
		r.want("ok")
		r.wantDone()
	})
}

// An app may have more configuration than the master wants.
func TestMoreConfig(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		h.read = func(st app.State) app.State {
			st.Config = json.RawMessage(`{"a": {"x": 1.0, "more": 2}, "b": {}}`)
			return st
		}
		r := start(t, h, newLine(wire.MasterDeclared), nil)
		defer r.stop()
		r.tell(web)
		r.want("ok converging ok")
		r.wantDone("install web 1")
	})
}

// What says that it has done something and has not is not done for ever.
func TestNoEffect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		h.forget = true
		r := start(t, h, newLine(wire.MasterDeclared), nil)
		defer r.stop()
		r.tell(web)
		r.tell(strings.ReplaceAll(web, "'x': 1", "'x': 2"))
		list := r.want("ok converging ok converging retrying")
		if reason := report(t, list[4]).Reason; !strings.Contains(reason, "app web: to configure it has changed nothing") {
			t.Errorf("reason: %s", reason)
		}
		r.wantDone("install web 1", "configure web")
	})
}

func TestServices(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, newHost(t), newLine(wire.MasterDeclared), nil)
		defer r.stop()
		set := func(states string) {
			r.tell(`{'web': {'version': '1', 'url': 'http://h/x', 'config': {}, ` + states + `}}`)
		}
		set(`'service_states': {'a': true, 'b': false}`)
		if st := r.want("ok converging ok")[2]; st.Apps["web"].Running != nil || !st.Apps["web"].ServiceStates["a"] {
			t.Errorf("in the terms that were asked in: %+v", st.Apps)
		}
		set(`'service_states': {'a': true, 'b': true}`)
		set(`'running': false`)
		list := r.want("converging ok converging retrying")
		if now := list[2].Apps["web"].Running; now == nil || !*now {
			t.Error("with a service left, it is running to somebody who wants it not to")
		}
		r.wantDone("install web 1", "set web", "set web")
	})
}

// An app that stops by itself is started when it is noticed.
func TestDrift(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		r := start(t, h, newLine(wire.MasterDeclared), nil)
		defer r.stop()
		r.tell(web)
		r.want("ok converging ok")
		r.done()
		h.edit("web", nil, func(st *app.State) { st.Running = false })
		r.wait(time.Minute + time.Second)
		r.want("converging ok")
		r.wantDone("set web")
	})
}

func TestReinstalled(t *testing.T) {
	digest := "'sha256:" + strings.Repeat("0", 63)
	for name, c := range map[string]struct {
		more, then string
		again      bool
	}{
		"another digest":   {`, 'digest': ` + digest + `0'`, `, 'digest': ` + digest + `1'`, true},
		"the same":         {`, 'digest': ` + digest + `0'`, `, 'digest': ` + digest + `0', 'rank': 2`, false},
		"digest not known": {``, `, 'digest': ` + digest + `1'`, false},
		"other limits":     {``, `, 'limits': {'memory': 1048576}`, true},
		"another manifest": {`, 'manifest': {'services': {}}`, `, 'manifest': {'services': {}, 'root': 'host'}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := start(t, newHost(t), newLine(wire.MasterDeclared), func(c *Config) { c.Dir = t.TempDir() })
				defer func() { r.stop() }()
				set := func(more string) {
					r.tell(`{'web': {'version': '1', 'url': 'http://h/x', 'config': {}` + more + `}}`)
				}
				set(c.more)
				r.wantDone("install web 1")
				dir := r.c.Dir
				r.stop()
				r = start(t, r.host, newLine(wire.MasterDeclared), func(c *Config) { c.Dir = dir })
				set(c.then)
				if c.again {
					r.wantDone("install web 1")
				} else {
					r.wantDone()
				}
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

// Masters of 2014 send the same again as the answer to every status that does not
// satisfy them, at once.
func TestMasterThatRepeats(t *testing.T) {
	for name, c := range map[string]struct {
		fail     error
		dialect  wire.Dialect
		most     int // statuses in ten minutes
		installs int
	}{
		"never satisfied": {nil, wire.Document, 150, 1},
		"cannot be done":  {errors.New("404"), wire.Document, 150, 130},
		"later":           {errors.New("404"), wire.Retrying, 150, 130},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h, l := newHost(t), newLine(c.dialect)
				h.fail = func(string, string) error { return c.fail }
				set := wire.Envelope{Opcode: wire.SetConfig, Data: json.RawMessage(strings.ReplaceAll(web, "'", `"`))}
				l.on = func(st wire.Status) {
					if st.State != wire.StateConverging {
						l.in <- set
					}
				}
				r := start(t, h, l, nil)
				defer r.stop()
				r.wait(10 * time.Minute)
				if n := len(r.statuses()); n > 2*c.most || n < 10 {
					t.Errorf("%d statuses in ten minutes", n)
				}
				if n := len(r.done()); n > c.installs || n == 0 {
					t.Errorf("%d attempts in ten minutes", n)
				}
			})
		})
	}
}

func TestPing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		h.takes = 9 * time.Second
		r := start(t, h, newLine(wire.MasterDeclared), nil)
		defer r.stop()
		r.want("ok")
		ping := func() { r.line.in <- wire.NewPing(); synctest.Wait() }
		ping()
		r.want("ok")
		r.tell(web)
		r.want("converging")
		r.wait(5 * time.Second)
		ping() // the original would be deaf now
		if rep := report(t, r.want("converging")[0]).Apps["web"]; rep.Step != "install" || rep.Done != 500 || rep.Total != 1000 || rep.Percent != 50 {
			t.Errorf("progress: %+v", rep)
		}
		for range 100 {
			ping()
		}
		if n := len(r.statuses()); n > 6 {
			t.Errorf("%d statuses for 100 pings at once", n)
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

func TestRevision(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, newHost(t), newLine(wire.MasterDeclared), nil)
		defer r.stop()
		set := func(version string, revision int64) string {
			r.line.in <- wire.Envelope{Opcode: wire.SetConfig, Revision: revision,
				Data: json.RawMessage(`{"web": {"version": "` + version + `", "url": "http://h/x", "config": {}}}`)}
			synctest.Wait()
			list := r.statuses()
			last := list[len(list)-1]
			return fmt.Sprint(last.Apps["web"].Version, " ", report(t, last).Revision)
		}
		for _, c := range []struct {
			version  string
			revision int64
			wait     time.Duration
			want     string
		}{
			{"a", 5, 0, "a 5"},
			{"b", 6, 0, "b 6"},
			{"a", 5, 0, "b 6"}, // overtaken
			{"b", 7, 0, "b 7"}, // nothing to do, and the master knows
			{"c", 0, 0, "c 0"}, // a master without them
			{"d", 9, 0, "d 9"},
			{"e", 1, 2 * time.Minute, "e 1"}, // a master that has begun anew
		} {
			r.wait(c.wait)
			if got := set(c.version, c.revision); got != c.want {
				t.Errorf("%s %d: %s, want %s", c.version, c.revision, got, c.want)
			}
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

// A revision that is new is told, even if nothing else is; so is the end of a refusal.
func TestNews(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		r := start(t, h, newLine(wire.MasterDeclared), func(c *Config) { c.Heartbeat = time.Hour })
		defer r.stop()
		set := func(revision int64) {
			r.line.in <- wire.Envelope{Opcode: wire.SetConfig, Revision: revision, Data: json.RawMessage(strings.ReplaceAll(web, "'", `"`))}
			synctest.Wait()
		}
		set(1)
		r.want("ok converging ok")
		for n := int64(2); n < 20; n++ {
			set(n)
			if got := report(t, r.want("ok")[0]).Revision; got != n {
				t.Errorf("revision %d, want %d", got, n)
			}
		}
		r.tell(`[]`)
		set(19)
		if list := r.want("ok ok"); report(t, list[0]).Refused == nil || report(t, list[1]).Refused != nil {
			t.Errorf("refused, then not: %+v", list)
		}
		h.change(func() { h.takes = 9 * time.Second })
		r.tell(strings.ReplaceAll(web, "'1'", "'2'"))
		r.want("converging")
		r.line.in <- wire.Envelope{Opcode: wire.SetConfig, Revision: 30, Data: json.RawMessage(strings.ReplaceAll(strings.ReplaceAll(web, "'1'", "'2'"), "'", `"`))}
		if got := report(t, r.want("converging")[0]).Revision; got != 30 {
			t.Errorf("revision %d while it works", got)
		}
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

func TestOtherOpcodes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, newHost(t), newLine(wire.MasterDeclared), func(c *Config) { c.Heartbeat = time.Hour })
		defer r.stop()
		r.want("ok")
		send := func(text string) {
			e, err := wire.Parse([]byte(strings.ReplaceAll(text, "'", `"`)))
			if err != nil {
				t.Fatal(err)
			}
			r.line.in <- e
			r.wait(11 * time.Second) // several at once are not answered
		}
		send(`{'opcode': 'get_support', 'upload': true, 'label': 'l'}`)
		send(`{'opcode': 'support_command', 'command': 'rm -rf /'}`)
		send(`{'opcode': 'exit'}`)
		send(`{'opcode': 'update_cert'}`)
		r.want("")
		if len(r.other) != 2 || r.other[0].Opcode != "support" || string(r.other[0].Extra["status"]) != `"error"` || r.other[1].Opcode != "support_command_response" {
			t.Errorf("answers: %+v", r.other)
		}
		var data struct {
			HostID string `json:"host_id"`
			Label  string `json:"label"`
			Error  string `json:"error_message"`
		}
		if err := json.Unmarshal(r.other[0].Data, &data); err != nil || data.HostID != "host-1" || data.Label != "l" {
			t.Errorf("support: %+v, %v", data, err)
		}
		if err := json.Unmarshal(r.other[1].Data, &data); err != nil || data.Error == "" {
			t.Errorf("support_command: %+v, %v", data, err)
		}
		send(`{'opcode': 'set_agent', 'data': {'name': 'pf9-hostagent', 'version': '2', 'url': 'http://h/a.rpm'}}`)
		if st := r.want("ok")[0]; st.Extensions["set_agent"].Status != "error" || !strings.Contains(string(st.Extensions["set_agent"].Data), "boot another image") {
			t.Errorf("set_agent: %+v", st.Extensions)
		}
		send(`{'opcode': 'heartbeat'}`)
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

func TestPick(t *testing.T) {
	files := map[string]string{"ubuntu_22.04": "u22", `centos_7\.\d.*`: "c7", "(": "broken", "rocky": "r"}
	for system, want := range map[string]string{"ubuntu_22.04": "u22", "centos_7.9.2009": "c7", "rocky_9": "r", "debian_12": "", "xrocky": ""} {
		got, err := pick(files, system)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", system, got, err)
		}
	}
	if got, err := pick(map[string]string{"rhel": "only"}, "teeth_1"); got != "only" || err != nil {
		t.Error(got, err)
	}
}

// FuzzMessages holds that no message of a master, however bad, brings the slave to
// fall, or to have more than it can tell.
func FuzzMessages(f *testing.F) {
	f.Add([]byte(strings.ReplaceAll(`{'opcode': 'set_config', 'data': `+web+`}`, "'", `"`)))
	f.Add([]byte(`{"opcode": "set_config", "data": {"a": {"version": "1", "pkginfo": {"baseurl": "http://h", "filenames_by_os": {"(((": "x"}}, "config": {"": []}}}}`))
	f.Add([]byte(`{"opcode": "set_agent", "data": [1]}`))
	f.Add([]byte(`{"opcode": "support_command", "command": {"a": 1}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := wire.Parse(body)
		if err != nil {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			r := start(t, newHost(t), newLine(wire.MasterDeclared), nil)
			defer r.stop()
			r.statuses()
			r.line.in <- e
			synctest.Wait()
			if e.Opcode == wire.SetConfig && len(r.statuses()) == 0 {
				t.Error("no status")
			}
		})
	})
}
