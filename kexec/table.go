package kexec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// partitionID is what a partition table says of one partition.
type partitionID struct {
	table, uuid, kind string
}

const (
	maxEntries   = 1024
	maxEntrySize = 4096
)

// readTable returns what the disk's GPT or MBR says of its partitions, by
// number. It serves to name them; where they lie is the kernel's business.
// Sector is the logical sector size in bytes.
func readTable(r io.ReaderAt, sector int) (map[int]partitionID, error) {
	le := binary.LittleEndian
	mbr := make([]byte, 512)
	if _, err := r.ReadAt(mbr, 0); err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	head := make([]byte, 92)
	if _, err := r.ReadAt(head, int64(sector)); err == nil && string(head[:8]) == "EFI PART" {
		return readGPT(r, sector, head)
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil, nil
	}
	ids := make(map[int]partitionID)
	for i := range 4 {
		if kind := mbr[446+16*i+4]; kind != 0 {
			// The form that root=PARTUUID= takes, too.
			ids[i+1] = partitionID{"dos", fmt.Sprintf("%08x-%02x", le.Uint32(mbr[440:]), i+1), fmt.Sprintf("%02x", kind)}
		}
	}
	return ids, nil
}

// readGPT reads the entries of the table whose header is head (UEFI 2.10, 5.3).
func readGPT(r io.ReaderAt, sector int, head []byte) (map[int]partitionID, error) {
	le := binary.LittleEndian
	lba, n, size := le.Uint64(head[72:]), le.Uint32(head[80:]), le.Uint32(head[84:])
	if n > maxEntries || size < 128 || size > maxEntrySize || lba > 1<<40 {
		return nil, errors.New("GPT header with absurd numbers")
	}
	ids := make(map[int]partitionID)
	e := make([]byte, 128)
	for i := range int(n) {
		if _, err := r.ReadAt(e, int64(lba)*int64(sector)+int64(i)*int64(size)); err != nil {
			return nil, fmt.Errorf("read GPT entry %d: %w", i+1, err)
		}
		if kind := formatGUID(e); kind != "00000000-0000-0000-0000-000000000000" {
			ids[i+1] = partitionID{"gpt", formatGUID(e[16:]), kind}
		}
	}
	return ids, nil
}

// formatGUID prints a GUID whose first three fields are little-endian.
func formatGUID(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}
