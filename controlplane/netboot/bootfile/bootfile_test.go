package bootfile

import (
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/insomniacslk/dhcp/iana"
)

func TestName(t *testing.T) {
	f := Files{Has: func(n string) bool {
		return slices.Contains([]string{"undionly.kpxe", "snponly.efi", "teeth-arm64.efi"}, n)
	}}
	for _, c := range []struct {
		client Client
		other  map[string]string
		file   string
		arch   string
	}{
		{Client{Arch: iana.INTEL_X86PC}, nil, "undionly.kpxe", "bios"},
		{Client{Arch: iana.EFI_X86_64}, nil, "snponly.efi", "efi64"},
		{Client{Arch: iana.EFI_BC}, nil, "snponly.efi", "efi64"},
		{Client{Arch: iana.EFI_X86_64_HTTP}, nil, "snponly.efi", "efi64-http"},
		{Client{Arch: iana.EFI_X86_64, HTTP: true}, map[string]string{"efi64": "a", "efi64-http": "b"}, "b", "efi64-http"},
		{Client{Arch: iana.EFI_ARM64}, nil, "teeth-arm64.efi", "arm64"},
		{Client{Arch: iana.EFI_IA32}, nil, "", "efi32"},
		{Client{Arch: iana.S390_BASIC}, nil, "", "s390 Basic"},
	} {
		if file, arch := f.Name(c.client, c.other); file != c.file || arch != c.arch {
			t.Errorf("%+v: %q for %q, want %q for %q", c.client, file, arch, c.file, c.arch)
		}
	}
}

func TestServer(t *testing.T) {
	s := At(netip.MustParseAddr("2001:db8::1"), "8082", "")
	for got, want := range map[string]string{
		s.Script():                     "http://[2001:db8::1]:8082/boot/ipxe",
		s.URL("ipxe.efi", true):        "http://[2001:db8::1]:8082/boot/ipxe.efi",
		s.URL("ipxe.efi", false):       "tftp://[2001:db8::1]/ipxe.efi",
		s.URL("https://a/b.efi", true): "https://a/b.efi",
		At(netip.MustParseAddr("192.0.2.1"), "1", "https://boot.example/x/").URL("a b", true): "https://boot.example/x/boot/a%20b",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestOnlyBootFilesAreOpened(t *testing.T) {
	top := t.TempDir()
	boot, ipxe, system := filepath.Join(top, "boot"), filepath.Join(top, "ipxe"), filepath.Join(top, "system")
	for path, content := range map[string]string{
		"boot/vmlinuz-amd64": "k", "boot/custom.efi": "c", "boot/secret.raw": "s", "boot/ipxe.efi": "ours",
		"ipxe/undionly.kpxe": "u", "ipxe/ipxe.efi": "theirs", "system/vmlinuz-6.1.0": "host", "system/ipxe.lkrn": "l", "ipxe/other.efi": "o",
	} {
		p := filepath.Join(top, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		os.Symlink("../system/ipxe.lkrn", filepath.Join(ipxe, "ipxe.lkrn")),
		os.Symlink("/etc/passwd", filepath.Join(ipxe, "ipxe-passwd.efi")),
		os.Mkdir(filepath.Join(ipxe, "ipxe-dir.efi"), 0o755),
		syscall.Mkfifo(filepath.Join(ipxe, "ipxe-pipe.efi"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	d := Dirs{Boot: boot, IPXE: []string{ipxe, system, filepath.Join(top, "none")}}
	for name, want := range map[string]string{
		"vmlinuz-amd64": "k", "custom.efi": "c", "ipxe.efi": "ours", "undionly.kpxe": "u", "//undionly.kpxe": "u", "ipxe.lkrn": "l",
		"secret.raw": "", "vmlinuz-6.1.0": "", "other.efi": "", "ipxe-passwd.efi": "", "ipxe-dir.efi": "", "ipxe-pipe.efi": "",
		"": "", "/": "", ".": "", "../system/ipxe.lkrn": "", "a/../undionly.kpxe": "", "undionly.kpxe\x00": "",
	} {
		f, info, err := d.Open(name)
		if (err == nil) != (want != "") || d.Has(name) != (want != "") {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil {
			continue
		}
		if b, err := io.ReadAll(f); err != nil || string(b) != want || info.Size() != int64(len(want)) {
			t.Errorf("%q: %q, %v", name, b, err)
		}
		f.Close()
	}
	if _, _, err := d.Open("ipxe-none.efi"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
