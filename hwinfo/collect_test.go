package hwinfo

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// tree writes files and, for contents that begin with "-> ", symbolic links
// below a new directory.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// server is the part of /proc and sysfs of a two-socket server that an inventory
// reads.
func server() map[string]string {
	const (
		pci  = "sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00."
		nvme = "sys/devices/pci0000:00/0000:00:1d.0/0000:02:00.0/nvme/nvme0/nvme0n1"
		sata = "sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda"
	)
	f := map[string]string{
		"proc/meminfo": "MemTotal:       49000000 kB\nMemFree:        1 kB\nHugepagesize:       2048 kB\n",
		"sys/devices/system/memory/block_size_bytes": "80000000\n",
		"sys/devices/system/memory/memory0/state":    "online\n",
		"sys/class/dmi/id/sys_vendor":                "Acme Computers\n",
		"sys/class/dmi/id/product_name":              "Rack 9000\n",
		"sys/class/dmi/id/product_version":           "Not Specified\n",
		"sys/class/dmi/id/product_serial":            "SN0042\n",
		"sys/class/dmi/id/product_uuid":              "4C4C4544-0042-3510-8052-B4C04F4A3132\n",
		"sys/class/dmi/id/product_sku":               "To be filled by O.E.M.\n",
		"sys/class/dmi/id/board_vendor":              "Acme Computers\n",
		"sys/class/dmi/id/board_name":                "0X1Y2Z\n",
		"sys/class/dmi/id/board_serial":              "..........\n",
		"sys/class/dmi/id/chassis_vendor":            "Acme Computers\n",
		"sys/class/dmi/id/chassis_type":              "23\n",
		"sys/class/dmi/id/chassis_asset_tag":         "DC7-0815\n",
		"sys/class/dmi/id/bios_vendor":               "Acme\n",
		"sys/class/dmi/id/bios_version":              "2.10.0\n",
		"sys/class/dmi/id/bios_date":                 "09/30/2026\n",
		"sys/firmware/dmi/tables/DMI":                string(serverSMBIOS()),
		"sys/class/tpm/tpm0/tpm_version_major":       "2\n",
		"dev/ipmi0":                                  "",
		"sys/class/block/nvme0n1":                    "-> ../../" + strings.TrimPrefix(nvme, "sys/"),
		nvme + "/size":                               "1953525168\n",
		nvme + "/device":                             "-> ../../nvme0",
		filepath.Dir(nvme) + "/model":                "Samsung SSD 980 PRO 1TB                 \n",
		filepath.Dir(nvme) + "/serial":               "S5GXNF0R123456      \n",
		filepath.Dir(nvme) + "/firmware_rev":         "5B2QGXA7\n",
		filepath.Dir(nvme) + "/transport":            "pcie\n",
		"sys/class/block/sda":                        "-> ../../" + strings.TrimPrefix(sata, "sys/"),
		sata + "/size":                               "7814037168\n",
		sata + "/queue/rotational":                   "1\n",
		sata + "/device":                             "-> ../../../0:0:0:0",
		filepath.Dir(filepath.Dir(sata)) + "/vendor": "ATA     \n",
		filepath.Dir(filepath.Dir(sata)) + "/model":  "ST4000NM0035\n",
		filepath.Dir(filepath.Dir(sata)) + "/rev":    "TN02\n",
		"sys/class/net/lo/type":                      "772\n",
		"sys/class/net/lo/address":                   "00:00:00:00:00:00\n",
		"sys/class/net/bond0/type":                   "1\n",
		"sys/class/net/bond0/address":                "3c:ec:ef:00:00:01\n",
		"sys/class/net/tun0/type":                    "65534\n",
		"sys/class/net/tun0/device":                  "-> ../../../devices/virtual/misc",
		"sys/devices/virtual/misc/x":                 "",
		"sys/class/net/usb0":                         "-> ../../devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/net/usb0",
		"sys/devices/pci0000:00/0000:00:14.0/vendor": "0x8086\n",
		"sys/devices/pci0000:00/0000:00:14.0/device": "0xa1af\n",
		"sys/bus/usb/drivers/cdc_ether/x":            "",
		"sys/bus/pci/drivers/ice/x":                  "",
		"sys/class/net/ens1f0np0":                    "-> ../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0/net/ens1f0np0",
		"sys/class/net/ens1f1np1":                    "-> ../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.1/net/ens1f1np1",
	}
	usb := "sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/"
	for k, v := range map[string]string{
		"net/usb0/type": "1\n", "net/usb0/address": "F2:00:00:00:00:01\n", "net/usb0/speed": "-1\n", "net/usb0/carrier": "0\n",
		"net/usb0/device": "-> ../..", "driver": "-> ../../../../../../bus/usb/drivers/cdc_ether",
	} {
		f[usb+k] = v
	}
	for i, n := range []string{"ens1f0np0", "ens1f1np1"} {
		fn := pci + string(rune('0'+i)) + "/"
		for k, v := range map[string]string{
			"vendor": "0x8086\n", "device": "0x1592\n", "driver": "-> ../../../../bus/pci/drivers/ice",
			"net/" + n + "/type": "1\n", "net/" + n + "/device": "-> ../..",
			"net/" + n + "/address": "3c:ec:ef:00:00:0" + string(rune('1'+i)) + "\n",
		} {
			f[fn+k] = v
		}
	}
	f[pci+"0/net/ens1f0np0/speed"], f[pci+"0/net/ens1f0np0/carrier"] = "25000\n", "1\n"
	f[pci+"1/net/ens1f1np1/speed"] = "4294967295\n" // seen from drivers without a link

	// Two sockets of two cores of two threads, one thread switched off.
	var info strings.Builder
	for cpu := range 8 {
		n := string(rune('0' + cpu))
		dir := "sys/devices/system/cpu/cpu" + n
		f[dir+"/topology/physical_package_id"] = string(rune('0'+cpu/4)) + "\n"
		f[dir+"/topology/core_id"] = string(rune('0'+cpu/2%2)) + "\n"
		if cpu == 7 {
			f[dir+"/online"] = "0\n"
			continue
		}
		info.WriteString("processor\t: " + n + "\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz\nflags\t\t: fpu vmx aes\n\n")
	}
	f["proc/cpuinfo"] = info.String()
	return f
}

