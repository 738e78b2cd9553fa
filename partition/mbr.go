package partition

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/teeth-metal/teeth/blockdev"
)

const (
	mbrTable   = 446
	mbrRecord  = 16
	mbrTypeGPT = 0xee
	mbrSectors = 1 << 32 // what 32-bit sector numbers reach
)

// MBRLinux is the MBR type of a Linux file system.
const MBRLinux = 0x83

// MBREntry is one primary partition of an MBR. Type 0 is an unused one.
type MBREntry struct {
	Type   byte
	Extent Extent
	Active bool
}

// MBR is the table of four primary partitions in the master boot record.
// Logical partitions inside an extended one are left alone.
type MBR struct {
	SectorSize int64
	sector     []byte
	sectors    uint64
}

// ReadMBR reads the table of a disk of size bytes. A disk without one, or with
// a GPT, gives an error that wraps ErrNoTable.
func ReadMBR(r io.ReaderAt, size, sectorSize int64) (*MBR, error) {
	if err := checkGeometry(size, sectorSize); err != nil {
		return nil, err
	}
	m := &MBR{SectorSize: sectorSize, sectors: uint64(size / sectorSize)}
	m.sector = blockdev.Buffer(int(sectorSize))
	if _, err := r.ReadAt(m.sector, 0); err != nil {
		return nil, fmt.Errorf("read master boot record: %w", err)
	}
	b := (*[512]byte)(m.sector)
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil, fmt.Errorf("%w (MBR)", ErrNoTable)
	}
	if protective(b) != nil {
		return nil, fmt.Errorf("%w: this MBR only protects a GPT", ErrNoTable)
	}
	// A FAT or NTFS boot sector has the same signature, but no such records.
	used := 0
	for i := range 4 {
		if rec := m.record(i); rec[0]&0x7f != 0 {
			return nil, fmt.Errorf("%w: a file system's boot sector, not an MBR", ErrNoTable)
		}
		if e := m.Entry(i); e.Type != 0 {
			used++
			if e.Extent.First == 0 || e.Extent.Last < e.Extent.First || e.Extent.Last >= m.sectors {
				return nil, fmt.Errorf("MBR partition %d at sectors %d to %d: the disk has %d", i+1, e.Extent.First, e.Extent.Last, m.sectors)
			}
		}
	}
	if used == 0 {
		return nil, fmt.Errorf("%w: the MBR is empty", ErrNoTable)
	}
	end := uint64(0)
	for _, u := range m.used() {
		if u.First <= end {
			return nil, fmt.Errorf("MBR partition at sectors %d to %d: overlaps another", u.First, u.Last)
		}
		end = u.Last
	}
	return m, nil
}

func (m *MBR) record(i int) []byte { return m.sector[mbrTable+i*mbrRecord:][:mbrRecord] }

// Entry returns primary partition i, 0 to 3; Linux counts from 1.
func (m *MBR) Entry(i int) MBREntry {
	rec := m.record(i)
	first, n := uint64(binary.LittleEndian.Uint32(rec[8:])), uint64(binary.LittleEndian.Uint32(rec[12:]))
	if rec[4] == 0 || n == 0 {
		return MBREntry{}
	}
	return MBREntry{Type: rec[4], Extent: Extent{first, first + n - 1}, Active: rec[0] == 0x80}
}

// Set replaces primary partition i; the zero MBREntry removes it.
func (m *MBR) Set(i int, e MBREntry) error {
	var rec [mbrRecord]byte
	if e.Type != 0 {
		if e.Extent.First == 0 || e.Extent.Last < e.Extent.First || e.Extent.Last >= min(m.sectors, mbrSectors) {
			return fmt.Errorf("%w: sectors %d to %d of an MBR, which reaches %d", ErrNoRoom, e.Extent.First, e.Extent.Last, min(m.sectors, mbrSectors))
		}
		for j := range 4 {
			o := m.Entry(j)
			if j != i && o.Type != 0 && o.Extent.First <= e.Extent.Last && e.Extent.First <= o.Extent.Last {
				return fmt.Errorf("%w: overlaps MBR partition %d", ErrNoRoom, j+1)
			}
		}
		// Cylinders, heads and sectors out of range: use the 32-bit fields.
		rec = [mbrRecord]byte{1: 0xfe, 2: 0xff, 3: 0xff, 4: e.Type, 5: 0xfe, 6: 0xff, 7: 0xff}
		if e.Active {
			rec[0] = 0x80
		}
		binary.LittleEndian.PutUint32(rec[8:], uint32(e.Extent.First))
		binary.LittleEndian.PutUint32(rec[12:], uint32(e.Extent.Sectors()))
	}
	copy(m.record(i), rec[:])
	return nil
}

func (m *MBR) used() []Extent {
	var used []Extent
	for i := range 4 {
		if e := m.Entry(i); e.Type != 0 {
			used = append(used, e.Extent)
		}
	}
	slices.SortFunc(used, func(a, b Extent) int { return cmp.Compare(a.First, b.First) })
	return used
}

// Free returns the ranges of sectors no primary or extended partition has, as
// far as an MBR reaches. The first MiB is left to boot loaders.
func (m *MBR) Free() []Extent {
	return gaps(uint64(1<<20/m.SectorSize), min(m.sectors, mbrSectors)-1, m.used())
}

// Write stores the table: one sector, so a power cut leaves the old or the new.
func (m *MBR) Write(d Disk) error {
	if _, err := d.WriteAt(m.sector, 0); err != nil {
		return fmt.Errorf("write master boot record: %w", err)
	}
	return d.Flush()
}

// protective returns the record of type EEh in m, or nil.
func protective(m *[512]byte) []byte {
	if m[510] != 0x55 || m[511] != 0xaa {
		return nil
	}
	for i := range 4 {
		if rec := m[mbrTable+i*mbrRecord:][:mbrRecord]; rec[4] == mbrTypeGPT {
			return rec
		}
	}
	return nil
}

// onlyRecord reports whether rec is the only record of m.
func onlyRecord(m *[512]byte, rec []byte) bool {
	n := 0
	for i := range 4 {
		if m[mbrTable+i*mbrRecord+4] != 0 {
			n++
		}
	}
	return n == 1 && rec[4] != 0
}
