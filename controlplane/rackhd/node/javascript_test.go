package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/internal/need"
)

// lossy stands between nodes and the server and loses what it is told to.
type lossy struct {
	next http.Handler
	lose func(method string, nth int64) (before, after bool)
	gets atomic.Int64
	post atomic.Int64
}

func (l *lossy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	count := &l.gets
	if r.Method == http.MethodPost {
		count = &l.post
	}
	before, after := l.lose(r.Method, count.Add(1))
	if before {
		panic(http.ErrAbortHandler)
	}
	if after {
		l.next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	l.next.ServeHTTP(w, r)
}

// listen serves the bench's API through a lossy network; "" means a free port.
func (b *bench) listen(l *lossy, address string) (string, func()) {
	b.Helper()
	l.next = b.handler
	srv := httptest.NewUnstartedServer(l)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	if address != "" {
		srv.Listener.Close()
		listener, err := net.Listen("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		srv.Listener = listener
	}
	srv.Start()
	b.Cleanup(srv.Close)
	return srv.Listener.Addr().String(), srv.Close
}

// node starts a program under Node in a folder of its own and returns a wait for its
// end, and its kill.
func (b *bench) node(dir string, args ...string) (wait func() (int, string), kill func()) {
	b.Helper()
	program := need.Program(b, "node", "nodejs")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, program, args...)
	var out bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = dir, &out, &out, append(os.Environ(), "TEETH_UNIT_MS=10")
	if err := cmd.Start(); err != nil {
		cancel()
		b.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	b.Cleanup(func() { cancel(); <-ended })
	return func() (int, string) { <-ended; return cmd.ProcessState.ExitCode(), out.String() }, func() { cmd.Process.Kill(); <-ended }
}

// bootstrap fetches our client from a server into a folder.
func (b *bench) bootstrap(address, dir string) string {
	b.Helper()
	resp, err := http.Get("http://" + address + "/api/current/tasks/bootstrap.js?macAddress=x&capability=" + Capability(key, b.chassis.ID, "boot1"))
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/javascript" {
		b.Fatalf("%d %s %v", resp.StatusCode, body, err)
	}
	file := filepath.Join(dir, "bootstrap.js")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		b.Fatal(err)
	}
	return file
}

var sound = func(string, int64) (bool, bool) { return false, false }

// clients are programs under Node that each run commands for a server: the one that
// we give to ramdisks which have Node, and one that was written for RackHD.
var clients = map[string]func(b *bench, address, dir string) []string{
	"bootstrap.js": func(b *bench, address, dir string) []string { return []string{b.bootstrap(address, dir)} },
	"client.js": func(b *bench, address, _ string) []string {
		script, err := filepath.Abs("testdata/client.js")
		if err != nil {
			b.Fatal(err)
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			b.Fatal(err)
		}
		return []string{script, host, port, b.path()}
	},
}

// TestJavaScriptClients has both run commands to their end, with answers lost on
// the way: each command runs once, and each graph ends as it should.
func TestJavaScriptClients(t *testing.T) {
	for name, client := range clients {
		for lost, lose := range map[string]func(string, int64) (bool, bool){
			"nothing is lost": sound,
			"looks":           func(m string, n int64) (bool, bool) { return m == "GET" && n == 2, m == "GET" && n%3 == 0 },
			"reports":         func(m string, n int64) (bool, bool) { return m == "POST" && n == 1, m == "POST" && (n == 2 || n == 5) },
		} {
			t.Run(name+" "+lost, func(t *testing.T) {
				b, dir := newBench(t), t.TempDir()
				address, _ := b.listen(&lossy{lose: lose}, "")
				wait, _ := b.node(dir, client(b, address, dir)...)
				ran := filepath.Join(dir, "ran")
				g := b.run(map[string]any{"commands": []any{"", "echo 1 >>" + ran,
					map[string]any{"command": "exit 3", "acceptedResponseCodes": []int{3}}, map[string]any{"command": "seq 20000", "catalog": map[string]any{"source": "seq"}}}})
				if g = b.ended(g.ID); g.State != store.Succeeded {
					t.Errorf("%s %s", g.State, g.Msg)
				}
				if c, err := b.store.Catalog(t.Context(), b.chassis.ID, "seq"); err != nil || c.Size < 100_000 {
					t.Errorf("%d bytes of catalog, %v", c.Size, err)
				}
				g = b.run(map[string]any{"commands": []any{"echo 2 >>" + ran, "echo no >&2; exit 4", "echo 3 >>" + ran}})
				if g = b.ended(g.ID); g.State != store.Failed || !strings.Contains(g.Msg, "exit code 4") {
					t.Errorf("%s %s", g.State, g.Msg)
				}
				g = b.run(map[string]any{"commands": []any{""}, "exit": 127})
				if g = b.ended(g.ID); g.State != store.Succeeded {
					t.Errorf("%s %s", g.State, g.Msg)
				}
				if code, out := wait(); code != 127 {
					t.Errorf("exit code %d: %s", code, out)
				}
				if text, err := os.ReadFile(ran); err != nil || string(text) != "1\n2\n" {
					t.Errorf("ran %q %v", text, err)
				}
			})
		}
	}
}

