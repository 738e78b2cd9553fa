package netboot

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// A chassis that is to run commands gets a shell, where there is one.
func TestScriptWithShell(t *testing.T) {
	dir, args := t.TempDir(), ""
	db, err := store.Open(t.Context(), filepath.Join(dir, "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	h, err := Handler(Config{Store: db, BootDir: dir, Log: slog.New(slog.DiscardHandler), AgentsPort: "8081", CAPin: pin, Token: "t",
		MoreArgs: func() string { return args }})
	if err != nil {
		t.Fatal(err)
	}
	shell := func() bool {
		t.Helper()
		script := get(h, "/boot/ipxe?mac=52-54-00-12-34-56").Body.String()
		named := strings.Contains(script, "vmlinuz-amd64 initrd=teeth-amd64.cpio.zst initrd=teeth-rescue-amd64.cpio.zst console=")
		loaded := strings.Contains(script, "/boot/teeth-amd64.cpio.zst\ninitrd http://10.0.2.2:8082/boot/teeth-rescue-amd64.cpio.zst\nboot\n")
		if named != loaded {
			t.Errorf("%s", script)
		}
		return loaded
	}
	if shell() {
		t.Error("a shell that is not there")
	}
	if err := os.WriteFile(filepath.Join(dir, "teeth-rescue-amd64.cpio.zst"), []byte("shell"), 0o600); err != nil {
		t.Fatal(err)
	}
	if shell() {
		t.Error("a shell for a chassis that runs no commands")
	}
	if args = "quiet teeth.rackhd=http://10.0.2.2:8082"; !shell() {
		t.Error("no shell for commands")
	}
	if w := get(h, "/boot/teeth-rescue-amd64.cpio.zst"); w.Code != http.StatusOK || w.Body.String() != "shell" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
