package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/wire/teeth"
)

func TestDescribeImage(t *testing.T) {
	for _, tt := range []struct {
		source       string
		in           client.NewImage
		name, format string // empty format: refused
	}{
		{"debian-12.raw", client.NewImage{}, "debian-12", "raw"},
		{"/srv/images/debian.img", client.NewImage{}, "debian", "raw"},
		{"a.raw.gz", client.NewImage{}, "a", "raw.gz"},
		{"a.img.zst", client.NewImage{}, "a", "raw.zst"},
		{"a.img.xz", client.NewImage{}, "a", "raw.xz"},
		{"a.gz", client.NewImage{}, "a", "raw.gz"},
		{"a.b.qcow2", client.NewImage{}, "a.b", "qcow2"},
		{"https://host/cloud/a.qcow2?sig=x.raw", client.NewImage{}, "a", "qcow2"},
		{"a.vhd", client.NewImage{}, "", ""},
		{"raw", client.NewImage{}, "", ""},
		{"https://host/a?name=x.raw", client.NewImage{}, "", ""},
		{"a.vhd", client.NewImage{Format: "raw"}, "a.vhd", "raw"},
		{"a.raw", client.NewImage{Format: "qcow2", Name: "b"}, "b", "qcow2"},
	} {
		in := tt.in
		err := describeImage(&in, tt.source)
		if tt.format == "" {
			if exitCode(err) != 2 || !strings.Contains(err.Error(), tt.source) {
				t.Errorf("%s: %+v, %v", tt.source, in, err)
			}
			continue
		}
		if err != nil || in.Name != tt.name || in.Format != tt.format {
			t.Errorf("%s: %+v, %v; want %s, %s", tt.source, in, err, tt.name, tt.format)
		}
	}
}

func TestReadKeys(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one.pub"), filepath.Join(dir, "authorized_keys")
	write(t, one, "ssh-ed25519 AAAA a@b") // no line break at the end
	write(t, two, "# mine\n\n  ssh-rsa BBBB c@d  \r\nssh-ed25519 CCCC\n")
	var in client.Provision
	if err := readKeys(&in, []string{one, two}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"ssh-ed25519 AAAA a@b", "ssh-rsa BBBB c@d", "ssh-ed25519 CCCC"}; !slices.Equal(in.SSHKeys, want) {
		t.Errorf("%q", in.SSHKeys)
	}
	if err := readKeys(&in, []string{filepath.Join(dir, "gone")}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestReadFiles(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a=b")
	write(t, name, "hello\x00")
	var in client.Provision
	if err := readFiles(&in, []string{"/etc/motd=" + name}); err != nil || string(in.Files["/etc/motd"]) != "hello\x00" {
		t.Errorf("%q, %v", in.Files, err)
	}
	for pair, says := range map[string]string{"/etc/motd": "write PATH=FILE", "/etc/motd=" + dir + "/gone": "gone"} {
		if err := readFiles(&in, []string{pair}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", pair, err)
		}
	}
	if err := readUserData(&in, name); err != nil || in.UserData != "hello\x00" {
		t.Errorf("%q, %v", in.UserData, err)
	}
}

func TestAge(t *testing.T) {
	for ago, want := range map[time.Duration]string{
		5 * time.Second: "5s", 61 * time.Second: "1m", 3 * time.Hour: "3h", 50 * time.Hour: "2d",
	} {
		if got := age(time.Now().Add(-ago)); got != want {
			t.Errorf("%s: %s, want %s", ago, got, want)
		}
	}
	if short("0123456789") != "01234567" || short("012") != "012" {
		t.Error("short")
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReadFirmware(t *testing.T) {
	var in client.Decommission
	if err := readFirmware(&in, []string{"bios=2.10.0", "nic/ice 8086:1592=4.40"}); err != nil {
		t.Fatal(err)
	}
	want := []teeth.FirmwareItem{{Component: "bios", Minimum: "2.10.0"}, {Component: "nic", Model: "ice 8086:1592", Minimum: "4.40"}}
	if !slices.Equal(in.Firmware, want) {
		t.Errorf("got %+v, want %+v", in.Firmware, want)
	}
	for _, bad := range []string{"bios", "=1", "bios=", "/x=1", ""} {
		if err := readFirmware(&in, []string{bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
