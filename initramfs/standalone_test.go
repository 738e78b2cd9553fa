package initramfs

import (
	"bytes"
	"debug/pe"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/internal/need"
)

// TestStandalone builds the unified kernel image and the CD from Debian's boot
// loaders.
func TestStandalone(t *testing.T) {
	needGo(t)
	cache, out := debianCache(t), t.TempDir()
	need.Program(t, "xorriso", "xorriso")
	need.Program(t, "mformat", "mtools")
	const token = "teeth.token=not-for-the-manifest"
	opt := Options{OutDir: out, CacheDir: cache, SourceDir: "..", UKI: true, ISO: true, Append: token}
	m, err := Build(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	opt.OutDir = t.TempDir()
	again, err := Build(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if m.UKI == nil || m.ISO == nil || *m.UKI != *again.UKI || *m.ISO != *again.ISO {
		t.Fatalf("built %+v and %+v, then %+v and %+v", m.UKI, m.ISO, again.UKI, again.ISO)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	unified := read("teeth-amd64.efi")
	f, err := pe.NewFile(bytes.NewReader(unified))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{
		".linux": read("vmlinuz-amd64"), ".initrd": read("teeth-amd64.cpio.zst"), ".cmdline": []byte("console=tty0 console=ttyS0 " + token),
	} {
		s := f.Section(name)
		if s == nil {
			t.Errorf("the unified kernel image has no section %s", name)
			continue
		}
		if got, err := s.Data(); err != nil || !bytes.Equal(got[:s.VirtualSize], want) {
			t.Errorf("section %s: %d other bytes (%v)", name, len(got), err)
		}
	}
	if f.Section(".sdmagic") == nil {
		t.Error("the stub has lost the section that says which stub it is")
	}
	if cd := read("teeth-amd64.iso"); !bytes.Contains(cd, unified) {
		t.Error("the CD does not hold the unified kernel image")
	}
	if strings.Contains(string(read("teeth-amd64.json")), "token") {
		t.Error("the manifest, which anybody may read, has the token")
	}
	packages := ""
	for _, p := range m.Packages {
		packages += p.Name + " "
	}
	for _, want := range []string{"systemd-boot-efi", "isolinux", "syslinux-common"} {
		if !strings.Contains(packages, want) {
			t.Errorf("the manifest names %s, not %s", packages, want)
		}
	}

	// A build that makes neither leaves neither of an older agent.
	opt = Options{OutDir: out, CacheDir: cache, SourceDir: ".."}
	if m, err = Build(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"teeth-amd64.efi", "teeth-amd64.iso"} {
		if _, err := os.Stat(filepath.Join(out, name)); !os.IsNotExist(err) {
			t.Errorf("%s of an earlier build is still there (%v)", name, err)
		}
	}
	if m.UKI != nil || m.ISO != nil {
		t.Errorf("the manifest names %+v and %+v, which were not built", m.UKI, m.ISO)
	}
	for _, bad := range []Options{{Append: "quiet"}, {UKI: true, Append: "a\nb"}, {ISO: true, Append: strings.Repeat("x", 3000)}} {
		if _, err := bad.withDefaults(); err == nil {
			t.Errorf("options %+v were accepted", bad)
		}
	}
}
