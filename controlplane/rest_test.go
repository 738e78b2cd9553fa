package controlplane

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// request sends a request with the operator's token and returns what it answers.
func request(t *testing.T, s *running, method, path, contentType, body, token string) (int, http.Header, string) {
	t.Helper()
	conf, err := pki.ClientConfig(s.info.CASHA256)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
	req, err := http.NewRequest(method, "https://"+s.info.API+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func TestRequestsAreChecked(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	connect(t, s, "boot1")
	s.chassis("ready")
	operator, err := pki.Secret(s.dir, "operator.token")
	if err != nil {
		t.Fatal(err)
	}
	right := "Bearer " + operator
	const asJSON = "application/json"
	decommission := "/v1/chassis/" + testMAC + "/decommission"
	for name, c := range map[string]struct {
		method, path, contentType, body, token string
		want                                   int
		detail                                 string
	}{
		"no token":           {"GET", "/v1/chassis", "", "", "", 401, "client.json"},
		"wrong token":        {"GET", "/v1/chassis", "", "", "Bearer wrong", 401, "client.json"},
		"enrolment token":    {"GET", "/v1/chassis", "", "", "Bearer " + s.token, 401, "client.json"},
		"basic":              {"GET", "/v1/chassis", "", "", "Basic " + operator, 401, "client.json"},
		"no such path":       {"GET", "/v1/nothing", "", "", right, 404, "openapi"},
		"no such chassis":    {"GET", "/v1/chassis/other", "", "", right, 404, `"other"`},
		"no such task":       {"GET", "/v1/tasks/other", "", "", right, 404, "other"},
		"no such run":        {"GET", "/v1/graphs/other", "", "", right, 404, "other"},
		"no such image":      {"GET", "/v1/images/other", "", "", right, 404, "other"},
		"hostile chassis":    {"GET", "/v1/chassis/%25", "", "", right, 404, "not found"},
		"limit":              {"GET", "/v1/tasks?limit=100000", "", "", right, 400, "1 to 1000"},
		"limit not number":   {"GET", "/v1/tasks?limit=x", "", "", right, 400, "1 to 1000"},
		"tasks of nobody":    {"GET", "/v1/tasks?chassis=other", "", "", right, 404, "other"},
		"misspelt option":    {"POST", decommission, asJSON, `{"disk":["VDA1"]}`, right, 400, `"disk"`},
		"two objects":        {"POST", decommission, asJSON, `{}{}`, right, 400, "after"},
		"not JSON":           {"POST", decommission, asJSON, `erase it`, right, 400, "invalid"},
		"empty":              {"POST", decommission, asJSON, ``, right, 400, "EOF"},
		"too large":          {"POST", decommission, asJSON, `{"method":"` + strings.Repeat("x", 2<<20) + `"}`, right, 413, "large"},
		"bad value":          {"POST", decommission, asJSON, `{"method":"hammer"}`, right, 400, "zeroout"},
		"image type":         {"POST", "/v1/images?name=a&format=raw", "text/plain", "x", right, 415, "octet-stream"},
		"image format":       {"POST", "/v1/images?name=a&format=vmdk", "application/octet-stream", "x", right, 400, "qcow2"},
		"image name":         {"POST", "/v1/images?name=..%2fa&format=raw", "application/octet-stream", "x", right, 400, "name"},
		"image from a file":  {"POST", "/v1/images", asJSON, `{"name":"a","format":"raw","url":"file:///etc/passwd"}`, right, 400, "http"},
		"image from nowhere": {"POST", "/v1/images", asJSON, `{"name":"a","format":"raw","url":"http://127.0.0.1:1/x"}`, right, 502, "refused"},
		"events of nobody":   {"GET", "/v1/events?chassis=other", "", "", right, 404, "other"},
		"events of no run":   {"GET", "/v1/events?graph=other", "", "", right, 404, "other"},
	} {
		code, header, body := request(t, s, c.method, c.path, c.contentType, c.body, c.token)
		var p struct {
			Type, Title, Detail string
			Status              int
		}
		if err := json.Unmarshal([]byte(body), &p); err != nil || header.Get("Content-Type") != "application/problem+json" ||
			code != c.want || p.Status != c.want || p.Title == "" || !strings.Contains(p.Detail, c.detail) {
			t.Errorf("%s: %d %s", name, code, body)
		}
		if strings.Contains(body, operator) || strings.Contains(body, s.token) {
			t.Errorf("%s: the answer holds a secret", name)
		}
	}
	if code, _, body := request(t, s, "GET", "/v1/openapi.yaml", "", "", ""); code != 200 || !strings.HasPrefix(body, "openapi: 3.1.0\n") {
		t.Errorf("description: %d %.100s", code, body)
	}
	if v, err := s.client.Version(t.Context()); err != nil || v != "test" {
		t.Errorf("version %q, %v", v, err)
	}
	if tasks, err := s.client.ListTasks(t.Context(), "", 0); err != nil || len(tasks) != 0 {
		t.Errorf("refused requests have made %d tasks, %v", len(tasks), err)
	}
}

func TestClientErrors(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	ctx := t.Context()
	if _, err := s.client.Chassis(ctx, "nobody"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("unknown chassis: %v", err)
	}
	other := start(t, t.TempDir(), nil)
	conf, err := client.Load(s.info.ClientFile)
	if err != nil {
		t.Fatal(err)
	}
	conf.URL = "https://" + other.info.API
	c, err := client.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Version(ctx); !errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), "not from the CA") {
		t.Errorf("server of another authority: %v", err)
	}
	other.halt()
	if _, err := c.Version(ctx); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("no server: %v", err)
	}
	if err := c.Watch(ctx, client.Filter{}, nil); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("watch of no server: %v", err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.client.Version(done); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for _, bad := range []string{"http://127.0.0.1:1", "127.0.0.1:1", ""} {
		if _, err := client.New(client.Config{URL: bad, CASHA256: conf.CASHA256}); err == nil {
			t.Errorf("URL %q was taken", bad)
		}
	}
}

