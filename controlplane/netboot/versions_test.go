package netboot

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// The version URL is answered beside RackHD's tasks API, and agents to upgrade to are
// served from the folder of the appliance image.
func TestVersionURL(t *testing.T) {
	dir := t.TempDir()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, name := range []string{"teeth-agent-amd64-1.2.3", "teeth-agent-"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("agent"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	says := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
	}
	for _, nodes := range []http.Handler{nil, says("nodes")} {
		h, err := Handler(Config{Store: db, BootDir: dir, Nodes: nodes, Versions: says("versions"), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]string{
			"/api/v1/minion?kind=agent": "versions", "/boot/teeth-agent-amd64-1.2.3": "agent", "/boot/teeth-agent-": "", "/boot/teeth-agent-..%2Fx": "",
		} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if got := w.Body.String(); want != "" && got != want || want == "" && w.Code == http.StatusOK {
				t.Errorf("%s: %d %q", path, w.Code, got)
			}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/other", nil))
		if (w.Body.String() == "nodes") != (nodes != nil) {
			t.Errorf("%d %q", w.Code, w.Body)
		}
	}
}
