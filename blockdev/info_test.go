package blockdev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

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

// machine is the part of sysfs this package reads, of a chassis with one disk
// of each kind, in the layout of Linux 6.1.
func machine() map[string]string {
	const (
		nvme  = "sys/devices/pci0000:00/0000:00:1d.0/0000:02:00.0/nvme/nvme0/nvme0n1"
		multi = "sys/devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1"
		sata  = "sys/devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0/block/sda"
		sas   = "sys/devices/pci0000:00/0000:01:00.0/host1/port-1:0/end_device-1:0/target1:0:0/1:0:0:0/block/sdb"
		usb   = "sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host2/target2:0:0/2:0:0:0/block/sdc"
		raid  = "sys/devices/pci0000:00/0000:03:00.0/host3/target3:2:0/3:2:0:0/block/sdd"
		iscsi = "sys/devices/platform/host4/session1/target4:0:0/4:0:0:1/block/sde"
		fc    = "sys/devices/pci0000:00/0000:04:00.0/host5/rport-5:0-1/target5:0:0/5:0:0:0/block/sdf"
		vda   = "sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vda"
		mmc   = "sys/devices/platform/mmc_host/mmc0/mmc0:0001/block/mmcblk0"
		nvmet = "sys/devices/virtual/nvme-fabrics/ctl/nvme2/nvme2n1"
	)
	link := func(dev string) string { return "-> ../../" + strings.TrimPrefix(dev, "sys/") }
	vpd80 := "\x00\x80\x00\x0a  VPD12345"
	return map[string]string{
		"sys/class/block/nvme0n1": link(nvme),
		nvme + "/size":            "1953525168\n", nvme + "/dev": "259:0\n",
		nvme + "/queue/logical_block_size": "4096\n", nvme + "/queue/physical_block_size": "4096\n", nvme + "/queue/rotational": "0\n",
		nvme + "/ro": "0\n", nvme + "/removable": "0\n", nvme + "/wwid": "eui.0025385b71b0b3a4\n",
		nvme + "/device":                         "-> ../../nvme0",
		filepath.Dir(nvme) + "/model":            "Samsung SSD 980 PRO 1TB                 \n",
		filepath.Dir(nvme) + "/serial":           "S5GXNF0R123456      \n",
		filepath.Dir(nvme) + "/firmware_rev":     "5B2QGXA7\n",
		filepath.Dir(nvme) + "/transport":        "pcie\n",
		nvme + "/nvme0n1p1/partition":            "1\n",
		nvme + "/nvme0n1p1/size":                 "2048\n",
		nvme + "/nvme0n1p1/dev":                  "259:1\n",
		nvme + "/nvme0n1p1/ro":                   "0\n",
		"sys/class/block/nvme0n1p1":              link(nvme) + "/nvme0n1p1",
		"sys/class/block/nvme1n1":                link(multi),
		multi + "/size":                          "1000\n",
		multi + "/device":                        "-> ../../nvme-subsys1",
		filepath.Dir(multi) + "/serial":          "MP1\n",
		filepath.Dir(multi) + "/nvme1/transport": "pcie\n",
		"sys/class/block/nvme1c0n1":              "-> ../../devices/hidden/nvme1c0n1",
		"sys/devices/hidden/nvme1c0n1/hidden":    "1\n",
		"sys/devices/hidden/nvme1c0n1/size":      "1000\n",

		"sys/class/block/sda": link(sata),
		sata + "/size":        "7814037168\n", sata + "/queue/logical_block_size": "512\n", sata + "/queue/physical_block_size": "4096\n",
		sata + "/queue/rotational": "1\n", sata + "/device": "-> ../../../0:0:0:0",
		sata + "/../../model": "ST4000NM0035-1V4\n", sata + "/../../vendor": "ATA     \n", sata + "/../../rev": "TN02\n",
		sata + "/../../wwid": "naa.5000c500a0b1c2d3\n", sata + "/../../vpd_pg80": vpd80,

		"sys/class/block/sdb": link(sas), sas + "/size": "3907029168\n", sas + "/device": "-> ../../../1:0:0:0",
		sas + "/../../vendor": "SEAGATE \n", sas + "/../../model": "ST2000NX0433    \n", sas + "/ro": "1\n",
		"sys/class/block/sdc": link(usb), usb + "/size": "30869504\n", usb + "/removable": "1\n",
		"sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/idVendor": "0781\n", "sys/devices/pci0000:00/0000:00:14.0/usb1/1-2/serial": "4C530001\n",
		"sys/devices/pci0000:00/0000:00:14.0/usb1/idVendor": "1d6b\n", "sys/devices/pci0000:00/0000:00:14.0/usb1/serial": "0000:00:14.0\n", // the hub
		"sys/class/block/sdd": link(raid), raid + "/size": "1000\n",
		"sys/class/block/sde": link(iscsi), iscsi + "/size": "1000\n",
		"sys/class/block/sdf": link(fc), fc + "/size": "1000\n",
		"sys/class/block/vda": link(vda), vda + "/size": "16777216\n", vda + "/serial": "DISK0001\n", vda + "/device": "-> ../..",
		vda + "/../../vendor":     "0x1af4\n",
		"sys/class/block/mmcblk0": link(mmc), mmc + "/size": "1000\n", mmc + "/device": "-> ../../../mmc0:0001",
		mmc + "/../../serial": "0x1234abcd\n", mmc + "/../../name": "SDC32G\n",
		"sys/class/block/nvme2n1": link(nvmet), nvmet + "/size": "1000\n", nvmet + "/device": "-> ../../nvme2",
		filepath.Dir(nvmet) + "/transport": "tcp\n",

		// None of these may be listed.
		"sys/class/block/mmcblk0boot0": link(mmc) + "boot0", mmc + "boot0/size": "8192\n",
		"sys/class/block/loop0": "-> ../../devices/virtual/block/loop0", "sys/devices/virtual/block/loop0/size": "8\n",
		"sys/class/block/md_data": "-> ../../devices/virtual/block/md_data", "sys/devices/virtual/block/md_data/size": "8\n",
		"sys/class/block/sr0": "-> ../../devices/x/sr0", "sys/devices/x/sr0/size": "8\n",
		"sys/class/block/mtdblock0": "-> ../../devices/x/mtdblock0", "sys/devices/x/mtdblock0/size": "8\n",
		"sys/class/block/sdz": "-> ../../devices/x/sdz", "sys/devices/x/sdz/size": "0\n", // no medium
		"sys/class/block/sdy": "-> ../../devices/x/gone", // unplugged
	}
}

