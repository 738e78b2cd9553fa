package backbone

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/app"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

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

// A key that is taken out of what is desired is taken out of what the app has, where
// it has been set. What the app has on top of that stays its own.
func TestLessConfig(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := newHost(t)
		r := start(t, h, newLine(wire.MasterDeclared), nil)
		defer r.stop()
		set := func(config string) {
			r.tell(`{'web': {'version': '1', 'url': 'http://h/x', 'config': ` + config + `}}`)
		}
		set(`{'tls': {'off': true, 'port': 1}}`)
		r.want("ok converging ok")
		set(`{'tls': {'port': 1}}`)
		list := r.want("converging ok")
		if got := string(list[1].Apps["web"].Config); got != `{"tls":{"port":1}}` && got != `{"tls": {"port": 1}}` {
			t.Error(got)
		}
		r.wantDone("install web 1", "configure web")
		h.change(func() {
			st := h.apps["web"]
			st.Config = json.RawMessage(`{"tls": {"port": 1, "default": 2}}`)
			h.apps["web"] = st
		})
		set(`{'tls': {'port': 1.0}}`)
		r.want("ok")
		r.wantDone()
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
