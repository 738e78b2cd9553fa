package minion

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

const sample = `
port: 47990
host: 0.0.0.0
default_log: /tmp/streamserver.log
daemonize: false
syncinterval: 60
pidfile: /run/ss.pid
service_defaults:
  type: postgresql
command:
  - source: postgresql
groups:
  - id: g1
    key: ENV["TEST_MINION_KEY"]
    service_defaults:
      type: file
      destination: /var/log/minion/../minion/g1.log
      options: [ab]
    services:
      - service: [nginx, php]
      - service: cron
        cull: false
      - service: console
        type: io
        destination: STDERR
      - default: true
        type: database
        destination: postgresql://localhost/minion
        options: {batch_size: 1000}
    telemetry:
      - destination: /var/log/minion/load.log
        type: file
        label: [load_avg, mem]
      - type: postgresql
    responses: [{destination: x}]
  - id: g2
    key: k2
  - id: chassis
    services:
      - {service: kernel, type: file, destination: /var/log/minion/kernel.log}
`

func TestReadConfig(t *testing.T) {
	t.Setenv("TEST_MINION_KEY", "s3cret")
	path := filepath.Join(t.TempDir(), "minion.yml")
	if err := os.WriteFile(path, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	groups, notes, err := ReadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	g1 := Destination{typeFile, "/var/log/minion/g1.log"}
	database := Destination{Type: typeRecords}
	load := Destination{typeFile, "/var/log/minion/load.log"}
	want := []GroupConfig{
		{ID: "g1", Key: "s3cret", Services: []ServiceConfig{
			{Names: []string{"nginx", "php"}, To: g1, Cull: true}, {Names: []string{"cron"}, To: g1},
			{Names: []string{"console"}, To: Destination{typeIO, "stderr"}, Cull: true}, {To: database, Cull: true, Default: true},
		}, Telemetry: []TelemetryConfig{{"load_avg", load}, {"mem", load}, {"", database}}},
		{ID: "g2", Key: "k2"},
		{ID: "chassis", Services: []ServiceConfig{{Names: []string{"kernel"}, To: Destination{typeFile, "/var/log/minion/kernel.log"}, Cull: true}}},
	}
	if !reflect.DeepEqual(groups, want) {
		t.Errorf("%+v\nwant\n%+v", groups, want)
	}
	if len(notes) != 7 {
		t.Errorf("notes %q", notes)
	}
	if _, _, err := ReadConfig(path + "x"); err == nil || !strings.Contains(err.Error(), path+"x") {
		t.Error(err)
	}
	if groups, notes, err := parseConfig(nil); err != nil || len(groups)+len(notes) != 0 {
		t.Error(groups, notes, err)
	}
}

func TestReadConfigRefuses(t *testing.T) {
	group := func(more string) string { return "groups:\n- id: g\n  key: k\n" + more }
	for text, want := range map[string]string{
		"groups: [{key: k}]":                             "id: want",
		"groups: [{id: g}]":                              "no key",
		"groups: [{id: chassis, key: k}]":                "leave it out",
		`groups: [{id: "a\tb", key: k}]`:                 "printable",
		"groups: [{id: g, key: k, keys: x}]":             "keys",
		"groups: [{id: g, key: k}, {id: g, key: k}]":     "twice",
		`groups: [{id: g, key: 'ENV["TEETH_NO_SUCH"]'}]`: "TEETH_NO_SUCH is not set",
		"group: []": "group",
		"groups: 3": "cannot unmarshal",
		group("  services: [{service: a, type: file, destination: a.log}]"):                       "absolute",
		group("  services: [{service: a, type: file}]"):                                           "absolute",
		group("  services: [{service: a, type: redis, destination: x}]"):                          `"redis"`,
		group("  services: [{service: a}]"):                                                       "want file, io or postgresql",
		group("  services: [{service: a, type: io, destination: stdin}]"):                         "stdout or stderr",
		group("  services: [{type: io, destination: stdout}]"):                                    "no name",
		group("  telemetry: [{label: a, type: io}]"):                                              "stdout or stderr",
		group("  services: [{service: {a: b}, type: io, destination: stdout}]"):                   "cannot unmarshal",
		"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\ngroups: [*b,*b,*b,*b,*b,*b,*b]": "",
	} {
		if groups, _, err := parseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", text, groups, err, want)
		}
	}
	file := Destination{typeFile, filepath.Join(t.TempDir(), "x.log")}
	for want, c := range map[string]Config{
		"whose chassis":        {Groups: []GroupConfig{{ID: "g"}}},
		"have one each":        {Groups: []GroupConfig{{ID: ChassisGroup, Key: "k"}}},
		"there is none":        {Groups: []GroupConfig{{ID: "g", Key: "k", Services: []ServiceConfig{{Default: true, To: Destination{Type: typeRecords}}}}}},
		"is there twice":       {Groups: []GroupConfig{{ID: "g", Key: "k", Services: []ServiceConfig{{Names: []string{"a", "a"}, To: file}}}}},
		"two default services": {Groups: []GroupConfig{{ID: "g", Key: "k", Services: []ServiceConfig{{Default: true, To: file}, {Default: true, To: file}}}}},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

func FuzzReadConfig(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("groups: [{id: g, key: k, services: [{service: [a], type: io, destination: stdout}]}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		groups, _, err := parseConfig(b)
		if err != nil {
			return
		}
		for _, g := range groups {
			if !validName(g.ID) || (g.ID == ChassisGroup) != (g.Key == "") {
				t.Fatalf("group %+v", g)
			}
			for _, s := range g.Services {
				if s.To.Type == typeFile && !filepath.IsAbs(s.To.Path) {
					t.Fatalf("service %+v", s)
				}
			}
		}
	})
}

// TestTelemetry goes where its label says; JSON may have no label.
func TestTelemetry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "load.log")
	sink := &keep{}
	r := start(t, Config{Records: sink, Groups: []GroupConfig{{ID: "g1", Key: "k1", Telemetry: []TelemetryConfig{
		{"load", Destination{typeFile, path}}, {"", Destination{Type: typeRecords}}}}}})
	p := acknowledged(t, r, "g1", server1, "k1")
	last := wire.Frame{Verb: wire.Telemetry, ID: p.ids.Next(), Data: append(wire.Texts("g1", server1, "lists"), wire.List("a", "b\x00\xff"), wire.Text("c"))}
	p.send(wire.Measurement(p.ids.Next(), "g1", server1, "load", "0.5", "0.25"),
		wire.Measurement(p.ids.Next(), "g1", server1, "disks", "1", "2"),
		wire.Measurement(p.ids.Next(), "g1", server1, `JSON:{"a":1}`),
		last)
	p.through(last.ID)
	if got := messagesOf(t, path); len(got) != 1 || got[0] != "0.5\t0.25" {
		t.Errorf("%q", got)
	}
	got := map[string][]string{}
	for _, e := range sink.all() {
		got[e.Service] = e.Values
	}
	if want := map[string][]string{"disks": {"1", "2"}, "": {`JSON:{"a":1}`}, "lists": {"a", "b\uFFFD\uFFFD", "c"}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestHappened(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	node := wire.RandomNode()
	for at, want := range map[time.Time]time.Time{
		now.Add(-time.Hour):                 now.Add(-time.Hour),
		now.Add(-30 * 24 * time.Hour):       now.Add(-30 * 24 * time.Hour),
		now.Add(30 * time.Second):           now.Add(30 * time.Second),
		now.Add(time.Hour):                  now,
		time.Unix(100, 0):                   now,
		now.Add(100 * 365 * 24 * time.Hour): now,
	} {
		if got := happened(wire.NewID(at, node), now); !got.Equal(want) {
			t.Errorf("%v happened %v, want %v", at, got, want)
		}
	}
}
