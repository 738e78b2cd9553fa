package backbone

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/teeth-metal/teeth/wire/backbone"
)

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
