package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"
)

func TestContainment(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "disk")
	write := func(name, data string) {
		t.Helper()
		name = filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("secret", "outside")
	write("disk/boot/vmlinuz", "inside")
	write("disk/secret", "inside, at the root")
	for name, to := range map[string]string{
		"absolute": "/boot/vmlinuz", "up": "../secret", "up2": "../../../../../secret", "out": filepath.Join(top, "secret"),
		"loop": "loop", "proc": "/proc/self/exe", "boot/relative": "vmlinuz", "dir": "/boot",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, want := range map[string]string{
		"boot/vmlinuz": "inside", "absolute": "inside", "boot/relative": "inside", "dir/vmlinuz": "inside",
		"up": "inside, at the root", "up2": "inside, at the root",
		"out": "", "loop": "", "proc": "", "fifo": "", "boot": "", "../secret": "", "gone": "",
	} {
		start := time.Now()
		b, err := ReadFile(root, name, 100)
		if string(b) != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; expected %q", name, b, err, want)
		}
		if time.Since(start) > 5*time.Second {
			t.Errorf("%s: took %v", name, time.Since(start))
		}
	}
	if _, err := ReadFile(root, "boot/vmlinuz", 5); err == nil {
		t.Error("read 6 bytes with a limit of 5")
	}
	if _, err := ReadFile(root, "gone", 5); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if !IsDir(root, "dir") || IsDir(root, "absolute") {
		t.Error("IsDir is wrong about links")
	}
	if n, err := Names(root, "boot"); err != nil || len(n) != 2 {
		t.Errorf("Names: %q, %v", n, err)
	}
	if _, err := Names(root, "secret"); err == nil {
		t.Error("Names of a plain file")
	}
}

func TestNamesBounded(t *testing.T) {
	m := fstest.MapFS{}
	for i := range MaxNames + 1 {
		m[fmt.Sprintf("d/%d", i)] = &fstest.MapFile{}
	}
	if _, err := Names(m, "d"); err == nil {
		t.Errorf("read a directory of %d entries", len(m))
	}
	delete(m, "d/0")
	if n, err := Names(m, "d"); err != nil || len(n) != MaxNames {
		t.Errorf("%d names, %v", len(n), err)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"/boot//vmlinuz": "boot/vmlinuz", "": ".", "/": ".", "../../etc/passwd": "etc/passwd", `\EFI\Linux\x.efi`: "EFI/Linux/x.efi", "a/../..": ".",
	} {
		if got := Clean(in); got != want || !fs.ValidPath(got) {
			t.Errorf("Clean(%q) is %q, expected %q", in, got, want)
		}
	}
}