func TestList(t *testing.T) {
	root := tree(t, machine())
	got, err := Sysfs{root}.List()
	if err != nil {
		t.Fatal(err)
	}
	dev := func(name string) string { return filepath.Join(root, "dev", name) }
	plain := func(name string, transport Transport, sectors int64) Info {
		return Info{Name: name, Path: dev(name), Size: sectors * 512, LogicalBlock: 512, PhysicalBlock: 512, Transport: transport}
	}
	mmc := plain("mmcblk0", MMC, 1000)
	mmc.Serial, mmc.Model = "0x1234abcd", "SDC32G"
	nvme := plain("nvme0n1", NVMe, 1953525168)
	nvme.LogicalBlock, nvme.PhysicalBlock = 4096, 4096
	nvme.Model, nvme.Serial, nvme.Firmware, nvme.WWN = "Samsung SSD 980 PRO 1TB", "S5GXNF0R123456", "5B2QGXA7", "eui.0025385b71b0b3a4"
	multi := plain("nvme1n1", NVMe, 1000)
	multi.Serial = "MP1"
	sata := plain("sda", SATA, 7814037168)
	sata.PhysicalBlock, sata.Rotational = 4096, true
	sata.Vendor, sata.Model, sata.Firmware, sata.WWN, sata.Serial = "ATA", "ST4000NM0035-1V4", "TN02", "naa.5000c500a0b1c2d3", "VPD12345"
	sas := plain("sdb", SAS, 3907029168)
	sas.Vendor, sas.Model, sas.ReadOnly = "SEAGATE", "ST2000NX0433", true
	usb := plain("sdc", USB, 30869504)
	usb.Removable, usb.Serial = true, "4C530001"
	vda := plain("vda", Virtio, 16777216)
	vda.Serial = "DISK0001"
	want := []Info{
		mmc, nvme, multi, plain("nvme2n1", NVMeoF, 1000), sata, sas, usb,
		plain("sdd", SCSI, 1000), plain("sde", ISCSI, 1000), plain("sdf", FC, 1000), vda,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

func TestListBroken(t *testing.T) {
	files := machine()
	for _, size := range []string{"", "x", "-1", "99999999999999999999", "9223372036854775807"} {
		files["sys/devices/pci0000:00/0000:00:05.0/virtio2/block/vda/size"] = size
		disks, err := Sysfs{tree(t, files)}.List()
		if err == nil || !strings.Contains(err.Error(), "vda") {
			t.Errorf("size %q: error %v does not name the disk", size, err)
		}
		if len(disks) != 10 {
			t.Errorf("size %q: %d other disks, want 10", size, len(disks))
		}
	}
	if _, err := (Sysfs{t.TempDir()}).List(); err == nil {
		t.Error("no sysfs at all is not an error")
	}
}

// A partition shows what disk it is on, since only that has an identity.
func TestPartition(t *testing.T) {
	s := Sysfs{tree(t, machine())}
	got, err := s.named("nvme0n1p1")
	if err != nil {
		t.Fatal(err)
	}
	if got.Parent != "nvme0n1" || got.Size != 2048*512 || got.LogicalBlock != 4096 || got.Serial != "S5GXNF0R123456" || got.Transport != NVMe {
		t.Errorf("got %+v", got)
	}
}

func TestStatFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Info{Name: "disk.img", Path: path, Size: 1000, LogicalBlock: 512, PhysicalBlock: 512, Transport: File}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []string{filepath.Dir(path), "/dev/null", path + "x"} {
		if _, err := Stat(bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("Stat(%s): %v", bad, err)
		}
	}
}

func TestMatch(t *testing.T) {
	disk := Info{Path: "/dev/sda", Serial: "ABC ", WWN: "naa.5000C500A0B1C2D3", Size: 1 << 30}
	tests := []struct {
		name string
		id   Identity
		bad  string // part of the error, or ""
	}{
		{"nothing named", Identity{}, ""},
		{"everything right", Identity{"ABC", "naa.5000c500a0b1c2d3", 1 << 30}, ""},
		{"case and space", Identity{Serial: " abc"}, ""},
		{"serial", Identity{Serial: "ABD", Size: 1 << 30}, "serial"},
		{"wwn", Identity{Serial: "ABC", WWN: "naa.5"}, "WWN"},
		{"size", Identity{Serial: "ABC", Size: 1<<30 + 512}, "size"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := disk.Match(tt.id)
			switch {
			case tt.bad == "" && err != nil:
				t.Error(err)
			case tt.bad != "" && (!errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), tt.bad) || !strings.Contains(err.Error(), "/dev/sda")):
				t.Errorf("got %v", err)
			}
		})
	}
	if err := (Info{}).Match(Identity{Serial: "ABC"}); !errors.Is(err, ErrMismatch) {
		t.Errorf("a disk without a serial number matched one: %v", err)
	}
	if !(Identity{}).IsZero() || disk.Identity().IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		" a\x00b\n":                    "a b",
		"\x1b[31mred":                  "[31mred",
		"ok\xff\xfe":                   "ok",
		"a\u202eb":                     "a b",
		"":                             "",
		strings.Repeat("é", 200):       strings.Repeat("é", 128),
		"x" + strings.Repeat("é", 200): "x" + strings.Repeat("é", 127),
	} {
		if got := Printable(in); got != want {
			t.Errorf("Printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzVPDSerial(f *testing.F) {
	f.Add([]byte("\x00\x80\x00\x03ABC"))
	f.Add([]byte("\x00\x80\xff\xffA"))
	f.Add([]byte("\x00\x83\x00\x01A"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := decodeVPDSerial(b); s != Printable(s) || len(s) > len(b) {
			t.Errorf("%q from %q", s, b)
		}
	})
}
