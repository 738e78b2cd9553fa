package partition

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf16"

	"github.com/teeth-metal/teeth/blockdev"
)

const (
	gptSignature  = "EFI PART"
	gptRevision   = 0x00010000
	gptHeaderSize = 92
	gptEntrySize  = 128
	// maxEntryTable bounds what a header makes us allocate; the usual table is 16 KiB.
	maxEntryTable = 1 << 20
	nameUnits     = 36 // UTF-16 code units of a name
)

// Entry is one partition of a GPT.
type Entry struct {
	Type       GUID
	GUID       GUID
	Extent     Extent
	Attributes uint64
	Name       string // at most 36 UTF-16 code units
}

// GPT is a GUID partition table, UEFI 2.10 section 5.3.
type GPT struct {
	DiskGUID   GUID
	SectorSize int64     // bytes
	Usable     Extent    // where partitions may lie
	FromBackup bool      // the primary table was damaged; Write repairs it
	entries    []byte    // the whole array, kept as found but for edited slots
	entrySize  int       // bytes of a slot
	sectors    uint64    // of the disk
	mbr        [512]byte // boot code and the protective record
}

// ReadGPT reads the table of a disk of size bytes with logical sectors of
// sectorSize bytes: the primary one, or the backup at the end of the disk when
// the primary is damaged. Without a table the error wraps ErrNoTable.
func ReadGPT(r io.ReaderAt, size, sectorSize int64) (*GPT, error) {
	if err := checkGeometry(size, sectorSize); err != nil {
		return nil, err
	}
	sectors := uint64(size / sectorSize)
	buf := blockdev.Buffer(int(sectorSize))
	if _, err := r.ReadAt(buf, 0); err != nil {
		return nil, fmt.Errorf("read master boot record: %w", err)
	}
	var mbr [512]byte
	copy(mbr[:], buf)
	t, primary := readTable(r, 1, sectors, sectorSize)
	if primary != nil {
		var err error
		if t, err = readTable(r, sectors-1, sectors, sectorSize); err != nil {
			if errors.Is(primary, ErrNoTable) && errors.Is(err, ErrNoTable) {
				return nil, otherSectorSize(r, size, sectorSize)
			}
			return nil, fmt.Errorf("partition table (GPT): %w; backup: %w", primary, err)
		}
		t.FromBackup = true
	}
	t.mbr = mbr
	return t, nil
}

// otherSectorSize tells a disk without a table from one whose table was made
// for sectors of another size, which the firmware and the kernel cannot read.
func otherSectorSize(r io.ReaderAt, size, sectorSize int64) error {
	b := blockdev.Buffer(2 * blockdev.Alignment)
	if int64(len(b)) > size {
		return fmt.Errorf("%w (GPT)", ErrNoTable)
	}
	if _, err := r.ReadAt(b, 0); err != nil {
		return fmt.Errorf("read partition table: %w", err)
	}
	for _, s := range []int64{512, 4096} {
		if s != sectorSize && string(b[s:s+8]) == gptSignature {
			return fmt.Errorf("%w: the GPT was made for sectors of %d bytes, this disk has %d", ErrNoTable, s, sectorSize)
		}
	}
	return fmt.Errorf("%w (GPT)", ErrNoTable)
}

func checkGeometry(size, sectorSize int64) error {
	if sectorSize < 512 || sectorSize > 1<<16 || sectorSize&(sectorSize-1) != 0 {
		return fmt.Errorf("sector size of %d bytes: want a power of two from 512", sectorSize)
	}
	if size/sectorSize < 8 {
		return fmt.Errorf("%w: a disk of %d bytes is too small for one", ErrNoTable, size)
	}
	return nil
}

// readTable reads the header at lba and its entries, and checks both.
func readTable(r io.ReaderAt, lba, sectors uint64, sectorSize int64) (*GPT, error) {
	h := blockdev.Buffer(int(sectorSize))
	if _, err := r.ReadAt(h, int64(lba)*sectorSize); err != nil {
		return nil, fmt.Errorf("read header at sector %d: %w", lba, err)
	}
	if string(h[:8]) != gptSignature {
		return nil, fmt.Errorf("%w at sector %d", ErrNoTable, lba)
	}
	le := binary.LittleEndian
	n := le.Uint32(h[12:])
	if n < gptHeaderSize || int64(n) > sectorSize {
		return nil, fmt.Errorf("header at sector %d: length is %d bytes", lba, n)
	}
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	if crc32.ChecksumIEEE(h[:n]) != sum {
		return nil, fmt.Errorf("header at sector %d: wrong checksum", lba)
	}
	if my := le.Uint64(h[24:]); my != lba {
		return nil, fmt.Errorf("header at sector %d: says it is at sector %d", lba, my)
	}
	t := &GPT{SectorSize: sectorSize, sectors: sectors}
	t.Usable = Extent{le.Uint64(h[40:]), le.Uint64(h[48:])}
	copy(t.DiskGUID[:], h[56:])
	at, count, each := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if each < gptEntrySize || each > 4096 || each&(each-1) != 0 || count == 0 || uint64(count)*uint64(each) > maxEntryTable {
		return nil, fmt.Errorf("header at sector %d: %d entries of %d bytes", lba, count, each)
	}
	t.entrySize = int(each)
	length := int64(count) * int64(each)
	span := uint64((length + sectorSize - 1) / sectorSize)
	if at < 2 || at >= sectors || span > sectors-at {
		return nil, fmt.Errorf("header at sector %d: entries at sector %d lie outside of the disk", lba, at)
	}
	if t.Usable.First > t.Usable.Last || t.Usable.First < 2 || t.Usable.Last >= sectors ||
		at <= t.Usable.Last && at+span > t.Usable.First {
		return nil, fmt.Errorf("header at sector %d: usable sectors %d to %d, of %d", lba, t.Usable.First, t.Usable.Last, sectors)
	}
	raw := blockdev.Buffer(int(span) * int(sectorSize))
	if _, err := r.ReadAt(raw, int64(at)*sectorSize); err != nil {
		return nil, fmt.Errorf("read entries at sector %d: %w", at, err)
	}
	t.entries = raw[:length]
	if crc32.ChecksumIEEE(t.entries) != le.Uint32(h[88:]) {
		return nil, fmt.Errorf("entries at sector %d: wrong checksum", at)
	}
	return t, t.check()
}

