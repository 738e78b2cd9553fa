package backbone

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/teeth-metal/teeth/internal/jsondepth"
)

// The messages of the published document, in JSON.
const (
	documentSetConfig = `{"opcode": "set_config", "data": {
		"app_foo": {"version": "1.8", "url": "http://www.foo.com/ostackhost-1.0.rpm", "running": true,
			"config": {"default": {"x":3, "y":2}, "backup": {"x":3, "y":5}}},
		"app_bar": {"version": "1.0", "url": "http://bar-1.0.rpm", "running": false, "config": {"xx": {"f":1, "g":2}}}}}`
	documentStatus = `{"opcode": "status", "data": {"host_id": "00:50:56:A9:0B:BD", "status": "ok",
		"info": {"hostname": "leb-centos-1.platform9.sys", "os_family": "Linux", "arch": "x86_64", "os_info": "centos 6.4 Final"},
		"apps": {"app_foo": {"version": "1.8", "url": "http://www.foo.com/ostackhost-1.0.rpm", "running": true,
			"config": {"default": {"x":3, "y":2}, "backup": {"x":3, "y":5}}}}}}`
	laterSetConfig = `{"opcode": "set_config", "data": {
		"pf9-comms": {"version": "2.1.0-5", "running": true, "rank": "1.5", "config": {},
			"url": "%(download_protocol)s://%(host_relative_amqp_fqdn)s:%(download_port)s/private/pf9-comms-2.1.0-5.x86_64.rpm"},
		"pf9-muster": {"version": "1", "service_states": {"pf9-muster": true}, "rank": -2, "config": {"muster": {"list": [1, null]}}, "du_config": {"a": 1},
			"pkginfo": {"baseurl": "https://du/private", "filenames_by_os": {"ubuntu_.*": "pf9-muster.deb"}}}}}`
	laterStatus = `{"opcode": "status", "data": {"host_id": "5d8b1f4e-7a4f-4b9a-9f0b-3f0d6f8f2f11", "status": "retrying",
		"host_agent": {"status": "running", "version": "1.2.3"}, "timestamp": "2015-06-09 07:05:03.123456",
		"info": {"hostname": "h", "cpu_info": {"cpu_sockets": 2}}, "hypervisor_info": {"hypervisor_type": "kvm"},
		"apps": {"a": {"version": "1", "config": {}, "service_states": {"s": false}}}, "desired_apps": {},
		"extensions": {"ip_address": {"status": "ok", "data": ["10.0.0.1"]}, "volumes": {"status": "timed-out", "data": ""}},
		"cert_info": {"details": {}}, "timestamp_on_du": "x"}}`
)

func on(b bool) *bool { return &b }

func TestDocumentedMessages(t *testing.T) {
	e, err := Parse([]byte(documentSetConfig))
	if err != nil {
		t.Fatal(err)
	}
	apps, err := ParseApps(e.Data)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]App{
		"app_foo": {Version: "1.8", URL: "http://www.foo.com/ostackhost-1.0.rpm", Running: on(true), Config: json.RawMessage(`{"default": {"x":3, "y":2}, "backup": {"x":3, "y":5}}`)},
		"app_bar": {Version: "1.0", URL: "http://bar-1.0.rpm", Running: on(false), Config: json.RawMessage(`{"xx": {"f":1, "g":2}}`)},
	}
	if e.Opcode != SetConfig || !cmp.Equal(apps, want) {
		t.Error(cmp.Diff(apps, want))
	}
	e, err = Parse([]byte(documentStatus))
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseStatus(e.Data)
	if err != nil {
		t.Fatal(err)
	}
	if s.HostID != "00:50:56:A9:0B:BD" || s.State != StateOK || s.Info.OSInfo != "centos 6.4 Final" || !cmp.Equal(s.Apps["app_foo"], want["app_foo"]) || s.DesiredApps != nil {
		t.Errorf("%+v", s)
	}
	if Satisfies(apps, s.Apps) {
		t.Error("app_bar is missing")
	}
	delete(apps, "app_bar")
	if !Satisfies(apps, s.Apps) {
		t.Error("what is desired is there")
	}
}

