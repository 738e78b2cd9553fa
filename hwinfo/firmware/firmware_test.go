package firmware

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/teeth-metal/teeth/hwinfo"
)

func TestCompare(t *testing.T) {
	tests := []struct {
		older, newer string
	}{
		{"1.2.9", "1.2.10"},
		{"2.9", "2.10.0"},
		{"2.9", "2.9.1"},
		{"", "1"},
		{"1.0", "1.0a"},
		{"1.0a", "1.0b"},
		{"1.0b", "1.0.1"},
		{"1.0-rc1", "1.0"},
		{"1.0-alpha2", "1.0-beta1"},
		{"1.0-rc1", "1.0-rc2"},
		{"F9", "F10"},
		{"F10", "F10a"},
		{"U30 v2.36 (07/16/2020)", "U30 v2.40 (10/26/2020)"},
		{"VDV10131", "VDV10184"},
		{"4B2QGXA7", "5B2QGXA7"},
		{"5B2QGXA7", "5B2QGXA8"},
		{"3.00 0x80008271 1.2992.0", "4.40 0x8001c967 1.3534.0"},
		{"4.40 0x8001c967", "4.40 0x80020000"},
		{"4.40 0x80012345", "4.40 0x8001c967"},
		{"214.0.191.0", "214.0.253.1"},
		{"16.35.2000", "16.35.3006"},
		{"7.0.9", "7.0.10"},
		{"99999999999999999999", "100000000000000000000"}, // longer than an int64
	}
	for _, tt := range tests {
		if Compare(tt.older, tt.newer) != -1 || Compare(tt.newer, tt.older) != 1 {
			t.Errorf("%q is not older than %q: %d, %d", tt.older, tt.newer, Compare(tt.older, tt.newer), Compare(tt.newer, tt.older))
		}
	}
	for _, same := range [][]string{
		{"2.9", "2.9.0", "v2.9", "V2.09", "2-9", " 2.9 ", "2.9.0.0"},
		{"1.0B", "1.0b", "1.0.b"},
		{"", "0", "0.0", "...", "ü"},
		{"0x10", "16"},
	} {
		for _, a := range same {
			for _, b := range same {
				if c := Compare(a, b); c != 0 {
					t.Errorf("Compare(%q, %q) = %d, want 0", a, b, c)
				}
			}
		}
	}
}

func FuzzCompare(f *testing.F) {
	f.Add("1.2.10", "1.2.9", "1.2")
	f.Add("1.0", "1.0-rc1", "1.0b")
	f.Add("0x8001c967", "v2", "0xg")
	f.Add("2.9", "2.9.0", "2.9.a")
	f.Add("", "0", "alpha")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if len(a)+len(b)+len(c) > 3000 {
			return
		}
		ab, bc, ac := Compare(a, b), Compare(b, c), Compare(a, c)
		if Compare(a, a) != 0 {
			t.Errorf("%q differs from itself", a)
		}
		if Compare(b, a) != -ab {
			t.Errorf("not antisymmetric: %q, %q", a, b)
		}
		if ab <= 0 && bc <= 0 && ac > 0 || ab >= 0 && bc >= 0 && ac < 0 || ab == 0 && bc != ac {
			t.Errorf("not transitive: %q, %q, %q: %d %d %d", a, b, c, ab, bc, ac)
		}
	})
}

func TestCheck(t *testing.T) {
	bios := hwinfo.Firmware{Component: "bios", Model: "Acme Rack 9000", Version: "2.9.0"}
	nic0 := hwinfo.Firmware{Component: "nic", Model: "ice 8086:1592", Version: "4.40 0x8001c967 1.3534.0", Path: "eth0"}
	nic1 := hwinfo.Firmware{Component: "nic", Model: "ice 8086:1592", Version: "3.00 0x80008271 1.2992.0", Path: "eth1"}
	nic2 := hwinfo.Firmware{Component: "nic", Model: "bnxt_en 14e4:1750", Version: "214.0", Path: "eth2"}
	inv := &hwinfo.Inventory{Firmware: []hwinfo.Firmware{bios, nic0, nic1, nic2}}
	var (
		wantBIOS = Wanted{Component: "bios", Minimum: "2.10.0"}
		wantNIC  = Wanted{Component: "nic", Model: "ICE", Minimum: "4.00"}
		wantBMC  = Wanted{Component: "bmc", Minimum: "1"}
		wantNVMe = Wanted{Component: "nvme", Model: "Samsung", Minimum: "1"}
	)
	want := []Finding{
		{wantBIOS, bios, Old},
		{wantNIC, nic0, Current},
		{wantNIC, nic1, Old},
		{wantBMC, hwinfo.Firmware{}, Absent},
		{wantNVMe, hwinfo.Firmware{}, Absent},
	}
	got := Check(inv, []Wanted{wantBIOS, wantNIC, wantBMC, wantNVMe})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for i, says := range []string{"Acme Rack 9000", "eth0", "3.00 0x80008271", "bmc", "nvme Samsung"} {
		if s := got[i].String(); !strings.Contains(s, says) {
			t.Errorf("%q does not say %q", s, says)
		}
	}
	if got := Check(inv, nil); len(got) != 0 {
		t.Errorf("nothing wanted: %v", got)
	}
}

func TestValidate(t *testing.T) {
	for _, c := range components {
		if err := (Wanted{Component: c, Minimum: "1.0"}).Validate(); err != nil {
			t.Error(err)
		}
	}
	for _, w := range []Wanted{
		{Minimum: "1"},
		{Component: "BIOS", Minimum: "1"},
		{Component: "bios"},
		{Component: "bios", Minimum: " "},
		{Component: "bios", Minimum: "-.-"},
		{Component: "bios", Minimum: strings.Repeat("1", 257)},
		{Component: "bios", Minimum: "1", Model: strings.Repeat("x", 257)},
	} {
		if err := w.Validate(); err == nil {
			t.Errorf("%+v is accepted", w)
		}
	}
}
