package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/teeth-metal/teeth/app/cgroup"
	"github.com/teeth-metal/teeth/imagecache"
)

// web is an app with a manifest.
func web(manifest string) files {
	return files{"usr/bin/web": "demo", "teeth-app.yaml": manifest}
}

const webManifest = `
services:
  web: {command: [/usr/bin/web, serve, /etc/web.ini], stop_timeout: 5s}
config: {path: /etc/web.ini, format: ini}
`

func install(t *testing.T, h *Host, s Spec) {
	t.Helper()
	if err := h.Install(t.Context(), s, nil); err != nil {
		t.Fatal(err)
	}
}

// The life of an app, in every form of package.
func TestLife(t *testing.T) {
	for _, format := range []string{"deb", "rpm", "tar"} {
		t.Run(format, func(t *testing.T) {
			build := func(f files, version string) []byte {
				switch format {
				case "deb":
					return f.deb(t, version)
				case "rpm":
					return f.rpm(t, version)
				}
				return f.tar(t)
			}
			h, log := host(t, nil)
			s := serve(t)
			v1 := s.put("web", "1.0", build(web(webManifest), "1.0"))
			v1.Config = json.RawMessage(`{"main": {"port": 80}}`)
			var reported int64
			if err := h.Install(t.Context(), v1, func(n, total int64) { reported = n }); err != nil {
				t.Fatal(err)
			}
			if reported != v1.Size {
				t.Errorf("reported %d bytes of %d", reported, v1.Size)
			}
			eventually(t, "configured", func() bool { return log.has(`web: serving 1: "[main]\nport = 80\n" <nil>`) })
			st := one(t, h)
			if st.Name != "web" || st.Version != "1.0" || !st.Running || !st.Services["web"] || st.Error != "" ||
				string(st.Config) != `{"main":{"port":80}}` || st.Digest != v1.Digest || st.ExitCode != nil {
				t.Errorf("%+v", st)
			}
			if _, err := os.Lstat("/postinst-ran"); err == nil {
				t.Error("a script of the package was run")
			}

			// Reconfigured.
			if err := h.Configure(t.Context(), "web", json.RawMessage(`{"main": {"port": 8080}}`)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "restarted", func() bool { return log.has(`port = 8080`) })

			// Upgraded.
			f := web(webManifest)
			f["usr/share/new"] = "x"
			v2 := s.put("web", "2.0", build(f, "2.0"))
			v2.Config = json.RawMessage(`{"main": {"port": 9090}}`)
			install(t, h, v2)
			eventually(t, "upgraded", func() bool { return log.has(`port = 9090`) })
			if st := one(t, h); st.Version != "2.0" || !st.Running {
				t.Errorf("%+v", st)
			}
			if entries, err := os.ReadDir(filepath.Join(h.opt.Root, "web")); err != nil || len(entries) != 2 {
				t.Errorf("files of the old version are left: %v %v", entries, err)
			}

			// Stopped, and started.
			if err := h.Set(t.Context(), "web", false, nil); err != nil {
				t.Fatal(err)
			}
			if st := one(t, h); st.Running || st.Services["web"] || st.Error != "" || !log.has("web: stopping") {
				t.Errorf("%+v", st)
			}
			if err := h.Set(t.Context(), "web", false, map[string]bool{"web": true}); err != nil {
				t.Fatal(err)
			}
			if st := one(t, h); !st.Running {
				t.Errorf("%+v", st)
			}

			// Removed.
			if err := h.Remove(t.Context(), "web"); err != nil {
				t.Fatal(err)
			}
			if all, err := h.Installed(t.Context()); err != nil || len(all) != 0 {
				t.Errorf("%+v %v", all, err)
			}
			if _, err := os.Lstat(filepath.Join(h.opt.Root, "web")); err == nil {
				t.Error("files are left")
			}
			if err := h.Remove(t.Context(), "web"); err != nil {
				t.Error("removed twice:", err)
			}
			if n := processes(t, "/etc/web.ini"); n != 0 {
				t.Errorf("%d processes are left", n)
			}
		})
	}
}