func TestLaterMessages(t *testing.T) {
	e, err := Parse([]byte(laterSetConfig))
	if err != nil {
		t.Fatal(err)
	}
	apps, err := ParseApps(e.Data)
	if err != nil {
		t.Fatal(err)
	}
	comms, muster := apps["pf9-comms"], apps["pf9-muster"]
	if comms.Rank != 1.5 || muster.Rank != -2 || string(muster.Extra["du_config"]) != `{"a": 1}` || !muster.ServiceStates["pf9-muster"] {
		t.Errorf("%+v", apps)
	}
	if muster.PkgInfo.FilenamesByOS["ubuntu_.*"] != "pf9-muster.deb" {
		t.Errorf("%+v", muster.PkgInfo)
	}
	url, err := ExpandURL(comms.URL, Variables{Host: "localhost", Protocol: "http", Port: "9080"})
	if want := "http://localhost:9080/private/pf9-comms-2.1.0-5.x86_64.rpm"; url != want || err != nil {
		t.Errorf("%q, %v", url, err)
	}
	if e, err = Parse([]byte(laterStatus)); err != nil {
		t.Fatal(err)
	}
	s, err := ParseStatus(e.Data)
	if err != nil {
		t.Fatal(err)
	}
	at, err := ParseTime(s.Timestamp)
	if want := time.Date(2015, 6, 9, 7, 5, 3, 123456000, time.UTC); err != nil || !at.Equal(want) {
		t.Errorf("%v, %v", at, err)
	}
	if s.HostAgent != (HostAgent{"running", "1.2.3"}) || s.DesiredApps == nil || string(s.Extra["timestamp_on_du"]) != `"x"` || s.Extensions["volumes"].Status != "timed-out" {
		t.Errorf("%+v", s)
	}
}

// TestRoundTrip writes what was read, and reads the same.
func TestRoundTrip(t *testing.T) {
	for _, body := range []string{
		documentSetConfig, documentStatus, laterSetConfig, laterStatus, `{"opcode":"ping"}`,
		`{"opcode":"get_support","upload":true,"label":"x"}`, `{"opcode":"set_config","revision":7,"data":{}}`,
		`{"opcode":"support","status":"error","error_message":"no","data":{"host_id":"h"}}`,
	} {
		e, err := Parse([]byte(body))
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if e.Opcode == StatusReport {
			s, err := ParseStatus(e.Data)
			if err != nil {
				t.Fatal(err)
			}
			if e, err = NewStatus(s); err != nil {
				t.Fatal(err)
			}
		}
		if e.Opcode == SetConfig {
			apps, err := ParseApps(e.Data)
			if err != nil {
				t.Fatal(err)
			}
			if e, err = NewSetConfig(apps, e.Revision); err != nil {
				t.Fatal(err)
			}
		}
		again, err := e.Append([]byte("x"))
		if err != nil || again[0] != 'x' {
			t.Fatal(err)
		}
		if got, want := anything(t, again[1:]), anything(t, []byte(strings.Replace(body, `"1.5"`, `1.5`, 1))); !cmp.Equal(got, want) {
			t.Errorf("%s", cmp.Diff(got, want))
		}
	}
}

func anything(t testing.TB, b []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return v
}

