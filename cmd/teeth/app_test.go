package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/wire/backbone"
)

func TestVersionOf(t *testing.T) {
	for file, want := range map[string]string{
		"http://h/exporter_1.8_amd64.deb":                             "1.8",
		"http://h/a/lib-foo_2:1.8~rc1-3_all.deb":                      "2:1.8~rc1-3",
		"https://h/pf9-comms-2.1.0-5.x86_64.rpm?x=1":                  "2.1.0-5",
		"http://h/node_exporter-1.8.2.linux-amd64.tar.gz":             "1.8.2",
		"http://h/tool-v3.0.tgz":                                      "3.0",
		"http://h/tool_3.0_linux_amd64.tar.zst":                       "3.0",
		"http://h/tool.tar.gz":                                        "",
		"http://h/latest":                                             "",
		"%(download_protocol)s://%(host_relative_amqp_fqdn)s/x-1.rpm": "",
	} {
		if got := versionOf(file); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
}

func TestSetKey(t *testing.T) {
	config := map[string]any{"a": map[string]any{"x": json.Number("1")}, "v": "text"}
	for _, c := range []string{"a.y=2", "a.z=two", "b.c.d=[1,null]", "top=true", "a.s=\"3\"", "a.e="} {
		key, value, _ := strings.Cut(c, "=")
		if err := setKey(config, strings.Split(key, "."), value); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
	b, err := json.Marshal(config)
	if want := `{"a":{"e":"","s":"3","x":1,"y":2,"z":"two"},"b":{"c":{"d":[1,null]}},"top":true,"v":"text"}`; err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
	for _, key := range []string{"v.x", "a..x", ".x"} {
		if err := setKey(config, strings.Split(key, "."), "1"); err == nil {
			t.Errorf("%s is taken", key)
		}
	}
}

func compact(t *testing.T, b json.RawMessage) json.RawMessage {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestAppCommands says what is wanted of a chassis that has said nothing yet.
func TestAppCommands(t *testing.T) {
	info := serve(t)
	introduce(t, info, "SN1")
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	set := file("apps.yaml", "apps:\n  one:\n    version: \"1\"\n    url: http://h/one.deb\n  two:\n    version: \"2\"\n    url: http://h/two.rpm\n    config: {a: {b: [1, 2]}}\n    rank: 3\n")
	wrong := file("wrong.yaml", "apps:\n  one:\n    version: 1\n    url: http://h/one.deb\n")
	bare := file("bare.yaml", "one:\n  version: \"1\"\n")
	config := file("config.json", `{"big":9007199254740993}`)
	digest := "sha256:" + strings.Repeat("ab", 32)
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"app list", 0, "HOST"},
		{"app status SN1", 0, "missing"},
		{"app status nobody", 3, "nobody"},
		{"app set SN1 web", 2, "--version is missing"},
		{"app set SN1 web --version 1", 2, "url is missing"},
		{"app set SN1 web --url ftp://h/x --version 1", 2, "want http://"},
		{"app set SN1 web --url http://h/web_1.8_all.deb --running --stopped", 2, "give one of them"},
		{"app set SN1 web --url http://h/web_1.8_all.deb --service a=on", 2, "SERVICE=running"},
		{"app set SN1 web --url http://h/web_1.8_all.deb --config x", 2, "SECTION.KEY=VALUE"},
		{"app set SN1 web --url http://h/web_1.8_all.deb --config k.x=3 --digest " + digest + " --memory 16777216", 0, "absent"},
		{"app set SN1 web --stopped --config k.y=text --cpus 0.5", 0, "1.8"},
		{"app set SN1 web --config-file " + config, 0, "1.8"},
		{"app set nobody web --url http://h/web_1.8_all.deb", 3, "nobody"},
		{"app remove SN1 other", 3, "other"},
		{"app apply SN1", 2, "--file is missing"},
		{"app apply SN1 -f " + wrong, 2, `app one: version: want a text, as "1.8", not 1`},
		{"app apply SN1 -f " + bare, 2, "want apps:"},
		{"app apply SN1 -f /nonexistent", 2, "/nonexistent"},
		{"app ping SN1", 1, "never said anything"},
		{"app status SN1 --wait --timeout 1s", 1, "missing"},
		{"app set other-host web --url http://h/web_1.8_all.deb --unseen", 0, "other-host"},
		{"app list", 0, "other-host"},
		{"app forget other-host", 0, ""},
		{"app status other-host", 3, "other-host"},
	} {
		out, errs, code := teethCommand(t, strings.Fields(tt.args)...)
		said := errs
		if tt.code == 0 {
			said = out
		}
		if code != tt.code || !strings.Contains(said, tt.says) {
			t.Errorf("teeth %s: exit code %d, stdout %q, stderr %q; want %d and %q", tt.args, code, out, errs, tt.code, tt.says)
		}
	}
	show := func() map[string]backbone.App {
		t.Helper()
		out, errs, code := teethCommand(t, "app", "status", "SN1", "-o", "json")
		var h client.AppHost
		if err := json.Unmarshal([]byte(out), &h); code != 0 || err != nil {
			t.Fatalf("%d, %s, %v", code, errs, err)
		}
		apps, err := backbone.ParseApps(h.DesiredApps)
		if err != nil {
			t.Fatal(err)
		}
		return apps
	}
	web := show()["web"]
	web.Config = compact(t, web.Config)
	if web.Version != "1.8" || *web.Running || web.Digest != digest || web.Limits.Memory != 16_777_216 || web.Limits.CPUs != 0.5 || string(web.Config) != `{"big":9007199254740993}` {
		t.Errorf("%+v %s", web, web.Config)
	}
	// Another file: what was known of the old one does not hold for it.
	if _, errs, code := teethCommand(t, "app", "set", "SN1", "web", "--url", "http://h/web_1.9_all.deb"); code != 0 {
		t.Error(errs)
	}
	if web = show()["web"]; web.Version != "1.9" || web.Digest != "" || *web.Running {
		t.Errorf("%+v", web)
	}
	if _, errs, code := teethCommand(t, "app", "apply", "SN1", "-f", set); code != 0 {
		t.Error(errs)
	}
	all := show()
	if len(all) != 2 || string(compact(t, all["one"].Config)) != `{}` || all["two"].Rank != 3 || all["one"].Running != nil {
		t.Errorf("%+v", all)
	}
	if _, errs, code := teethCommand(t, "app", "remove", "SN1", "one", "two"); code != 0 || len(show()) != 0 {
		t.Error(errs)
	}
}
