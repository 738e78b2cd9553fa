package manifest

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const full = `
services:
  exporter:
    command: [/usr/bin/exporter, --listen, ":9100"]
    env: {GOGC: "50"}
    env_files: [-/etc/default/exporter]
    dir: /var
    user: "65534:65534"
    restart: on-failure
    stop_signal: SIGINT
    stop_timeout: 1m30s
    reload_signal: HUP
config: {path: /etc/exporter.ini, format: ini}
devices: [/dev/ipmi0, "/dev/sg*"]
capabilities: [CAP_SYS_RAWIO]
limits: {memory: 64MiB, pids: 32, cpu: 0.5}
root: host
writable_sys: true
`

func TestParse(t *testing.T) {
	m, err := Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	want := &Manifest{
		Services: map[string]Service{"exporter": {
			Command: []string{"/usr/bin/exporter", "--listen", ":9100"}, Env: map[string]string{"GOGC": "50"},
			EnvFiles: []string{"-/etc/default/exporter"}, Dir: "/var", User: "65534:65534", Restart: OnFailure,
			StopSignal: Signal(unix.SIGINT), StopTimeout: Duration(90 * time.Second), ReloadSignal: Signal(unix.SIGHUP),
		}},
		Config: &Config{"/etc/exporter.ini", INI}, Devices: []string{"/dev/ipmi0", "/dev/sg*"},
		Capabilities: []string{"CAP_SYS_RAWIO"}, Limits: Limits{64 << 20, 32, 0.5}, Root: HostRoot, WritableSys: true,
	}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("%+v", m)
	}
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(b)
	if err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	again.Services["exporter"] = withoutEmpty(again.Services["exporter"])
	if !reflect.DeepEqual(again, want) {
		t.Errorf("%+v, of %s", again, b)
	}
	if m, err := Parse(nil); err != nil || len(m.Services) != 0 {
		t.Errorf("empty: %+v %v", m, err)
	}
	if _, err := Parse([]byte(`{"limits": {"memory": 1048576, "cpu": 2}}`)); err != nil {
		t.Error("JSON:", err)
	}
}

func withoutEmpty(s Service) Service { return s }

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"servces: {}":                                      "field servces not found",
		"services: {x: {comand: [a]}}":                     "field comand not found",
		"services: {x: {}}":                                "service x: no command",
		"services: {../x: {command: [a]}}":                 "service name",
		"services: {x: {command: [a], env: {a-b: c}}}":     "variable",
		"services: {x: {command: [a], env_files: [../x]}}": "env file: path",
		"services: {x: {command: [a], user: root}}":        "want UID or UID:GID",
		"services: {x: {command: [a], restart: maybe}}":    "want always, on-failure or never",
		"services: {x: {command: [a], stop_signal: DIE}}":  "is not a signal such as SIGTERM",
		"services: {x: {command: [a], stop_timeout: 10}}":  "is not a duration such as 10s",
		"services: {x: {command: [a], stop_timeout: 1h}}":  "want at most 10m",
		"services: {x: {command: [a], dir: x}}":            "dir: path",
		"config: {path: /etc/../x, format: ini}":           "config path",
		"config: {path: /x, format: xml}":                  "want json, ini or env",
		"devices: [/etc/passwd]":                           "want a path below /dev",
		"devices: [/dev/*/x]":                              "in its last element only",
		"devices: [\"/dev/[\"]":                            "syntax error in pattern",
		"capabilities: [ALL]":                              "want a name such as CAP_SYS_RAWIO",
		"limits: {memory: lots}":                           "is not a number of bytes such as 64MiB",
		"limits: {memory: 9000000000GiB}":                  "is not a number of bytes",
		"limits: {memory: 1KiB}":                           "want at least",
		"limits: {cpu: NaN}":                               "limit of cpu",
		"limits: {cpu: -1}":                                "limit of cpu",
		"limits: {pids: 1}":                                "want at least",
		"limits: {disk: 1}":                                "want memory, pids, cpu",
		"limits: 5":                                        "want memory, pids, cpu",
		"root: both":                                       "want app or host",
		"{}\n---\n{}":                                      "more than one document",
		strings.Repeat("#", MaxSize+1):                     "at most",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %v, want %q", text, err, want)
		}
	}
}