// structure is one of an SMBIOS table (DSP0134, 6.1): a formatted area whose
// second byte is its length, then strings.
func structure(kind byte, body []byte, strs ...string) []byte {
	b := append([]byte{kind, byte(4 + len(body)), kind, 0}, body...)
	for _, s := range strs {
		b = append(append(b, s...), 0)
	}
	if len(strs) == 0 {
		b = append(b, 0)
	}
	return append(b, 0)
}

// memoryDevice is a type 17 of SMBIOS 2.8 with strings 1 to 6: locator, bank,
// manufacturer, serial, asset tag, part.
func memoryDevice(size uint16, extended uint32, kind byte, speed, running uint16, strs ...string) []byte {
	b := make([]byte, 0x28-4)
	le := binary.LittleEndian
	le.PutUint16(b[0x0c-4:], size)
	b[0x10-4], b[0x11-4], b[0x12-4] = 1, 2, kind
	le.PutUint16(b[0x15-4:], speed)
	b[0x17-4], b[0x18-4], b[0x19-4], b[0x1a-4] = 3, 4, 5, 6
	le.PutUint32(b[0x1c-4:], extended)
	le.PutUint16(b[0x20-4:], running)
	return structure(17, b, strs...)
}

func serverSMBIOS() []byte {
	return bytes.Join([][]byte{
		structure(0, make([]byte, 20), "Acme", "2.10.0"),
		memoryDevice(0x7fff, 32768, 0x1a, 3200, 2933, "DIMM_A1", "NODE 1", "Samsung", "1234ABCD", "x", "M393A4K40DB3-CWE "),
		memoryDevice(0, 0, 2, 0, 0, "DIMM_A2", "NODE 1", "NO DIMM", "NO DIMM", "NO DIMM", "NO DIMM"),
		memoryDevice(16384, 0, 0x22, 0xffff, 0, "DIMM_B1", "NODE 2", "Micron", "00000000", "x", "MTC"),
		structure(38, make([]byte, 14)),
		structure(127, nil),
		make([]byte, 64), // firmware pads
	}, nil)
}

