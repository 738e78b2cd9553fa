package lab

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// Spec is what a chassis is made of. The zero value of every field but Dir has
// a sensible meaning.
type Spec struct {
	Name    string `json:"name"`         // default "chassis"; also the serial number's stem
	Dir     string `json:"dir"`          // holds disks, serial log and sockets; made if missing
	Disks   []Disk `json:"disks"`        // in order of their names below Dir
	Memory  int64  `json:"memory"`       // bytes, default 512 MiB
	CPUs    int    `json:"cpus"`         // default 2
	NIC     string `json:"nic"`          // QEMU device, default "virtio-net-pci"
	MAC     string `json:"mac"`          // default derived from Name
	UUID    string `json:"uuid"`         // SMBIOS UUID, default derived from Name
	Serial  string `json:"serial"`       // SMBIOS serial number, default derived from Name
	BootURL string `json:"bootURL"`      // iPXE script, in the user network; empty: boot from disk
	CD      string `json:"cd,omitempty"` // a CD image in the drive

	Firmware Firmware `json:"firmware,omitempty"` // default BIOS
	// BootOrder is what the firmware tries; default: the network if there is
	// one to boot from, the disks, the CD.
	BootOrder []BootSource `json:"bootOrder,omitempty"`
	// NetBoot is who does the booting from the network; default IPXE.
	NetBoot NetBoot `json:"netBoot,omitempty"`
	// Network is the name of a network of package netns, which must be there,
	// or empty for the user network. Booting from such a network takes root.
	Network string `json:"network,omitempty"`

	// Kernel, Initrd and Append boot directly, without firmware and network.
	Kernel string `json:"kernel,omitempty"`
	Initrd string `json:"initrd,omitempty"`
	Append string `json:"append,omitempty"`
}

// Firmware is what a chassis starts with.
type Firmware string

// Firmwares.
const (
	BIOS Firmware = "bios" // SeaBIOS
	UEFI Firmware = "uefi" // EDK II's OVMF, without Secure Boot
)

// BootSource is a kind of device to boot from.
type BootSource string

// Boot sources.
const (
	FromNetwork BootSource = "network"
	FromDisk    BootSource = "disk"
	FromCD      BootSource = "cd"
)

// NetBoot says which program of a chassis boots it from the network.
type NetBoot string

// Ways to boot from a network.
const (
	// IPXE is the network card's option ROM, as QEMU's cards have it.
	IPXE NetBoot = "ipxe"
	// FirmwarePXE is the UEFI firmware's own PXE, and if that fails, HTTP boot.
	FirmwarePXE NetBoot = "pxe"
	// FirmwareHTTP is the UEFI firmware's HTTP boot alone.
	FirmwareHTTP NetBoot = "http"
)

// Disk is one virtual disk, a sparse raw file below Spec.Dir.
type Disk struct {
	Bus    string `json:"bus"`  // "nvme", "virtio", "sata", "scsi"
	Size   int64  `json:"size"` // bytes
	Serial string `json:"serial"`
	File   string `json:"file"`
}

var buses = map[string]bool{"nvme": true, "virtio": true, "sata": true, "scsi": true}

// ParseDisks reads a list such as "nvme:8G,virtio:4G".
func ParseDisks(list string) ([]Disk, error) {
	var disks []Disk
	for item := range strings.SplitSeq(list, ",") {
		bus, size, ok := strings.Cut(item, ":")
		if !ok || !buses[bus] {
			return nil, fmt.Errorf("disk %q: write BUS:SIZE with bus nvme, virtio, sata or scsi, e.g. nvme:8G", item)
		}
		n, err := ParseSize(size)
		if err != nil {
			return nil, fmt.Errorf("disk %q: %w", item, err)
		}
		disks = append(disks, Disk{Bus: bus, Size: n})
	}
	return disks, nil
}

