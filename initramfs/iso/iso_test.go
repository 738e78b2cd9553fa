package iso

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/disk"
	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/internal/need"
)

func parts() Parts {
	return Parts{
		Kernel: bytes.Repeat([]byte("k"), 3<<20), Initrd: bytes.Repeat([]byte("i"), 1<<20+1), UKI: bytes.Repeat([]byte("u"), 5<<20+3),
		Cmdline:  "console=ttyS0 teeth.server=192.0.2.1:8081",
		Isolinux: bytes.Repeat([]byte("l"), 38912), Ldlinux: []byte("loader"), HybridMBR: bytes.Repeat([]byte{0x90}, 432),
	}
}

func needTools(t *testing.T) {
	need.Program(t, "xorriso", "xorriso")
	need.Program(t, "mformat", "mtools")
}

func read(t *testing.T, image string, size int64, name string) []byte {
	t.Helper()
	d, err := diskfs.Open(image, diskfs.WithOpenMode(diskfs.ReadOnly), diskfs.WithSectorSize(diskfs.SectorSize(size)))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return readFile(t, d, name)
}

func readFile(t *testing.T, d *disk.Disk, name string) []byte {
	t.Helper()
	fs, err := d.GetFilesystem(0)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fs.OpenFile(name, os.O_RDONLY)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return b
}

// TestBuild reads the image with a library that did not write it.
func TestBuild(t *testing.T) {
	needTools(t)
	p := parts()
	b, err := Build(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	// El Torito, section 2.0: the boot record is in sector 17.
	if string(b[17*2048:17*2048+30]) != "\x00CD001\x01EL TORITO SPECIFICATION" {
		t.Error("no El Torito boot record")
	}
	if b[510] != 0x55 || b[511] != 0xaa || !bytes.Equal(b[:432], p.HybridMBR) {
		t.Error("no master boot record, for USB sticks")
	}
	image := filepath.Join(t.TempDir(), "iso")
	if err := os.WriteFile(image, b, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"boot/vmlinuz": p.Kernel, "boot/initrd": p.Initrd, "isolinux/ldlinux.c32": p.Ldlinux} {
		if got := read(t, image, 2048, name); !bytes.Equal(got, want) {
			t.Errorf("%s holds %d other bytes", name, len(got))
		}
	}
	if c := string(read(t, image, 2048, "isolinux/isolinux.cfg")); !strings.Contains(c, "APPEND "+p.Cmdline+"\n") {
		t.Errorf("the loader's configuration has no command line: %s", c)
	}
	esp := filepath.Join(t.TempDir(), "esp")
	if err := os.WriteFile(esp, read(t, image, 2048, uefi), 0o644); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "program")
	if err := run(t.Context(), "mcopy", "-i", esp, "::/EFI/BOOT/BOOTX64.EFI", program); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(program); err != nil || !bytes.Equal(got, p.UKI) {
		t.Errorf("the UEFI program is another one (%v)", err)
	}
}

// TestReproducible builds twice, seconds apart, under another umask and time zone.
func TestReproducible(t *testing.T) {
	needTools(t)
	first, err := Build(t.Context(), parts())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2100 * time.Millisecond) // FAT counts two seconds as one
	defer unix.Umask(unix.Umask(0o077))
	t.Setenv("TZ", "Asia/Kathmandu")
	t.Setenv("TMPDIR", t.TempDir())
	second, err := Build(t.Context(), parts())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("the same parts gave another image")
	}
}

func TestRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Parts){
		"no kernel":    func(p *Parts) { p.Kernel = nil },
		"no loader":    func(p *Parts) { p.Isolinux = nil },
		"a line break": func(p *Parts) { p.Cmdline = "a\nLABEL b" },
	} {
		p := parts()
		spoil(&p)
		if _, err := Build(t.Context(), p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
