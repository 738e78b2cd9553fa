package qc

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/hwinfo"
)

func server() *hwinfo.Inventory {
	disk := func(name string, t blockdev.Transport, size int64, model string, rotating bool) blockdev.Info {
		return blockdev.Info{Name: name, Size: size, Model: model, Transport: t, Rotational: rotating}
	}
	dimm := func(loc string) hwinfo.DIMM { return hwinfo.DIMM{Locator: loc, SizeBytes: 32 << 30, Type: "DDR4"} }
	return &hwinfo.Inventory{
		System: hwinfo.System{Manufacturer: "Acme Computers", Product: "Rack 9000"},
		CPUs:   []hwinfo.CPU{{Model: "Intel(R) Xeon(R) Gold 6338  CPU @ 2.00GHz", Sockets: 2, Cores: 64, Threads: 128, Features: []string{"aes", "vmx"}}},
		Memory: hwinfo.Memory{TotalBytes: 64 << 30, DIMMs: []hwinfo.DIMM{dimm("A1"), dimm("B1")}},
		Disks: []blockdev.Info{
			disk("nvme0n1", blockdev.NVMe, 1_000_204_886_016, "Samsung SSD 980 PRO 1TB", false),
			disk("nvme1n1", blockdev.NVMe, 500_107_862_016, "Samsung SSD 980 500GB", false),
			disk("sda", blockdev.SATA, 4_000_787_030_016, "ST4000NM0035", true),
		},
		NICs: []hwinfo.NIC{
			{Name: "eth0", Driver: "ice", MaxSpeedMbps: 25000, SpeedMbps: 25000, Carrier: true},
			{Name: "eth1", Driver: "ice", MaxSpeedMbps: 25000},
			{Name: "eth2", Driver: "virtio_net"},
		},
		Firmware: []hwinfo.Firmware{{Component: "bios", Model: "Acme Rack 9000", Version: "2.9.0"}},
		BMC:      hwinfo.BMC{Present: true},
		TPM:      hwinfo.TPM{Present: true, Version: "2.0"},
	}
}

