package lab

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseDisks(t *testing.T) {
	disks, err := ParseDisks("nvme:8G,virtio:4096M")
	if err != nil {
		t.Fatal(err)
	}
	want := []Disk{{Bus: "nvme", Size: 8 << 30}, {Bus: "virtio", Size: 4 << 30}}
	if !slices.Equal(disks, want) {
		t.Errorf("got %+v, want %+v", disks, want)
	}
	for _, bad := range []string{"", "nvme", "floppy:1M", "nvme:", "nvme:-1G", "nvme:1.5G", "nvme:9999999T", "nvme:8G,", "nvme:8GG", "nvme:0"} {
		if _, err := ParseDisks(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestDefaults(t *testing.T) {
	a, err := Spec{Name: "a", Dir: t.TempDir(), Disks: []Disk{{Bus: "nvme", Size: 1 << 30}, {Bus: "nvme", Size: 1 << 30}}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Spec{Name: "b", Dir: t.TempDir()}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if a.UUID == b.UUID || a.MAC == b.MAC || a.Serial == b.Serial {
		t.Errorf("two chassis share an identity: %+v %+v", a, b)
	}
	if a.Disks[0].Serial == a.Disks[1].Serial || a.Disks[0].File == a.Disks[1].File {
		t.Errorf("two disks share an identity: %+v", a.Disks)
	}
	for _, name := range []string{"../x", "A", "a b", strings.Repeat("x", 33), "-a", "a,b"} {
		if _, err := (Spec{Name: name, Dir: "x"}).withDefaults(); err == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
}

// TestPower starts a chassis without a boot source: QEMU itself is what is tested.
func TestPower(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	spec := Spec{Dir: t.TempDir(), Memory: 64 << 20, CPUs: 1, Disks: []Disk{{Bus: "nvme", Size: 1 << 20}, {Bus: "sata", Size: 1 << 20}, {Bus: "scsi", Size: 1 << 20}, {Bus: "virtio", Size: 1 << 20}}}
	c, err := Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.PowerCut() })
	if _, err := Start(ctx, spec); err == nil {
		t.Error("a chassis was started twice")
	}
	other, err := Attach(c.Spec.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if !other.Running() {
		t.Error("a running chassis was not found again")
	}
	var status struct{ Running bool }
	if err := other.Monitor(ctx, "query-status", nil, &status); err != nil || !status.Running {
		t.Errorf("status %+v, error %v", status, err)
	}
	if err := other.Monitor(ctx, "no-such-command", nil, nil); err == nil {
		t.Error("an unknown command succeeded")
	}
	for _, same := range []*Chassis{other, c} {
		if err := same.PowerCut(); err != nil {
			t.Error(err)
		}
	}
	if c.Running() || other.Running() {
		t.Error("the chassis still runs")
	}
	if _, err := c.ExpectSerial(ctx, 0, "never printed"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v, want ErrNotRunning", err)
	}
	spec.Disks[0].Size = 2 << 20
	if _, err := Start(ctx, spec); err == nil {
		t.Error("a disk of another size was taken")
	}
}

func TestContains(t *testing.T) {
	path := t.TempDir() + "/disk"
	needle := []byte("secret of the former tenant")
	data := make([]byte, 3<<20)
	copy(data[scanBlock-10:], needle) // across the border of two reads
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if off, err := Search(path, needle); err != nil || off != scanBlock-10 {
		t.Errorf("got %d, %v; want %d", off, err, scanBlock-10)
	}
	if off, err := Search(path, []byte("absent")); err != nil || off != -1 {
		t.Errorf("got %d, %v; want -1", off, err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte{0}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if off, err := Search(path, needle); err != nil || off != -1 {
		t.Errorf("got %d, %v; want -1", off, err)
	}
}

// TestFirmwareAndNetwork looks at what QEMU is told.
func TestFirmwareAndNetwork(t *testing.T) {
	disks := []Disk{{Bus: "nvme", Size: 1 << 20}, {Bus: "virtio", Size: 1 << 20}}
	for _, test := range []struct {
		name        string
		spec        Spec
		want, never []string
	}{
		{"disk only", Spec{}, []string{"user,id=net0 ", "romfile= ", "serial=NVME00000001,bootindex=1 "}, []string{"pflash", "tap"}},
		{"user network", Spec{BootURL: "http://a/"}, []string{"bootfile=http://a/ ", "mac=52:54:00:00:00:01,bootindex=1 ", ",bootindex=101 "}, []string{"romfile="}},
		{"UEFI's own PXE", Spec{Firmware: UEFI, NetBoot: FirmwarePXE, Network: "n"}, []string{"pflash,unit=1,format=raw,file=uefi-variables.fd", "ifname=tap525400000001 ", "romfile=,bootindex=1 "}, []string{"IPv4PXESupport", "user,id"}},
		{"UEFI HTTP", Spec{Firmware: UEFI, NetBoot: FirmwareHTTP, Network: "n"}, []string{"IPv4PXESupport,string=no"}, nil},
		{"CD first", Spec{CD: "/x.iso", BootOrder: []BootSource{FromCD, FromDisk}}, []string{"ide-cd,drive=cd,bootindex=1 ", ",bootindex=102 ", "romfile= "}, nil},
	} {
		test.spec.Dir, test.spec.Disks, test.spec.MAC = "x", slices.Clone(disks), "52:54:00:00:00:01"
		s, err := test.spec.withDefaults()
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		line := strings.Join(s.arguments(), " ") + " "
		for _, w := range test.want {
			if !strings.Contains(line, w) {
				t.Errorf("%s: no %q in %s", test.name, w, line)
			}
		}
		for _, n := range test.never {
			if strings.Contains(line, n) {
				t.Errorf("%s: %q in %s", test.name, n, line)
			}
		}
	}
	for name, bad := range map[string]Spec{
		"firmware":           {Firmware: "coreboot"},
		"PXE of SeaBIOS":     {NetBoot: FirmwarePXE},
		"script and network": {BootURL: "http://a/", Network: "n"},
		"twice":              {BootOrder: []BootSource{FromDisk, FromDisk}},
		"unknown source":     {BootOrder: []BootSource{"floppy"}},
	} {
		bad.Dir = "x"
		if _, err := bad.withDefaults(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