// check refuses partitions outside of the usable sectors or on top of each other.
func (t *GPT) check() error {
	var end uint64
	for _, u := range t.used() {
		if u.First > u.Last || u.First < t.Usable.First || u.Last > t.Usable.Last {
			return fmt.Errorf("partition at sectors %d to %d: usable are %d to %d", u.First, u.Last, t.Usable.First, t.Usable.Last)
		}
		if u.First <= end {
			return fmt.Errorf("partition at sectors %d to %d: overlaps another", u.First, u.Last)
		}
		end = u.Last
	}
	return nil
}

func (t *GPT) used() []Extent {
	var used []Extent
	for i := range t.Slots() {
		if e, ok := t.Entry(i); ok {
			used = append(used, e.Extent)
		}
	}
	slices.SortFunc(used, func(a, b Extent) int { return cmp.Compare(a.First, b.First) })
	return used
}

// NewGPT makes an empty table for a disk of size bytes.
func NewGPT(size, sectorSize int64) (*GPT, error) {
	if err := checkGeometry(size, sectorSize); err != nil {
		return nil, err
	}
	t := &GPT{
		DiskGUID: NewGUID(), SectorSize: sectorSize,
		entries: make([]byte, 128*gptEntrySize), entrySize: gptEntrySize,
	}
	t.Usable.First = 2 + t.span()
	copy(t.mbr[:], notBootable)
	return t, t.Fit(size)
}

// notBootable is boot code for a disk that has none. A BIOS takes the protective
// MBR for a boot sector by its signature, and would run into 440 zero bytes and
// hang; this tells it to go on to the next disk: int 18h, and then hlt for ever
// for a BIOS that comes back.
var notBootable = []byte{0xcd, 0x18, 0xf4, 0xeb, 0xfd}

// span is how many sectors the entries take.
func (t *GPT) span() uint64 {
	return uint64((int64(len(t.entries)) + t.SectorSize - 1) / t.SectorSize)
}

// Fit makes the table one for a disk of size bytes: Write will put the backup at
// its end. An image written to a larger disk needs it. It fails when a
// partition would lie where the backup goes.
func (t *GPT) Fit(size int64) error {
	sectors := uint64(size / t.SectorSize)
	if sectors < t.Usable.First+t.span()+2 {
		return fmt.Errorf("%w: a disk of %d bytes is too small for a GPT", ErrNoRoom, size)
	}
	// The primary's entries always go to sector 2.
	t.Usable.First = max(t.Usable.First, 2+t.span())
	t.Usable.Last = sectors - 2 - t.span()
	t.sectors = sectors
	return t.check()
}

// Slots returns how many partitions the table has room for.
func (t *GPT) Slots() int { return len(t.entries) / t.entrySize }

