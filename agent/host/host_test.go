package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/wire/minion"
)

const id = "11111111-2222-3333-4444-555555555555"

// server is a StreamServer that acknowledges, and sends commands.
type server struct {
	t *testing.T
	l net.Listener

	mu     sync.Mutex
	conn   net.Conn
	frames []minion.Frame
	seen   map[minion.ID]bool
	ids    *minion.Generator
}

func serveStream(t *testing.T) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, l: l, seen: map[minion.ID]bool{}, ids: minion.NewGenerator(minion.RandomNode())}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.talk(c)
		}
	}()
	return s
}

func (s *server) write(c net.Conn, f minion.Frame) {
	b, err := f.Append(nil)
	if err != nil {
		s.t.Error(err)
	}
	c.Write(b)
}

func (s *server) talk(c net.Conn) {
	defer c.Close()
	in := minion.NewReader(c)
	for {
		payload, err := in.Next()
		if err != nil {
			return
		}
		f, err := minion.Parse(payload)
		if err != nil {
			s.t.Error(err)
			return
		}
		answer := ""
		switch {
		case f.Verb != minion.Command:
			s.mu.Lock()
			if !s.seen[f.ID] {
				s.frames = append(s.frames, f)
			}
			s.seen[f.ID] = true
			s.mu.Unlock()
			answer = minion.RecordedThrough
		case f.Data[2].Text == minion.Authenticate:
			if f.Data[3].Key() != "sesame" {
				s.write(c, minion.Reply(s.ids.Next(), f.ID, minion.Denied))
				return
			}
			answer = minion.Accepted
		case f.Data[2].Text == minion.Heartbeat:
			answer = minion.Recorded
		case f.Data[2].Text == minion.Acknowledge:
			answer = minion.Acknowledging
			s.mu.Lock()
			s.conn = c
			s.mu.Unlock()
		}
		s.write(c, minion.Reply(s.ids.Next(), f.ID, answer))
	}
}

// until waits for a frame.
func (s *server) until(what string, is func(minion.Frame) bool) minion.Frame {
	s.t.Helper()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		i := slices.IndexFunc(s.frames, is)
		if i >= 0 {
			defer s.mu.Unlock()
			return s.frames[i]
		}
		if time.Now().After(end) {
			defer s.mu.Unlock()
			s.t.Fatalf("no %s in %d frames", what, len(s.frames))
		}
		s.mu.Unlock()
	}
}

func (s *server) line(service, text string) minion.Frame {
	s.t.Helper()
	return s.until("line "+text, func(f minion.Frame) bool {
		return f.Verb == minion.Log && f.Data[2].Text == service && strings.Contains(f.Data[3].Text, text)
	})
}