// TestKilled kills the node between fetching and reporting, and the server between
// handing out and taking the report.
func TestKilled(t *testing.T) {
	b, dir := newBench(t), t.TempDir()
	address, closeServer := b.listen(&lossy{lose: sound}, "")
	script := b.bootstrap(address, dir)
	_, kill := b.node(dir, script)
	begun, ran := filepath.Join(dir, "begun"), filepath.Join(dir, "ran")
	g := b.run(map[string]any{"commands": "if [ -e begun ]; then echo again >>ran; else touch begun; sleep 60; fi"})
	b.until(func() bool { _, err := os.Stat(begun); return err == nil })
	kill()
	// The node has come back: it gets them once more.
	wait, _ := b.node(dir, script)
	if g = b.ended(g.ID); g.State != store.Succeeded {
		t.Errorf("%s %s", g.State, g.Msg)
	}
	g = b.run(map[string]any{"commands": "touch third; while [ -e third ]; do sleep 0.05; done; echo third >>ran", "exit": 127})
	b.until(func() bool { _, err := os.Stat(filepath.Join(dir, "third")); return err == nil })
	closeServer()
	if err := os.Remove(filepath.Join(dir, "third")); err != nil {
		t.Fatal(err)
	}
	b.until(func() bool { text, _ := os.ReadFile(ran); return string(text) == "again\nthird\n" })
	time.Sleep(200 * time.Millisecond) // it posts, to nobody
	if now, err := b.store.Graph(t.Context(), g.ID); err != nil || now.Final() {
		t.Fatalf("%s %v", now.State, err)
	}
	b.listen(&lossy{lose: sound}, address)
	if g = b.ended(g.ID); g.State != store.Succeeded {
		t.Errorf("%s %s", g.State, g.Msg)
	}
	if code, out := wait(); code != 127 {
		t.Errorf("%d %s", code, out)
	}
	if text, err := os.ReadFile(ran); err != nil || string(text) != "again\nthird\n" {
		t.Errorf("%q %v", text, err)
	}
}

func TestJavaScriptDownload(t *testing.T) {
	b, dir := newBench(t), t.TempDir()
	files := http.NewServeMux()
	files.HandleFunc("GET /f/{name}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("name") != "tool" {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, "#!/bin/sh\necho tool says $1\n")
	})
	srv := httptest.NewServer(files)
	defer srv.Close()
	address, _ := b.listen(&lossy{lose: sound}, "")
	b.node(dir, b.bootstrap(address, dir))
	g := b.run(map[string]any{"commands": map[string]any{"command": "stat -c %a tool && ./tool hi", "downloadUrl": srv.URL + "/f/tool", "catalog": map[string]any{"source": "tool"}}})
	if g = b.ended(g.ID); g.State != store.Succeeded {
		t.Errorf("%s %s", g.State, g.Msg)
	}
	if c, err := b.store.Catalog(t.Context(), b.chassis.ID, "tool"); err != nil || string(c.Data) != `"555\ntool says hi\n"` {
		t.Errorf("%s %v", c.Data, err)
	}
	g = b.run(map[string]any{"commands": map[string]any{"command": "true", "downloadUrl": srv.URL + "/f/none"}})
	if g = b.ended(g.ID); g.State != store.Failed || !strings.Contains(g.Msg, "status 404") {
		t.Errorf("%s %s", g.State, g.Msg)
	}
	if _, err := os.Stat(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
