package initramfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/initramfs/internal/fakekernel"
	"github.com/teeth-metal/teeth/initramfs/sentinel"
)

const standIn = "./initramfs/testdata/agent"

// kernelDir is a kernel of one's own, in small.
func kernelDir(t *testing.T) string {
	dir := t.TempDir()
	fakekernel.Write(t, dir, map[string][]byte{
		"vmlinuz-6.1.0-test":                        []byte("a kernel"),
		"lib/modules/6.1.0-test/modules.builtin":    []byte("kernel/fs/nls/nls_base.ko\n"),
		"lib/modules/6.1.0-test/kernel/nvme.ko":     fakekernel.Module("name=nvme", "depends=nvme-core", "alias=pci:v*d*", "version=1.0"),
		"lib/modules/6.1.0-test/kernel/core.ko":     fakekernel.Module("name=nvme_core", "firmware=a/one.fw", "firmware=a/gone.fw"),
		"lib/modules/6.1.0-test/kernel/unwanted.ko": fakekernel.Module("name=unwanted"),
		"lib/firmware/a/one.fw":                     []byte("firmware"),
	})
	return dir
}

func needGo(t testing.TB) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Fatal("needs the go command, to build the agent")
	}
}

// TestReproducible builds the same image under everything that must not matter:
// directories, caches, umask, time zone, the user's Go settings.
func TestReproducible(t *testing.T) {
	needGo(t)
	kernel := kernelDir(t)
	src, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	build := func(umask int, version string) (*Manifest, string) {
		defer unix.Umask(unix.Umask(umask))
		t.Chdir(t.TempDir())
		m, err := Build(context.Background(), Options{
			OutDir: "o", CacheDir: filepath.Join(t.TempDir(), "c"), KernelDir: kernel,
			SourceDir: src, AgentPackage: standIn, Version: version,
		})
		if err != nil {
			t.Fatal(err)
		}
		out, err := filepath.Abs("o")
		if err != nil {
			t.Fatal(err)
		}
		return m, out
	}
	first, out1 := build(0o022, "1.2.3")
	t.Setenv("GOFLAGS", "-race")
	t.Setenv("GOAMD64", "v3")
	t.Setenv("CGO_ENABLED", "1")
	t.Setenv("TZ", "Asia/Kathmandu")
	second, out2 := build(0o077, "1.2.3")
	if first.Image != second.Image {
		t.Errorf("image %+v, built again %+v", first.Image, second.Image)
	}
	for _, name := range []string{"teeth-amd64.cpio.zst", "teeth-amd64.json", "vmlinuz-amd64"} {
		b1, err1 := os.ReadFile(filepath.Join(out1, name))
		b2, err2 := os.ReadFile(filepath.Join(out2, name))
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if !bytes.Equal(b1, b2) {
			t.Errorf("%s differs between two builds", name)
		}
		st, err := os.Stat(filepath.Join(out2, name))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o644 {
			t.Errorf("%s has mode %v, umask must not matter", name, st.Mode())
		}
	}
	if left, err := filepath.Glob(filepath.Join(out2, ".*")); err != nil || len(left) > 0 {
		t.Errorf("temporary files left: %q, %v", left, err)
	}
	// And it is not that everything gives one image.
	if third, _ := build(0o022, "1.2.4"); third.Image.SHA256 == first.Image.SHA256 {
		t.Error("another version of the agent gave the same image")
	}
}

// entries reads all records of an image: the content of its archives in order.
func entries(t *testing.T, image string) []cpio.Record {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	d, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	raw, err := io.ReadAll(d)
	if err != nil {
		t.Fatal(err)
	}
	var all []cpio.Record
	r := cpio.Newc.Reader(bytes.NewReader(raw))
	for range bytes.Count(raw, []byte(cpio.Trailer)) {
		for {
			rec, err := r.ReadRecord()
			if err == io.EOF {
				break // of one archive
			}
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, rec)
		}
	}
	return all
}

