package command

import (
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/teeth-metal/teeth/wire/minion"
)

// What is misspelt or empty must not end up as everything.
func TestPolicyThatSaysNothing(t *testing.T) {
	for text, want := range map[string]string{
		"alow: [df]": "alow", "allow:\n# - df\n": "allow of the commands is empty", "internal:": "internal of the commands is empty", "off: ~": "empty", "[df]": "cannot unmarshal",
	} {
		var p Policy
		if err := yaml.Unmarshal([]byte(text), &p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	var none Policy
	if err := yaml.Unmarshal([]byte("allow: []"), &none); err != nil || none.Allow == nil || !none.Restricts() {
		t.Errorf("%+v, %v", none, err)
	}
}

func TestPolicy(t *testing.T) {
	var listed Policy
	if err := yaml.Unmarshal([]byte("allow:\n- systemctl status *\n- [smartctl, -a, '/dev/sd?']\n- df ...\ninternal: [version]\n"), &listed); err != nil {
		t.Fatal(err)
	}
	plain := Peer{}
	tests := []struct {
		policy Policy
		from   Peer
		kind   string
		line   string
		env    bool
		ok     bool
	}{
		{Policy{}, ours, minion.External, "rm -rf /nowhere", true, true},
		{Policy{}, ours, minion.Internal, "upgrade", false, true},
		{Policy{}, plain, minion.External, "true", false, false},
		{Policy{}, plain, minion.Internal, "version", false, true},
		{Policy{}, plain, minion.Internal, "status", false, true},
		{Policy{}, plain, minion.Internal, "get-config", false, false},
		{Policy{Plain: true}, plain, minion.External, "true", false, true},
		{Policy{Off: true}, ours, minion.External, "true", false, false},
		{Policy{Off: true}, ours, minion.Internal, "get-config", false, true},
		{listed, ours, minion.External, "systemctl status ssh", false, true},
		{listed, ours, minion.External, "systemctl stop ssh", false, false},
		{listed, ours, minion.External, "systemctl status", false, false},
		{listed, ours, minion.External, "systemctl status ssh cron", false, false},
		{listed, ours, minion.External, "./systemctl status ssh", false, false},
		{listed, ours, minion.External, "smartctl -a /dev/sda", false, true},
		{listed, ours, minion.External, "smartctl -a /dev/sda/../x", false, false},
		{listed, ours, minion.External, "df", false, true},
		{listed, ours, minion.External, "df -Pk /", false, true},
		{listed, ours, minion.External, "df -Pk /", true, false},
		{listed, plain, minion.External, "df", false, false},
		{listed, ours, minion.Internal, "version", false, true},
		{listed, ours, minion.Internal, "status", false, false},
	}
	for _, tt := range tests {
		c := command{kind: tt.kind, argv: strings.Fields(tt.line)}
		if tt.env {
			c.env = []string{"A=B"}
		}
		if err := tt.policy.check(c, tt.from); (err == nil) != tt.ok {
			t.Errorf("%+v, %s %s from %+v: %v", tt.policy, tt.kind, tt.line, tt.from, err)
		}
	}
	if err := listed.check(command{kind: minion.External, argv: []string{"df"}, shell: true}, ours); err == nil {
		t.Error("a shell gets around the list")
	}
	for _, bad := range []string{"allow: ['']", "allow: ['df [']", "allow: ['... x']", "allow: ['...']", "allow: [{a: b}]"} {
		if err := yaml.Unmarshal([]byte(bad), new(Policy)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
