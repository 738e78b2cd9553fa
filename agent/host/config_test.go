package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/teeth-metal/teeth/internal/need"
)

// The keys of the original's file.
const original = `
upgrade: http://getminion.io/api/v1/minion
upgrade_key: RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3
server_id: 11111111-2222-3333-4444-555555555555
server_name: web-1
group_id: g1
group_key: k1
streamserver_host: 127.0.0.1
streamserver_port: 47990
telemetry_interval: 60
builtin_telemetries:
- memory
- label: pick_files
  arguments: [/var/spool/a, /var/spool/b]
tail_logs:
- service: syslog
  file: /var/log/syslog
telemetries:
- name: users
  command: who
  args: [-q]
  interval: 300
insecure: true
`

func TestConfigOfTheOriginal(t *testing.T) {
	c, err := Parse([]byte(original))
	if err != nil {
		t.Fatal(err)
	}
	target, err := c.target()
	if err != nil || target.Addresses[0] != "127.0.0.1:47990" || target.TLS != nil || target.Key != "k1" || target.Group != "g1" {
		t.Errorf("%+v, %v", target, err)
	}
	if len(c.Builtin) != 2 || c.Builtin[1].Arguments[1] != "/var/spool/b" || c.Telemetries[0].Interval != 300 || c.TailLogs[0].Path != "/var/log/syslog" || len(c.Unknown) != 0 {
		t.Errorf("%+v", c)
	}
}

func TestConfigThatMakesNoSense(t *testing.T) {
	change := func(from, to string) string {
		if !strings.Contains(original, from) {
			t.Fatalf("no %q", from)
		}
		return strings.Replace(original, from, to, 1)
	}
	for text, want := range map[string]string{
		"":                                    "streamserver_host",
		"- ":                                  "cannot unmarshal",
		original + "commands:\n# allow: [df]": "commands is empty",
		original + "commands: {alow: [df]}":   "alow",
		change("insecure: true", ""):          "insecure: true",
		original + "ca_sha256: " + strings.Repeat("0", 64):                                  "exclude",
		change("insecure: true", "ca_sha256: 12"):                                           "64 hexadecimal digits",
		change("group_id: g1", ""):                                                          "group_id",
		change("group_key: k1", ""):                                                         "group_key",
		original + "group_key_file: /x":                                                     "group_key",
		change("47990", "99999"):                                                            "streamserver_port",
		change("- memory", "- memories"):                                                    "memories",
		change("/var/log/syslog", "syslog"):                                                 "absolute",
		change("telemetry_interval: 60", "telemetry_interval: -1"):                          "telemetry_interval",
		change("interval: 300", "interval: 0.001"):                                          "interval",
		change("RWQf6", "RWQ"):                                                              "upgrade_key",
		change("upgrade_key: RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3", ""): "upgrade_key",
		original + "spool: here":                                                            "spool",
		original + "spool_size: 1TB":                                                        "spool_size",
		original + "commands: {allow: ['']}":                                                "pattern",
		original + "log: loud":                                                              "loud",
		original + "streamservers: [nowhere]":                                               "host:port",
	} {
		_, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) && !strings.Contains(err.Error(), strings.TrimPrefix(want, "spool_")) {
			t.Errorf("want %q: %v in %s", want, err, text)
		}
	}
}

func TestConfigOurs(t *testing.T) {
	text := strings.Replace(original, "insecure: true", "", 1) + "ca_sha256: " + strings.Repeat("ab", 32) + "\nstreamservers: ['[::1]:6766']\nspool_size: 10 MiB\nlog: debug\nlater: 1\n"
	c, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	target, err := c.target()
	if err != nil || target.TLS == nil || len(target.Addresses) != 2 || c.SpoolSize != 10<<20 || len(c.Unknown) != 1 || !strings.Contains(c.Unknown[0], "later") {
		t.Errorf("%+v, %+v, %v", c, target, err)
	}
}

// The settings that are installed, and those it shows in comments, make sense.
func TestInstalledConfiguration(t *testing.T) {
	b, err := os.ReadFile("../../packaging/teeth-agent.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(b), regexp.MustCompile(`(?m)^# (server_id|server_name|telemetries):`).ReplaceAllString(string(b), "$1:")} {
		c, err := Parse([]byte(text))
		if len(c.Unknown) > 0 || err != nil && !strings.Contains(err.Error(), "server_id is missing") {
			t.Errorf("%v, %v", c.Unknown, err)
		}
	}
}

// systemd finds nothing wrong with the unit.
func TestUnit(t *testing.T) {
	need.Program(t, "systemd-analyze", "systemd")
	b, err := os.ReadFile("../../packaging/teeth-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable() // it looks whether the program is there
	if err != nil {
		t.Fatal(err)
	}
	b = []byte(strings.ReplaceAll(string(b), "/opt/teeth/bin/teeth-agent", self))
	b = regexp.MustCompile(`(?m)^Documentation=.*\n`).ReplaceAll(b, nil)
	unit := filepath.Join(t.TempDir(), "teeth-agent.service")
	if err := os.WriteFile(unit, b, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput()
	if err != nil || strings.Contains(string(out), "teeth-agent") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestMask(t *testing.T) {
	present := "shared: &s six\ngroup_key: one\nalias_key: *s\nnested: [{password: two, api_token: three, key: four, keyboard: us}]\nupgrade_key: public\nurl: https://u:five@h/\n"
	v, err := shown([]byte(present))
	if err != nil {
		t.Fatal(err)
	}
	b, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"one", "two", "three", "four", "five", "six"} {
		if strings.Contains(string(b), secret) {
			t.Errorf("%s is in %s", secret, b)
		}
	}
	for _, open := range []string{"us", "public"} {
		if !strings.Contains(string(b), open) {
			t.Errorf("%s is not in %s", open, b)
		}
	}
	full, err := complete([]byte("group_key: (masked)\nnested: [{password: new, api_token: (masked)}]\n"), []byte(present))
	if err != nil || string(full) != "group_key: one\nnested: [{password: new, api_token: three}]\n" {
		t.Errorf("%s, %v", full, err)
	}
	if _, err := complete([]byte("other_key: (masked)\n"), []byte(present)); err == nil {
		t.Error("a mask without a secret was taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(original))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Parse(b); err != nil {
			return
		}
		if _, err := shown(b); err != nil {
			t.Error(err)
		}
		if _, err := complete(b, b); err != nil && !strings.Contains(err.Error(), masked) {
			t.Error(err)
		}
	})
}