func TestRefused(t *testing.T) {
	for body, says := range map[string]string{
		``: "not a JSON object", `[]`: "not a JSON object", `null`: "not a JSON object", `{"opcode":"ping"} x`: "not a JSON object",
		`{}`: "no opcode", `{"opcode":3}`: `opcode: want a text, not 3`, `{"opcode":""}`: "no opcode",
		`{"opcode":"set_config","revision":"a"}`:                    "revision: want a whole number",
		strings.Repeat(`{"a":`, 80) + `1` + strings.Repeat(`}`, 80): "nested deeper than 64",
		strings.Repeat(` `, MaxBody+1):                              "the most is 1048576",
	} {
		if _, err := Parse([]byte(body)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60s: %v, want %q", body, err, says)
		}
	}
	for apps, says := range map[string]string{
		`[]`:        "want an object of apps by name, not []",
		`{"web":3}`: "app web: want an object with version, url and config, not 3",
		`{"web":{"url":"http://h/x","config":{}}}`:                                                          "app web: version is missing",
		`{"web":{"version":1,"url":"http://h/x","config":{}}}`:                                              `app web: version: want a text, as "1.8", not 1`,
		`{"web":{"version":"1","config":{}}}`:                                                               "app web: url is missing",
		`{"web":{"version":"1","url":"http://h/x"}}`:                                                        "app web: config is missing",
		`{"web":{"version":"1","url":"http://h/x","config":[1]}}`:                                           "app web: config: want an object, not [1]",
		`{"web":{"version":"1","url":"http://h/x","config":null}}`:                                          "app web: config is missing",
		`{"web":{"version":"1","url":"file:///etc/shadow","config":{}}}`:                                    `app web: url "file:///etc/shadow": want http://HOST/FILE`,
		`{"web":{"version":"1","url":"http://%(nothing)s/x","config":{}}}`:                                  "template %(nothing is not known",
		`{"web":{"version":"1","url":"ftp://u:hunter2@h/x?k=hunter2","config":{}}}`:                         `app web: url "ftp://h/x": want http://HOST/FILE`,
		`{"web":{"version":"1","url":"http://h/x","config":{},"running":"yes"}}`:                            `app web: running: want true or false, not "yes"`,
		`{"web":{"version":"1","url":"http://h/x","config":{},"service_states":{"a":1}}}`:                   "app web: service_states: want an object of true and false",
		`{"web":{"version":"1","url":"http://h/x","config":{},"running":true,"service_states":{"a":true}}}`: "both running and service_states",
		`{"web":{"version":"1","url":"http://h/x","config":{},"rank":"high"}}`:                              `app web: rank: want a number, not "high"`,
		`{"web":{"version":"1","url":"http://h/x","config":{},"rank":"NaN"}}`:                               "rank: want a number",
		`{"web":{"version":"1","url":"http://h/x","config":{},"digest":"sha256:ab"}}`:                       "want sha256: and 64 hexadecimal digits",
		`{"web":{"version":"1","url":"http://h/x","config":{},"size":-1}}`:                                  "size: -1",
		`{"web":{"version":"1","pkginfo":{"baseurl":"http://h"},"config":{}}}`:                              "filenames_by_os has 0 files",
		`{"web":{"version":"1","pkginfo":{"baseurl":"x","filenames_by_os":{"a":"b"}},"config":{}}}`:         `pkginfo: baseurl "x": want`,
		`{"web":{"version":"1","url":"http://h/x","config":{},"limits":{"memory":64}}}`:                     "limits: 64 bytes of memory are too few",
		`{"web":{"version":"1","url":"http://h/x","config":{},"limits":{"pids":-1}}}`:                       "limits: want numbers from 0",
		`{"../etc":{"version":"1","url":"http://h/x","config":{}}}`:                                         `app name "../etc"`,
		`{"":{"version":"1","url":"http://h/x","config":{}}}`:                                               "app name",
	} {
		_, err := ParseApps(json.RawMessage(apps))
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", apps, err, says)
		}
	}
	for status, says := range map[string]string{
		`{}`: "host id must not be empty", `{"host_id":"h"}`: "says no status", `{"host_id":3,"status":"ok"}`: "host_id: want a text",
		`{"host_id":"slaves","status":"ok"}`: "routing key of others", `{"host_id":"h","status":"ok","apps":[]}`: "apps: want an object",
		`{"host_id":"h","status":"ok","host_agent":"x"}`:               "host_agent: want an object",
		`{"host_id":"` + strings.Repeat("h", 246) + `","status":"ok"}`: "the most is 245",
		`{"host_id":"a b","status":"ok"}`:                              "spaces or control characters",
	} {
		if _, err := ParseStatus(json.RawMessage(status)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60s: %v, want %q", status, err, says)
		}
	}
}

