package kmod_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/teeth-metal/teeth/initramfs/internal/fakekernel"
	"github.com/teeth-metal/teeth/initramfs/kmod"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// tree is a kernel in small: every kind of dependency, two compressors, a
// module with dashes, an alias with two providers, parts that are built in.
func tree(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "6.1.0-test")
	fakekernel.Write(t, dir, map[string][]byte{
		"modules.builtin":         []byte("kernel/fs/nls/nls_base.ko\nkernel/crypto/sha-big.ko\n"),
		"modules.builtin.modinfo": []byte("sha_big.alias=crypto-sha256\x00sha_big.license=GPL\x00"),
		"kernel/fs/ext4/ext4.ko": fakekernel.Module("name=ext4", "softdep=pre: crypto-crc32c", "license=GPL",
			"alias=fs-ext4", "alias=ext3", "depends=jbd2,mbcache,sha-big"),
		"kernel/fs/jbd2/jbd2.ko":               fakekernel.Module("name=jbd2", "depends=mbcache"),
		"kernel/fs/mbcache.ko":                 fakekernel.Module("name=mbcache", "depends="),
		"kernel/crypto/crc32c_generic.ko":      fakekernel.Module("name=crc32c_generic", "alias=crypto-crc32c"),
		"kernel/arch/x86/crc32c-intel.ko":      fakekernel.Module("alias=crypto-crc32c", "version=2.1"),
		"kernel/drivers/net/ethernet/a/nic.ko": fakekernel.Module("name=nic", "softdep=pre: phy-b nosuch post: late", "alias=pci:v00008086d*sv*", "firmware=nic/one.fw", "firmware=nic/*.pkg"),
		"kernel/drivers/net/phy/phy-b.ko":      fakekernel.Module("name=phy_b", "softdep=stray words", "softdep=pre: crypto-sha256"),
		"kernel/drivers/net/late.ko.gz":        gz(t, fakekernel.Module("name=late")),
		"kernel/drivers/net/ethernet/z.ko.zst": zst(t, fakekernel.Module("name=z", "depends=nls_base", "firmware=nic/one.fw")),
		"kernel/drivers/unrelated.ko":          fakekernel.Module("name=unrelated", "depends=gone"),
	})
	return dir
}

func gz(t *testing.T, b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zst(t *testing.T, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// TestIndexes holds the index files against golden ones, whose format is that
// of depmod(8).
func TestIndexes(t *testing.T) {
	tr, err := kmod.Open(context.Background(), tree(t))
	if err != nil {
		t.Fatal(err)
	}
	set, err := tr.Select([]string{"ext4", "absent"}, []string{"kernel/drivers/net/ethernet/**"})
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{
		"modules.dep":     set.Dep(),
		"modules.alias":   set.Alias(),
		"modules.softdep": set.Softdep(),
		"modules.builtin": set.Builtin(),
	} {
		golden := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n%swant:\n%s", name, got, want)
		}
	}
	if want := []string{"absent", "nosuch of nic"}; !slices.Equal(set.Missing, want) {
		t.Errorf("Missing = %q, want %q", set.Missing, want)
	}
	if want := []string{"nic/*.pkg", "nic/one.fw"}; !slices.Equal(set.Firmware(), want) {
		t.Errorf("Firmware = %q, want %q", set.Firmware(), want)
	}
	for _, m := range set.Modules {
		if m.Name == "crc32c_intel" && m.Version != "2.1" {
			t.Errorf("version of crc32c_intel = %q", m.Version)
		}
	}
}

func TestSelectBrokenTree(t *testing.T) {
	tr, err := kmod.Open(context.Background(), tree(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = tr.Select([]string{"unrelated"}, nil)
	if err == nil || !strings.Contains(err.Error(), "unrelated needs gone") {
		t.Errorf("Select of a module with a missing dependency: %v", err)
	}
	if _, err := tr.Select(nil, []string{"kernel/[x"}); err == nil {
		t.Error("Select took a bad pattern")
	}
}

// TestDepCycle: modules that depend on each other cannot be loaded, but must
// not hang the builder.
func TestDepCycle(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "1")
	fakekernel.Write(t, dir, map[string][]byte{
		"modules.builtin": nil,
		"kernel/a.ko":     fakekernel.Module("name=a", "depends=b", "softdep=pre: a"),
		"kernel/b.ko":     fakekernel.Module("name=b", "depends=a"),
	})
	tr, err := kmod.Open(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	set, err := tr.Select([]string{"a"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(set.Dep()), "kernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/a.ko\n"; got != want {
		t.Errorf("modules.dep = %q, want %q", got, want)
	}
}

func TestOpenErrors(t *testing.T) {
	tests := []struct {
		name  string
		files map[string][]byte
		want  string
	}{
		{"no builtin list", map[string][]byte{"kernel/a.ko": fakekernel.Module("name=a")}, "modules.builtin"},
		{"not ELF", map[string][]byte{"modules.builtin": nil, "kernel/a.ko": []byte("hello")}, "kernel/a.ko: not a kernel module"},
		{"path in builtin", map[string][]byte{"modules.builtin": []byte("../../etc/x.ko\n")}, "is not a path"},
		{"broken gzip", map[string][]byte{"modules.builtin": nil, "kernel/a.ko.gz": []byte("\x1f\x8b")}, "unpack"},
		{"space in a name", map[string][]byte{"modules.builtin": nil, "kernel/a b.ko": fakekernel.Module()}, "cannot be indexed|not a path"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "1")
			fakekernel.Write(t, dir, tt.files)
			_, err := kmod.Open(context.Background(), dir)
			if err == nil || !slices.ContainsFunc(strings.Split(tt.want, "|"), func(w string) bool { return strings.Contains(err.Error(), w) }) {
				t.Errorf("Open: %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestOpenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := kmod.Open(ctx, tree(t)); err == nil {
		t.Error("Open went on after its context was cancelled")
	}
}

func TestParseInfoRefuses(t *testing.T) {
	for _, field := range []string{
		"name=../evil",
		"name=",
		"depends=ok,bad/name",
		"alias=two words",
		"alias=line\nalias * evil",
		"firmware=../../etc/shadow",
		"firmware=/etc/shadow",
		"firmware=a//b",
		"softdep=pre: a\x01b",
	} {
		if m, err := kmod.ParseInfo([]byte(field + "\x00")); err == nil {
			t.Errorf("ParseInfo(%q) = %+v, want an error", field, m)
		}
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add([]byte("name=ext4\x00alias=fs-ext4\x00depends=jbd2,crc16\x00softdep=pre: a post: b\x00firmware=x/y\x00"))
	f.Add([]byte("\x00\x00=\x00name\x00softdep=gcm\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := kmod.ParseInfo(b)
		if err != nil {
			return
		}
		// Whatever was taken must be safe to write one to a line.
		for _, w := range slices.Concat([]string{m.Name}, m.Depends, m.Pre, m.Post, m.Alias, m.Firmware) {
			if strings.ContainsAny(w, " \n\r\t\x00") {
				t.Errorf("ParseInfo let %q through", w)
			}
		}
		for _, fw := range m.Firmware {
			if !filepath.IsLocal(fw) {
				t.Errorf("ParseInfo let firmware path %q through", fw)
			}
		}
	})
}

func FuzzReadInfo(f *testing.F) {
	f.Add(fakekernel.Module("name=ext4", "depends=jbd2"))
	f.Add(fakekernel.Module())
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = kmod.ReadInfo(bytes.NewReader(b)) // must not panic or hang
	})
}