// A watch goes on over a restart of the server and misses no final state.
func TestWatchOverARestart(t *testing.T) {
	dir := t.TempDir()
	ports := freePorts(t)
	same := func(c *Config) { c.Agents, c.API, c.Boot = ports[0], ports[1], ports[2] }
	s := start(t, dir, same)
	a := connect(t, s, "boot1")
	s.chassis("ready")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	run, err := s.client.Decommission(ctx, testMAC, client.Decommission{Steps: []string{"erase"}})
	if err != nil {
		t.Fatal(err)
	}
	var erase teeth.DiskEraseParams
	a.accept(teeth.MethodDiskErase, &erase)
	events := make(chan client.Task, 100)
	watched := make(chan error, 1)
	go func() {
		watched <- s.client.Watch(ctx, client.Filter{Graph: run.ID}, func(e client.Event) error {
			if e.Task == nil {
				return nil
			}
			events <- *e.Task
			if e.Task.Final() {
				return io.EOF
			}
			return nil
		})
	}()
	select {
	case first := <-events:
		if first.ID != erase.TaskID || first.Final() {
			t.Errorf("the watch begins with %+v", first)
		}
	case <-ctx.Done():
		t.Fatal("the watch does not begin")
	}
	s.halt()
	s = start(t, dir, same)
	a = connect(t, s, "boot1", teeth.TaskStatus{TaskID: erase.TaskID, State: teeth.Running})
	a.report(teeth.TaskStatus{TaskID: erase.TaskID, State: teeth.Complete})
	if err := <-watched; err != io.EOF {
		t.Errorf("watch: %v", err)
	}
}

func freePorts(t *testing.T) []string {
	t.Helper()
	var ports []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().String())
	}
	return ports
}

func TestWatchOfAChassis(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	a := connect(t, s, "boot1")
	s.chassis("ready")
	seen := make(chan client.Event, 100)
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() {
		watched <- s.client.Watch(ctx, client.Filter{Chassis: testMAC}, func(e client.Event) error { seen <- e; return nil })
	}()
	next := func(what string, ok func(client.Event) bool) {
		t.Helper()
		for {
			select {
			case e := <-seen:
				if ok(e) {
					return
				}
			case <-time.After(patience):
				t.Fatalf("no event: %s", what)
			}
		}
	}
	next("the chassis itself", func(e client.Event) bool { return e.Chassis != nil && e.Chassis.State == "ready" })
	if reply := a.call(teeth.MethodLog, teeth.Log{Message: "link up", Time: 1795253238, Fields: map[string]any{"nic": "eth0"}}); reply.Kind != teeth.KindResult {
		t.Fatal(reply.Err)
	}
	next("log", func(e client.Event) bool { return e.Log != nil && e.Log.Message == "link up" })
	a.conn.Close()
	next("offline", func(e client.Event) bool { return e.Chassis != nil && e.Chassis.State == "offline" })
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Errorf("watch: %v", err)
	}
}

func TestImages(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	ctx := t.Context()
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "fetched") }))
	defer origin.Close()
	img, err := s.client.FetchImage(ctx, client.NewImage{Name: "b", Format: "raw"}, origin.URL+"/image")
	if err != nil || img.Size != 7 {
		t.Fatalf("%+v, %v", img, err)
	}
	if _, err := s.client.UploadImage(ctx, client.NewImage{Name: "a", Format: "raw"}, bytes.NewReader(make([]byte, 3<<20)), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.UploadImage(ctx, client.NewImage{Name: "a", Format: "raw"}, strings.NewReader("x"), 1); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("second image of that name: %v", err)
	}
	if list, err := s.client.ListImages(ctx); err != nil || len(list) != 2 || list[0].Name != "a" {
		t.Errorf("%+v, %v", list, err)
	}
	if err := s.client.RemoveImage(ctx, "b"); err != nil {
		t.Error(err)
	}
	if _, err := s.client.Image(ctx, "b"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("removed image: %v", err)
	}
	// An upload that is cut short leaves nothing.
	conf, err := pki.ClientConfig(s.info.CASHA256)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", s.info.API, conf)
	if err != nil {
		t.Fatal(err)
	}
	operator, err := pki.Secret(s.dir, "operator.token")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "POST /v1/images?name=cut&format=raw HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+operator+
		"\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 5000))
	conn.Close()
	time.Sleep(200 * time.Millisecond)
	if _, err := s.client.Image(ctx, "cut"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("half an image was taken: %v", err)
	}
}
