package app

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/app/sandbox"
	"github.com/teeth-metal/teeth/imagecache"
	"github.com/teeth-metal/teeth/internal/need"
)

var demo string // a static program for packages

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "teeth-app-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		demo = filepath.Join(dir, "demo")
		cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", demo, "./testdata/demo")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build demo: %v: %s", err, out)
			return 1
		}
		return m.Run()
	}())
}

func root(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		need.Right(t, errors.New("apps need root"))
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// files of a package: name to content; one that is "demo" is the program.
type files map[string]string

// tree writes files to a directory.
func (f files) tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range f {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		b, mode := []byte(content), os.FileMode(0o644)
		if content == "demo" {
			var err error
			if b, err = os.ReadFile(demo); err != nil {
				t.Fatal(err)
			}
			mode = 0o755
		}
		if err := os.WriteFile(path, b, mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// deb builds a Debian package.
func (f files) deb(t *testing.T, version string) []byte {
	t.Helper()
	dpkg := need.Program(t, "dpkg-deb", "dpkg")
	dir := f.tree(t)
	control := fmt.Sprintf("Package: demo\nVersion: %s\nArchitecture: %s\nMaintainer: T <t@example.com>\nDescription: demo\n", version, runtime.GOARCH)
	if err := os.Mkdir(filepath.Join(dir, "DEBIAN"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "DEBIAN/control"), []byte(control), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "DEBIAN/postinst"), []byte("#!/bin/sh\ntouch /postinst-ran\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "demo.deb")
	run(t, dpkg, "--root-owner-group", "-Zxz", "-z1", "-b", dir, out)
	return read(t, out)
}

// rpm builds an rpm.
func (f files) rpm(t *testing.T, version string) []byte {
	t.Helper()
	rpmbuild := need.Program(t, "rpmbuild", "rpm")
	dir, top := f.tree(t), t.TempDir()
	spec := fmt.Sprintf("Name: demo\nVersion: %s\nRelease: 1\nSummary: demo\nLicense: MIT\n%%description\ndemo\n"+
		"%%install\ncp -a %s/. %%{buildroot}/\n%%post\ntouch /post-ran\n%%files\n", version, dir)
	for name := range f {
		spec += "/" + name + "\n"
	}
	path := filepath.Join(top, "demo.spec")
	if err := os.WriteFile(path, []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, rpmbuild, "-bb", "--quiet", "--define", "_topdir "+top, "--define", "_build_id_links none",
		"--define", "__strip /bin/true", "--define", "__os_install_post %{nil}", "--define", "_binary_payload w1.zstdio", path)
	found, err := filepath.Glob(top + "/RPMS/*/*.rpm")
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return read(t, found[0])
}

// tar builds a tar.
func (f files) tar(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "demo.tar")
	run(t, need.Program(t, "tar", "tar"), "-C", f.tree(t), "-cf", out, ".")
	return read(t, out)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// server serves packages by path.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string][]byte
	asked int
}

func serve(t *testing.T) *server {
	s := &server{files: map[string][]byte{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked++
	b, ok := s.files[r.URL.Path]
	s.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

func (s *server) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// put serves a package and describes it.
func (s *server) put(name string, version string, b []byte) Spec {
	path := "/" + name + "-" + version
	s.mu.Lock()
	s.files[path] = b
	s.mu.Unlock()
	sum := sha256.Sum256(b)
	return Spec{Name: name, Version: version, URL: s.URL + path, Size: int64(len(b)), Digest: "sha256:" + hex.EncodeToString(sum[:]), Running: true}
}

// log collects what apps write.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(app, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, app+": "+line)
}

func (l *log) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(strings.Join(l.lines, "\n"), s)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// host opens one that is closed with the test.
func host(t *testing.T, change func(*Options)) (*Host, *log) {
	t.Helper()
	root(t)
	l := &log{}
	o := Options{
		Root: filepath.Join(t.TempDir(), "apps"), MaxCache: 64 << 20, Log: l.add,
		ControlGroup: "teeth-test-" + strings.NewReplacer("/", "-").Replace(t.Name()),
		Logger:       slog.New(slog.NewTextHandler(t.Output(), nil)),
		Fetch:        imagecache.Fetcher{Attempts: 2, Backoff: time.Millisecond},
	}
	if change != nil {
		change(&o)
	}
	h, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := h.Close(ctx); err != nil {
			t.Error(err)
		}
		if o.Memory > 0 {
			if err := unix.Unmount(o.Root, 0); err != nil {
				t.Error(err)
			}
		}
		if t.Failed() {
			t.Log(l)
		}
	})
	return h, l
}

// one returns the state of the only app.
func one(t *testing.T, h *Host) State {
	t.Helper()
	all, err := h.Installed(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	return all[0]
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// processes counts those whose command line has something in it.
func processes(t *testing.T, arg string) int {
	t.Helper()
	return len(pids(t, arg))
}

func pids(t *testing.T, arg string) (pids []int) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), arg) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}
