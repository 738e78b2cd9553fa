package netboot

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/images"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	mac  = "52:54:00:12:34:56"
	id   = "4c4c4544-0043-3010-8052-b4c04f564231"
	pin  = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	boot = "kernel and initramfs"
)

func setup(t testing.TB) (http.Handler, *store.Store, *images.Library) {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(t.Context(), filepath.Join(dir, "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l, err := images.Open(t.Context(), images.Config{Dir: filepath.Join(dir, "images"), Store: s})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vmlinuz-amd64", "teeth-amd64.cpio.zst", "teeth-amd64.json", "teeth-amd64.iso", "ipxe.efi"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(boot), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h, err := Handler(Config{Store: s, Image: l.File, BootDir: dir, Log: slog.New(slog.DiscardHandler),
		AgentsPort: "8081", CAPin: pin, Token: "secret-token", KernelArgs: "quiet panic=30"})
	if err != nil {
		t.Fatal(err)
	}
	return h, s, l
}

func get(h http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Host = "10.0.2.2:8082"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestScriptOfAnUnknownChassis(t *testing.T) {
	h, _, _ := setup(t)
	if got, want := get(h, "/boot/ipxe").Body.String(), "#!ipxe\nchain --replace http://10.0.2.2:8082/boot/ipxe?mac=${netX/mac:hexhyp}&uuid=${uuid}\n"; got != want {
		t.Errorf("first script:\n%s", got)
	}
	want := `#!ipxe
kernel http://10.0.2.2:8082/boot/vmlinuz-amd64 initrd=teeth-amd64.cpio.zst console=tty0 console=ttyS0 teeth.server=10.0.2.2:8081 BOOTIF=01-52-54-00-12-34-56 teeth.ca_sha256=` + pin + ` teeth.token=secret-token quiet panic=30
initrd http://10.0.2.2:8082/boot/teeth-amd64.cpio.zst
boot
`
	if got := get(h, "/boot/ipxe?mac=52-54-00-12-34-56&uuid="+id).Body.String(); got != want {
		t.Errorf("script:\n%s", got)
	}
}

// Everything in the request is hostile: what is let through may not leave its
// place in the script.
func TestHostileRequests(t *testing.T) {
	h, _, _ := setup(t)
	for _, query := range []string{
		"mac=52-54-00-12-34-56%0aimgfree", "mac=x", "mac=52-54-00-12-34", "mac=${net0/mac}", "uuid=" + id,
		"mac=52-54-00-12-34-56&uuid=x", "mac=52-54-00-12-34-56&uuid={" + id + "}", "mac=52-54-00-12-34-56&uuid=%24{uuid}",
		"mac=" + strings.Repeat("5", 10000), "mac=52%2054%2000%2012%2034%2056", "mac=52-54-00-12-34-56&uuid=urn:uuid:" + id,
	} {
		if w := get(h, "/boot/ipxe?"+query); w.Code != http.StatusBadRequest {
			t.Errorf("%.80s: %d %s", query, w.Code, w.Body)
		}
	}
	for _, host := range []string{"", "a b", "evil\nboot", "h init=/bin/sh", "${x}", "10.0.2.2:80a", "a:1:2", "[::1%25eth0]:80", "-x", strings.Repeat("a.", 200), "h:123456"} {
		r := httptest.NewRequest(http.MethodGet, "/boot/ipxe?mac=52-54-00-12-34-56", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest {
			t.Errorf("Host %.40q: %d %s", host, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/boot/../teeth.db", "/boot/teeth.db", "/boot/%2e%2e%2fteeth.db", "/images/..%2fteeth.db", "/images/" + id, "/images/name", "/", "/v1/chassis"} {
		if w := get(h, path); w.Code == http.StatusOK || strings.Contains(w.Body.String(), "SQLite") {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func TestHandlerRefusesUnsafeSettings(t *testing.T) {
	for _, args := range []string{"a\nboot", "x=${uuid}", `y="z"`, "a || shell", strings.Repeat("a", 3000)} {
		if _, err := Handler(Config{KernelArgs: args}); err == nil {
			t.Errorf("kernel arguments %.40q were taken", args)
		}
	}
	if _, err := Handler(Config{Token: "a\nb"}); err == nil {
		t.Error("a token of two lines was taken")
	}
}

func FuzzScript(f *testing.F) {
	f.Add("10.0.2.2:8082", "52-54-00-12-34-56", id)
	f.Add("[fe80::1]:8082", "52:54:00:12:34:56", "")
	f.Add("a\nb", "x", "${y}")
	h, _, _ := setup(f)
	line := regexp.MustCompile(`^(#!ipxe|boot|kernel http://[A-Za-z0-9.:\[\]-]+/boot/vmlinuz-amd64 [A-Za-z0-9.:=_ \[\]-]+|` +
		`initrd http://[A-Za-z0-9.:\[\]-]+/boot/teeth-amd64.cpio.zst|` +
		`chain --replace http://[A-Za-z0-9.:\[\]-]+/boot/ipxe\?mac=\$\{netX/mac:hexhyp\}&uuid=\$\{uuid\})$`)
	f.Fuzz(func(t *testing.T, host, mac, uuid string) {
		r := httptest.NewRequest(http.MethodGet, "/boot/ipxe?"+url.Values{"mac": {mac}, "uuid": {uuid}}.Encode(), nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			return
		}
		for l := range strings.Lines(w.Body.String()) {
			if !line.MatchString(strings.TrimSuffix(l, "\n")) {
				t.Fatalf("host %q, mac %q, uuid %q: line %q", host, mac, uuid, l)
			}
		}
	})
}

func TestInstalledChassisBootsItsDisk(t *testing.T) {
	h, s, _ := setup(t)
	ctx := t.Context()
	c, err := s.Connect(ctx, store.Session{ID: "1", Handshake: teeth.Handshake{ID: mac, UUID: id, Version: "1"}, Rules: []store.Rule{{Kind: store.RuleAll}}})
	if err != nil {
		t.Fatal(err)
	}
	local := func() bool {
		t.Helper()
		w := get(h, "/boot/ipxe?mac=52-54-00-12-34-56&uuid="+id)
		if w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
		return strings.Contains(w.Body.String(), "sanboot")
	}
	run := func(method, token string) store.Graph {
		t.Helper()
		r, err := s.CreateGraph(ctx, store.NewGraph{Name: "Graph.Test", Chassis: c.ID, Tasks: []store.NewTask{{
			Label: "task", Kind: store.KindAgent, Command: store.Command{Method: method, PhoneHome: token}}}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if local() {
		t.Error("a chassis without a system boots its disk")
	}
	r := run(teeth.MethodRunImage, "token1")
	if local() {
		t.Error("a chassis with work to do boots its disk")
	}
	if _, err := s.MarkStarted(ctx, r.Tasks[0].ID, store.Start{Session: "1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ApplyStatus(ctx, c.ID, "", teeth.TaskStatus{TaskID: r.Tasks[0].ID, State: teeth.Complete}); err != nil {
		t.Fatal(err)
	}
	if !local() {
		t.Error("an image was set running, and the reboot into it gets the ramdisk")
	}
	call := func(token string) int {
		req := httptest.NewRequest(http.MethodPost, "/phone_home/"+token, strings.NewReader("hostname=web1&pub_key_ed25519=ssh-ed25519+AAAA%1b%0a"))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Code
	}
	for token, want := range map[string]int{"token2": http.StatusNotFound, "token1": http.StatusOK} {
		if got := call(token); got != want {
			t.Errorf("phone home with %s: %d", token, got)
		}
	}
	if got := call("token1"); got != http.StatusOK {
		t.Errorf("repeated call: %d", got)
	}
	events, err := s.Events(ctx, c.ID, 0)
	if err != nil || len(events) != 1 || string(events[0].Fields) != `{"hostname":"web1","pub_key_ed25519":"ssh-ed25519 AAAA"}` {
		t.Errorf("events: %s, %v", events[0].Fields, err)
	}
	if c, _ = s.Chassis(ctx, c.ID); c.State != store.InService {
		t.Errorf("chassis is %s", c.State)
	}
	if !local() {
		t.Error("a chassis in service gets the ramdisk")
	}
	run(teeth.MethodDiskErase, "")
	if local() {
		t.Error("a chassis to be decommissioned boots its disk")
	}
}

func TestFilesByRange(t *testing.T) {
	h, _, l := setup(t)
	content := bytes.Repeat([]byte("0123456789"), 1000)
	img, err := l.Add(t.Context(), images.Request{Name: "debian", Format: "raw"}, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	w := get(h, "/images/"+img.ID, "Range", "bytes=5-14", "If-Range", `"`+img.SHA256+`"`)
	if w.Code != http.StatusPartialContent || w.Body.String() != "5678901234" || w.Header().Get("ETag") != `"`+img.SHA256+`"` {
		t.Errorf("range: %d %q %v", w.Code, w.Body, w.Header())
	}
	if w := get(h, "/images/"+img.ID, "Range", "bytes=5-", "If-Range", `"another"`); w.Code != http.StatusOK || w.Body.Len() != len(content) {
		t.Errorf("range of another version: %d, %d bytes", w.Code, w.Body.Len())
	}
	if w := get(h, "/images/debian"); w.Code != http.StatusNotFound {
		t.Errorf("by name: %d", w.Code)
	}
	w = get(h, "/boot/vmlinuz-amd64", "Range", "bytes=0-5")
	if w.Code != http.StatusPartialContent || w.Body.String() != "kernel" || w.Header().Get("ETag") == "" {
		t.Errorf("boot file: %d %q", w.Code, w.Body)
	}
	r := httptest.NewRequest(http.MethodPut, "/images/"+img.ID, strings.NewReader("x"))
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	if rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("PUT: %d", rec.Code)
	}
	f, err := l.File(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, _ := io.ReadAll(f); !bytes.Equal(got, content) {
		t.Error("the image has changed")
	}
}
