package netboot

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/images"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// with returns a handler with more of a configuration than setup's.
func with(t *testing.T, more func(*Config)) (http.Handler, *store.Store, *images.Library) {
	t.Helper()
	_, s, l := setup(t)
	c := Config{Store: s, Image: l.File, BootDir: t.TempDir(), IPXEDirs: []string{t.TempDir()}, Log: slog.New(slog.DiscardHandler),
		AgentsPort: "8081", CAPin: pin, Token: "secret-token"}
	more(&c)
	h, err := Handler(c)
	if err != nil {
		t.Fatal(err)
	}
	return h, s, l
}

func TestScriptHasATokenOfItsOwn(t *testing.T) {
	failure := error(nil)
	h, _, _ := with(t, func(c *Config) {
		c.BootToken = func(_ context.Context, uuid, m string) (string, error) { return "for-" + m + "-" + uuid, failure }
	})
	got := get(h, "/boot/ipxe?mac=52-54-00-12-34-56&uuid="+id).Body.String()
	if !strings.Contains(got, " teeth.token=for-52:54:00:12:34:56-"+id) || strings.Contains(got, "secret-token") {
		t.Errorf("script:\n%s", got)
	}
	failure = errors.New("no disk")
	if w := get(h, "/boot/ipxe?mac=52-54-00-12-34-56&uuid="+id); w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "disk") {
		t.Errorf("without a token: %d %s", w.Code, w.Body)
	}
}

func TestImagesNeedACapability(t *testing.T) {
	h, _, l := with(t, func(c *Config) { c.CapabilityKey = "key" })
	img, err := l.Add(t.Context(), images.Request{Name: "debian", Format: "raw"}, strings.NewReader("content"))
	if err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(time.Hour)
	for query, want := range map[string]int{
		"": http.StatusForbidden,
		"?capability=" + images.Capability("key", img.ID, soon):                         http.StatusOK,
		"?capability=" + images.Capability("other", img.ID, soon):                       http.StatusForbidden,
		"?capability=" + images.Capability("key", "another", soon):                      http.StatusForbidden,
		"?capability=" + images.Capability("key", img.ID, time.Now().Add(-time.Minute)): http.StatusForbidden,
	} {
		if w := get(h, "/images/"+img.ID+query); w.Code != want {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
}

func TestLoadersAndCD(t *testing.T) {
	dir := t.TempDir()
	h, _, _ := with(t, func(c *Config) { c.BootDir, c.IPXEDirs = dir, []string{filepath.Join(dir, "ipxe")} })
	if err := os.Mkdir(filepath.Join(dir, "ipxe"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"teeth-amd64.iso", "teeth-amd64.efi", "ipxe/ipxe.efi", "ipxe/passwd", "teeth.db"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("0123456789"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, kind := range map[string]string{"teeth-amd64.iso": "application/vnd.efi-iso", "teeth-amd64.efi": "application/efi", "ipxe.efi": "application/efi"} {
		w := get(h, "/boot/"+name, "Range", "bytes=2-4")
		if w.Code != http.StatusPartialContent || w.Body.String() != "234" || w.Header().Get("Content-Type") != kind || w.Header().Get("ETag") == "" {
			t.Errorf("%s: %d %q %v", name, w.Code, w.Body, w.Header())
		}
		if again := get(h, "/boot/"+name, "If-None-Match", w.Header().Get("ETag")); again.Code != http.StatusNotModified {
			t.Errorf("%s, unchanged: %d", name, again.Code)
		}
	}
	for _, name := range []string{"passwd", "teeth.db", "..%2fteeth.db", "ipxe%2fipxe.efi"} {
		if w := get(h, "/boot/"+name); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
}

func TestNoticeOfAResponse(t *testing.T) {
	h, s, _ := with(t, func(*Config) {})
	get(h, "/boot/none?x=1")
	get(h, "/phone_home/secret")
	get(h, "/images/"+id+"?capability=secret")
	all, err := s.Notices(t.Context(), 0, 10)
	if err != nil || len(all) != 3 {
		t.Fatal(all, err)
	}
	for i, want := range []string{"/boot/none?x=1", "/phone_home/", "/images/" + id} {
		var data struct {
			Address, Method, URL, Time string
			StatusCode                 int
		}
		if err := json.Unmarshal(all[i].Data, &data); err != nil {
			t.Fatal(err)
		}
		if data.URL != want || data.Address != "192.0.2.1" || data.StatusCode < 400 || data.Method != "GET" || data.Time == "" {
			t.Errorf("notice: %+v", data)
		}
		if strings.Contains(string(all[i].Data), "secret") {
			t.Errorf("a secret is in %s", all[i].Data)
		}
	}
}

// Files go from disk to network within the kernel, which a wrapped writer would prevent.
func TestFilesAreNotCopied(t *testing.T) {
	w := &readerFrom{ResponseRecorder: httptest.NewRecorder()}
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	if _, err := io.Copy(rec, struct{ io.Reader }{strings.NewReader("x")}); err != nil || !w.used {
		t.Error("ReadFrom of the connection was not used")
	}
	if u, err := url.Parse("/images/x?capability=y"); err != nil || strings.Contains(urlForNotice(u), "y") {
		t.Error("the capability is in the notice")
	}
}

type readerFrom struct {
	*httptest.ResponseRecorder
	used bool
}

func (r *readerFrom) ReadFrom(src io.Reader) (int64, error) {
	r.used = true
	return io.Copy(r.ResponseRecorder, src)
}