// ParseSize reads a number of bytes with an optional binary suffix K, M, G or T.
func ParseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "KMGTkmgt")
	shift := map[string]uint{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
	by, ok := shift[strings.ToUpper(s[len(digits):])]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n <= 0 || n > 1<<62>>by {
		return 0, fmt.Errorf("size %q: write a whole number with K, M, G or T, e.g. 512M", s)
	}
	return n << by, nil
}

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// withDefaults fills in what the caller left open and checks the rest.
func (s Spec) withDefaults() (Spec, error) {
	if s.Name == "" {
		s.Name = "chassis"
	}
	if !namePattern.MatchString(s.Name) {
		return s, fmt.Errorf("chassis name %q: use up to 32 lower-case letters, digits and hyphens", s.Name)
	}
	if s.Dir == "" {
		return s, fmt.Errorf("chassis %s: no folder given", s.Name)
	}
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return s, fmt.Errorf("chassis %s: %w", s.Name, err)
	}
	s.Dir = dir
	if s.Memory == 0 {
		s.Memory = 512 << 20
	}
	if s.CPUs == 0 {
		s.CPUs = 2
	}
	if s.NIC == "" {
		s.NIC = "virtio-net-pci"
	}
	id := uuid.NewSHA1(uuid.NameSpaceOID, []byte("teeth lab "+s.Name))
	if s.UUID == "" {
		s.UUID = id.String()
	}
	if s.MAC == "" {
		// QEMU's locally administered prefix.
		s.MAC = fmt.Sprintf("52:54:00:%02x:%02x:%02x", id[0], id[1], id[2])
	}
	if s.Serial == "" {
		s.Serial = "LAB-" + strings.ToUpper(s.Name)
	}
	if err := s.bootDefaults(); err != nil {
		return s, fmt.Errorf("chassis %s: %w", s.Name, err)
	}
	for i := range s.Disks {
		d := &s.Disks[i]
		if d.Serial == "" {
			d.Serial = fmt.Sprintf("%s%02d%06X", strings.ToUpper(d.Bus), i, d.Size>>20&0xffffff)
		}
		if d.File == "" {
			d.File = fmt.Sprintf("disk%d.raw", i)
		}
	}
	return s, nil
}

func (s *Spec) bootDefaults() error {
	if s.Firmware == "" {
		s.Firmware = BIOS
	}
	if s.NetBoot == "" {
		s.NetBoot = IPXE
	}
	if s.BootOrder == nil {
		if s.BootURL != "" || s.Network != "" {
			s.BootOrder = append(s.BootOrder, FromNetwork)
		}
		s.BootOrder = append(s.BootOrder, FromDisk, FromCD)
	}
	switch {
	case s.Firmware != BIOS && s.Firmware != UEFI:
		return fmt.Errorf("firmware %q: choose bios or uefi", s.Firmware)
	case s.NetBoot != IPXE && s.NetBoot != FirmwarePXE && s.NetBoot != FirmwareHTTP:
		return fmt.Errorf("network boot %q: choose ipxe, pxe or http", s.NetBoot)
	case s.NetBoot != IPXE && s.Firmware != UEFI:
		return fmt.Errorf("network boot %q: SeaBIOS has none of its own, only the network card's iPXE", s.NetBoot)
	case s.BootURL != "" && s.Network != "":
		return errors.New("a boot script's URL is for the user network; in another one DHCP says what to boot")
	}
	seen := map[BootSource]bool{}
	for _, b := range s.BootOrder {
		if b != FromNetwork && b != FromDisk && b != FromCD || seen[b] {
			return fmt.Errorf("boot order %q: choose of network, disk and cd, each once", s.BootOrder)
		}
		seen[b] = true
	}
	return nil
}

// bootIndex is QEMU's boot index of the n-th device of a kind, or -1 if it is
// not to be booted from.
func (s Spec) bootIndex(b BootSource, n int) int {
	const kind = 100 // more than there are devices of one
	if i := slices.Index(s.BootOrder, b); i >= 0 {
		return 1 + i*kind + n // QEMU takes 0 for the kernel that it is given
	}
	return -1
}

// tap is the name of the interface that the chassis's network card is plugged
// into; Linux allows 15 characters.
func (s Spec) tap() string { return "tap" + strings.ReplaceAll(s.MAC, ":", "") }

// DiskPath returns the file of disk i.
func (s Spec) DiskPath(i int) string { return filepath.Join(s.Dir, s.Disks[i].File) }
