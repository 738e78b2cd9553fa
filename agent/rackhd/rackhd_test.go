package rackhd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	wire "github.com/teeth-metal/teeth/wire/rackhd"
)

func TestMain(m *testing.M) {
	lingering = 500 * time.Millisecond
	os.Exit(m.Run())
}

const nodeID = "0f1e2d3c4b5a69788796a5b4"

// peer is a server of the tasks API that a test drives. It hands out what is in
// batch until that has been posted, unless once is set: then once, as RackHD does.
type peer struct {
	t    *testing.T
	url  string
	once bool
	lose func(method string, nth int) bool // the answer

	mu      sync.Mutex
	batch   []string
	posts   []string
	fetches int
	posted  chan wire.NodeTasks
	refuse  int // status of reports; 0: they are taken
	auth    string
}

func newPeer(t *testing.T, batch ...string) *peer {
	p := &peer{t: t, batch: batch, posted: make(chan wire.NodeTasks, 100), lose: func(string, int) bool { return false }}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/current/tasks/bootstrap.js", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("macAddress") != "02:00:00:00:00:0a" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, "var server = '10.1.1.1', identifier = '%s';\n", nodeID)
	})
	mux.HandleFunc("GET /api/current/tasks/"+nodeID, func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.fetches++
		p.auth = r.Header.Get("Authorization")
		if len(p.batch) == 0 {
			http.NotFound(w, r)
			return
		}
		now := p.batch[0]
		if p.once {
			p.batch = p.batch[1:]
		}
		if p.lose("GET", p.fetches) {
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, now)
	})
	mux.HandleFunc("POST /api/current/tasks/"+nodeID, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.posts = append(p.posts, string(b))
		if p.lose("POST", -len(p.posts)) { // before it was looked at
			panic(http.ErrAbortHandler)
		}
		if p.refuse != 0 {
			w.WriteHeader(p.refuse)
			return
		}
		done, err := wire.ParseNodeTasks(b, wire.MaxNodePost)
		if err != nil {
			t.Errorf("%v: %.300s", err, b)
		}
		if !p.once && len(p.batch) > 0 && (done.TaskID == "" || strings.Contains(p.batch[0], `"taskId":"`+done.TaskID+`"`)) {
			p.batch = p.batch[1:]
		}
		if p.lose("POST", len(p.posts)) { // after
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusCreated)
		p.posted <- done
	})
	mux.HandleFunc("GET /files/{name}", func(w http.ResponseWriter, r *http.Request) {
		switch r.PathValue("name") {
		case "tool.sh":
			io.WriteString(w, "#!/bin/sh\necho from the tool\n")
		case "elsewhere":
			http.Redirect(w, r, "http://192.0.2.1/x", http.StatusFound)
		case "endless":
			for range maxDownload>>16 + 2 {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		default:
			http.NotFound(w, r)
		}
	})
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	srv.Start()
	t.Cleanup(srv.Close)
	p.url = srv.URL
	return p
}

// start runs a node against the peer and returns where its exit code arrives, -1
// for the end of polling.
func (p *peer) start(change ...func(*Config)) <-chan int {
	p.t.Helper()
	left := make(chan int, 2)
	c := Config{
		URL: p.url, MAC: "02:00:00:00:00:0A", Log: slog.New(slog.DiscardHandler), Dir: p.t.TempDir(), Pause: 20 * time.Millisecond,
		Hold:  func(string) (context.Context, func(), error) { return p.t.Context(), func() {}, nil },
		Leave: func(code int) { left <- code },
	}
	for _, f := range change {
		f(&c)
	}
	n, err := New(c)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := n.Run(ctx)
		if err == nil {
			left <- -1
		}
		done <- err
	}()
	p.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			p.t.Error(err)
		}
		if files, err := os.ReadDir(c.Dir); err != nil || len(files) > 0 {
			p.t.Errorf("left behind: %v %v", files, err)
		}
	})
	return left
}

