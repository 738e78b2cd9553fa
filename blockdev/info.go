package blockdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Transport is the bus a disk hangs on.
type Transport string

// The transports told apart. Other is a block device on a bus not named here.
const (
	NVMe   Transport = "nvme"
	SATA   Transport = "sata"
	SAS    Transport = "sas"
	SCSI   Transport = "scsi"
	USB    Transport = "usb"
	Virtio Transport = "virtio"
	MMC    Transport = "mmc"
	File   Transport = "file"
	Other  Transport = "other"
)

// Info describes one whole disk, or a plain file used as one.
type Info struct {
	Name          string    `json:"name"` // kernel name, e.g. "nvme0n1"; for a file its base name
	Path          string    `json:"path"` // e.g. "/dev/nvme0n1"
	Size          int64     `json:"size"` // bytes
	LogicalBlock  int       `json:"logical_block"`
	PhysicalBlock int       `json:"physical_block"`
	Vendor        string    `json:"vendor,omitempty"`
	Model         string    `json:"model,omitempty"`
	Serial        string    `json:"serial,omitempty"`
	WWN           string    `json:"wwn,omitempty"` // EUI-64, NGUID, NAA or T10 name as sysfs gives it
	Firmware      string    `json:"firmware,omitempty"`
	Transport     Transport `json:"transport"`
	Rotational    bool      `json:"rotational"`
	ReadOnly      bool      `json:"read_only"`
	Removable     bool      `json:"removable"`
}

// Sysfs reads disks below Root ("" is "/", so Root/sys/class/block) and names
// their nodes below Root/dev. Tests point it at a tree of files.
type Sysfs struct{ Root string }

func (s Sysfs) path(elem ...string) string {
	root := s.Root
	if root == "" {
		root = "/"
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

// List returns the whole disks of this machine in the order of their names.
// It leaves out what holds no data of its own: partitions, RAM disks, loop,
// device-mapper, MD, zram and network block devices, optical and floppy drives,
// NVMe paths hidden behind a multipath head, and devices without a medium.
func (s Sysfs) List() ([]Info, error) {
	dir := s.path("sys/class/block")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var disks []Info
	for _, e := range entries {
		if virtual(e.Name()) || exists(filepath.Join(dir, e.Name(), "partition")) {
			continue
		}
		if attr(filepath.Join(dir, e.Name(), "hidden")) == "1" {
			continue
		}
		info, err := s.named(e.Name())
		if errors.Is(err, fs.ErrNotExist) { // unplugged meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		if info.Size == 0 {
			continue
		}
		disks = append(disks, info)
	}
	slices.SortFunc(disks, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return disks, nil
}

// virtual reports block devices that are made of other devices, of memory or
// of a medium that is not this machine's.
func virtual(name string) bool {
	for _, p := range []string{"loop", "ram", "dm-", "md", "zram", "sr", "fd", "nbd", "drbd", "rbd", "zd"} {
		if rest, ok := strings.CutPrefix(name, p); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			return true
		}
	}
	// eMMC boot and replay-protected areas are not plain storage.
	return strings.HasPrefix(name, "mmcblk") && (strings.Contains(name, "boot") || strings.Contains(name, "rpmb"))
}

// Stat describes the disk or plain file at path. The error of a path that is
// neither says so.
func Stat(path string) (Info, error) { return Sysfs{}.Stat(path) }

// Stat is like the function Stat, reading below s.Root/sys.
func (s Sysfs) Stat(path string) (Info, error) {
	st, err := os.Stat(path)
	if err != nil {
		return Info{}, fmt.Errorf("disk %s: %w", path, err)
	}
	switch {
	case st.Mode().IsRegular():
		return Info{
			Name: filepath.Base(path), Path: path, Size: st.Size(),
			LogicalBlock: 512, PhysicalBlock: 512, Transport: File,
			ReadOnly: st.Mode().Perm()&0o222 == 0,
		}, nil
	case st.Mode()&fs.ModeDevice == 0 || st.Mode()&fs.ModeCharDevice != 0:
		return Info{}, fmt.Errorf("disk %s: neither a block device nor a plain file", path)
	}
	sys, err := sysDir(s, st.Sys())
	if err != nil {
		return Info{}, fmt.Errorf("disk %s: %w", path, err)
	}
	info, err := s.named(filepath.Base(sys))
	if err != nil {
		return Info{}, err
	}
	info.Path = path
	return info, nil
}

// sysDir finds the sysfs directory of an open or named block device by its
// device number, which no symlink can fake.
func sysDir(s Sysfs, sys any) (string, error) {
	st, ok := sys.(*unixStat)
	if !ok {
		return "", errors.New("no device number")
	}
	link := s.path("sys/dev/block", fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))))
	return filepath.EvalSymlinks(link)
}

