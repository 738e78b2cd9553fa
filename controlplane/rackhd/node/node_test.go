package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/teeth-metal/teeth/controlplane/rackhd"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
	wire "github.com/teeth-metal/teeth/wire/rackhd"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const key = "key of the estate"

// bench is a control plane's store, engine and tasks API, with an approved chassis
// and another one.
type bench struct {
	*testing.T
	store          *store.Store
	engine         *workflow.Engine
	chassis, other store.Chassis
	tokenless      atomic.Bool
	handler        http.Handler
	url            string // of a server with it
}

func newBench(t *testing.T) *bench {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{T: t, store: db}
	b.engine = workflow.New(workflow.Config{
		Store: db, Log: slog.New(slog.DiscardHandler), Poll: 50 * time.Millisecond,
		Session: func(string) (workflow.Session, bool) { return nil, false },
		BootURL: func(store.Chassis) (string, error) { return "http://192.0.2.1:8082", nil },
	})
	b.engine.Register(rackhd.CommandsJob())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.engine.Run(ctx) }()
	b.handler = Handler(Config{
		Store: db, Commands: rackhd.Commands{Store: db, Finish: b.engine.FinishTask}, Key: key, Tokenless: b.tokenless.Load,
		Log: slog.New(slog.DiscardHandler),
	})
	srv := httptest.NewServer(b.handler)
	b.url = srv.URL
	t.Cleanup(func() {
		srv.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		db.Close()
	})
	b.chassis, b.other = b.connect("02:00:00:00:00:01", "S1", "boot1"), b.connect("02:00:00:00:00:02", "S2", "boot1")
	for _, c := range []store.Chassis{b.chassis, b.other} {
		if err := db.Approve(t.Context(), c.ID, "test"); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *bench) connect(mac, serial, boot string) store.Chassis {
	b.Helper()
	c, err := b.store.Connect(b.Context(), store.Session{ID: serial + boot, Secure: true, Address: "192.0.2.10", Endpoint: "192.0.2.1",
		Handshake: teeth.Handshake{ID: mac, Serial: serial, MACs: []string{mac}, BootID: boot, Version: "1"}})
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// run runs commands on the chassis and waits until they can be had.
func (b *bench) run(options map[string]any) store.Graph {
	b.Helper()
	g, err := b.engine.RunGraph(b.Context(), workflow.Request{Graph: "Graph.ShellCommands", Chassis: b.chassis.ID, Options: map[string]any{"commands": options}})
	if err != nil {
		b.Fatal(err)
	}
	b.until(func() bool {
		g, err = b.store.Graph(b.Context(), g.ID)
		return err != nil || g.State != store.Pending
	})
	return g
}

func (b *bench) until(is func() bool) {
	b.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if is() {
			return
		}
	}
	b.Fatal("it does not come about")
}

func (b *bench) ended(id string) store.Graph {
	b.Helper()
	var g store.Graph
	b.until(func() bool {
		var err error
		g, err = b.store.Graph(b.Context(), id)
		return err != nil || g.Final()
	})
	return g
}

// path of the chassis' commands, with its capability.
func (b *bench) path() string {
	return "/api/current/tasks/" + wire.NodeID(b.chassis.ID) + "?" + CapabilityParameter + "=" + Capability(key, b.chassis.ID, b.chassis.BootID)
}