// Entry returns the partition in a slot, counted from 0; Linux counts from 1.
// ok is false when the slot is unused.
func (t *GPT) Entry(slot int) (e Entry, ok bool) {
	b := t.entries[slot*t.entrySize:][:t.entrySize]
	copy(e.Type[:], b)
	if e.Type.IsZero() {
		return Entry{}, false
	}
	le := binary.LittleEndian
	copy(e.GUID[:], b[16:])
	e.Extent = Extent{le.Uint64(b[32:]), le.Uint64(b[40:])}
	e.Attributes = le.Uint64(b[48:])
	units := make([]uint16, 0, nameUnits)
	for i := range nameUnits {
		u := le.Uint16(b[56+2*i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	e.Name = string(utf16.Decode(units))
	return e, true
}

// Add puts e into the first unused slot and returns it. It fails when e touches
// another partition or lies outside of the usable sectors.
func (t *GPT) Add(e Entry) (slot int, err error) {
	name := utf16.Encode([]rune(e.Name))
	if len(name) > nameUnits {
		return 0, fmt.Errorf("partition name %q: longer than %d characters", e.Name, nameUnits)
	}
	if e.Type.IsZero() {
		return 0, errors.New("partition without a type")
	}
	for slot = range t.Slots() {
		if _, used := t.Entry(slot); used {
			continue
		}
		b := t.entries[slot*t.entrySize:][:t.entrySize]
		clear(b)
		le := binary.LittleEndian
		copy(b, e.Type[:])
		copy(b[16:], e.GUID[:])
		le.PutUint64(b[32:], e.Extent.First)
		le.PutUint64(b[40:], e.Extent.Last)
		le.PutUint64(b[48:], e.Attributes)
		for i, u := range name {
			le.PutUint16(b[56+2*i:], u)
		}
		if err := t.check(); err != nil {
			clear(b)
			return 0, err
		}
		return slot, nil
	}
	return 0, fmt.Errorf("%w: all %d entries of the GPT are used", ErrNoRoom, t.Slots())
}

// Remove empties a slot.
func (t *GPT) Remove(slot int) { clear(t.entries[slot*t.entrySize:][:t.entrySize]) }

// Free returns the unused ranges of sectors in their order on the disk.
func (t *GPT) Free() []Extent { return gaps(t.Usable.First, t.Usable.Last, t.used()) }

// Write stores the table: the backup first, made durable, then the primary, so
// that one of the two is always whole; the protective record last.
func (t *GPT) Write(d Disk) error {
	last := t.sectors - 1
	if t.Usable.First < 2+t.span() || t.Usable.Last >= last-t.span() {
		return fmt.Errorf("usable sectors %d to %d leave no room for both tables: call Fit first", t.Usable.First, t.Usable.Last)
	}
	for _, c := range []struct {
		what                string
		lba, other, entries uint64
	}{
		{"backup", last, 1, last - t.span()},
		{"primary", 1, last, 2},
	} {
		if err := t.writeAt(d, t.entries, c.entries); err != nil {
			return fmt.Errorf("write entries of %s GPT: %w", c.what, err)
		}
		if err := t.writeAt(d, t.header(c.lba, c.other, c.entries), c.lba); err != nil {
			return fmt.Errorf("write %s GPT: %w", c.what, err)
		}
		if err := d.Flush(); err != nil {
			return err
		}
	}
	if err := t.writeProtective(d); err != nil {
		return err
	}
	t.FromBackup = false
	return nil
}

// writeAt writes whole sectors through an aligned buffer, as direct I/O needs.
func (t *GPT) writeAt(d Disk, b []byte, lba uint64) error {
	n := (int64(len(b)) + t.SectorSize - 1) / t.SectorSize * t.SectorSize
	buf := blockdev.Buffer(int(n))
	copy(buf, b)
	_, err := d.WriteAt(buf, int64(lba)*t.SectorSize)
	return err
}

func (t *GPT) header(my, other, entries uint64) []byte {
	h := make([]byte, gptHeaderSize)
	le := binary.LittleEndian
	copy(h, gptSignature)
	le.PutUint32(h[8:], gptRevision)
	le.PutUint32(h[12:], gptHeaderSize)
	le.PutUint64(h[24:], my)
	le.PutUint64(h[32:], other)
	le.PutUint64(h[40:], t.Usable.First)
	le.PutUint64(h[48:], t.Usable.Last)
	copy(h[56:], t.DiskGUID[:])
	le.PutUint64(h[72:], entries)
	le.PutUint32(h[80:], uint32(t.Slots()))
	le.PutUint32(h[84:], uint32(t.entrySize))
	le.PutUint32(h[88:], crc32.ChecksumIEEE(t.entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	return h
}

// writeProtective writes the protective MBR, or makes the size in an existing
// one right. Boot code and the other records of a hybrid MBR stay.
func (t *GPT) writeProtective(d Disk) error {
	m := t.mbr
	le := binary.LittleEndian
	rec := protective(&m)
	if rec == nil {
		clear(m[mbrTable:])
		rec = m[mbrTable : mbrTable+mbrRecord]
		copy(rec, []byte{0, 0x00, 0x02, 0x00, mbrTypeGPT, 0xff, 0xff, 0xff})
		m[510], m[511] = 0x55, 0xaa
	}
	// A hybrid's record may cover the GPT's own sectors only; leave that one.
	if start, n := le.Uint32(rec[8:]), le.Uint32(rec[12:]); start <= 1 && (n == 0 || onlyRecord(&m, rec)) {
		le.PutUint32(rec[8:], 1)
		le.PutUint32(rec[12:], uint32(min(t.sectors-1, 0xffffffff)))
	}
	if bytes.Equal(m[:], t.mbr[:]) {
		return nil
	}
	sector := blockdev.Buffer(int(t.SectorSize))
	if _, err := d.ReadAt(sector, 0); err != nil {
		return fmt.Errorf("read protective MBR: %w", err)
	}
	copy(sector, m[:])
	if _, err := d.WriteAt(sector, 0); err != nil {
		return fmt.Errorf("write protective MBR: %w", err)
	}
	t.mbr = m
	return d.Flush()
}
