package lab

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// Spec is what a chassis is made of. The zero value of every field but Dir has
// a sensible meaning.
type Spec struct {
	Name    string `json:"name"`    // default "chassis"; also the serial number's stem
	Dir     string `json:"dir"`     // holds disks, serial log and sockets; made if missing
	Disks   []Disk `json:"disks"`   // in order of their names below Dir
	Memory  int64  `json:"memory"`  // bytes, default 512 MiB
	CPUs    int    `json:"cpus"`    // default 2
	NIC     string `json:"nic"`     // QEMU device, default "virtio-net-pci"
	MAC     string `json:"mac"`     // default derived from Name
	UUID    string `json:"uuid"`    // SMBIOS UUID, default derived from Name
	Serial  string `json:"serial"`  // SMBIOS serial number, default derived from Name
	BootURL string `json:"bootURL"` // iPXE script; empty: boot from disk
	// Kernel, Initrd and Append boot directly, without firmware and network.
	Kernel string `json:"kernel,omitempty"`
	Initrd string `json:"initrd,omitempty"`
	Append string `json:"append,omitempty"`
}

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

// DiskPath returns the file of disk i.
func (s Spec) DiskPath(i int) string { return filepath.Join(s.Dir, s.Disks[i].File) }
