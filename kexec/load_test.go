package kexec

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/kexec/internal/rootfs"
)

func TestGather(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{"a": "12345", "b": "6789", "c": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	open := func(name string) piece {
		p, err := wholeFile(root, name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	all := func(f *os.File, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("x")); !errors.Is(err, unix.EBADF) {
			t.Errorf("file can be written: %v", err)
		}
		return string(b)
	}
	ctx := context.Background()
	a, b, c := open("a"), open("b"), open("c")
	if got := all(gather(ctx, "initrd", []piece{a})); got != "12345" {
		t.Errorf("one file: %q", got)
	}
	if got := all(gather(ctx, "initrd", []piece{a, b, c})); got != "12345\x00\x00\x006789x\x00\x00\x00" {
		t.Errorf("three files: %q", got)
	}
	a.size = 9 // the file shrank since it was found
	if _, err := gather(ctx, "initrd", []piece{a, b}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short file: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := gather(ended, "initrd", []piece{b, c}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	d := readDisk(t, "testdata/debian12.txtar")
	target, err := FindIn(context.Background(), d.parts)
	if err != nil {
		t.Fatal(err)
	}
	h, err := readHeader(target.kernel)
	if err != nil || h.cmdlineMax != 2047 || h.initSize != 40<<20 {
		t.Fatalf("header %+v, %v", h, err)
	}
	for name, test := range map[string]struct {
		change func(*Target)
		want   string
	}{
		"long command line": {func(t *Target) { t.Cmdline = strings.Repeat("x", 2048) }, "2048 bytes long, the kernel takes 2047"},
		"NUL":               {func(t *Target) { t.Cmdline = "a\x00b" }, "NUL"},
		"memory":            {func(t *Target) { t.initrds = []piece{{size: 1 << 45}} }, "not enough memory"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := *target
			test.change(&bad)
			if err := bad.load(context.Background()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, expected %q", err, test.want)
			}
		})
	}
}

func TestParseHeader(t *testing.T) {
	for name, change := range map[string]func([]byte){
		"no boot flag":  func(b []byte) { b[0x1fe] = 0 },
		"no magic":      func(b []byte) { b[0x202] = 0 },
		"old protocol":  func(b []byte) { b[0x206] = 0x0b },
		"32 bit":        func(b []byte) { b[0x236] = 2 },
		"below 4G only": func(b []byte) { b[0x236] = 1 },
		"zImage":        func(b []byte) { b[0x211] = 0 },
	} {
		b := fakeKernel()
		change(b)
		if _, err := parseHeader(b, "amd64"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	arm := make([]byte, 0x270)
	if _, err := parseHeader(arm, "arm64"); err == nil {
		t.Error("arm64: accepted zeros")
	}
	copy(arm[56:], "ARM\x64")
	if _, err := parseHeader(arm, "arm64"); err != nil {
		t.Errorf("arm64: %v", err)
	}
}

func TestExplain(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.ENOSYS: "CONFIG_KEXEC_FILE", unix.EKEYREJECTED: "signature", unix.ENOMEM: "memory", unix.EIO: "input/output",
	} {
		if err := explain(errno); !errors.Is(err, errno) || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", int(errno), err)
		}
	}
}

func TestReadTable(t *testing.T) {
	mbr := make([]byte, 4096)
	mbr[510], mbr[511] = 0x55, 0xaa
	copy(mbr[440:], "\xef\xbe\xad\xde")
	mbr[446+4] = 0x83
	mbr[446+48+4] = 0xef
	ids, err := readTable(bytes.NewReader(mbr), 512)
	if err != nil || len(ids) != 2 || ids[1] != (partitionID{"dos", "deadbeef-01", "83"}) || ids[4].kind != "ef" {
		t.Errorf("MBR: %v, %v", ids, err)
	}
	for _, sector := range []int{512, 4096} {
		gpt := make([]byte, sector*40)
		h := gpt[sector:]
		copy(h, "EFI PART")
		h[72], h[80], h[84] = 2, 128, 128
		e := gpt[2*sector+128:]
		copy(e, "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b")
		e[16] = 1
		ids, err := readTable(bytes.NewReader(gpt), sector)
		if err != nil || len(ids) != 1 || ids[2].kind != "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" ||
			ids[2].uuid != "00000001-0000-0000-0000-000000000000" {
			t.Errorf("GPT, sectors of %d: %v, %v", sector, ids, err)
		}
		h[82] = 1 // 65664 entries
		if _, err := readTable(bytes.NewReader(gpt), sector); err == nil {
			t.Error("GPT: took 65664 entries")
		}
	}
}

func FuzzProbe(f *testing.F) {
	sb := make([]byte, 0x500)
	copy(sb[0x438:], "\x53\xef")
	f.Add(sb)
	f.Add(append(make([]byte, 512), "EFI PART"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		sb, err := probe(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if (sb.fsType == "") == (sb.what == "") {
			t.Fatalf("probe says %+v", sb)
		}
		readTable(bytes.NewReader(data), 512)
	})
}