func (p *peer) next() wire.NodeTasks {
	p.t.Helper()
	select {
	case done := <-p.posted:
		return done
	case <-time.After(30 * time.Second):
		p.t.Fatal("no report")
		panic("unreachable")
	}
}

func tasks(id string, list ...wire.NodeTask) string {
	b, err := json.Marshal(wire.NodeTasks{Identifier: nodeID, TaskID: id, Tasks: list})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func text(s string) *string { return &s }

func TestCommands(t *testing.T) {
	p := newPeer(t, tasks("1",
		wire.NodeTask{},
		wire.NodeTask{Cmd: "echo out; echo err >&2; pwd; cat", Catalog: true, Source: "s", Format: "raw"},
		wire.NodeTask{Cmd: "printf 'a\\377b'; exit 3", AcceptedResponseCodes: []int{2, 3}},
		wire.NodeTask{Cmd: "tool.sh", DownloadURL: "/files/tool.sh"},
		wire.NodeTask{Cmd: "stat -c %a tool.sh; ./tool.sh", DownloadURL: "/files/tool.sh?x=y"},
		wire.NodeTask{Cmd: "never"},
	), `not JSON`, tasks("2", wire.NodeTask{Cmd: "true"}))
	p.start()
	got := p.next()
	dir := ""
	if out := got.Tasks[1].Stdout; out != nil {
		dir, _, _ = strings.Cut(strings.TrimPrefix(*out, "out\n"), "\n")
	}
	want := []wire.NodeTask{
		{Stdout: text(""), Stderr: text("")},
		{Cmd: "echo out; echo err >&2; pwd; cat", Catalog: true, Source: "s", Format: "raw", Stdout: text("out\n" + dir + "\n"), Stderr: text("err\n")},
		{Cmd: "printf 'a\\377b'; exit 3", AcceptedResponseCodes: []int{2, 3}, Stdout: text("a\uFFFDb"), Stderr: text(""),
			Error: &wire.NodeError{Code: 3, Cmd: "/bin/sh -c printf 'a\\377b'; exit 3"}},
		got.Tasks[3],
		{Cmd: "stat -c %a tool.sh; ./tool.sh", DownloadURL: "/files/tool.sh?x=y"},
		{Cmd: "never"},
	}
	if d := cmp.Diff(want, got.Tasks); d != "" || got.Identifier != nodeID || got.TaskID != "1" {
		t.Errorf("%+v\n%s", got, d)
	}
	if e := got.Tasks[3].Error; e == nil || e.Code != 127 { // tool.sh is not in PATH: a failure ends the list
		t.Errorf("%+v", e)
	}
	if !strings.Contains(p.posts[0], `"stdout":"","stderr":"","error":null`) {
		t.Errorf("%s", p.posts[0])
	}
}

func TestDownloads(t *testing.T) {
	for _, c := range []struct{ url, cmd, want string }{
		{"/files/tool.sh", "stat -c %a tool.sh; ./tool.sh", "555\nfrom the tool\n"},
		{"/files/none", "true", "status 404"},
		{"/files/elsewhere", "true", "another host"},
		{"http://192.0.2.1/x", "true", "another host"},
		{"file:///etc/passwd", "true", "http or https"},
		{"/files/..", "true", "names no file"},
		{"/files/%2e%2e%2fx", "true", "status 404"},
		{"/files/endless", "true", "more than"},
		{"://", "true", "missing protocol"},
	} {
		p := newPeer(t, tasks("1", wire.NodeTask{Cmd: c.cmd, DownloadURL: c.url}))
		p.start()
		got := p.next().Tasks[0]
		said := ""
		if got.Error != nil {
			said = got.Error.Text
		} else if got.Stdout != nil {
			said = *got.Stdout
		}
		if !strings.Contains(said, c.want) {
			t.Errorf("%s: %q, want %q", c.url, said, c.want)
		}
	}
}

func TestLimits(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "marker")
	for name, c := range map[string]struct {
		task wire.NodeTask
		want string
	}{
		"time":           {wire.NodeTask{Cmd: "sleep 60 & sleep 60; touch " + marker, Timeout: 200}, "not ended within 200ms"},
		"output":         {wire.NodeTask{Cmd: "yes | head -c 6000000; sleep 60"}, "more than 5242880 bytes"},
		"output of both": {wire.NodeTask{Cmd: "yes >&2"}, "more than 5242880 bytes"},
		"own session":    {wire.NodeTask{Cmd: "setsid sleep 60 & sleep 60", Timeout: 200}, "not ended within 200ms"},
	} {
		p := newPeer(t, tasks("1", c.task, wire.NodeTask{Cmd: "never"}))
		p.start()
		began := time.Now()
		got := p.next()
		if e := got.Tasks[0].Error; e == nil || !strings.Contains(e.Text, c.want) || got.Tasks[1].Stdout != nil || time.Since(began) > 20*time.Second {
			t.Errorf("%s: after %v: %+v", name, time.Since(began), e)
		}
		if out := got.Tasks[0].Stdout; name == "output" && (out == nil || len(*out) != wire.MaxOutput) {
			t.Errorf("%s: what came before is not reported", name)
		}
	}
	p := newPeer(t, tasks("1", wire.NodeTask{Cmd: "kill -TERM $$"}))
	p.start()
	if e := p.next().Tasks[0].Error; e == nil || e.Signal != "SIGTERM" || e.Text != "" {
		t.Errorf("a signal: %+v", e)
	}
	// What a command leaves in the background does not hold the others up.
	p = newPeer(t, tasks("1", wire.NodeTask{Cmd: "sleep 30 & echo started $!"}))
	p.start()
	got := p.next().Tasks[0]
	if got.Error != nil || got.Stdout == nil || !strings.HasPrefix(*got.Stdout, "started ") {
		t.Errorf("background: %+v", got)
	} else if pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(*got.Stdout, "started "))); err != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
		t.Errorf("background: %v: it is gone", err)
	}
	// Seven outputs of 5 MiB, each within its limit, are together more than fits.
	var list []wire.NodeTask
	for range 8 {
		list = append(list, wire.NodeTask{Cmd: "head -c 5000000 /dev/zero | tr '\\0' x"})
	}
	p = newPeer(t, tasks("1", list...))
	p.start()
	all := p.next()
	if f := all.Failed(); f == nil || !strings.Contains(f.Error.Text, "all commands together") || all.Tasks[5].Stdout == nil || all.Tasks[7].Stdout != nil || len(p.posts[0]) > wire.MaxNodePost {
		t.Errorf("%d bytes posted, failed: %+v", len(p.posts[0]), f)
	}
}

