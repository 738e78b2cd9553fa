package blockdev

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

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
	NVMeoF Transport = "nvmeof" // NVMe over fabrics: the medium is elsewhere
	ISCSI  Transport = "iscsi"  // likewise
	FC     Transport = "fc"     // likewise
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
	// Parent is the kernel name of the whole disk when Path is a partition,
	// which List never returns; Model, Serial and the like are then the disk's.
	Parent string `json:"parent,omitempty"`
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
// flash partitions (MTD), NVMe paths hidden behind a multipath head, and devices
// without a medium. It includes remote disks: see Transport. When some disks
// cannot be read it returns the others, and an error that names those.
func (s Sysfs) List() ([]Info, error) {
	dir := s.path("sys/class/block")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var disks []Info
	var broken []error
	for _, e := range entries {
		link := filepath.Join(dir, e.Name())
		if virtual(e.Name(), link) || exists(filepath.Join(link, "partition")) || attr(filepath.Join(link, "hidden")) == "1" {
			continue
		}
		info, err := s.named(e.Name())
		if errors.Is(err, fs.ErrNotExist) { // unplugged meanwhile
			continue
		}
		if err != nil {
			broken = append(broken, err)
			continue
		}
		if info.Size == 0 {
			continue
		}
		disks = append(disks, info)
	}
	slices.SortFunc(disks, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return disks, errors.Join(broken...)
}

// virtualNames begin the names of block devices made of other devices, of memory or of a medium
// that is not this machine's. MTD flash is left out since it often holds the
// firmware the machine starts from.
var virtualNames = []string{
	"loop", "ram", "dm-", "md", "zram", "sr", "fd", "nbd", "drbd", "rbd", "zd",
	"bcache", "ublkb", "rnbd", "mtdblock", "ubiblock",
}

func virtual(name, link string) bool {
	// MD arrays may have any name. An NVMe multipath head is virtual too, yet it
	// is the disk, and lies in virtual/nvme-subsystem.
	if to, err := os.Readlink(link); err == nil && strings.Contains(to, "/virtual/block/") {
		return true
	}
	for _, p := range virtualNames {
		if rest, ok := strings.CutPrefix(name, p); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			return true
		}
	}
	// eMMC boot and replay-protected areas are not plain storage.
	return strings.HasPrefix(name, "mmcblk") && (strings.Contains(name, "boot") || strings.Contains(name, "rpmb"))
}

// Stat describes the disk, partition (see Info.Parent) or plain file at path.
// The error of a path that is none of them says so.
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
	info, err := s.open(st)
	if err != nil {
		return Info{}, fmt.Errorf("disk %s: %w", path, err)
	}
	info.Path = path
	return info, nil
}

