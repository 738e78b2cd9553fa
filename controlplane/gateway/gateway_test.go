package gateway

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

type nothing struct{}

func (nothing) Connected(context.Context, string, teeth.Status) error { return nil }
func (nothing) Wake(string)                                           {}

// serve runs a gateway on a plain listener.
func serve(t *testing.T, c Config) (string, *store.Store) {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	c.Store, c.Handler, c.Log = s, nothing{}, slog.New(slog.DiscardHandler)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- New(c).Serve(ctx, l, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return l.Addr().String(), s
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

const hello = `{"id": "1", "version": "v1", "method": "handshake", "params": {"id": "52:54:00:00:00:01", "version": "1.0", "boot_id": "b"}}` + "\n"

// exchange sends text and returns what comes until the connection ends, without
// the handshake's result and the status command.
func exchange(t *testing.T, address, text string) string {
	t.Helper()
	conn := dial(t, address)
	go io.WriteString(conn, text)
	b, _ := io.ReadAll(conn) // a reset ends it as well
	var rest []string
	for l := range strings.Lines(string(b)) {
		if !strings.Contains(l, `"chassis"`) && !strings.Contains(l, `"method": "status"`) {
			rest = append(rest, l)
		}
	}
	return strings.Join(rest, "")
}

func fatal(text string) string { return `{"fatal_error": "` + text + `"}` + "\n" }

func TestViolations(t *testing.T) {
	address, _ := serve(t, Config{})
	for name, c := range map[string]struct{ text, want string }{
		"not JSON first":        {"hello\n", fatal(teeth.FatalDecode)},
		"not a handshake first": {`{"id": "1", "version": "v1", "method": "ping", "params": {}}` + "\n", fatal(teeth.FatalUnsupported)},
		"a result first":        {`{"id": "1", "version": "v1", "result": {}}` + "\n", fatal(teeth.FatalUnsupported)},
		"fatal error first":     {fatal("x"), ""},
		"no version":            {hello + `{"id": "2", "method": "ping", "params": {}}` + "\n", fatal(teeth.FatalNoVersion)},
		"no id":                 {hello + `{"version": "v1", "method": "ping", "params": {}}` + "\n", fatal(teeth.FatalNoID)},
		"unknown version":       {hello + `{"id": "2", "version": "v2", "method": "ping", "params": {}}` + "\n", fatal(teeth.FatalVersion)},
		"unknown method":        {hello + `{"id": "2", "version": "v1", "method": "shell", "params": {}}` + "\n", fatal(teeth.FatalUnknownMethod)},
		"unknown reply":         {hello + `{"id": "2", "version": "v1", "result": {}}` + "\n", fatal(teeth.FatalUnknownID)},
		"a reply with id 7":     {hello + `{"id": 7, "version": "v1", "error": "x"}` + "\n", fatal(teeth.FatalUnknownID)},
		"more to read":          {hello + "x\n" + strings.Repeat(strings.Repeat("y", 1000)+"\n", 500), fatal(teeth.FatalDecode)},
		"nested too deep":       {hello + `{"id": "2", "version": "v1", "method": "ping", "params": {"a": ` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}}\n", fatal(teeth.FatalDecode)},
	} {
		if got := exchange(t, address, c.text); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// A line of more than 512 KiB ends the connection without a word, before and
// after the handshake; one of 512 KiB does not.
func TestLongLines(t *testing.T) {
	address, _ := serve(t, Config{})
	long := strings.Repeat("x", 600<<10) + "\n"
	for name, text := range map[string]string{"first": long, "after the handshake": hello + long} {
		if got := exchange(t, address, text); got != "" {
			t.Errorf("%s: got %q", name, got)
		}
	}
	const frame = `{"id": "2", "version": "v1", "method": "ping", "params": {"a": ""}}`
	fits := strings.Replace(frame, `""`, `"`+strings.Repeat("x", teeth.MaxLine-len(frame))+`"`, 1)
	if got := exchange(t, address, hello+fits+"\n"+fatal("bye")); !strings.HasPrefix(got, `{"id": "2", "version": "v1", "result": {"a": "xxx`) {
		t.Errorf("a line of the greatest length: got %.100q", got)
	}
}

func TestHandshakeIsChecked(t *testing.T) {
	address, s := serve(t, Config{})
	for name, params := range map[string]string{
		"no id":        `{"version": "1"}`,
		"bad id":       `{"id": "a b", "version": "1"}`,
		"long id":      `{"id": "` + strings.Repeat("a", 65) + `", "version": "1"}`,
		"bad MAC":      `{"id": "52:54:00:00:00:01", "version": "1", "macs": ["x"]}`,
		"control code": `{"id": "52:54:00:00:00:01", "version": "1", "serial": "a\u001bb"}`,
		"wrong type":   `{"id": 7, "version": "1"}`,
	} {
		got := exchange(t, address, `{"id": "1", "version": "v1", "method": "handshake", "params": `+params+"}\n")
		if !strings.HasPrefix(got, `{"id": "1", "version": "v1", "error": {"msg": "`) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if list, err := s.ListChassis(t.Context(), "", 0); err != nil || len(list) != 0 {
		t.Errorf("%d chassis, %v", len(list), err)
	}
}

// With TLS the token is asked for, and a wrong one leaves no trace.
func TestWrongToken(t *testing.T) {
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	authority, err := pki.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := New(Config{Store: s, Handler: nothing{}, Token: "right", Log: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, l, authority.ServerConfig()) }()
	defer func() { cancel(); <-done }()
	conf, err := pki.ClientConfig(authority.Pin())
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"", "wrong", "right "} {
		conn := tls.Client(dial(t, l.Addr().String()), conf)
		io.WriteString(conn, strings.Replace(hello, `"version": "1.0"`, `"version": "1.0", "token": "`+token+`"`, 1))
		b, _ := io.ReadAll(conn)
		if !strings.Contains(string(b), "enrolment token refused") {
			t.Errorf("token %q: %q", token, b)
		}
	}
	if list, err := s.ListChassis(t.Context(), "", 0); err != nil || len(list) != 0 {
		t.Errorf("%d chassis, %v", len(list), err)
	}
	// Plain JSON on the TLS port gets nowhere.
	if got := exchange(t, l.Addr().String(), hello); strings.Contains(got, "result") {
		t.Errorf("plain connection: %q", got)
	}
}

func TestTimeouts(t *testing.T) {
	address, s := serve(t, Config{Handshake: 2 * time.Second, Idle: 2 * time.Second})
	begun := time.Now()
	exchange(t, address, "") // says nothing
	if d := time.Since(begun); d > 15*time.Second {
		t.Errorf("a connection without handshake stayed %v", d)
	}
	conn := dial(t, address)
	io.WriteString(conn, hello)
	for range 5 { // blank lines are signs of life
		time.Sleep(500 * time.Millisecond)
		io.WriteString(conn, "\r\n")
	}
	list, err := s.ListChassis(t.Context(), "", 0)
	if err != nil || len(list) != 1 || !list[0].Connected {
		t.Fatalf("%+v, %v", list, err)
	}
	begun = time.Now()
	io.Copy(io.Discard, conn)
	if d := time.Since(begun); d > 15*time.Second {
		t.Errorf("a silent session stayed %v", d)
	}
	for end := time.Now().Add(10 * time.Second); list[0].Connected && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if list, err = s.ListChassis(t.Context(), "", 0); err != nil {
			t.Fatal(err)
		}
	}
	if list[0].Connected {
		t.Error("the chassis still counts as connected")
	}
}

func TestLimits(t *testing.T) {
	address, _ := serve(t, Config{MaxPerAddress: 2})
	alive := func(conn net.Conn) bool {
		io.WriteString(conn, hello)
		b := make([]byte, 1)
		_, err := conn.Read(b)
		return err == nil
	}
	first, second := dial(t, address), dial(t, address)
	if !alive(first) {
		t.Fatal("the first connection is refused")
	}
	if alive(dial(t, address)) {
		t.Error("a third connection of this address was taken")
	}
	second.Close()
	for range 100 {
		if alive(dial(t, address)) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("the place of a connection that ended stays taken")
}

func TestLogIsBounded(t *testing.T) {
	address, s := serve(t, Config{})
	log := `{"id": "2", "version": "v1", "method": "log", "params": {"message": "` + strings.Repeat("m", 100<<10) + `\u001b[2J", "time": -1, "big": "` + strings.Repeat("f", 100<<10) + `"}}` + "\n"
	if got := exchange(t, address, hello+log+fatal("bye")); got != `{"id": "2", "version": "v1", "result": {}}`+"\n" {
		t.Errorf("got %q", got)
	}
	list, err := s.ListChassis(t.Context(), "", 0)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	events, err := s.Events(t.Context(), list[0].ID, 0)
	if err != nil || len(events) != 1 {
		t.Fatal(events, err)
	}
	e := events[0]
	if len(e.Message) > maxMessage+10 || strings.Contains(e.Message, "\x1b") || len(e.Fields) > maxFields || time.Since(e.Time) > time.Hour {
		t.Errorf("%d bytes of message, %d of fields, time %v", len(e.Message), len(e.Fields), e.Time)
	}
}

func TestEndpointHost(t *testing.T) {
	for said, want := range map[string]string{
		"10.0.2.2:8081":                   "10.0.2.2",
		"[fd00::1]:8081":                  "fd00::1",
		"teeth.example:8081":              "teeth.example",
		"":                                "192.0.2.1",
		"10.0.2.2":                        "192.0.2.1",
		"evil/path:80":                    "192.0.2.1",
		"a\" b:80":                        "192.0.2.1",
		"user@host:80":                    "192.0.2.1",
		"0.0.0.0:80":                      "192.0.2.1",
		"[fe80::1%eth0]:80":               "192.0.2.1",
		strings.Repeat("a.", 200) + ":80": "192.0.2.1",
	} {
		if got := endpointHost(said, "192.0.2.1:8081"); got != want {
			t.Errorf("endpointHost(%q) = %q, want %q", said, got, want)
		}
	}
}

func FuzzHandshake(f *testing.F) {
	f.Add("52:54:00:00:00:01", "4c4c4544-0043-3010-8052-b4c04f564231", "SN", "52:54:00:00:00:02", "10.0.2.2:8081")
	f.Add("a:b:c:d", "", "", "", "")
	f.Fuzz(func(t *testing.T, id, uuid, serial, mac, endpoint string) {
		h := teeth.Handshake{ID: id, UUID: uuid, Serial: serial, MACs: []string{mac}, Version: "1", Endpoint: endpoint}
		if normalise(&h) != nil {
			return
		}
		if again := h; normalise(&again) != nil || again.ID != h.ID || again.MACs[0] != h.MACs[0] {
			t.Errorf("%+v is not normal: %+v", h, again)
		}
		if host := endpointHost(h.Endpoint, "192.0.2.1:1"); strings.ContainsAny(host, " /\\\"'@%\n{}$") || host == "" {
			t.Errorf("endpoint %q gives host %q", h.Endpoint, host)
		}
	})
}