func TestUnit(t *testing.T) {
	u, err := ParseUnit([]byte(`
# comment
[Unit]
Description=exporter
[Service]
Type=notify
User=prometheus
Environment=A=1 "B=two words" 'C=it\'s'
EnvironmentFile=-/etc/default/x
ExecStart=
ExecStart=-/usr/bin/exporter "--name=a b" \
   --rate=50%% $ARGS
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
KillSignal=SIGINT
TimeoutStopSec=1min 30s
WorkingDirectory=/var/lib
AmbientCapabilities=CAP_NET_RAW CAP_SYS_RAWIO
[Install]
WantedBy=multi-user.target
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Unit{Service: Service{
		Command: []string{"/usr/bin/exporter", "--name=a b", "--rate=50%", "$ARGS"},
		Env:     map[string]string{"A": "1", "B": "two words", "C": "it's"}, EnvFiles: []string{"-/etc/default/x"},
		Restart: Always, StopSignal: Signal(unix.SIGINT), StopTimeout: Duration(90 * time.Second), ReloadSignal: Signal(unix.SIGHUP),
		Dir: "/var/lib", Expand: true,
	}, Capabilities: []string{"CAP_NET_RAW", "CAP_SYS_RAWIO"}, Installable: true}
	if !reflect.DeepEqual(u, want) {
		t.Errorf("%+v\nwant %+v", u, want)
	}
	service := func(lines string) (Unit, error) { return ParseUnit([]byte("[Service]\n" + lines)) }
	for _, c := range []struct {
		lines string
		want  Service
	}{
		{"ExecStart=/a", Service{Restart: Never}},
		{"ExecStart=/a\nRestart=on-abnormal", Service{Restart: OnFailure}},
		{"ExecStart=/a\nType=oneshot\nRestart=always", Service{Restart: Never}},
		{"ExecStart=/a\nType=forking", Service{Restart: Never, Forking: true}},
		{"ExecStart=/a\nUser=10\nGroup=20", Service{Restart: Never, User: "10:20"}},
		{"ExecStart=/a\nTimeoutStopSec=infinity", Service{Restart: Never, StopTimeout: Duration(10 * time.Minute)}},
		{"ExecStart=@/a argv0", Service{Restart: Never}},
	} {
		c.want.Command, c.want.Env, c.want.Expand = []string{"/a"}, map[string]string{}, true
		if u, err := service(c.lines); err != nil || !reflect.DeepEqual(u.Service, c.want) {
			t.Errorf("%q: %+v %v", c.lines, u.Service, err)
		}
	}
	for lines, want := range map[string]string{
		"":                            "0 ExecStart= lines",
		"ExecStart=/a\nExecStart=/b":  "2 ExecStart= lines",
		"Type=dbus\nExecStart=/a":     `of type "dbus"`,
		"ExecStart=/a %i":             "specifier",
		"ExecStart=/a \"":             "a quote",
		"ExecStart=-":                 "command",
		"nonsense":                    "no =",
		"ExecStart=/a\nEnvironment=x": `is not NAME=VALUE`,
	} {
		if _, err := service(lines); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", lines, err, want)
		}
	}
	if _, err := service("Type=dbus\nExecStart=/a"); !errors.Is(err, ErrNotService) {
		t.Error(err)
	}
}

func TestParseEnv(t *testing.T) {
	env, err := ParseEnv([]byte("# x\n; y\n\nA=1\nB=\"two \\\"words\\\" \\$5\"\nC='as $is'\nexport D = \n"))
	if err == nil {
		t.Error("a name with a blank is taken:", env)
	}
	env, err = ParseEnv([]byte("# x\n; y\n\nA=1\nB=\"two \\\"words\\\" \\$5\"\nC='as $is'\nexport D=\n"))
	want := map[string]string{"A": "1", "B": `two "words" $5`, "C": "as $is", "D": ""}
	if err != nil || !reflect.DeepEqual(env, want) {
		t.Errorf("%q %v", env, err)
	}
	var many strings.Builder
	for i := range 300 {
		fmt.Fprintf(&many, "A%d=1\n", i)
	}
	if _, err := ParseEnv([]byte(many.String())); err == nil {
		t.Error("any number is taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		text, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(text); err != nil && len(text) <= MaxSize {
			t.Fatalf("what is written cannot be read: %v: %s", err, text)
		}
	})
}

func FuzzUnit(f *testing.F) {
	f.Add([]byte("[Service]\nType=simple\nExecStart=/bin/x 'a b' \\\n %% $X\nEnvironment=\"A=b\"\nRestart=always\n[Install]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := ParseUnit(b)
		if err != nil {
			return
		}
		m := &Manifest{Services: map[string]Service{"x": u.Service}, Capabilities: u.Capabilities}
		text, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(text); err != nil {
			if len(text) <= MaxSize {
				t.Fatalf("%v: %s", err, text)
			}
		} else if !reflect.DeepEqual(again.Services["x"].Command, u.Service.Command) {
			t.Fatalf("%q became %q", u.Service.Command, again.Services["x"].Command)
		}
	})
}

func FuzzEnv(f *testing.F) {
	f.Add([]byte("A=1\nB=\"x\\\"\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		env, err := ParseEnv(b)
		if err == nil && len(env) > maxWords {
			t.Error(len(env))
		}
	})
}
