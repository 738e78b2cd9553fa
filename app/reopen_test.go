package app

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/app/sandbox"
)

// A new host on the directory of an old one has its apps, and starts what should run.
func TestReopen(t *testing.T) {
	h, log := host(t, nil)
	s := serve(t)
	f := files{"usr/bin/web": "demo", "teeth-app.yaml": `
services:
  web: {command: [/usr/bin/web, serve, /x]}
  off: {command: [/usr/bin/web, serve, /off]}
  once: {command: [/usr/bin/web, exit, "0"], restart: never}
  failed: {command: [/usr/bin/web, exit, "3"], restart: never}
`}
	spec := s.put("web", "1", f.tar(t))
	spec.Services = map[string]bool{"web": true, "off": false, "once": true, "failed": true}
	err := h.Install(t.Context(), spec, nil)
	// Whether it ends while Install still looks depends on how busy the machine is.
	if err != nil && !strings.Contains(err.Error(), "service failed: exit status 3; it is not started again until it is switched off and on") {
		t.Error(err)
	}
	check := func(h *Host) {
		t.Helper()
		st := one(t, h)
		if st.Running || !st.Services["web"] || st.Services["off"] || !st.Services["once"] || st.Services["failed"] ||
			st.Error != "service failed: exit status 3" {
			t.Errorf("%+v", st)
		}
	}
	eventually(t, "ended", func() bool {
		return log.has("service once ended: exit status 0") && log.has("service failed ended: exit status 3")
	})
	check(h)
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What a crash may leave.
	left := filepath.Join(h.opt.Root, "web", "root.7")
	gone := filepath.Join(h.opt.Root, "half", "root.1")
	for _, dir := range []string{left, gone} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	log.mu.Lock()
	log.lines = nil
	log.mu.Unlock()
	again, err := Open(t.Context(), h.opt)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(context.Background())
	eventually(t, "started again", func() bool { return log.has("web: serving") && one(t, again).Services["web"] })
	check(again)
	if log.has("once") || log.has("failed") {
		t.Error("what had ended for good has run again")
	}
	for _, dir := range []string{left, filepath.Dir(gone)} {
		if _, err := os.Lstat(dir); err == nil {
			t.Error(dir, "is left")
		}
	}
	// Off and on runs it again.
	if err := again.Set(t.Context(), "web", false, map[string]bool{"once": false}); err != nil {
		t.Fatal(err)
	}
	if err := again.Set(t.Context(), "web", false, map[string]bool{"once": true}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "once more", func() bool { return log.has("service once ended: exit status 0") })
}

// A service that ends for good in the moment in which it is switched off runs again
// when it is switched on, also after the next start.
func TestEndsWhenSwitchedOff(t *testing.T) {
	h, _ := host(t, nil)
	spec := serve(t).put("web", "1", web(webManifest).tar(t))
	install(t, h, spec)
	a, err := h.get("web")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Set(t.Context(), "web", false, nil); err != nil {
		t.Fatal(err)
	}
	h.ended(a, "web", sandbox.Exit{}, 0)
	if err := h.Set(t.Context(), "web", true, nil); err != nil && !strings.Contains(err.Error(), "failed") {
		t.Fatal(err)
	}
	rec, err := h.readRecord("web")
	if _, finished := rec.Finished["web"]; err != nil || finished || !rec.Services["web"] {
		t.Errorf("%+v, %v", rec, err)
	}
}

// A record that cannot be used costs its app, not the others.
func TestBadRecord(t *testing.T) {
	h, _ := host(t, nil)
	install(t, h, serve(t).put("web", "1", web(webManifest).tar(t)))
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"bad": "{", "other": `{"name":"web","dir":"root.1"}`, "out": `{"name":"out","dir":"root./../../web"}`} {
		dir := filepath.Join(h.opt.Root, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, recordFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(t.Context(), h.opt)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(context.Background())
	if st := one(t, again); st.Name != "web" {
		t.Errorf("%+v", st)
	}
}

// An app that was killed is started again; a tree of processes that does not want to
// end ends.
func TestKilled(t *testing.T) {
	h, log := host(t, nil)
	spec := serve(t).put("web", "1", web(`services: {web: {command: [/usr/bin/web, tree, "2"], stop_timeout: 100ms}}`).tar(t))
	install(t, h, spec)
	eventually(t, "tree is up", func() bool { return processes(t, "tree\x000") == 1 })
	before := processes(t, "tree\x00")
	if before != 3 {
		t.Fatalf("%d processes", before)
	}
	for _, pid := range pids(t, "tree\x002") {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "started again", func() bool { return one(t, h).Restarts == 1 && processes(t, "tree\x000") == 1 })
	st := one(t, h)
	if st.ExitCode == nil || *st.ExitCode != 128+9 || !log.has("service web ended: ended by SIGKILL; it is started again in 1s") {
		t.Errorf("%+v", st)
	}
	if err := h.Set(t.Context(), "web", false, nil); err != nil {
		t.Fatal(err)
	}
	if n := processes(t, "tree\x00"); n != 0 {
		t.Errorf("%d processes are left", n)
	}
}

// A new version leaves services as they are that its specification does not name.
func TestCarried(t *testing.T) {
	h, _ := host(t, nil)
	s := serve(t)
	b := web("services: {a: {command: [/usr/bin/web, serve, /a]}, b: {command: [/usr/bin/web, serve, /b]}, c: {command: [/usr/bin/web, serve, /c]}}").tar(t)
	v1, v2 := s.put("web", "1", b), s.put("web", "2", b)
	v1.Services = map[string]bool{"a": true, "b": true}
	v2.Services = map[string]bool{"a": false}
	install(t, h, v1)
	install(t, h, v2)
	eventually(t, "carried over", func() bool {
		st := one(t, h)
		return st.Version == "2" && !st.Services["a"] && st.Services["b"] && !st.Services["c"]
	})
}
