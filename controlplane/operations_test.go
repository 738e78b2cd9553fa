package controlplane

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/pki"
)

func TestHealthAndMetrics(t *testing.T) {
	s := start(t, t.TempDir(), func(c *Config) { c.Operations.Metrics = "127.0.0.1:0" })
	connect(t, s, "boot1")
	s.chassis("ready")
	admin, err := pki.Secret(s.dir, "operator.token")
	if err != nil {
		t.Fatal(err)
	}
	for path, c := range map[string]struct {
		token string
		want  int
		says  string
	}{
		"/healthz": {"", 200, "ok"},
		"/readyz":  {"", 200, `"database":"ok"`},
		"/metrics": {"Bearer " + admin, 200, "teeth_build_info"},
	} {
		if code, _, body := request(t, s, "GET", path, "", "", c.token); code != c.want || !strings.Contains(body, c.says) {
			t.Errorf("API %s: %d %.200s", path, code, body)
		}
		resp, err := http.Get("http://" + s.info.Metrics + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || !strings.Contains(string(b), c.says) {
			t.Errorf("metrics listener %s: %d %.200s %v", path, resp.StatusCode, b, err)
		}
		if path == "/metrics" && (!strings.Contains(string(b), `route="GET /v1/chassis/{id}"`) || !strings.Contains(string(b), "teeth_pollers_busy_max 32")) {
			t.Errorf("requests are not counted, or pollers are not shown:\n%s", b)
		}
	}
	if code, _, _ := request(t, s, "GET", "/metrics", "", "", ""); code != 401 {
		t.Errorf("metrics without a token: %d", code)
	}
}

// A service manager hears that the server is up, lives, and stops; and a request
// under way when it is told to stop is answered.
func TestServiceManagerAndShutdown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "300000")
	hear := func(want string) {
		t.Helper()
		l.SetReadDeadline(time.Now().Add(20 * time.Second))
		b := make([]byte, 100)
		for {
			n, err := l.Read(b)
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			if string(b[:n]) == want {
				return
			}
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	dir := t.TempDir()
	ready, done := make(chan Info, 1), make(chan error, 1)
	c := testConfig(dir)
	c.Ready = func(i Info) { ready <- i }
	go func() { done <- Serve(ctx, c) }()
	info := <-ready
	hear("READY=1")
	hear("WATCHDOG=1")
	hear("WATCHDOG=1")

	// An upload that is half sent when the server is told to stop.
	admin, err := pki.Secret(dir, "operator.token")
	if err != nil {
		t.Fatal(err)
	}
	conf, err := pki.ClientConfig(info.CASHA256)
	if err != nil {
		t.Fatal(err)
	}
	body, half := io.Pipe()
	req, err := http.NewRequest("POST", "https://"+info.API+"/v1/images?name=a&format=raw", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+admin)
	req.Header.Set("Content-Type", "application/octet-stream")
	answered := make(chan string, 1)
	go func() {
		resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: conf}}).Do(req)
		if err != nil {
			answered <- err.Error()
			return
		}
		resp.Body.Close()
		answered <- resp.Status
	}()
	if _, err := half.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	// It is under way when it is in the audit trail; before, it may be dropped.
	reach, err := client.Load(info.ClientFile)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := client.New(reach)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the request in the audit trail", func() bool {
		trail, err := cl.Audit(t.Context(), "", "", 1)
		return err == nil && len(trail) == 1 && trail[0].Status == 0
	})
	stop()
	hear("STOPPING=1")
	if _, err := half.Write(make([]byte, 100_000)); err != nil {
		t.Error(err)
	}
	half.Close()
	if got := <-answered; got != "201 Created" {
		t.Errorf("the request under way: %s", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", info.API); err == nil {
		t.Error("it listens yet")
	}
}