func TestCollect(t *testing.T) {
	inv, err := Collect(t.Context(), Options{Root: tree(t, server())})
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.Warnings) > 0 {
		t.Errorf("warnings: %q", inv.Warnings)
	}
	for i := range inv.Disks { // below a temporary directory
		inv.Disks[i].Path = "/dev/" + inv.Disks[i].Name
	}
	for i, f := range inv.Firmware {
		if f.Component == ComponentNVMe || f.Component == ComponentDisk {
			inv.Firmware[i].Path = "/dev/" + filepath.Base(f.Path)
		}
	}
	got, err := json.MarshalIndent(inv, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	const golden = "testdata/server.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", golden, diff)
	}
}

// Twice the same machine is twice the same inventory.
func TestCollectStable(t *testing.T) {
	root := tree(t, server())
	a, err := Collect(t.Context(), Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		b, err := Collect(t.Context(), Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestCollectBroken(t *testing.T) {
	tests := []struct {
		name string
		set  map[string]string
		warn string
	}{
		{"SMBIOS cut off", map[string]string{"sys/firmware/dmi/tables/DMI": string(serverSMBIOS()[:150])}, "SMBIOS: "},
		{"SMBIOS too long", map[string]string{"sys/firmware/dmi/tables/DMI": strings.Repeat("\x00", maxSMBIOS+1)}, "longer than"},
		{"disk without a size", map[string]string{"sys/class/block/sdq": "-> ../../devices/q", "sys/devices/q/size": "?"}, "disks: disk sdq"},
		{"no meminfo", map[string]string{"proc/meminfo": ""}, "memory: "},
		{"no processors", map[string]string{"proc/cpuinfo": "", "sys/devices/system/cpu/cpu0/topology": ""}, "processors: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := server()
			for k, v := range tt.set {
				for have := range files {
					if strings.HasPrefix(have, k+"/") {
						delete(files, have)
					}
				}
				files[k] = v
			}
			inv, err := Collect(t.Context(), Options{Root: tree(t, files)})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(strings.Join(inv.Warnings, "\n"), tt.warn) {
				t.Errorf("warnings %q do not tell of %q", inv.Warnings, tt.warn)
			}
			if inv.System.Serial != "SN0042" || len(inv.NICs) != 3 || len(inv.Disks) != 2 {
				t.Error("the rest of the inventory is lost")
			}
		})
	}
}

func TestCollectNothing(t *testing.T) {
	if _, err := Collect(t.Context(), Options{Root: t.TempDir()}); err == nil {
		t.Error("an empty root has an inventory")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Collect(ctx, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	inv, err := Collect(t.Context(), Options{Root: tree(t, map[string]string{"sys/class/x": ""})})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(inv)
	if err != nil || bytes.Contains(b, []byte("null")) {
		t.Errorf("an empty list is null: %s %v", b, err)
	}
}

// The machine the test runs on, whatever it is.
func TestThisMachine(t *testing.T) {
	inv, err := Collect(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("warnings: %q", inv.Warnings)
	if len(inv.CPUs) == 0 || inv.CPUs[0].Threads == 0 || inv.CPUs[0].Cores == 0 || inv.Memory.UsableBytes < 1<<20 || inv.Memory.TotalBytes < 1<<20 {
		t.Errorf("processors %+v, memory %+v", inv.CPUs, inv.Memory)
	}
	for _, n := range inv.NICs {
		if n.Name == "" || n.Name == "lo" || n.Driver == "" {
			t.Errorf("NIC %+v", n)
		}
	}
}
