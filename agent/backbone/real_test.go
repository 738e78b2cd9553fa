package backbone

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/app"
	"github.com/teeth-metal/teeth/app/apptest"
	"github.com/teeth-metal/teeth/app/sandbox"
	"github.com/teeth-metal/teeth/internal/need"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(m.Run())
}

// shop serves packages; "slow" ones never arrive.
type shop struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string][]byte
	slow  chan struct{} // gets one for each slow package that is asked for
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	b, ok := s.files[r.URL.Path]
	s.mu.Unlock()
	switch {
	case strings.Contains(r.URL.Path, "slow"):
		w.Header().Set("Content-Length", "1000000")
		w.Write(make([]byte, 1000))
		w.(http.Flusher).Flush()
		s.slow <- struct{}{}
		<-r.Context().Done()
	case !ok:
		http.NotFound(w, r)
	default:
		w.Write(b)
	}
}

// live is a slave with real apps.
type live struct {
	*testing.T
	*line
	shop *shop
	stop func()
}

// open starts a slave with the apps that dir has.
func (l *live) open(dir string) {
	l.Helper()
	log := slog.New(slog.DiscardHandler)
	host, err := app.Open(l.Context(), app.Options{Root: filepath.Join(dir, "apps"), ControlGroup: "teeth-slave-test", Logger: log})
	if err != nil {
		l.Fatal(err)
	}
	l.line = newLine(wire.MasterDeclared)
	s, err := New(Config{
		Apps: host, Transports: []Transport{l.line}, Dir: filepath.Join(dir, "state"), Log: log, Version: "test",
		Heartbeat: 500 * time.Millisecond, RetryMin: 100 * time.Millisecond, MaxAttempts: 2,
		Variables: func() wire.Variables {
			return wire.Variables{Host: strings.TrimPrefix(l.shop.URL, "http://"), Protocol: "http", Port: "9080"}
		},
	})
	if err != nil {
		l.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	l.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
		if err := host.Close(context.Background()); err != nil {
			l.Error(err)
		}
	})
	l.Cleanup(l.stop)
}

func (l *live) tell(apps string) {
	apps = strings.ReplaceAll(apps, "SHOP", "%(download_protocol)s://%(host_relative_amqp_fqdn)s")
	l.in <- wire.Envelope{Opcode: wire.SetConfig, Data: json.RawMessage(strings.ReplaceAll(apps, "'", `"`))}
}

// until waits for a status that is as wanted.
func (l *live) until(what string, ok func(wire.Status) bool) wire.Status {
	l.Helper()
	var last wire.Status
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		for _, st := range l.statuses() {
			if last = st; ok(st) {
				return st
			}
		}
	}
	l.Fatalf("no status with %s; the last: %+v, %s", what, last, last.Extensions[wire.ReportName].Data)
	return last
}

func (l *live) ok(what string, ok func(wire.App) bool) wire.Status {
	l.Helper()
	return l.until(what, func(st wire.Status) bool { return st.State == wire.StateOK && ok(st.Apps["web"]) })
}

// TestRealApps has package app do what a master wants.
func TestRealApps(t *testing.T) {
	if os.Geteuid() != 0 {
		need.Right(t, errors.New("apps need root"))
	}
	s := &shop{files: map[string][]byte{}, slow: make(chan struct{}, 10)}
	s.Server = httptest.NewServer(s)
	defer s.Close()
	pack := func(services string) []byte {
		return apptest.Files{"teeth-app.yaml": []byte("root: host\nservices:\n  main: " + services + "\nconfig: {path: /etc/web.json, format: json}\n")}.Tar(t)
	}
	sleeps := pack("{command: [/bin/sleep, infinity], stop_timeout: 2s}")
	s.files["/web-1"], s.files["/web-3"], s.files["/once"] = sleeps, sleeps, pack("{command: [/bin/true], restart: never}")
	sum := sha256.Sum256(sleeps)
	web := func(version, config, more string) string {
		return fmt.Sprintf(`{'web': {'version': '%s', 'url': 'SHOP/web-%s', 'config': %s%s}}`, version, version, config, more)
	}
	const running = `, 'running': true`

	l := &live{T: t, shop: s}
	dir := t.TempDir()
	l.open(dir)
	l.until("nothing", func(st wire.Status) bool { return st.State == wire.StateOK && len(st.Apps) == 0 })

	l.tell(web("1", `{'a': {'x': [1, null]}}`, running+`, 'digest': 'sha256:`+hex.EncodeToString(sum[:])+`'`))
	st := l.ok("version 1", func(a wire.App) bool { return a.Version == "1" })
	if a := st.Apps["web"]; a.Running == nil || !*a.Running || string(a.Config) != `{"a":{"x":[1,null]}}` {
		t.Errorf("%+v", a)
	}
	l.tell(web("1", `{'a': {'x': [2]}}`, running))
	l.ok("another configuration", func(a wire.App) bool { return string(a.Config) == `{"a":{"x":[2]}}` })

	// A version that does not arrive is superseded, and the old one runs meanwhile.
	l.tell(web("slow", `{}`, running))
	<-s.slow
	l.until("version 1 while another is fetched", func(st wire.Status) bool {
		a := st.Apps["web"]
		return st.State == wire.StateConverging && a.Version == "1" && *a.Running && len(st.DesiredApps) == 1
	})
	l.tell(web("3", `{}`, running))
	l.ok("version 3", func(a wire.App) bool { return a.Version == "3" && *a.Running })

	l.tell(web("3", `{}`, `, 'service_states': {'main': false}`))
	l.ok("a stopped service", func(a wire.App) bool { on, ok := a.ServiceStates["main"]; return ok && !on && a.Running == nil })

	// What cannot be had, and what is not what it should be.
	for _, c := range []struct{ apps, says string }{
		{web("404", `{}`, running), "404"},
		{web("1", `{}`, running+`, 'digest': 'sha256:`+strings.Repeat("0", 64)+`'`), "sha256"},
		{web("3", `{}`, `, 'service_states': {'other': true}`), "no service"},
	} {
		l.tell(c.apps)
		st := l.until("failed", func(st wire.Status) bool { return st.State == wire.StateFailed })
		if r := report(t, st); !strings.Contains(r.Reason, c.says) || st.Apps["web"].Version != "3" {
			t.Errorf("%s: %s, with %+v", c.apps, r.Reason, st.Apps)
		}
	}
	l.tell(web("3", `{}`, running))
	l.ok("running again", func(a wire.App) bool { return a.Running != nil && *a.Running })

	// A flasher that has done its work is not done again, and is as wanted.
	l.tell(`{'web': {'version': 'x', 'url': 'SHOP/once', 'config': {}, 'running': true}}`)
	st = l.ok("a service that has ended well", func(a wire.App) bool { return a.Version == "x" && *a.Running })
	if r := report(t, st).Apps["web"]; r.ExitCode == nil || *r.ExitCode != 0 {
		t.Errorf("%+v", r)
	}
	l.tell(web("3", `{'a': 1}`, running))
	l.ok("version 3", func(a wire.App) bool { return a.Version == "3" && *a.Running })

	// The agent starts again.
	l.stop()
	l.open(dir)
	l.ok("version 3", func(a wire.App) bool { return a.Version == "3" && *a.Running && string(a.Config) == `{"a":1}` })
	l.tell(`{}`)
	l.until("nothing", func(st wire.Status) bool { return st.State == wire.StateOK && len(st.Apps) == 0 })
	if left, err := os.ReadDir(filepath.Join(dir, "apps", "web")); err == nil {
		t.Errorf("left behind: %v", left)
	}
}