// ask does a request without a network.
func (b *bench) ask(method, path, body string, change ...func(*http.Request)) (int, string) {
	b.Helper()
	r := httptest.NewRequestWithContext(b.Context(), method, path, strings.NewReader(body))
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func (b *bench) fetch() wire.NodeTasks {
	b.Helper()
	status, body := b.ask("GET", b.path(), "")
	if status != 200 {
		b.Fatalf("%d %s", status, body)
	}
	batch, err := wire.ParseNodeTasks([]byte(body), wire.MaxNodePost)
	if err != nil {
		b.Fatal(err)
	}
	return batch
}

func text(s string) *string { return &s }

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCommandsAreHandedOutUntilReported(t *testing.T) {
	b := newBench(t)
	if status, body := b.ask("GET", b.path(), ""); status != 404 || !strings.Contains(body, "no active task") {
		t.Errorf("nothing to do: %d %s", status, body)
	}
	options := map[string]any{"commands": []any{"", map[string]any{"command": "lshw", "catalog": map[string]any{"source": "lshw", "format": "json"}, "timeout": 5000},
		map[string]any{"cmd": "false", "downloadUrl": "/boot/x", "acceptedResponseCodes": []int{1}, "catalog": true, "source": "notes"}}}
	g := b.run(options)
	batch := b.fetch()
	want := wire.NodeTasks{Identifier: wire.NodeID(b.chassis.ID), TaskID: g.Tasks[0].ID, Tasks: []wire.NodeTask{
		{}, {Cmd: "lshw", Catalog: true, Source: "lshw", Format: "json", Timeout: 5000},
		{Cmd: "false", DownloadURL: "/boot/x", AcceptedResponseCodes: []int{1}, Catalog: true, Source: "notes", Format: "raw"},
	}}
	if d := cmp.Diff(want, batch); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(batch, b.fetch()); d != "" { // its answer was lost, perhaps
		t.Error(d)
	}
	done := b.fetch()
	done.Tasks[0].Stdout = text("")
	done.Tasks[1].Stdout, done.Tasks[1].Stderr = text(` {"id":"x","text":"`+strings.Repeat("y", 200_000)+"\"}\n"), text("")
	done.Tasks[2].Stdout, done.Tasks[2].Error = text("said\x00\n"), &wire.NodeError{Code: 1}
	stray := b.fetch()
	stray.Tasks[1].Cmd = "lshw -short"
	for name, c := range map[string]struct {
		body string
		want int
	}{
		"other commands":     {encode(t, stray), 409},
		"fewer":              {`{"identifier":"` + batch.Identifier + `","tasks":[{"cmd":""}]}`, 409},
		"another identifier": {strings.Replace(encode(t, done), batch.Identifier, wire.NodeID(b.other.ID), 1), 409},
		"another task":       {strings.Replace(encode(t, done), batch.TaskID, g.ID, 1), 409},
		"beginning of an id": {strings.Replace(encode(t, done), batch.TaskID, batch.TaskID[:8], 1), 409},
		"not JSON":           {`{"tasks":`, 400},
		"an array":           {`[]`, 400},
		"nothing":            {``, 400},
		"deep":               {strings.Repeat(`{"a":`, 100), 400},
	} {
		if status, body := b.ask("POST", b.path(), c.body); status != c.want {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if g, err := b.store.Graph(t.Context(), g.ID); err != nil || g.State != store.Running {
		t.Fatalf("%s %v after reports that are none", g.State, err)
	}
	for range 2 { // the answer to the first one was lost
		if status, body := b.ask("POST", b.path(), encode(t, done)+"\n"); status != 201 {
			t.Errorf("%d %s", status, body)
		}
	}
	if g = b.ended(g.ID); g.State != store.Succeeded {
		t.Errorf("%s %s", g.State, g.Msg)
	}
	if n := len(g.Tasks[0].Result); n > 150_000 || !strings.Contains(string(g.Tasks[0].Result), "bytes left out") {
		t.Errorf("%d bytes of result", n)
	}
	list, err := b.store.Catalogs(t.Context(), b.chassis.ID)
	if err != nil || len(list) != 2 || list[0].Source != "lshw" || list[0].Format != "json" || list[0].Size < 200_000 || list[0].Task != batch.TaskID ||
		list[1].Source != "notes" || list[1].Format != "raw" {
		t.Errorf("%+v %v", list, err)
	}
	c, err := b.store.Catalog(t.Context(), b.chassis.ID, "lshw")
	if err != nil || len(c.Data) != int(list[0].Size) || !strings.HasPrefix(string(c.Data), `{"id":"x"`) {
		t.Errorf("%.80s %v", c.Data, err)
	}
	if c, err = b.store.Catalog(t.Context(), b.chassis.ID, "notes"); err != nil || string(c.Data) != `"said\u0000\n"` {
		t.Errorf("%s %v", c.Data, err)
	}
	if _, err := b.store.Catalog(t.Context(), b.other.ID, "notes"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if status, _ := b.ask("GET", b.path(), ""); status != 404 {
		t.Errorf("handed out after its report: %d", status)
	}

	// The same commands once more: a late repetition of the first report does not
	// end them.
	g = b.run(options)
	if status, _ := b.ask("POST", b.path(), encode(t, done)); status != 201 {
		t.Errorf("%d", status)
	}
	if again := b.fetch(); again.TaskID != g.Tasks[0].ID {
		t.Errorf("%+v", again)
	}
	// A node that sends back RackHD's keys and no others is understood, too.
	done.TaskID = ""
	done.Tasks[2].Error = &wire.NodeError{Code: 2}
	if status, body := b.ask("POST", b.path(), encode(t, done)); status != 201 {
		t.Errorf("%d %s", status, body)
	}
	if g = b.ended(g.ID); g.State != store.Failed || !strings.Contains(g.Msg, `Encountered a failure running remote commands: "false": exit code 2`) {
		t.Errorf("%s %s", g.State, g.Msg)
	}
	if err := b.store.Forget(t.Context(), b.chassis.ID, "test", true); err != nil {
		t.Error(err)
	}
}

func TestCatalogThatIsNoJSON(t *testing.T) {
	b := newBench(t)
	g := b.run(map[string]any{"commands": map[string]any{"command": "lspci", "catalog": map[string]any{"source": "pci", "format": "json"}}, "exit": 127})
	done := b.fetch()
	if done.Exit == nil || *done.Exit != 127 {
		t.Errorf("%+v", done)
	}
	done.Tasks[0].Stdout = text("no JSON")
	if status, _ := b.ask("POST", b.path(), encode(t, done)); status != 201 {
		t.Fatal(status)
	}
	if g = b.ended(g.ID); g.State != store.Succeeded || !strings.Contains(g.Tasks[0].Msg, "kept as text") {
		t.Errorf("%s %+v", g.State, g.Tasks[0].Msg)
	}
	if c, err := b.store.Catalog(t.Context(), b.chassis.ID, "pci"); err != nil || c.Format != "raw" || string(c.Data) != `"no JSON"` {
		t.Errorf("%+v %v", c, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	b := newBench(t)
	for want, commands := range map[string]any{
		"list of texts": 5, "source": []any{map[string]any{"command": "x", "catalog": map[string]any{"source": "../x/"}}},
		"raw or json":        []any{map[string]any{"command": "x", "catalog": true, "source": "s", "format": "xml"}},
		"catalog":            []any{map[string]any{"command": "x", "catalog": "lshw"}},
		"cannot be negative": []any{map[string]any{"command": "x", "timeout": -1}},
	} {
		_, err := b.engine.RunGraph(t.Context(), workflow.Request{Graph: "Graph.ShellCommands", Chassis: b.chassis.ID,
			Options: map[string]any{"commands": map[string]any{"commands": commands}}})
		if !errors.Is(err, workflow.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", commands, err)
		}
	}
}

// What is known of a chassis by whoever is on its network opens nothing.
func TestNobodyElseGetsCommands(t *testing.T) {
	b := newBench(t)
	b.run(map[string]any{"commands": "cat /etc/shadow"})
	node, mac := wire.NodeID(b.chassis.ID), "02:00:00:00:00:01"
	lease(t, b.store, mac, "10.0.0.7")
	lease(t, b.store, "02:00:00:00:00:02", "10.0.0.8")
	from := func(a string) func(*http.Request) { return func(r *http.Request) { r.RemoteAddr = a + ":1024" } }
	right := Capability(key, b.chassis.ID, "boot1")
	show := func(c string) string { return "/api/current/tasks/" + node + "?capability=" + c }
	paths := map[string]string{
		"node id": "/api/current/tasks/" + node, "unknown node": "/api/current/tasks/" + strings.Repeat("0", 24), "no node": "/api/2.0/tasks/x",
		"MAC address": "/api/current/tasks/bootstrap.js?macAddress=" + mac,
		"other's":     show(Capability(key, b.other.ID, "boot1")), "other boot": show(Capability(key, b.chassis.ID, "boot0")),
		"other key": show(Capability("guess", b.chassis.ID, "boot1")), "no key": show(Capability("", b.chassis.ID, "boot1")),
		"altered": show(right[:len(right)-2] + "AA"), "cut": show(right[:40]), "empty": show(""), "long": show(right + strings.Repeat("x", 5000)),
		"its chassis renamed": show(strings.Replace(right, b.chassis.ID, b.other.ID, 1)),
	}
	for name, path := range paths {
		for _, method := range []string{"GET", "POST"} {
			if method == "POST" && strings.Contains(path, "bootstrap.js") {
				continue
			}
			if status, body := b.ask(method, path, "{}", from("10.0.0.7")); status != 403 || strings.Contains(body, "shadow") {
				t.Errorf("%s: %s %d %s", name, method, status, body)
			}
		}
	}
	b.tokenless.Store(true)
	for _, a := range []string{"10.0.0.8", "10.0.0.9", "192.0.2.10"} { // another's, nobody's, and one that only the agent had
		for _, name := range []string{"node id", "unknown node", "other's", "altered"} {
			if status, body := b.ask("GET", paths[name], "", from(a)); status != 403 {
				t.Errorf("%s from %s: %d %s", name, a, status, body)
			}
		}
	}
	if status, _ := b.ask("GET", paths["node id"], "", from("10.0.0.7")); status != 200 {
		t.Errorf("tokenless: %d", status)
	}
	if status, body := b.ask("GET", paths["MAC address"], "", from("10.0.0.7")); status != 200 || !strings.Contains(body, node) {
		t.Errorf("tokenless: %d %s", status, body)
	}
	b.tokenless.Store(false)
	if status, _ := b.ask("GET", "/api/2.0/tasks/"+strings.ToUpper(node), "", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+right) }); status != 200 {
		t.Errorf("bearer token: %d", status)
	}
	b.connect(mac, "S1", "boot2")
	if status, _ := b.ask("GET", show(right), ""); status != 403 {
		t.Errorf("the capability of the boot before: %d", status)
	}
	right = Capability(key, b.chassis.ID, "boot2")
	if status, _ := b.ask("GET", show(right), ""); status != 200 {
		t.Errorf("that of this boot: %d", status)
	}
	if err := b.store.Reject(t.Context(), b.chassis.ID, "test"); err != nil {
		t.Fatal(err)
	}
	if status, _ := b.ask("GET", show(right), ""); status != 403 {
		t.Errorf("a rejected chassis: %d", status)
	}
}

func lease(t *testing.T, s *store.Store, mac, ip string) {
	t.Helper()
	all, err := s.Subnets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		r, err := store.ParseRange("10.0.0.5-10.0.0.50")
		if err != nil {
			t.Fatal(err)
		}
		sub, err := s.AddSubnet(t.Context(), store.Subnet{CIDR: netip.MustParsePrefix("10.0.0.0/24"), Pools: []store.Range{r}})
		if err != nil {
			t.Fatal(err)
		}
		all = []store.Subnet{sub}
	}
	in := store.LeaseRequest{Subnet: all[0], Client: "mac:" + mac, MAC: mac, Want: netip.MustParseAddr(ip)}
	if _, err := s.OfferLease(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if _, err := s.BindLease(t.Context(), in, time.Hour); err != nil {
		t.Fatal(err)
	}
}

func TestNotification(t *testing.T) {
	b := newBench(t)
	node, capability := wire.NodeID(b.chassis.ID), Capability(key, b.chassis.ID, "boot1")
	for _, c := range []struct {
		query, body string
		want        int
	}{
		{"?nodeId=" + node + "&capability=" + capability, `{"progress":5}`, 201},
		{"?nodeId=" + node + "&capability=" + capability, ``, 201},
		{"?capability=" + capability, `{"to":"all"}`, 201},
		{"?nodeId=" + node, `{}`, 403}, {"", `{}`, 403}, {"?nodeId=" + wire.NodeID(b.other.ID) + "&capability=" + capability, `{}`, 403},
		{"?capability=" + capability, `"text"`, 400}, {"?capability=" + capability, `{"a":"` + strings.Repeat("x", maxNotification) + `"}`, 413},
	} {
		if status, body := b.ask("POST", "/api/current/notification"+c.query, c.body); status != c.want {
			t.Errorf("%s %.40s: %d %s", c.query, c.body, status, body)
		}
	}
	notices, err := b.store.Notices(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range notices {
		if n.Kind == store.NoticeFromNode {
			got = append(got, strings.TrimSpace(n.Chassis+" "+string(n.Data)))
		}
	}
	if d := cmp.Diff([]string{b.chassis.ID + ` {"progress":5}`, b.chassis.ID + ` {}`, `{"to":"all"}`}, got); d != "" {
		t.Error(d)
	}
}

// A report of the largest kind, in chunks and without a length, as Node sends it.
func TestLargeReport(t *testing.T) {
	b := newBench(t)
	commands := []any{}
	for i := range 6 {
		commands = append(commands, fmt.Sprint("dump ", i))
	}
	g := b.run(map[string]any{"commands": commands})
	done := b.fetch()
	for i := range done.Tasks {
		done.Tasks[i].Stdout = text(strings.Repeat("x", wire.MaxOutput))
	}
	post := func(body io.Reader) int {
		r, err := http.NewRequestWithContext(t.Context(), "POST", b.url+b.path(), io.MultiReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0 // refused while we were sending
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	body := []byte(encode(t, done))
	if status := post(io.MultiReader(bytes.NewReader(body[:len(body)-1]), strings.NewReader(strings.Repeat(" ", 4<<20)+"}"))); status != 413 && status != 0 {
		t.Errorf("more than is taken: %d", status)
	}
	if status := post(bytes.NewReader(body)); status != 201 {
		t.Errorf("%d bytes: %d", len(body), status)
	}
	if g = b.ended(g.ID); g.State != store.Succeeded || len(g.Tasks[0].Result) > 3<<20/2 {
		t.Errorf("%s %s, %d bytes kept", g.State, g.Msg, len(g.Tasks[0].Result))
	}
}

// A node that begins a report and says no more holds nothing for long.
func TestSlowReport(t *testing.T) {
	before := smallTime
	smallTime = 200 * time.Millisecond
	defer func() { smallTime = before }()
	b := newBench(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", b.path())
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") {
		t.Errorf("%q %v", answer, err)
	}
}

func FuzzReport(f *testing.F) {
	f.Add(`{"identifier":"0f1e2d3c4b5a69788796a5b4","tasks":[{"cmd":"x","stdout":"y"}]}`, "capability")
	f.Add(`{"tasks":[{"error":{"code":1}}],"taskId":"x"}`, "")
	f.Fuzz(func(t *testing.T, body, capability string) {
		if id, err := chassisOf(capability); err == nil && checkCapability(key, id, "boot1", capability) == nil {
			t.Fatalf("%q is let through", capability)
		}
		tasks, err := wire.ParseNodeTasks([]byte(body), 1<<16)
		if err != nil {
			return
		}
		if _, err := json.Marshal(tasks); err != nil {
			t.Fatal(err)
		}
	})
}
