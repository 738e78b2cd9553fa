package kexec

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// superblock is what a file system says of itself.
type superblock struct {
	fsType string // ext4, xfs, btrfs, vfat; "" where it is none that we can mount
	uuid   string
	label  string
	what   string // what it is instead, for a person: "an LVM physical volume"
}

// probe looks at the superblocks at the start of a partition. It reads 128 KiB
// at most.
func probe(r io.ReaderAt) (superblock, error) {
	b := make([]byte, 128<<10)
	n, err := r.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return superblock{}, fmt.Errorf("read superblock: %w", err)
	}
	clear(b[n:]) // a partition smaller than that
	le := binary.LittleEndian
	has := func(off int, magic string) bool { return string(b[off:off+len(magic)]) == magic }
	switch {
	case has(0, "LUKS\xba\xbe"):
		return superblock{what: "a LUKS encrypted volume"}, nil
	case has(0x10040, "_BHRfS_M"):
		return superblock{fsType: "btrfs", uuid: formatUUID(b[0x10020:]), label: text(b[0x1012b : 0x1012b+256])}, nil
	case has(0, "XFSB"):
		return superblock{fsType: "xfs", uuid: formatUUID(b[32:]), label: text(b[108:120])}, nil
	case le.Uint16(b[0x438:]) == 0xef53:
		const journalDevice = 0x8
		if le.Uint32(b[0x460:])&journalDevice != 0 {
			return superblock{what: "an external journal"}, nil
		}
		return superblock{fsType: "ext4", uuid: formatUUID(b[0x468:]), label: text(b[0x478 : 0x478+16])}, nil
	case has(510, "\x55\xaa") && has(82, "FAT32   "):
		return superblock{fsType: "vfat", uuid: fatID(b[67:]), label: fatLabel(b[71:82])}, nil
	case has(510, "\x55\xaa") && (has(54, "FAT16   ") || has(54, "FAT12   ")):
		return superblock{fsType: "vfat", uuid: fatID(b[39:]), label: fatLabel(b[43:54])}, nil
	case has(3, "NTFS    "):
		return superblock{what: "an NTFS file system"}, nil
	case has(0x8001, "CD001"):
		return superblock{what: "an ISO 9660 file system"}, nil
	case has(0xff6, "SWAPSPACE2"):
		return superblock{what: "swap space"}, nil
	case le.Uint32(b[0x1000:]) == 0xa92b4efc || le.Uint32(b) == 0xa92b4efc:
		return superblock{what: "a member of an MD RAID array"}, nil
	}
	for sector := 0; sector < 4; sector++ {
		if has(sector*512, "LABELONE") {
			return superblock{what: "an LVM physical volume"}, nil
		}
	}
	return superblock{what: "no known file system"}, nil
}

func formatUUID(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func fatID(b []byte) string {
	id := binary.LittleEndian.Uint32(b)
	return fmt.Sprintf("%04X-%04X", id>>16, id&0xffff)
}

func fatLabel(b []byte) string {
	if s := strings.TrimRight(string(b), " \x00"); s != "NO NAME" {
		return s
	}
	return ""
}

func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}