// open describes the block device that st is of, by its device number.
func (s Sysfs) open(st fs.FileInfo) (Info, error) {
	dir, err := sysDir(s, st.Sys())
	if err != nil {
		return Info{}, err
	}
	return s.named(filepath.Base(dir))
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
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return Info{}, fmt.Errorf("disk %s: %w", name, err)
	}
	sectors, err := strconv.ParseInt(attr(filepath.Join(real, "size")), 10, 64)
	if err != nil {
		return Info{}, fmt.Errorf("disk %s: size: %w", name, err)
	}
	if sectors < 0 || sectors > math.MaxInt64/512 {
		return Info{}, fmt.Errorf("disk %s: size of %d sectors is out of range", name, sectors)
	}
	disk, parent := real, ""
	if exists(filepath.Join(real, "partition")) {
		disk = filepath.Dir(real)
		parent = filepath.Base(disk)
	}
	info := Info{
		Name:          name,
		Path:          s.path("dev", strings.ReplaceAll(name, "!", "/")), // sysfs writes cciss/c0d0 as cciss!c0d0
		Size:          sectors * 512,                                     // sysfs counts 512-byte units whatever the block size
		LogicalBlock:  intAttr(filepath.Join(disk, "queue/logical_block_size"), 512),
		PhysicalBlock: intAttr(filepath.Join(disk, "queue/physical_block_size"), 512),
		Transport:     s.transport(disk),
		Rotational:    attr(filepath.Join(disk, "queue/rotational")) == "1",
		ReadOnly:      attr(filepath.Join(real, "ro")) == "1",
		Removable:     attr(filepath.Join(disk, "removable")) == "1",
		Vendor:        attr(filepath.Join(disk, "device/vendor")),
		Model:         firstAttr(disk, "device/model", "device/name"),
		Serial:        firstAttr(disk, "device/serial", "serial"),
		WWN:           firstAttr(disk, "wwid", "device/wwid"),
		Firmware:      firstAttr(disk, "device/firmware_rev", "device/rev", "device/fwrev"),
		Parent:        parent,
	}
	if strings.HasPrefix(info.Vendor, "0x") { // a PCI id, not a name
		info.Vendor = ""
	}
	if info.Serial == "" {
		info.Serial = vpdSerial(filepath.Join(disk, "device/vpd_pg80"))
	}
	if info.Serial == "" && info.Transport == USB { // the kernel asks USB disks for no SCSI pages
		info.Serial = usbSerial(disk)
	}
	return info, nil
}

// transport tells the bus from the disk's real path below /sys/devices. The
// order matters: a USB bridge also shows a SCSI host, and so does libata.
func (s Sysfs) transport(disk string) Transport {
	_, bus, _ := strings.Cut(disk, "/devices/")
	bus = "/" + bus
	has := func(part string) bool { return strings.Contains(bus, part) }
	name := filepath.Base(disk)
	switch {
	case strings.HasPrefix(name, "nvme"):
		return nvmeTransport(disk)
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
	case has("/session"):
		return ISCSI
	case has("/rport-"):
		return FC
	case has("/virtio"):
		return Virtio
	case has("/host"):
		return SCSI
	}
	return Other
}

// nvmeTransport asks the controller; behind a multipath head, the first of the
// subsystem's controllers.
func nvmeTransport(disk string) Transport {
	files := []string{filepath.Join(disk, "device/transport")}
	if paths, err := filepath.Glob(filepath.Join(disk, "device/nvme*/transport")); err == nil {
		files = append(files, paths...)
	}
	for _, f := range files {
		switch attr(f) {
		case "":
		case "pcie":
			return NVMe
		default:
			return NVMeoF
		}
	}
	return NVMe
}

func vpdSerial(path string) string {
	b, err := readBounded(path)
	if err != nil {
		return ""
	}
	return decodeVPDSerial(b)
}

// decodeVPDSerial decodes SCSI VPD page 80h, the unit serial number (SPC-5
// 7.7.15): a 4-byte header whose last two bytes are the length, then ASCII.
func decodeVPDSerial(b []byte) string {
	if len(b) < 4 || b[1] != 0x80 {
		return ""
	}
	n := int(b[2])<<8 | int(b[3])
	return Printable(string(b[4:min(4+n, len(b))]))
}

// usbSerial is the serial number of the USB device that a disk is on, the first
// directory above it that has a USB vendor id.
func usbSerial(disk string) string {
	for dir := disk; filepath.Base(dir) != "devices" && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if exists(filepath.Join(dir, "idVendor")) {
			return attr(filepath.Join(dir, "serial"))
		}
	}
	return ""
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
	b, err := readBounded(path)
	if err != nil {
		return ""
	}
	return Printable(string(b))
}

// readBounded reads a file of sysfs. None is larger than a page but the SCSI
// VPD pages, whose length is a 16-bit number.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 4+math.MaxUint16))
}

// Printable makes a text that a device reported safe to show: what can be printed
// only, trimmed, at most 256 bytes.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	s = strings.TrimSpace(s)
	if len(s) > 256 {
		s = strings.TrimSpace(strings.ToValidUTF8(s[:256], ""))
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
