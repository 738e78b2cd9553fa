package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// The commands of a server end this boot: nothing new is begun, and the power is
// cycled if there is a BMC that does it.
func TestCommandsEndTheBoot(t *testing.T) {
	for name, c := range map[string]struct {
		exit  string
		cycle error
		want  string
	}{
		"reboot":             {"1", nil, "restart"},
		"power cycle":        {"2", nil, "cycle restart"}, // the test's power stays on
		"power cycle, fails": {"2", errors.New("no BMC"), "cycle restart"},
	} {
		const node = "0f1e2d3c4b5a69788796a5b4"
		var auth string
		reported := make(chan string, 1)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/bootstrap.js"):
				io.WriteString(w, `const settings = {"identifier":"`+node+`"}`)
			case r.Method == "GET":
				io.WriteString(w, `{"identifier":"`+node+`","tasks":[{"cmd":"echo hello"}],"exit":"`+c.exit+`"}`)
			default:
				b, _ := io.ReadAll(r.Body)
				auth = r.Header.Get("Authorization")
				w.WriteHeader(http.StatusCreated)
				reported <- string(b)
			}
		}))
		b := newBench(t)
		b.opening.welcomed(teeth.HandshakeResult{NodeCapability: "secret"})
		b.machine.Options.RackHD = srv.URL
		ended := make(chan string, 2)
		b.cycle = func(context.Context) error { ended <- "cycle"; return c.cycle }
		b.restart = func(string) { ended <- "restart" }
		done := make(chan error, 1)
		go func() { done <- b.commands(t.Context()) }()
		select {
		case body := <-reported:
			if !strings.Contains(body, `"stdout":"hello\n"`) {
				t.Errorf("%s: %s", name, body)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: no report", name)
		}
		if err := <-done; err != nil || auth != "Bearer secret" {
			t.Errorf("%s: %v, %q", name, err, auth)
		}
		close(ended)
		var got []string
		for e := range ended {
			got = append(got, e)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
		if _, err := b.do(teeth.MethodQC, `{"task_id":"t","spec":{}}`); err == nil {
			t.Errorf("%s: a task is begun while the chassis leaves", name)
		}
		srv.Close()
	}
	b := newBench(t)
	if err := b.commands(t.Context()); err != nil {
		t.Errorf("without a server: %v", err)
	}
	b.machine.Options.RackHD = "https://192.0.2.1"
	if err := b.commands(t.Context()); err == nil || !strings.Contains(err.Error(), "teeth.ca_sha256") {
		t.Errorf("without a CA: %v", err)
	}
}
