package records

import (
	"errors"
	"strings"
	"testing"
)

func init() { suite["AgentVersions"] = testAgentVersions }

func testAgentVersions(t *testing.T, d *DB) {
	ctx := t.Context()
	sum := strings.Repeat("ab", 32)
	signed := func(version, kind, arch string) AgentVersion {
		return AgentVersion{Version: version, Kind: kind, Arch: arch, URL: "/boot/teeth-agent-" + version, SHA256: sum, Signature: "signed", Size: 5}
	}
	// By hand, as the original has it.
	if _, err := d.w.ExecContext(ctx, `INSERT INTO agent_versions (version, md5, url) VALUES ('9.0.0', '00112233445566778899aabbccddeeff', 'http://h/agent')`); err != nil {
		t.Fatal(err)
	}
	for _, v := range []AgentVersion{signed("1.10.0", KindAgent, "amd64"), signed("1.9.0", KindAgent, "amd64"), signed("2.0.0", KindAgent, "arm64"), signed("v3.0.0", KindImage, "")} {
		got, err := d.AddAgentVersion(ctx, v)
		if v.ID = got.ID; err != nil || got != v || got.ID == 0 {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if _, err := d.AddAgentVersion(ctx, signed("1.9.0", "", "amd64")); !errors.Is(err, ErrConflict) {
		t.Errorf("the same number again: %v", err)
	}
	for _, tt := range []struct {
		kind, arch string
		signed     bool
		want       string
	}{
		{KindAgent, "amd64", true, "1.10.0"}, {KindAgent, "arm64", true, "2.0.0"}, {KindAgent, "s390x", true, ""},
		{KindAgent, "", false, "9.0.0"}, {KindAgent, "amd64", false, "9.0.0"}, {KindImage, "amd64", true, "v3.0.0"}, {"other", "", false, ""},
	} {
		v, err := d.NewestAgentVersion(ctx, tt.kind, tt.arch, tt.signed)
		if v.Version != tt.want || errors.Is(err, ErrNotFound) != (tt.want == "") {
			t.Errorf("%+v: %q, %v", tt, v.Version, err)
		}
	}
	all, err := d.AgentVersions(ctx)
	if err != nil || len(all) != 5 || all[0].Kind != KindAgent || all[0].Signature != "" {
		t.Fatalf("%+v, %v", all, err)
	}
	if err := d.RemoveAgentVersion(ctx, all[1].ID); err != nil {
		t.Error(err)
	}
	if err := d.RemoveAgentVersion(ctx, all[1].ID); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if v, err := d.NewestAgentVersion(ctx, KindAgent, "amd64", true); v.Version != "1.9.0" {
		t.Error(v, err)
	}
	for name, change := range map[string]func(*AgentVersion){
		"version": func(v *AgentVersion) { v.Version = "../1" }, "kind": func(v *AgentVersion) { v.Kind = "x" }, "arch": func(v *AgentVersion) { v.Arch = "a/b" },
		"url": func(v *AgentVersion) { v.URL = "" }, "url's user": func(v *AgentVersion) { v.URL = "http://u:p@h/" }, "url's scheme": func(v *AgentVersion) { v.URL = "file:///x" },
		"sha256": func(v *AgentVersion) { v.SHA256 = "ab" }, "no sha256": func(v *AgentVersion) { v.SHA256 = "" }, "md5": func(v *AgentVersion) { v.MD5 = "x" },
		"size": func(v *AgentVersion) { v.Size = -1 }, "signature": func(v *AgentVersion) { v.Signature = strings.Repeat("x", 9999) },
	} {
		v := signed("5.0.0", KindAgent, "amd64")
		change(&v)
		if _, err := d.AddAgentVersion(ctx, v); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
