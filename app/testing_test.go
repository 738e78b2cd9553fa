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
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/app/apptest"
	"github.com/teeth-metal/teeth/app/sandbox"
	"github.com/teeth-metal/teeth/imagecache"
	"github.com/teeth-metal/teeth/internal/need"
)

var demo string // a static program for packages

func TestMain(m *testing.M) {
	sandbox.Init()
	if os.Getpid() == 1 {
		guest(m)
	}
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

// files of a package: name to content; one that is "demo" is the program.
type files map[string]string

// contents puts the program in.
func (f files) contents(t *testing.T) apptest.Files {
	t.Helper()
	all := apptest.Files{}
	for name, content := range f {
		all[name] = []byte(content)
		if content == "demo" {
			all[name] = read(t, demo)
		}
	}
	return all
}

func (f files) deb(t *testing.T, version string) []byte {
	t.Helper()
	return f.contents(t).Deb(t, "demo", version)
}

func (f files) rpm(t *testing.T, version string) []byte {
	t.Helper()
	return f.contents(t).RPM(t, "demo", version)
}

func (f files) tar(t *testing.T) []byte { t.Helper(); return f.contents(t).Tar(t) }

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
		Memory:       256 << 20, // on a disk, tests of others make ours wait
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
