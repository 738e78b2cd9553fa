package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/internal/need"
)

// build runs rpmbuild on a package with one of everything.
func build(t testing.TB, payload string) []byte {
	t.Helper()
	rpmbuild := need.Program(t, "rpmbuild", "rpm")
	top := t.TempDir()
	spec := `Name: demo
Version: 1.2
Release: 3
Epoch: 4
Summary: demo
License: MIT
%description
demo
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/empty
echo hello >%{buildroot}/usr/bin/demo
chmod 4755 %{buildroot}/usr/bin/demo
ln %{buildroot}/usr/bin/demo %{buildroot}/usr/bin/demo2
ln %{buildroot}/usr/bin/demo %{buildroot}/usr/bin/demo3
ln -s demo %{buildroot}/usr/bin/link
: >%{buildroot}/nothing
ln %{buildroot}/nothing %{buildroot}/nothing2
mkfifo %{buildroot}/pipe
%post
false
%files
/usr/bin/*
%dir /empty
/nothing*
/pipe
`
	path := filepath.Join(top, "demo.spec")
	if err := os.WriteFile(path, []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(rpmbuild, "-bb", "--quiet", "--define", "_topdir "+top, "--define", "_build_id_links none",
		"--define", "__os_install_post %{nil}", "--define", "_binary_payload "+payload, path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	found, err := filepath.Glob(top + "/RPMS/*/*.rpm")
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRPM(t *testing.T) {
	want := "drwxr-xr-x empty\n-rw-r--r-- nothing \"\"\n-rw-r--r-- nothing2 \"\"\ndrwxr-xr-x usr\ndrwxr-xr-x usr/bin\n" +
		"-rwxr-xr-x usr/bin/demo \"hello\\n\"\n-rwxr-xr-x usr/bin/demo2 \"hello\\n\"\n-rwxr-xr-x usr/bin/demo3 \"hello\\n\"\nLrwxrwxrwx usr/bin/link -> demo\n"
	for _, payload := range []string{"w9.gzdio", "w6.xzdio", "w19.zstdio", "w9.bzdio", "w.ufdio"} {
		t.Run(payload, func(t *testing.T) {
			dir, a, err := unpack(t, build(t, payload), wide)
			if err != nil {
				t.Fatal(err)
			}
			if got := list(t, dir); got != want {
				t.Errorf("\n%swant\n%s", got, want)
			}
			if a.Format != RPM || a.Name != "demo" || a.Version != "4:1.2-3" || a.GoArch() != "amd64" || a.Special != 1 || a.Installed < 6 {
				t.Errorf("%+v", a)
			}
			demo, err := os.Stat(filepath.Join(dir, "usr/bin/demo"))
			if err != nil {
				t.Fatal(err)
			}
			demo3, err := os.Stat(filepath.Join(dir, "usr/bin/demo3"))
			if err != nil || !os.SameFile(demo, demo3) {
				t.Error("hard links are copies")
			}
		})
	}
}

// Any bit that is not right is noticed, wherever a digest covers it.
func TestRPMDamaged(t *testing.T) {
	b := build(t, "w9.gzdio")
	header := bytes.LastIndex(b, []byte(rpmHeaderMagic))
	for at := header; at < len(b); at += 97 {
		x := bytes.Clone(b)
		x[at] ^= 1
		if _, _, err := unpack(t, x, wide); !errors.Is(err, ErrFormat) {
			t.Fatalf("bit at %d of %d: %v", at, len(b), err)
		}
	}
	for n := 0; n < len(b); n += 61 {
		if _, _, err := unpack(t, b[:n], wide); !errors.Is(err, ErrFormat) {
			t.Fatalf("cut after %d of %d: %v", n, len(b), err)
		}
	}
	if _, _, err := unpack(t, append(bytes.Clone(b), "more"...), wide); !errors.Is(err, ErrFormat) {
		t.Error("more at the end is taken")
	}
}

// header makes an rpm header of (tag, type, count, data).
func header(tags ...any) []byte {
	var index, data []byte
	for i := 0; i < len(tags); i += 4 {
		for _, n := range []int{tags[i].(int), tags[i+1].(int), len(data), tags[i+2].(int)} {
			index = binary.BigEndian.AppendUint32(index, uint32(n))
		}
		data = append(data, tags[i+3].(string)...)
	}
	out := []byte(rpmHeaderMagic)
	out = binary.BigEndian.AppendUint32(out, uint32(len(index)/rpmIndex))
	out = binary.BigEndian.AppendUint32(out, uint32(len(data)))
	return append(append(out, index...), data...)
}

func rpmOf(sig, h []byte, payload string) []byte {
	lead := make([]byte, rpmLeadLen)
	copy(lead, rpmMagic+"\x03\x00\x00\x00")
	b := append(lead, sig...)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return append(append(b, h...), payload...)
}

func TestRPMHostile(t *testing.T) {
	big := []byte(rpmHeaderMagic + "\xff\xff\xff\xff\xff\xff\xff\xff")
	source := rpmOf(header(), header(), "")
	source[7] = rpmSource
	for name, b := range map[string][]byte{
		"huge header":            rpmOf(big, nil, ""),
		"header beyond the file": rpmOf([]byte(rpmHeaderMagic+"\x00\x00\x10\x00\x00\x10\x00\x00"), nil, "short"),
		"tag outside":            rpmOf(binary.BigEndian.AppendUint32([]byte(rpmHeaderMagic+"\x00\x00\x00\x01\x00\x00\x00\x00"), 1)[:20], nil, ""),
		"no digest":              rpmOf(header(), header(tagName, rpmString, 1, "x\x00"), "x"),
		"malformed digest":       rpmOf(header(sigSHA256, rpmString, 1, "zz\x00"), header(), "x"),
		"digest of header only":  rpmOf(header(sigSHA1, rpmString, 1, strings.Repeat("0", 40)+"\x00"), header(), "x"),
		"unknown algorithm":      rpmOf(header(), header(tagPayloadDigest, rpmArray, 1, "00\x00", tagPayloadAlgo, rpmInt32, 1, "\x00\x00\x00\x63"), ""),
		"source":                 source,
	} {
		if _, _, err := unpack(t, b, wide); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// newc makes a cpio entry.
func newc(name string, ino, mode, nlink int, content string) string {
	h := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", ino, mode, 0, 0, nlink, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	s := h + name + "\x00"
	s += strings.Repeat("\x00", int(padding(int64(len(s))))) + content
	return s + strings.Repeat("\x00", int(padding(int64(len(content)))))
}