func TestNoShell(t *testing.T) {
	p := newPeer(t, tasks("1", wire.NodeTask{}, wire.NodeTask{Cmd: "/bin/true"}))
	p.start(func(c *Config) { c.Shell = filepath.Join(t.TempDir(), "sh") })
	got := p.next()
	if e := got.Tasks[1].Error; e == nil || !strings.Contains(e.Text, "rescue image") || got.Tasks[0].Stdout == nil {
		t.Errorf("%+v", got)
	}
}

func TestRetries(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	p := newPeer(t, tasks("1", wire.NodeTask{Cmd: "echo x >>" + count + "; test $(wc -l <" + count + ") -ge 3", Retries: 5}))
	p.start()
	if got := p.next().Tasks[0]; got.Error != nil {
		t.Errorf("%+v", got.Error)
	}
	if b, err := os.ReadFile(count); err != nil || string(b) != "x\nx\nx\n" {
		t.Errorf("%q %v", b, err)
	}
}

// Whatever answer is lost, commands run once, and every report arrives.
func TestLostAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		lose  func(method string, nth int) bool
		posts int
	}{
		"of the look":           {func(m string, nth int) bool { return m == "GET" && nth <= 2 }, 2},
		"of the report, before": {func(m string, nth int) bool { return m == "POST" && nth >= -3 && nth < 0 }, 5},
		"of the report, after":  {func(m string, nth int) bool { return m == "POST" && nth == 1 }, 3},
		"of several, one by one": {func(m string, nth int) bool {
			return m == "POST" && (nth == -1 || nth == 2 || nth == -4) || m == "GET" && nth == 1
		}, 5},
		"none": {func(string, int) bool { return false }, 2},
	} {
		ran := filepath.Join(t.TempDir(), "ran")
		p := newPeer(t, tasks("1", wire.NodeTask{Cmd: "echo 1 >>" + ran}), tasks("2", wire.NodeTask{Cmd: "echo 2 >>" + ran}))
		p.lose = c.lose
		p.start()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			p.mu.Lock()
			n := len(p.posts)
			p.mu.Unlock()
			if n >= c.posts {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %d posts", name, n)
			}
		}
		time.Sleep(100 * time.Millisecond) // time for what must not come
		p.mu.Lock()
		if b, err := os.ReadFile(ran); err != nil || string(b) != "1\n2\n" || len(p.posts) != c.posts {
			t.Errorf("%s: ran %q, %d posts, %v", name, b, len(p.posts), err)
		}
		p.mu.Unlock()
	}
}