// An app of Backbone's original: config program, two services with units.
func TestContract(t *testing.T) {
	unit := func(arg string) string {
		return "[Unit]\nDescription=x\n[Service]\nExecStart=/usr/bin/demo serve " + arg + "\nRestart=always\n[Install]\nWantedBy=multi-user.target\n"
	}
	h, log := host(t, nil)
	spec := serve(t).put("demo", "1", files{
		"opt/pf9/demo/config": "demo", "usr/bin/demo": "demo",
		"usr/lib/systemd/system/demo-api.service":    unit("/var/demo.json"),
		"usr/lib/systemd/system/demo-worker.service": unit("/nothing"),
		"usr/lib/systemd/system/other.service":       unit("/other"),
	}.tar(t))
	spec.Running, spec.Services = false, map[string]bool{"demo-api": true, "demo-worker": false}
	spec.Config = json.RawMessage(`{"a": {"list": [1, null], "s": "it's \"quoted\""}}`)
	install(t, h, spec)
	eventually(t, "running", func() bool { return log.has(`demo-api: serving 1: "{\"a\"`) })
	st := one(t, h)
	want := `{"a":{"list":[1,null],"s":"it's \"quoted\""}}`
	if string(st.Config) != want || st.Running || len(st.Services) != 2 || !st.Services["demo-api"] || st.Services["demo-worker"] {
		t.Errorf("%s %+v", st.Config, st)
	}
	if err := h.Set(t.Context(), "demo", true, nil); err != nil {
		t.Fatal(err)
	}
	if st := one(t, h); !st.Running || !st.Services["demo-worker"] {
		t.Errorf("%+v", st)
	}
	err := h.Set(t.Context(), "demo", false, map[string]bool{"other": true})
	if err == nil || !strings.Contains(err.Error(), `no service "other": the app has demo-api, demo-worker`) {
		t.Error(err)
	}
}

// What can be refused is refused before anything changes.
func TestRefused(t *testing.T) {
	h, _ := host(t, nil)
	s := serve(t)
	good := s.put("web", "1", web(webManifest).tar(t))
	install(t, h, good)
	other := func(manifest string) Spec { return s.put("web", "2", web(manifest).tar(t)) }
	for _, c := range []struct {
		name string
		spec func() Spec
		want string
		is   error
	}{
		{"wrong digest", func() Spec {
			x := other(webManifest)
			x.Digest = "sha256:" + strings.Repeat("0", 64)
			return x
		}, "digest does not match", imagecache.ErrDigest},
		{"wrong size", func() Spec { x := other(webManifest); x.Size++; return x }, "the file has", imagecache.ErrDigest},
		{"not there", func() Spec { x := other(webManifest); x.URL, x.Digest = x.URL+"x", ""; return x }, "status 404", nil},
		{"not a package", func() Spec { return s.put("web", "2", []byte("<html>not found</html>")) }, "it is none of rpm, deb, tar", nil},
		{"bad manifest", func() Spec { return other("servces: {}") }, "field servces not found", nil},
		{"unknown capability", func() Spec { return other("capabilities: [CAP_EVERYTHING]") }, `capability "CAP_EVERYTHING" is not known`, nil},
		{"nothing to run", func() Spec { return other("limits: {}") }, "no manifest, unit or init script that says what", ErrNothingToRun},
		{"unknown service", func() Spec {
			x := other(webManifest)
			x.Services = map[string]bool{"x": true}
			return x
		}, `no service "x": the app has web`, nil},
		{"config that nobody reads", func() Spec {
			x := other("services: {web: {command: [/usr/bin/web, serve, /x]}}")
			x.Config = json.RawMessage(`{"a": 1}`)
			return x
		}, "no way to be configured", errUndeliverable},
		{"config that its format cannot hold", func() Spec {
			x := other(webManifest)
			x.Config = json.RawMessage(`{"a": {"b": "x\ny"}}`)
			return x
		}, "an INI file cannot hold it", nil},
		{"too large", func() Spec { x := other(webManifest); x.Size, x.Digest = 1<<50, ""; return x }, "are free", ErrNoRoom},
		{"bad name", func() Spec { x := other(webManifest); x.Name = "../x"; return x }, "app name", nil},
		{"template", func() Spec { x := other(webManifest); x.URL = "http://x/%(download_port)s"; return x }, "its URL", nil},
		{"no config object", func() Spec { x := other(webManifest); x.Config = json.RawMessage(`[1]`); return x }, "want a JSON object", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := h.Install(t.Context(), c.spec(), nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if st := one(t, h); st.Version != "1" || !st.Running {
				t.Errorf("%+v", st)
			}
			if entries, err := os.ReadDir(filepath.Join(h.opt.Root, "web")); err != nil || len(entries) != 2 {
				t.Errorf("%v %v", entries, err)
			}
		})
	}
}