func TestSatisfies(t *testing.T) {
	for _, tt := range []struct {
		desired, current string
		want             bool
	}{
		{`{}`, `{}`, true},
		{`{}`, `{"a":{"version":"1"}}`, false},
		{`{"a":{"version":"1"}}`, `{}`, false},
		{`{"a":{"version":"1"}}`, `{"b":{"version":"1"}}`, false},
		{`{"a":{"version":"1"}}`, `{"a":{"version":"2"}}`, false},
		{`{"a":{"version":"1","url":"http://x/y","rank":"3","du_config":{"x":1},"digest":"sha256:0","size":3}}`, `{"a":{"version":"1"}}`, true},
		{`{"a":{"running":true}}`, `{"a":{"running":true}}`, true},
		{`{"a":{"running":true}}`, `{"a":{"running":false}}`, false},
		{`{"a":{"running":true}}`, `{"a":{"service_states":{"s":true}}}`, false},
		{`{"a":{"service_states":{"s":true}}}`, `{"a":{"service_states":{"s":true,"t":false}}}`, true},
		{`{"a":{"service_states":{"s":true}}}`, `{"a":{"service_states":{"t":true}}}`, false},
		{`{"a":{"config":{"x":{"y":1}}}}`, `{"a":{"config":{"x":{"y":1,"z":2},"w":{}}}}`, true},
		{`{"a":{"config":{"x":{"y":1}}}}`, `{"a":{"config":{"x":{"z":1}}}}`, false},
		{`{"a":{"config":{"x":{"y":1}}}}`, `{"a":{"config":{"x":1}}}`, false},
		{`{"a":{"config":{"x":3}}}`, `{"a":{"config":{"x":3.0}}}`, true},
		{`{"a":{"config":{"x":100}}}`, `{"a":{"config":{"x":1e2}}}`, true},
		{`{"a":{"config":{"x":-0.0}}}`, `{"a":{"config":{"x":0}}}`, true},
		{`{"a":{"config":{"x":9007199254740993}}}`, `{"a":{"config":{"x":9007199254740992}}}`, false},
		{`{"a":{"config":{"x":1e999999999999}}}`, `{"a":{"config":{"x":1}}}`, false},
		{`{"a":{"config":{"x":3}}}`, `{"a":{"config":{"x":"3"}}}`, false},
		{`{"a":{"config":{"x":1}}}`, `{"a":{"config":{"x":true}}}`, false},
		{`{"a":{"config":{"x":null}}}`, `{"a":{"config":{"x":null}}}`, true},
		{`{"a":{"config":{"x":null}}}`, `{"a":{"config":{}}}`, false},
		{`{"a":{"config":{"x":[1,{"a":2}]}}}`, `{"a":{"config":{"x":[1,{"a":2}]}}}`, true},
		{`{"a":{"config":{"x":[1,{"a":2}]}}}`, `{"a":{"config":{"x":[1,{"a":2,"b":3}]}}}`, false},
		{`{"a":{"config":{"x":[1]}}}`, `{"a":{"config":{"x":[1,2]}}}`, false},
		{`{"a":{"config":{}}}`, `{"a":{}}`, true},
	} {
		desired, err := statusApps(json.RawMessage(tt.desired))
		if err != nil {
			t.Fatal(err)
		}
		current, err := statusApps(json.RawMessage(tt.current))
		if err != nil {
			t.Fatal(err)
		}
		if got := Satisfies(desired, current); got != tt.want {
			t.Errorf("Satisfies(%s, %s) = %v", tt.desired, tt.current, got)
		}
	}
}