// A server that has lost a report, with its database perhaps, gets it once more.
func TestHandedOutAgain(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	one := tasks("1", wire.NodeTask{Cmd: "echo 1 >>" + ran})
	p := newPeer(t, one, one, one, tasks("", wire.NodeTask{Cmd: "echo 2 >>" + ran}), tasks("", wire.NodeTask{Cmd: "echo 2 >>" + ran}))
	p.start()
	for range 5 {
		p.next()
	}
	if b, err := os.ReadFile(ran); err != nil || string(b) != "1\n2\n2\n" || p.posts[0] != p.posts[2] {
		t.Errorf("%q %v", b, err)
	}
}

func TestRefusedReport(t *testing.T) {
	p := newPeer(t, `{"identifier":"`+nodeID+`","tasks":[{"cmd":""}],"exit":"1"}`)
	p.refuse, p.once = http.StatusConflict, true
	left := p.start()
	select {
	case code := <-left:
		t.Errorf("left with %d, by order of commands that were given up", code)
	case <-time.After(300 * time.Millisecond):
	}
	p.mu.Lock()
	if len(p.posts) != 1 {
		t.Errorf("%d posts of what is not taken", len(p.posts))
	}
	p.mu.Unlock()
	p = newPeer(t, tasks("1", wire.NodeTask{}))
	p.refuse = http.StatusForbidden
	p.start()
	time.Sleep(300 * time.Millisecond)
	p.mu.Lock()
	if len(p.posts) < 2 {
		t.Errorf("%d posts of what the server will take when the session is back", len(p.posts))
	}
	p.refuse = 0
	p.mu.Unlock()
	p.next()
}