// order sends a command and returns the last answer, with all of its output.
func (s *server) order(kind string, argv ...string) (stdout, stderr string, last minion.Result) {
	s.t.Helper()
	var c net.Conn
	for end := time.Now().Add(15 * time.Second); c == nil; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		c = s.conn
		s.mu.Unlock()
		if time.Now().After(end) {
			s.t.Fatal("no agent")
		}
	}
	o := minion.Order{ID: s.ids.Next(), Kind: kind, Argv: argv}
	s.write(c, o.Frame())
	s.until("answer to "+strings.Join(argv, " "), func(f minion.Frame) bool {
		r, err := minion.ResultOf(f)
		return err == nil && r.Order == o.ID && r.State != minion.StateRunning
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.frames {
		if r, err := minion.ResultOf(f); err == nil && r.Order == o.ID {
			stdout += strings.Join(r.Stdout, "")
			stderr += strings.Join(r.Stderr, "")
			last = r
		}
	}
	return
}

// configured writes a configuration for that server and returns its path.
func configured(t *testing.T, s *server, more string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(s.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("# a comment\nserver_id: %s\nserver_name: web-1\ngroup_id: web\ngroup_key: sesame\nstreamserver_host: %s\nstreamserver_port: %s\ninsecure: true\nspool: %s/spool\n%s\n", id, host, port, dir, more)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// start runs the agent until the test ends, or stop is called.
func start(t *testing.T, path string) (stop func() error) {
	t.Helper()
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- newHost("teeth-agent/1.0.0", path, c, t.Output()).run(ctx) }()
	var once sync.Once
	stop = func() (err error) {
		once.Do(func() {
			cancel()
			err = <-ended
		})
		return
	}
	t.Cleanup(func() { stop() })
	return stop
}

func TestLogsMeasurementsCommands(t *testing.T) {
	s := serveStream(t)
	log := filepath.Join(t.TempDir(), "app.log")
	path := configured(t, s, "telemetry_interval: 1\nbuiltin_telemetries: [load_avg]\ntelemetries: [{name: greeting, command: echo hello there}]\ncommands: {plain: true}\ntail_logs: [{service: app, file: "+log+"}]")
	stop := start(t, path)
	s.line("agent", "agent starts")
	if err := os.WriteFile(log, []byte("first\nsecond\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.line("app", "second")
	for _, label := range []string{"load_avg", "greeting"} {
		f := s.until(label, func(f minion.Frame) bool { return f.Verb == minion.Telemetry && f.Data[2].Text == label })
		if f.Data[0].Text != "web" || f.Data[1].Text != id || label == "greeting" && f.Data[3].Text != "hello there" {
			t.Errorf("%+v", f)
		}
	}
	if out, _, last := s.order(minion.External, "sh", "-c", "echo ran; exit 3"); out != "ran\n" || last.Exit != 3 || last.State != minion.StateDone {
		t.Errorf("%q, %+v", out, last)
	}
	s.line("agent", "command ended")
	if out, _, _ := s.order(minion.Internal, "version"); !strings.Contains(out, `"agent":"teeth-agent/1.0.0"`) {
		t.Error(out)
	}
	out, _, _ := s.order(minion.Internal, "status")
	var status map[string]any
	if err := json.Unmarshal([]byte(out), &status); err != nil || status["connected"] != true || status["id"] != id {
		t.Error(out, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	s.line("agent", "agent ends") // the last line has arrived
}

// What another program has left in a folder arrives whole.
func TestPickedFiles(t *testing.T) {
	s := serveStream(t)
	dir := t.TempDir()
	text := `{"text":"` + strings.Repeat("x", 5000) + `"}`
	file := filepath.Join(dir, "a.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Minute)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	start(t, configured(t, s, "telemetry_interval: 1\nbuiltin_telemetries: [{label: pick_files, arguments: ["+dir+", "+dir+"/sent]}]"))
	f := s.until("the file", func(f minion.Frame) bool { return f.Verb == minion.Telemetry })
	if len(f.Data) != 3 || f.Data[2].Text != minion.JSON+text {
		t.Errorf("%.200q", fmt.Sprint(f.Data))
	}
}

func TestConfigurationFromAfar(t *testing.T) {
	s := serveStream(t)
	path := configured(t, s, "commands: {plain: true}\nupgrade: http://user:hunter2@example.net/\nupgrade_key: RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3")
	start(t, path)
	out, _, _ := s.order(minion.Internal, "get-config")
	if strings.Contains(out, "sesame") || strings.Contains(out, "hunter2") || !strings.Contains(out, masked) || !strings.Contains(out, "RWQf6") || !strings.Contains(out, path) {
		t.Error(out)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"group_id: [", "", "group_id: x", strings.Replace(string(before), "insecure: true", "insecure: maybe", 1)} {
		if _, complaint, last := s.order(minion.Internal, "set-config", bad); last.Exit == 0 || complaint == "" {
			t.Errorf("%q was taken", bad)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != string(before) {
			t.Fatalf("%q: the file is %q, %v", bad, now, err)
		}
	}
	text := strings.Replace(strings.Replace(string(before), "sesame", masked, 1), "web-1", "web-2", 1)
	if out, complaint, last := s.order(minion.Internal, "validate-config", text); last.Exit != 0 || out != "valid\n" {
		t.Error(out, complaint)
	}
	if _, complaint, last := s.order(minion.Internal, "set-config", text); last.Exit != 0 {
		t.Error(complaint)
	}
	c, err := Load(path)
	st, serr := os.Stat(path)
	if err != nil || serr != nil || c.ServerName != "web-2" || c.GroupKey != "sesame" || st.Mode().Perm() != 0o600 {
		t.Errorf("%+v, %v, %v", c, err, serr)
	}
	if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), "# a comment") {
		t.Errorf("%s, %v", b, err)
	}
	if b, err := os.ReadFile(path + ".before"); err != nil || string(b) != string(before) {
		t.Errorf("%s, %v", b, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.frames {
		if strings.Contains(fmt.Sprint(f.Data), "sesame") {
			t.Errorf("the key is in %+v", f)
		}
	}
}

// Where a policy allows certain programs, set-config does not get around it.
func TestSetConfigKeepsThePolicy(t *testing.T) {
	s := serveStream(t)
	path := configured(t, s, "commands: {plain: true, allow: [df]}")
	start(t, path)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, add := range []string{
		"telemetries: [{name: x, command: id > /tmp/x}]", "tail_logs: [{service: x, file: /etc/shadow}]",
		"builtin_telemetries: [{label: pick_files, arguments: [/etc/x, /tmp/x]}]", "upgrade: http://x/\nupgrade_key: RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3", "streamservers: ['192.0.2.1:1']",
	} {
		if _, complaint, last := s.order(minion.Internal, "set-config", string(before)+"\n"+add+"\n"); last.Exit == 0 || !strings.Contains(complaint, "refused by policy") {
			t.Errorf("%s: exit %d: %s", add, last.Exit, complaint)
		}
	}
	if _, complaint, last := s.order(minion.Internal, "set-config", strings.Replace(string(before), "allow: [df]", "allow: [rm ...]", 1)); last.Exit == 0 {
		t.Error("the policy itself was changed", complaint)
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != string(before) {
		t.Errorf("%s, %v", now, err)
	}
	if _, complaint, last := s.order(minion.Internal, "set-config", string(before)+"\nlog: debug\n"); last.Exit != 0 {
		t.Error(complaint)
	}
}

// A restart answers, then another program takes over. One with a configuration that
// makes no sense would not come up again.
func TestRestart(t *testing.T) {
	s := serveStream(t)
	path := configured(t, s, "commands: {plain: true}")
	stop := start(t, path)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, complaint, last := s.order(minion.Internal, "restart"); last.Exit != 1 || !strings.Contains(complaint, "not restarted") {
		t.Errorf("%q, %+v", complaint, last)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, last := s.order(minion.Internal, "restart"); out != "restarting\n" || last.Exit != 0 {
		t.Errorf("%q, %+v", out, last)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var next *replacement
	if err := stop(); !errors.As(err, &next) || next.program != self {
		t.Errorf("%v", err)
	}
}

// By default nobody on plain TCP gets more than status and version.
func TestPlainServerIsNotTrusted(t *testing.T) {
	s := serveStream(t)
	start(t, configured(t, s, ""))
	for _, o := range [][]string{{minion.External, "true"}, {minion.Internal, "get-config"}, {minion.Internal, "upgrade"}, {minion.Internal, "restart"}} {
		if _, complaint, last := s.order(o[0], o[1:]...); last.State != minion.StateRefused || !strings.Contains(complaint, "policy") {
			t.Errorf("%v: %+v", o, last)
		}
	}
	if _, _, last := s.order(minion.Internal, "version"); last.State != minion.StateDone {
		t.Errorf("%+v", last)
	}
}