func TestCompare(t *testing.T) {
	tests := []struct {
		name string
		spec string
		want []string // the differences
	}{
		{"nothing demanded", `{}`, nil},
		{"all as it should be", `{
			"system": {"manufacturer": "acme", "product": "RACK 9000"},
			"cpu": {"model": "xeon(r) gold 6338 cpu", "min_sockets": 2, "min_cores": 64, "min_threads": 128, "features": ["vmx"]},
			"memory": {"min_bytes": 68719476736, "dimms": 2, "dimm_bytes": 34359738368, "dimm_type": "ddr4"},
			"disks": [{"transport": "nvme", "min_size": 1000000000000}, {"count": 2}],
			"nics": [{"count": 2, "driver": "ice", "min_speed_mbps": 25000}, {"driver": "virtio_net"}],
			"firmware": [{"component": "bios", "minimum": "2.9"}],
			"tpm": {"present": true, "version": "2.0"}, "bmc": {"present": true}, "exact": true}`, nil},
		{"everything wrong", `{
			"system": {"manufacturer": "Other", "product": "X", "sku": "Y"},
			"cpu": {"model": "EPYC", "min_sockets": 1, "min_cores": 2},
			"memory": {"min_bytes": 137438953472, "dimms": 4, "dimm_bytes": 17179869184},
			"disks": [{"count": 2, "transport": "sas", "rotational": false}],
			"nics": [{"min_speed_mbps": 100000}],
			"firmware": [{"component": "bios", "minimum": "2.10"}, {"component": "bmc", "minimum": "1"}],
			"tpm": {"present": true, "version": "1.2"}, "bmc": {"present": false}}`, []string{
			"system.manufacturer: want Other, got Acme Computers",
			"system.product: want X, got Rack 9000",
			"system.sku: want Y, got unknown",
			"cpu.model: want EPYC, got Intel(R) Xeon(R) Gold 6338  CPU @ 2.00GHz",
			"cpu.min_sockets: want at least 1, got 0",
			"cpu.min_cores: want at least 2, got 0",
			"memory.min_bytes: want at least 128.0 GiB (137438953472 bytes), got 64.0 GiB (68719476736 bytes)",
			"memory.dimms: want 4, got 2",
			"memory.dimm_bytes: want 16.0 GiB (17179869184 bytes), got 32.0 GiB (34359738368 bytes) in A1",
			"memory.dimm_bytes: want 16.0 GiB (17179869184 bytes), got 32.0 GiB (34359738368 bytes) in B1",
			"disks[0]: want 2 × sas disk, not rotating, got 0; not as wanted: nvme0n1 Samsung SSD 980 PRO 1TB (nvme, 1.0 TB (1000204886016 bytes)), nvme1n1 Samsung SSD 980 500GB (nvme, 500.1 GB (500107862016 bytes)), sda ST4000NM0035 (sata, rotating, 4.0 TB (4000787030016 bytes))",
			"nics[0]: want 1 × interface, at least 100000 Mbit/s, got 0; not as wanted: eth0 (ice, 25000 Mbit/s, link), eth1 (ice, 25000 Mbit/s, no link), eth2 (virtio_net, speed unknown, no link)",
			"firmware.bios: want bios of at least 2.10, got 2.9.0 in Acme Rack 9000",
			"firmware.bmc: want bmc of at least 1, got none that tells its version",
			"tpm.version: want 1.2, got 2.0",
			"bmc: want absent, got present",
		}},
		{"a feature is missing", `{"cpu": {"features": ["aes", "amx_tile"]}}`, []string{"cpu.features: want amx_tile, got not in Intel(R) Xeon(R) Gold 6338  CPU @ 2.00GHz"}},
		{"one disk for two demands", `{"disks": [{"min_size": 4000000000000}, {"min_size": 4000000000000}]}`, []string{
			"disks[1]: want 1 × disk, at least 4.0 TB (4000000000000 bytes), got 0; not as wanted: nvme0n1 Samsung SSD 980 PRO 1TB (nvme, 1.0 TB (1000204886016 bytes)), nvme1n1 Samsung SSD 980 500GB (nvme, 500.1 GB (500107862016 bytes))"}},
		{"greed would fail", `{"disks": [{"count": 1}, {"count": 1, "transport": "nvme", "max_size": 600000000000}, {"count": 1, "transport": "nvme"}], "exact": true}`, nil},
		{"too large", `{"disks": [{"count": 3, "max_size": 1100000000000}]}`, []string{
			"disks[0]: want 3 × disk, at most 1.1 TB (1100000000000 bytes), got 2; not as wanted: sda ST4000NM0035 (sata, rotating, 4.0 TB (4000787030016 bytes))"}},
		{"more than wanted", `{"disks": [{"transport": "nvme", "count": 2}], "nics": [{"driver": "ice", "count": 2}], "exact": true}`, []string{
			"disks: want no other disk, got sda ST4000NM0035 (sata, rotating, 4.0 TB (4000787030016 bytes))",
			"nics: want no other interface, got eth2 (virtio_net, speed unknown, no link)"}},
		{"a link", `{"nics": [{"count": 2, "carrier": true}]}`, []string{
			"nics[0]: want 2 × interface, with a link, got 1; not as wanted: eth1 (ice, 25000 Mbit/s, no link), eth2 (virtio_net, speed unknown, no link)"}},
		{"no TPM wanted", `{"tpm": {"present": false}}`, []string{"tpm: want absent, got present"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			spec, err := Parse([]byte(tt.spec))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range Compare(server(), spec) {
				got = append(got, d.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// A machine about which nothing is known has all the differences and no panic.
func TestCompareNothing(t *testing.T) {
	got := Compare(&hwinfo.Inventory{}, FromInventory(server()))
	var fields []string
	for _, d := range got {
		fields = append(fields, d.Field)
	}
	want := []string{
		"system.manufacturer", "system.product", "cpu.model", "cpu.min_sockets", "cpu.min_cores", "cpu.min_threads",
		"memory.min_bytes", "memory.dimms", "disks[0]", "disks[1]", "disks[2]", "nics[0]", "nics[1]", "tpm", "bmc",
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	got = Compare(&hwinfo.Inventory{}, &Spec{Memory: &Memory{DIMMType: "DDR5"}})
	if len(got) != 1 || got[0].Field != "memory.dimms" {
		t.Errorf("no module is of a wrong type, but none is known: %v", got)
	}
}

func TestParse(t *testing.T) {
	many := func(s string, n int) string { return strings.TrimSuffix(strings.Repeat(s+",", n), ",") }
	tests := []struct{ name, in, want string }{
		{"empty", ``, "empty"},
		{"null", `null`, "null"},
		{"list", `[]`, "cannot unmarshal array"},
		{"broken", `{"cpu":`, "unexpected EOF"},
		{"two", `{} {}`, "more than one"},
		{"trailing", `{}x`, "more than one"},
		{"misspelt", `{"cpus": {}}`, `unknown field "cpus"`},
		{"misspelt below", `{"disks": [{"minsize": 1}]}`, `unknown field "minsize"`},
		{"wrong type", `{"disks": [{"count": "2"}]}`, "count"},
		{"too large a number", `{"disks": [{"min_size": 1e30}]}`, "min_size"},
		{"negative", `{"disks": [{"min_size": -1}]}`, "disks[0]: a number is negative"},
		{"negative cores", `{"cpu": {"min_cores": -1}}`, "cpu: a number is negative"},
		{"negative memory", `{"memory": {"dimms": -1}}`, "memory: a number is negative"},
		{"negative speed", `{"nics": [{}, {"min_speed_mbps": -1}]}`, "nics[1]: a number is negative"},
		{"impossible", `{"disks": [{"min_size": 2, "max_size": 1}]}`, "max_size 1 is less"},
		{"transport", `{"disks": [{"transport": "floppy"}]}`, `unknown transport "floppy"`},
		{"count", `{"disks": [{"count": 4097}]}`, "more than 4096"},
		{"counts", `{"nics": [{"count": 4096}, {}]}`, "more than 4096"},
		{"entries", `{"disks": [` + many("{}", 257) + `]}`, "at most 256"},
		{"features", `{"cpu": {"features": [` + many(`"x"`, 257) + `]}}`, "at most 256"},
		{"component", `{"firmware": [{"component": "dock", "minimum": "1"}]}`, `unknown component "dock"`},
		{"minimum", `{"firmware": [{"component": "bios"}]}`, "no minimum"},
		{"TPM version", `{"tpm": {"present": true, "version": "3"}}`, `unknown version "3"`},
		{"no TPM of a version", `{"tpm": {"version": "2.0"}}`, "must not be present"},
		{"long", `{"cpu": {"model": "` + strings.Repeat("x", maxSpec) + `"}}`, "bytes long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "spec: ") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// The example of the package comment is a valid one.
func TestExample(t *testing.T) {
	b, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var example strings.Builder
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "//\t"); ok {
			example.WriteString(text)
		}
	}
	s, err := Parse([]byte(example.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Disks) != 2 || s.NICs[0].MinSpeedMbps != 25000 || !s.Exact {
		t.Errorf("%+v", s)
	}
}

func TestFromInventory(t *testing.T) {
	this, err := hwinfo.Collect(t.Context(), hwinfo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, inv := range map[string]*hwinfo.Inventory{"server": server(), "nothing": {}, "this machine": this} {
		b, err := json.Marshal(FromInventory(inv))
		if err != nil {
			t.Fatal(err)
		}
		spec, err := Parse(b)
		if err != nil {
			t.Fatalf("%s: %v in %s", name, err, b)
		}
		if diffs := Compare(inv, spec); len(diffs) > 0 {
			t.Errorf("%s differs from itself: %v", name, diffs)
		}
	}
	spec := FromInventory(server())
	if len(spec.Disks) != 3 || len(spec.NICs) != 2 || spec.NICs[0].Count != 2 || spec.Memory.DIMMBytes != 32<<30 {
		t.Errorf("%+v", spec)
	}
	// Whatever goes missing is seen.
	for i := range 3 {
		inv := server()
		inv.Disks = slices.Delete(inv.Disks, i, i+1)
		if diffs := Compare(inv, spec); len(diffs) != 1 {
			t.Errorf("without disk %d: %v", i, diffs)
		}
		inv = server()
		inv.NICs = slices.Delete(inv.NICs, i, i+1)
		if diffs := Compare(inv, spec); len(diffs) != 1 {
			t.Errorf("without interface %d: %v", i, diffs)
		}
	}
	inv := server()
	inv.Memory.DIMMs[1].SizeBytes, inv.Memory.DIMMs[1].Type = 16<<30, "DDR5"
	if s := FromInventory(inv); s.Memory.DIMMBytes != 0 || s.Memory.DIMMType != "" {
		t.Errorf("unlike modules: %+v", s.Memory)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"disks": [{"count": 2, "rotational": false}, {}], "exact": true}`))
	f.Add([]byte(`{"firmware": [{"component": "bios", "minimum": "1.0b"}], "tpm": {"present": true}}`))
	f.Add([]byte(`{"cpu": {"min_cores": -1}}`))
	b, err := json.Marshal(FromInventory(server()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	inv := server()
	f.Fuzz(func(t *testing.T, b []byte) {
		spec, err := Parse(b)
		if err != nil {
			return
		}
		again, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		same, err := Parse(again)
		if err != nil {
			t.Fatalf("%v in %s, from %s", err, again, b)
		}
		a, c := Compare(inv, spec), Compare(inv, same)
		if diff := cmp.Diff(a, c); diff != "" {
			t.Errorf("%s compares unlike %s:\n%s", b, again, diff)
		}
	})
}