func TestTime(t *testing.T) {
	at := time.Date(2026, 11, 21, 17, 5, 9, 40_000, time.FixedZone("", 3600))
	if got := FormatTime(at); got != "2026-11-21 16:05:09.000040" {
		t.Error(got)
	}
	for text, want := range map[string]string{
		"2015-06-09 07:05:03.123456": "2015-06-09 07:05:03.123456", "2015-06-09 07:05:03": "2015-06-09 07:05:03.000000",
		"2015-06-09T07:05:03.5Z": "2015-06-09 07:05:03.500000", "2015-06-09T07:05:03+02:00": "2015-06-09 05:05:03.000000", "yesterday": "", "": "",
	} {
		got, err := ParseTime(text)
		if want == "" && !errors.Is(err, ErrInvalid) || want != "" && FormatTime(got) != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

func TestReport(t *testing.T) {
	code := 3
	s := Status{HostID: "h", State: StateFailed, Extensions: map[string]Extension{"x": {Status: "ok"}}}
	in := Report{BootID: "b", Sequence: 4, Revision: 9, Refused: &Refusal{Reason: "no"}, Apps: map[string]AppReport{"web": {ExitCode: &code, Percent: 12.5}}}
	if err := s.SetReport(in); err != nil {
		t.Fatal(err)
	}
	e, err := NewStatus(s)
	if err != nil {
		t.Fatal(err)
	}
	if s, err = ParseStatus(e.Data); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Report(); err != nil || !cmp.Equal(*out, in) || len(s.Extensions) != 2 {
		t.Errorf("%+v, %v", out, err)
	}
	if out, err := (Status{}).Report(); out != nil || err != nil {
		t.Error(out, err)
	}
	if _, err := (Status{Extensions: map[string]Extension{ReportName: {Data: json.RawMessage(`3`)}}}).Report(); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func TestStateWords(t *testing.T) {
	for in, want := range map[State][2]State{StateOK: {StateOK, StateOK}, StateConverging: {StateConverging, StateConverging}, StateRetrying: {StateErrors, StateRetrying}, StateFailed: {StateErrors, StateFailed}, StateErrors: {StateErrors, StateRetrying}} {
		if a, b := in.In(Document), in.In(MasterDeclared); a != want[0] || b != want[1] {
			t.Errorf("%s: %s, %s", in, a, b)
		}
	}
}

// FuzzParse holds that whatever is read is written to be read as the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{documentSetConfig, documentStatus, laterSetConfig, laterStatus, `{"opcode":"ping","data":null}`, `{"opcode":"\u0000","data":{"a":{"rank":1e308}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := Parse(body)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if b, err := e.Append(nil); err == nil {
			again, err := Parse(b)
			if err != nil {
				t.Fatalf("%q: %v", b, err)
			}
			if again.Opcode != e.Opcode || again.Revision != e.Revision || len(again.Extra) != len(e.Extra) {
				t.Fatalf("%+v\n%+v", e, again)
			}
		}
		if apps, err := ParseApps(e.Data); err == nil {
			b, err := json.Marshal(apps)
			if err != nil {
				t.Fatal(err)
			}
			again, err := ParseApps(b)
			if err != nil || !Satisfies(apps, again) || !Satisfies(again, apps) {
				t.Fatalf("%s\n%s\n%v", e.Data, b, err)
			}
		}
		if s, err := ParseStatus(e.Data); err == nil {
			s.Report()
			ParseTime(s.Timestamp)
			b, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := ParseStatus(b); err != nil || again.HostID != s.HostID || len(again.Apps) != len(s.Apps) || len(again.Extra) != len(s.Extra) {
				t.Fatalf("%s\n%s\n%v", e.Data, b, err)
			}
		}
	})
}

func FuzzSatisfies(f *testing.F) {
	f.Add([]byte(`{"a":[1,2.50,{"b":null}]}`), []byte(`{"a":[1.0,2.5,{"b":null}],"c":"d"}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		ConfigSatisfied(a, b)
		if !bytes.ContainsAny(a, "eE") && isObject(a) && json.Valid(a) && !jsondepth.Exceeds(a, MaxDepth) && !ConfigSatisfied(a, a) {
			t.Fatalf("%q is not satisfied by itself", a)
		}
	})
}

func FuzzExpandURL(f *testing.F) {
	f.Add("%(download_protocol)s://%(host_relative_amqp_fqdn)s:%(download_port)s/a%20b%%")
	f.Fuzz(func(t *testing.T, s string) {
		if out, err := ExpandURL(s, Variables{"h", "http", "80"}); err == nil && len(out) > len(s) {
			t.Fatalf("%q became %q", s, out)
		}
	})
}
