package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/wire/teeth"
)

var machine = []blockdev.Info{
	{Name: "nvme0n1", Path: "/dev/nvme0n1", Size: 8 << 30, Serial: "N1", WWN: "eui.01", Model: "Fast 9000", Transport: blockdev.NVMe},
	{Name: "sda", Path: "/dev/sda", Size: 5 << 30, Serial: "S1", Model: "Spinner", Transport: blockdev.SATA},
	{Name: "sdb", Path: "/dev/sdb", Size: 5 << 30, Serial: "S2", Model: "Spinner", Transport: blockdev.SATA},
	{Name: "sdc", Path: "/dev/sdc", Size: 4 << 30, Serial: "U1", Transport: blockdev.USB, Removable: true},
	{Name: "vda", Path: "/dev/vda", Size: 1 << 30, Serial: "V1", Transport: blockdev.Virtio},
	{Name: "vdb", Path: "/dev/vdb", Size: 4 << 30, Serial: "R1", Transport: blockdev.Virtio, ReadOnly: true},
}

func TestNamed(t *testing.T) {
	tests := []struct {
		name string
		want []teeth.Disk
		got  string
		err  string
	}{
		{"all", nil, names(machine), ""},
		{"in the order asked", []teeth.Disk{{Serial: "S2"}, {Serial: "n1", Size: 8 << 30}}, "sdb, nvme0n1", ""},
		{"another serial", []teeth.Disk{{Serial: "X"}}, "", `no disk with serial "X"`},
		{"right serial, wrong size", []teeth.Disk{{Serial: "S1", Size: 1}}, "", "no disk with"},
		{"ambiguous", []teeth.Disk{{Size: 5 << 30}}, "", "2 disks with"},
		{"nothing named", []teeth.Disk{{}}, "", "named by nothing"},
		{"twice", []teeth.Disk{{Serial: "S1"}, {Serial: "s1 "}}, "", "named twice"},
		{"every problem", []teeth.Disk{{Serial: "X"}, {Serial: "Y"}}, "", `"Y"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := named(machine, tt.want)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || names(got) != tt.got {
				t.Errorf("got %q, %v; want %q", names(got), err, tt.got)
			}
		})
	}
	if _, err := named(machine, []teeth.Disk{{Serial: "X"}}); !errors.Is(err, blockdev.ErrMismatch) {
		t.Errorf("got %v, want ErrMismatch", err)
	}
	if _, err := named(nil, nil); err == nil {
		t.Error("a chassis without disks was erased")
	}
}

func TestRootDevice(t *testing.T) {
	tests := []struct {
		name string
		hint *teeth.RootDevice
		want string
	}{
		{"no hint: smallest fixed disk of 4 GiB", nil, "sda"},
		{"serial", &teeth.RootDevice{Disk: teeth.Disk{Serial: "N1"}}, "nvme0n1"},
		{"transport", &teeth.RootDevice{Transport: "nvme"}, "nvme0n1"},
		{"model, any case", &teeth.RootDevice{Model: "fast"}, "nvme0n1"},
		{"minimum size", &teeth.RootDevice{MinSize: 6 << 30}, "nvme0n1"},
		{"a small disk may be asked for", &teeth.RootDevice{Disk: teeth.Disk{Serial: "V1"}}, "vda"},
		{"a USB disk may be asked for", &teeth.RootDevice{Transport: "usb"}, "sdc"},
		{"never a read-only disk", &teeth.RootDevice{Disk: teeth.Disk{Serial: "R1"}}, ""},
		{"nothing matches", &teeth.RootDevice{Transport: "nvme", Model: "Spinner"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := rootDevice(machine, tt.hint)
			if got.Name != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %q, %v; want %q", got.Name, err, tt.want)
			}
		})
	}
}