func (s Sysfs) named(name string) (Info, error) {
	dir := s.path("sys/class/block", name)
	sectors, err := os.ReadFile(filepath.Join(dir, "size"))
	if err != nil {
		return Info{}, fmt.Errorf("disk %s: %w", name, err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(sectors)), 10, 64)
	if err != nil {
		return Info{}, fmt.Errorf("disk %s: size: %w", name, err)
	}
	info := Info{
		Name:          name,
		Path:          s.path("dev", name),
		Size:          n * 512, // sysfs counts 512-byte units whatever the block size
		LogicalBlock:  intAttr(filepath.Join(dir, "queue/logical_block_size"), 512),
		PhysicalBlock: intAttr(filepath.Join(dir, "queue/physical_block_size"), 512),
		Rotational:    attr(filepath.Join(dir, "queue/rotational")) == "1",
		ReadOnly:      attr(filepath.Join(dir, "ro")) == "1",
		Removable:     attr(filepath.Join(dir, "removable")) == "1",
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return Info{}, fmt.Errorf("disk %s: %w", name, err)
	}
	info.Transport = transport(name, real)
	info.Vendor = attr(filepath.Join(dir, "device/vendor"))
	if strings.HasPrefix(info.Vendor, "0x") { // a PCI id, not a name
		info.Vendor = ""
	}
	info.Model = firstAttr(dir, "device/model", "device/name")
	info.Firmware = firstAttr(dir, "device/firmware_rev", "device/rev", "device/fwrev")
	info.WWN = firstAttr(dir, "wwid", "device/wwid")
	info.Serial = firstAttr(dir, "device/serial", "serial")
	if info.Serial == "" {
		info.Serial = vpdSerial(filepath.Join(dir, "device/vpd_pg80"))
	}
	return info, nil
}

// transport tells the bus from the real path in /sys/devices. The order
// matters: a USB bridge also shows a SCSI host, and libata shows "ata".
func transport(name, real string) Transport {
	has := func(part string) bool { return strings.Contains(real, part) }
	switch {
	case strings.HasPrefix(name, "nvme"):
		return NVMe
	case strings.HasPrefix(name, "mmcblk"):
		return MMC
	case strings.HasPrefix(name, "vd"):
		return Virtio
	case has("/usb"):
		return USB
	case has("/ata"):
		return SATA
	case has("/end_device-"):
		return SAS
	case has("/virtio"):
		return Virtio
	case has("/host"):
		return SCSI
	}
	return Other
}

// vpdSerial decodes SCSI VPD page 80h, the unit serial number (SPC-5 7.7.15):
// a 4-byte header whose last two bytes are the length, then ASCII.
func vpdSerial(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 4 || b[1] != 0x80 {
		return ""
	}
	n := int(b[2])<<8 | int(b[3])
	return clean(string(b[4:min(4+n, len(b))]))
}

func firstAttr(dir string, names ...string) string {
	for _, n := range names {
		if v := attr(filepath.Join(dir, n)); v != "" {
			return v
		}
	}
	return ""
}

func attr(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return clean(string(b))
}

// clean makes a string a device reported safe to show: no control characters,
// bounded, trimmed.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.TrimSpace(s)
	if len(s) > 256 {
		s = strings.ToValidUTF8(s[:256], "")
	}
	return s
}

func intAttr(path string, otherwise int) int {
	if n, err := strconv.Atoi(attr(path)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
