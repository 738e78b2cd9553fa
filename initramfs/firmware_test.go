package initramfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/teeth-metal/teeth/initramfs/internal/fakekernel"
	"github.com/teeth-metal/teeth/initramfs/kmod"
)

func moduleAsking(patterns ...string) *kmod.Set {
	return &kmod.Set{Modules: []*kmod.Module{{Info: kmod.Info{Name: "nic", Firmware: patterns}}}}
}

func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func TestAddFirmware(t *testing.T) {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	first, second := t.TempDir(), t.TempDir()
	fakekernel.Write(t, first, map[string][]byte{
		"ice/ice-1.3.pkg": []byte("package"),
		"glob/a.bin":      []byte("a"),
		"glob/b.bin.zst":  w.EncodeAll([]byte("b"), nil),
		"glob/sub/c.bin":  []byte("c"),
		"both.fw":         []byte("first"),
	})
	fakekernel.Write(t, second, map[string][]byte{"both.fw": []byte("second"), "only.fw": []byte("second")})
	link(t, "ice-1.3.pkg", filepath.Join(first, "ice/ice.pkg"))
	link(t, "../ice/ice.pkg", filepath.Join(first, "glob/link.pkg"))
	link(t, "nowhere", filepath.Join(first, "dangling.fw"))

	a, m := newArchive(), &Manifest{}
	set := moduleAsking("both.fw", "dangling.fw", "glob/*", "glob/link.pkg", "gone.fw", "ice/ice.pkg", "only.fw")
	sources := []firmwareSource{{"fw-first", first}, {"fw-second", second}}
	if err := addFirmware(a, m, set, sources); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, r := range a.records {
		if rest, ok := strings.CutPrefix(name, "lib/firmware/"); ok && r.ReaderAt != nil {
			got[rest] = content(t, r)
		}
	}
	want := map[string]string{
		"both.fw": "first", "only.fw": "second", "glob/a.bin": "a", "glob/b.bin": "b",
		"glob/link.pkg": "../ice/ice.pkg", "ice/ice.pkg": "ice-1.3.pkg", "ice/ice-1.3.pkg": "package",
	}
	for name, c := range want {
		if got[name] != c {
			t.Errorf("%s = %q, want %q", name, got[name], c)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("packed without being asked for: %q", got)
	}
	if len(m.Firmware) != len(want) {
		t.Errorf("manifest lists %d files, want %d", len(m.Firmware), len(want))
	}
	var missing []string
	for _, f := range m.FirmwareMissing {
		missing = append(missing, f.Name)
	}
	if strings.Join(missing, " ") != "dangling.fw gone.fw" {
		t.Errorf("missing %q, want dangling.fw and gone.fw", missing)
	}
}

func TestAddFirmwareRefusesEscape(t *testing.T) {
	for _, target := range []string{"/etc/passwd", "../../outside"} {
		top := t.TempDir()
		dir := filepath.Join(top, "a/fw")
		fakekernel.Write(t, top, map[string][]byte{"outside": []byte("secret"), "a/fw/x": nil})
		link(t, target, filepath.Join(dir, "evil.fw"))
		a := newArchive()
		err := addFirmware(a, &Manifest{}, moduleAsking("evil.fw"), []firmwareSource{{"fw", dir}})
		if err == nil && a.has("lib/firmware/evil.fw") {
			t.Errorf("a link to %s was packed", target)
		}
	}
}