func TestExit(t *testing.T) {
	for exit, want := range map[string]int{`"1"`: 1, `2`: 2, `{"code":"5"}`: 5, `0`: 0, `"127"`: -1} {
		p := newPeer(t, `{"identifier":"`+nodeID+`","tasks":[{"cmd":"true"}],"exit":`+exit+`}`)
		left := p.start()
		p.next()
		select {
		case code := <-left:
			if code != want {
				t.Errorf("exit %s: %d", exit, code)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("exit %s: goes on", exit)
		}
	}
}

// While other disruptive work is done, nothing runs; commands that the server hands
// out again are asked for again, and those of RackHD wait.
func TestBusy(t *testing.T) {
	for _, id := range []string{"1", ""} {
		var busy atomic.Bool
		busy.Store(true)
		held := make(chan string, 10)
		p := newPeer(t, tasks(id, wire.NodeTask{Cmd: "echo done"}))
		p.once = id == ""
		p.start(func(c *Config) {
			c.Hold = func(what string) (context.Context, func(), error) {
				if busy.Load() {
					return nil, nil, errors.New("a disk is being erased")
				}
				return t.Context(), func() { held <- what }, nil
			}
		})
		time.Sleep(200 * time.Millisecond)
		p.mu.Lock()
		if len(p.posts) > 0 || (p.fetches > 1) != (id != "") {
			t.Errorf("task %q: %d posts, %d looks", id, len(p.posts), p.fetches)
		}
		p.mu.Unlock()
		busy.Store(false)
		if got := p.next().Tasks[0]; got.Stdout == nil || *got.Stdout != "done\n" {
			t.Errorf("%+v", got)
		}
		<-held // released
	}
}

// A shutdown kills what runs, with its children, and reports nothing of it.
func TestShutdown(t *testing.T) {
	p := newPeer(t, tasks("1", wire.NodeTask{Cmd: "echo $$ >pid; sleep 60 & sleep 60"}))
	dir := t.TempDir()
	held, stop := context.WithCancel(context.Background())
	n, err := New(Config{
		URL: p.url, MAC: "02:00:00:00:00:0a", Log: slog.New(slog.DiscardHandler), Dir: dir, Pause: 20 * time.Millisecond,
		Hold:  func(string) (context.Context, func(), error) { return held, func() {}, nil },
		Leave: func(int) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- n.Run(t.Context()) }()
	var pid int
	for end := time.Now().Add(20 * time.Second); pid == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if files, err := filepath.Glob(dir + "/*/pid"); err == nil && len(files) == 1 {
			b, _ := os.ReadFile(files[0])
			pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		}
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if pid == 0 || len(p.posts) != 0 {
		t.Errorf("process group %d, posts %q", pid, p.posts)
	}
	for end := time.Now().Add(10 * time.Second); syscall.Kill(-pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("its processes live")
		}
	}
}

func TestCapability(t *testing.T) {
	var capability atomic.Value
	capability.Store("")
	p := newPeer(t, tasks("1", wire.NodeTask{}))
	p.start(func(c *Config) { c.Capability = func() string { return capability.Load().(string) } })
	time.Sleep(50 * time.Millisecond)
	if p.mu.Lock(); p.fetches > 0 {
		t.Error("asks without waiting for the session")
	}
	p.mu.Unlock()
	capability.Store("secret")
	p.next()
	if p.mu.Lock(); p.auth != "Bearer secret" {
		t.Errorf("%q", p.auth)
	}
	p.mu.Unlock()
}

func TestURLs(t *testing.T) {
	for _, bad := range []string{"", "10.0.0.1:8082", "ftp://h", "http://", "http://u:p@h", "http://h?x", "http://h#x", "http://h:x", "http://" + strings.Repeat("x", 600)} {
		if _, err := ParseURL(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for in, want := range map[string]string{"http://h:8082": "http://h:8082/api/current/", "http://h/api/2.0/": "http://h/api/2.0/", "http://[fe80::1]/": "http://[fe80::1]/api/current/"} {
		n, err := New(Config{URL: in, Log: slog.Default(), Leave: func(int) {}, Hold: func(string) (context.Context, func(), error) { return nil, nil, nil }})
		if err != nil || n.base.String() != want {
			t.Errorf("%s: %v", in, err)
		}
	}
	if _, err := New(Config{URL: "https://h", Log: slog.Default(), Leave: func(int) {}, Hold: func(string) (context.Context, func(), error) { return nil, nil, nil }}); err == nil {
		t.Error("https without a CA")
	}
}

// FuzzAnswer lets a hostile server say anything; what the node reports of it can
// always be read.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(tasks("1", wire.NodeTask{DownloadURL: "x"})))
	f.Add([]byte(`{"tasks":[{"stdout":"x","error":null}],"exit":{"code":"1"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		batch, err := wire.ParseNodeTasks(b, maxAnswer)
		if err != nil {
			return
		}
		if _, err := wire.ParseNodeTasks(encode(batch), wire.MaxNodePost); err != nil {
			t.Fatal(err)
		}
		identifier.FindSubmatch(b)
	})
}