// A download that is called off leaves what was there, and is not there.
func TestCancel(t *testing.T) {
	h, _ := host(t, nil)
	s := serve(t)
	spec := s.put("web", "1", web(webManifest).tar(t))
	ctx, cancel := context.WithCancel(t.Context())
	err := h.Install(ctx, spec, func(done, total int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if all, err := h.Installed(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v %v", all, err)
	}
	install(t, h, spec)
}

// The cache saves a download, and is not believed.
func TestCache(t *testing.T) {
	h, _ := host(t, nil)
	s := serve(t)
	spec := s.put("web", "1", web(webManifest).tar(t))
	install(t, h, spec)
	asked := s.requests()
	if err := h.Remove(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	install(t, h, spec)
	if n := s.requests(); n != asked {
		t.Errorf("%d requests more", n-asked)
	}
	found, err := filepath.Glob(h.opt.Cache + "/*.pkg")
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	b := read(t, found[0])
	b[len(b)/2] ^= 1
	if err := os.WriteFile(found[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	install(t, h, spec)
	if n := s.requests(); n != asked+1 {
		t.Errorf("%d requests", n)
	}
}

// On a file system in memory, what does not fit is refused.
func TestMemoryRoot(t *testing.T) {
	h, _ := host(t, func(o *Options) { o.Memory, o.MaxCache = 16<<20, 0 })
	s := serve(t)
	f := web(webManifest)
	f["zeros"] = strings.Repeat("\x00", 20<<20)
	spec := s.put("web", "1", f.tar(t))
	err := h.Install(t.Context(), spec, nil)
	if !errors.Is(err, ErrNoRoom) {
		t.Error(err)
	}
	if entries, err := os.ReadDir(h.opt.Root); err != nil || len(entries) != 1 {
		t.Errorf("%v %v", entries, err)
	}
	small := s.put("web", "2", web(webManifest).tar(t))
	install(t, h, small)
	if found, err := filepath.Glob(h.opt.Cache + "/*"); err != nil || len(found) != 0 {
		t.Errorf("the package is kept: %v %v", found, err)
	}
	if err := h.Remove(t.Context(), "web"); err != nil {
		t.Error(err)
	}
}

// fill leaves no room where apps are, as one that writes without end does.
func fill(t *testing.T, h *Host) {
	t.Helper()
	f, err := os.Create(filepath.Join(h.opt.Root, "web", "root.1", "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 64<<10)
	for len(b) > 0 {
		if _, err := f.Write(b); err != nil {
			b = b[:len(b)/2]
		}
	}
}

// An app that has filled all room can be stopped, and packages that are only kept give
// way to what must be noted.
func TestFull(t *testing.T) {
	for _, kept := range []bool{true, false} {
		t.Run(fmt.Sprint(kept), func(t *testing.T) {
			h, _ := host(t, func(o *Options) {
				o.Memory = 32 << 20
				if !kept {
					o.MaxCache = 0
				}
			})
			install(t, h, serve(t).put("web", "1", web(webManifest).tar(t)))
			fill(t, h)
			err := h.Set(t.Context(), "web", false, nil)
			if (err == nil) != kept {
				t.Error(err)
			}
			if st := one(t, h); st.Running {
				t.Errorf("it runs on: %+v", st)
			}
			if rec, err := h.readRecord("web"); err != nil || rec.Services["web"] == kept {
				t.Errorf("%+v, %v", rec, err)
			}
			if err := h.Remove(t.Context(), "web"); err != nil {
				t.Error(err)
			}
		})
	}
}

// A manifest of the specification takes the place of the package's; what the app writes
// over its own changes nothing.
func TestManifestOfSpec(t *testing.T) {
	h, log := host(t, nil)
	spec := serve(t).put("web", "1", web("servces: bad").tar(t))
	spec.Manifest = json.RawMessage(`{"services": {"x": {"command": ["/usr/bin/web", "serve", "/etc/env"], "reload_signal": "SIGHUP"}}, "config": {"path": "/etc/env", "format": "env"}}`)
	spec.Config = json.RawMessage(`{"A": "1"}`)
	install(t, h, spec)
	eventually(t, "up", func() bool { return log.has(`"A=\"1\"\n"`) })
	if err := h.Configure(t.Context(), "web", json.RawMessage(`{"A": "2"}`)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reloaded", func() bool { return log.has(`reloaded: "A=\"2\"\n"`) })
	if st := one(t, h); st.Restarts != 0 {
		t.Errorf("%+v", st)
	}
}

// An app may use the machine's programs and libraries; its own files lie on top.
func TestHostRoot(t *testing.T) {
	h, log := host(t, nil)
	spec := serve(t).put("web", "1", files{
		"usr/bin/greet": "#!/bin/sh\ncat /etc/greeting; grep -c . /etc/passwd; exit 3\n", "etc/greeting": "hello\n",
		"teeth-app.yaml": "root: host\nrestart: x\n",
	}.tar(t))
	spec.Manifest = json.RawMessage(`{"root": "host", "services": {"greet": {"command": ["/bin/sh", "/usr/bin/greet"], "restart": "never"}}, "devices": ["/dev/kmsg", "/dev/nosuch*"]}`)
	err := h.Install(t.Context(), spec, nil)
	if err != nil && !strings.Contains(err.Error(), "service greet: exit status 3; it is not started again") {
		t.Errorf("%v", err)
	}
	eventually(t, "ended", func() bool { return log.has("web: service greet ended: exit status 3") })
	if !log.has("web: hello") {
		t.Error(log)
	}
	st := one(t, h)
	if st.Running || st.ExitCode == nil || *st.ExitCode != 3 || st.Error != "service greet: exit status 3" {
		t.Errorf("%+v", st)
	}
}

// A limit that cannot be kept is refused, not forgotten.
func TestLimitUnavailable(t *testing.T) {
	h, _ := host(t, nil)
	if tree := h.tree; tree != nil && tree.Can("memory") { // as if this machine could not
		h.tree = nil
		defer func() { h.tree = tree }()
	}
	spec := serve(t).put("web", "1", web(webManifest).tar(t))
	spec.Limits.Memory = 64 << 20
	err := h.Install(t.Context(), spec, nil)
	if !errors.Is(err, cgroup.ErrUnavailable) || !strings.Contains(err.Error(), "limit the use of memory") {
		t.Error(err)
	}
	if all, err := h.Installed(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%+v %v", all, err)
	}
}

// Changes and questions from several goroutines do not get into each other's way.
func TestConcurrent(t *testing.T) {
	h, _ := host(t, nil)
	s := serve(t)
	a, b := s.put("a", "1", web(webManifest).tar(t)), s.put("b", "1", web(webManifest).tar(t))
	var wg sync.WaitGroup
	for _, spec := range []Spec{a, b} {
		wg.Go(func() {
			for range 2 {
				if err := h.Install(t.Context(), spec, nil); err != nil {
					t.Error(err)
				}
				if err := h.Set(t.Context(), spec.Name, false, nil); err != nil {
					t.Error(err)
				}
				if err := h.Remove(t.Context(), spec.Name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := h.Installed(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	close(stop)
	asking.Wait()
}