func content(t *testing.T, r cpio.Record) string {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(r.ReaderAt, 0, int64(r.FileSize)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestImage(t *testing.T) {
	needGo(t)
	out := t.TempDir()
	opt := Options{OutDir: out, KernelDir: kernelDir(t), SourceDir: "..", AgentPackage: standIn, Version: "1.2.3"}
	m, err := Build(context.Background(), opt)
	if err != nil {
		t.Fatal(err)
	}
	recs := entries(t, filepath.Join(out, m.Image.Name))
	seen := map[string]cpio.Record{}
	var bytesIn int64
	for _, r := range recs {
		if old, ok := seen[r.Name]; ok && (r.Mode&cpio.S_IFMT != cpio.S_IFDIR || old.Mode != r.Mode) {
			t.Errorf("%s is in the image twice", r.Name)
		}
		seen[r.Name] = r
		if r.UID != 0 || r.GID != 0 || r.MTime != 0 || r.Ino != 0 && r.NLink > 1 {
			t.Errorf("%s carries something of the machine it was built on: %+v", r.Name, r.Info)
		}
		if dir := filepath.Dir(r.Name); seen[dir].Mode&cpio.S_IFMT != cpio.S_IFDIR {
			t.Errorf("%s comes before its directory", r.Name)
		}
		if r.Mode&cpio.S_IFMT == cpio.S_IFREG && r.Name != sentinel.Name {
			bytesIn += int64(r.FileSize)
		}
	}
	if recs[0].Name != "." || recs[0].Mode != cpio.S_IFDIR|0o755 {
		t.Errorf("first record is %s %o, want . with mode 0755", recs[0].Name, recs[0].Mode)
	}
	for name, mode := range map[string]uint64{
		"init": cpio.S_IFREG | 0o755, "dev/console": cpio.S_IFCHR | 0o600, "tmp": cpio.S_IFDIR | 0o1777, "root": cpio.S_IFDIR | 0o700,
		"lib/modules/6.1.0-test/kernel/nvme.ko": cpio.S_IFREG | 0o644,
	} {
		if seen[name].Mode != mode {
			t.Errorf("%s has mode %o, want %o", name, seen[name].Mode, mode)
		}
	}
	for name, want := range map[string]string{
		"lib/modules/6.1.0-test/modules.dep":     "kernel/core.ko:\nkernel/nvme.ko: kernel/core.ko\n",
		"lib/modules/6.1.0-test/modules.alias":   "# Aliases extracted from modules themselves.\nalias pci:v*d* nvme\n",
		"lib/modules/6.1.0-test/modules.builtin": "kernel/fs/nls/nls_base.ko\n",
		"lib/firmware/a/one.fw":                  "firmware",
		"etc/os-release":                         "ID=teeth\nNAME=Teeth\nVERSION_ID=1.2.3\n",
	} {
		r, ok := seen[name]
		if !ok {
			t.Errorf("%s is not in the image", name)
		} else if got := content(t, r); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if _, ok := seen["lib/modules/6.1.0-test/kernel/unwanted.ko"]; ok {
		t.Error("a module that nobody asked for is in the image")
	}

	last := recs[len(recs)-1]
	if last.Name != sentinel.Name {
		t.Fatalf("last record is %s, want the sentinel", last.Name)
	}
	counts, err := sentinel.Parse(content(t, last))
	if err != nil {
		t.Fatal(err)
	}
	// The sentinel's own archive holds "." and the sentinel.
	if want := (sentinel.Counts{Entries: len(recs) - 2, Bytes: bytesIn}); counts != want {
		t.Errorf("sentinel says %+v, the image holds %+v", counts, want)
	}
	checkManifest(t, out, m)
}

// checkManifest compares what the manifest says with what is there.
func checkManifest(t *testing.T, out string, m *Manifest) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(out, "teeth-amd64.json"))
	if err != nil {
		t.Fatal(err)
	}
	var onDisk Manifest
	if err := json.Unmarshal(b, &onDisk); err != nil {
		t.Fatal(err)
	}
	if onDisk.Image != m.Image || onDisk.Kernel != m.Kernel {
		t.Errorf("manifest on disk differs from the one returned")
	}
	for _, f := range []File{m.Image, m.Kernel.File} {
		b, err := os.ReadFile(filepath.Join(out, f.Name))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		if f.Size != int64(len(b)) || f.SHA256 != hex.EncodeToString(sum[:]) {
			t.Errorf("manifest has %+v, the file has %d bytes, SHA-256 %x", f, len(b), sum)
		}
	}
	if m.Kernel.Version != "6.1.0-test" || len(m.Modules) != 2 || m.Modules[1].Version != "1.0" {
		t.Errorf("kernel %+v, modules %+v", m.Kernel, m.Modules)
	}
	if !slices.Contains(m.ModulesMissing, "virtio_net") {
		t.Errorf("missing modules %q, want virtio_net among them", m.ModulesMissing)
	}
	if len(m.Firmware) != 1 || len(m.FirmwareMissing) != 1 || m.FirmwareMissing[0].Name != "a/gone.fw" ||
		!slices.Equal(m.FirmwareMissing[0].Modules, []string{"nvme_core"}) {
		t.Errorf("firmware %+v, missing %+v", m.Firmware, m.FirmwareMissing)
	}
	if !strings.HasPrefix(m.Agent.GoVersion, "go1.") {
		t.Errorf("Go version %q", m.Agent.GoVersion)
	}
}

func TestBuildRefuses(t *testing.T) {
	kernel := kernelDir(t)
	two := kernelDir(t)
	fakekernel.Write(t, two, map[string][]byte{"lib/modules/6.2/modules.builtin": nil})
	notGo := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(notGo, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, want string
		opt        Options
	}{
		{"profile", "choose one of lab, metal", Options{Profile: "lap"}},
		{"architecture", "only amd64", Options{Arch: "riscv64"}},
		{"version", "version: only", Options{Version: "1 2"}},
		{"agent is a script", "not a Linux program", Options{Agent: notGo}},
		{"agent is linked dynamically", "CGO_ENABLED=0", Options{Agent: "/bin/sh"}},
		{"agent missing", "no such file", Options{Agent: "/nonexistent/agent"}},
		{"not in the source", "is not in the source", Options{SourceDir: "/"}},
		{"does not compile", "go build", Options{AgentPackage: "./initramfs/testdata/nothing"}},
		{"kernel directory", "no lib/modules", Options{AgentPackage: standIn, KernelDir: t.TempDir()}},
		{"two kernels", "leave one", Options{AgentPackage: standIn, KernelDir: two}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.opt.OutDir = t.TempDir()
			if tt.opt.KernelDir == "" {
				tt.opt.KernelDir = kernel
			}
			if tt.opt.SourceDir == "" {
				tt.opt.SourceDir = ".."
			}
			_, err := Build(context.Background(), tt.opt)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Build: %v, want an error with %q", err, tt.want)
			}
			if left, _ := filepath.Glob(filepath.Join(tt.opt.OutDir, "*amd64*")); len(left) > 0 {
				t.Errorf("a failed build left %q", left)
			}
		})
	}
}

func TestLockWaits(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	unlock, err := lock(context.Background(), dir, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := lock(ctx, dir, log); err == nil {
		t.Fatal("a second build got the lock of the first")
	}
	unlock()
	again, err := lock(context.Background(), dir, log)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"oldest", "b", "a"} {
		fakekernel.Write(t, dir, map[string][]byte{name: nil})
		at := time.Unix(int64(i), 0)
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(dir, 2); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 2 || filepath.Base(left[0]) != "a" || filepath.Base(left[1]) != "b" {
		t.Errorf("left %q, %v, want a and b", left, err)
	}
}

func TestArchiveRefuses(t *testing.T) {
	for _, name := range []string{"/init", "../init", "a//b", ".", "a/../b", ""} {
		if _, err := newArchive().file(name, nil, 0o644); err == nil {
			t.Errorf("archive took the name %q", name)
		}
	}
	a := newArchive()
	if _, err := a.file("a", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := a.file("a", nil, 0o644); err == nil {
		t.Error("archive took a file twice")
	}
	if _, err := a.file("a/b", nil, 0o644); err == nil {
		t.Error("archive took a file below a file")
	}
}
