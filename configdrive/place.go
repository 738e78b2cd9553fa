package configdrive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/partition"
	"github.com/teeth-metal/teeth/progress"
)

// alignment of the partition, which suits every disk.
const alignment = 1 << 20

// Options of Place.
type Options struct {
	Expect    blockdev.Identity // the disk must be this one
	Protected []string          // paths of disks never to write to
	Progress  progress.Func     // bytes written and read back
}

// Placement says where the drive is.
type Placement struct {
	Partition int   // as Linux counts, from 1
	Start     int64 // bytes from the beginning of the disk
	Length    int64 // bytes
}

// Place writes a config drive of size bytes into a partition as near to the end
// of the disk as there is room, makes it durable, reads it back and adds it to
// the partition table (GPT, or a free primary slot of an MBR), whose backup is
// moved to the disk's real end first. A config drive that is already there is
// replaced: after any number of calls there is one.
//
// Disks with sectors larger than 2048 bytes (4Kn) are refused, since the kernel
// cannot mount ISO 9660 on them. An MBR whose four primary slots are all used is
// refused too: logical partitions are not edited. Errors wrap
// partition.ErrNoTable, partition.ErrNoRoom and those of blockdev.OpenTarget.
func Place(ctx context.Context, device string, drive io.ReaderAt, size int64, opt Options) (Placement, error) {
	d, err := blockdev.OpenTarget(device, opt.Expect, opt.Protected)
	if err != nil {
		return Placement{}, fmt.Errorf("config drive: %w", err)
	}
	defer d.Close()
	p, err := place(ctx, d, drive, size, opt.Progress)
	if err != nil {
		return Placement{}, fmt.Errorf("config drive on disk %s: %w", device, err)
	}
	if err := d.RereadPartitions(); err != nil {
		return Placement{}, fmt.Errorf("config drive: %w", err)
	}
	return p, nil
}

func place(ctx context.Context, d *blockdev.Device, drive io.ReaderAt, size int64, report progress.Func) (Placement, error) {
	if size <= 0 || size > MaxSize {
		return Placement{}, fmt.Errorf("its size is %d bytes, the limit is %d", size, MaxSize)
	}
	sector := int64(d.Info.LogicalBlock)
	if sector > sectorSize {
		return Placement{}, fmt.Errorf("sectors of %d bytes: ISO 9660 can only be mounted with up to %d", sector, sectorSize)
	}
	t, err := readTable(d, sector)
	if err != nil {
		return Placement{}, err
	}
	plan, err := t.plan(uint64((size + sector - 1) / sector))
	if err != nil {
		return Placement{}, err
	}
	start, length := int64(plan.at.First)*sector, int64(plan.at.Sectors())*sector
	// The data before the table that shows it.
	if err := write(ctx, d, drive, size, start, length, report); err != nil {
		return Placement{}, err
	}
	if err := t.write(d); err != nil {
		return Placement{}, err
	}
	// What a former drive told must not turn up in a partition made later.
	for _, old := range plan.old {
		if err := wipe(ctx, d, old, plan.at, sector); err != nil {
			return Placement{}, err
		}
	}
	return Placement{Partition: plan.slot + 1, Start: start, Length: length}, d.Flush()
}

// table is what Place needs of either kind of partition table.
type table interface {
	plan(sectors uint64) (planned, error)
	write(d partition.Disk) error
}

// planned is where the drive goes; the table already shows it so in memory.
type planned struct {
	slot int
	at   partition.Extent
	old  []partition.Extent // former config drives, no longer in the table
}

func readTable(d *blockdev.Device, sector int64) (table, error) {
	g, err := partition.ReadGPT(d, d.Info.Size, sector)
	if err == nil {
		return &gptTable{g, d}, nil
	}
	if !errors.Is(err, partition.ErrNoTable) {
		return nil, err
	}
	m, merr := partition.ReadMBR(d, d.Info.Size, sector)
	if errors.Is(merr, partition.ErrNoTable) {
		return nil, fmt.Errorf("%w, %w: write an image with one first", err, merr)
	}
	if merr != nil {
		return nil, merr
	}
	return &mbrTable{m, d}, nil
}

type gptTable struct {
	*partition.GPT
	d *blockdev.Device
}

func (t *gptTable) write(d partition.Disk) error { return t.Write(d) }

func (t *gptTable) plan(sectors uint64) (planned, error) {
	if err := t.Fit(t.d.Info.Size); err != nil {
		return planned{}, err
	}
	p := planned{slot: -1}
	for slot := range t.Slots() {
		e, ok := t.Entry(slot)
		if !ok {
			continue
		}
		iso, err := isConfigDrive(t.d, e.Extent, t.SectorSize)
		if err != nil {
			return p, err
		}
		switch {
		case e.Name != Label && !iso:
		case e.Name == Label && p.slot < 0 && e.Type == partition.LinuxFilesystem && fits(e.Extent, sectors, t.SectorSize):
			p.slot, p.at = slot, e.Extent
		default:
			p.old = append(p.old, e.Extent)
			t.Remove(slot)
		}
	}
	if p.slot >= 0 {
		return p, nil
	}
	at, err := last(t.Free(), sectors, t.SectorSize)
	if err != nil {
		return p, err
	}
	p.at = at
	p.slot, err = t.Add(partition.Entry{
		Type: partition.LinuxFilesystem, GUID: partition.NewGUID(), Extent: at, Name: Label,
	})
	return p, err
}

type mbrTable struct {
	*partition.MBR
	d *blockdev.Device
}

func (t *mbrTable) write(d partition.Disk) error { return t.Write(d) }

func (t *mbrTable) plan(sectors uint64) (planned, error) {
	p, free := planned{slot: -1}, -1
	for slot := range 4 {
		e := t.Entry(slot)
		if e.Type == 0 {
			continue
		}
		iso, err := isConfigDrive(t.d, e.Extent, t.SectorSize)
		if err != nil {
			return p, err
		}
		switch {
		case !iso || e.Type != partition.MBRLinux:
		case p.slot < 0 && fits(e.Extent, sectors, t.SectorSize):
			p.slot, p.at = slot, e.Extent
		default:
			p.old = append(p.old, e.Extent)
			if err := t.Set(slot, partition.MBREntry{}); err != nil {
				return p, err
			}
		}
	}
	if p.slot >= 0 {
		return p, nil
	}
	for slot := range 4 {
		if t.Entry(slot).Type == 0 {
			free = slot
			break
		}
	}
	if free < 0 {
		return p, fmt.Errorf("%w: all four primary partitions of the MBR are used; use an image with a GPT", partition.ErrNoRoom)
	}
	at, err := last(t.Free(), sectors, t.SectorSize)
	if err != nil {
		return p, err
	}
	p.slot, p.at = free, at
	return p, t.Set(free, partition.MBREntry{Type: partition.MBRLinux, Extent: at})
}

// fits reports whether a former drive's place can be used again. One that no
// drive of ours fills is given up, as all of it would be written.
func fits(e partition.Extent, sectors uint64, sectorSize int64) bool {
	return e.Sectors() >= sectors && e.Sectors() <= uint64((MaxSize+alignment)/sectorSize)
}

// last finds the aligned place nearest to the end of the free ranges.
func last(free []partition.Extent, sectors uint64, sectorSize int64) (partition.Extent, error) {
	align := uint64(alignment / sectorSize)
	var most uint64
	for _, f := range slices.Backward(free) {
		most = max(most, f.Sectors())
		if f.Sectors() < sectors {
			continue
		}
		first := (f.Last + 1 - sectors) / align * align
		if first < f.First {
			continue
		}
		end := (first + sectors + align - 1) / align * align
		return partition.Extent{First: first, Last: min(end-1, f.Last)}, nil
	}
	return partition.Extent{}, fmt.Errorf("%w: %d bytes are needed, the largest free space is %d bytes (starts are aligned to %d)",
		partition.ErrNoRoom, int64(sectors)*sectorSize, int64(most)*sectorSize, alignment)
}

// isConfigDrive reports whether an ISO 9660 file system with our label lies in e.
func isConfigDrive(d *blockdev.Device, e partition.Extent, sector int64) (bool, error) {
	const at = firstDescriptor * sectorSize
	if int64(e.Sectors()) < (at+sectorSize)/sector {
		return false, nil
	}
	b := blockdev.Buffer(blockdev.Alignment)
	if _, err := d.ReadAt(b[:sectorSize], int64(e.First)*sector+at); err != nil {
		return false, fmt.Errorf("look for a config drive: %w", err)
	}
	return string(b[:6]) == "\x01CD001" && strings.EqualFold(string(bytes.TrimRight(b[40:72], " \x00")), Label), nil
}

// write copies the drive to start, fills the rest of its partition with zeros,
// and compares what the disk then holds.
func write(ctx context.Context, d *blockdev.Device, drive io.ReaderAt, size, start, length int64, report progress.Func) error {
	buf, back := blockdev.Buffer(1<<20), blockdev.Buffer(1<<20)
	for pass := range int64(2) {
		for off := int64(0); off < length; {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(int64(len(buf)), length-off)]
			clear(b)
			if off < size {
				want := b[:min(int64(len(b)), size-off)]
				if n, err := drive.ReadAt(want, off); n < len(want) {
					return fmt.Errorf("read the drive at %d: %w", off, err)
				}
			}
			if pass == 0 {
				if _, err := d.WriteAt(b, start+off); err != nil {
					return fmt.Errorf("write at %d: %w", start+off, err)
				}
			} else {
				if _, err := d.ReadAt(back[:len(b)], start+off); err != nil {
					return fmt.Errorf("read back at %d: %w", start+off, err)
				}
				if !bytes.Equal(back[:len(b)], b) {
					return fmt.Errorf("the disk does not hold what was written at %d", start+off)
				}
			}
			off += int64(len(b))
			report.Report(pass*length+off, 2*length)
		}
		if pass == 0 {
			if err := d.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// wipe zeroes the part of a former drive outside of the new one, at most as
// much as a drive may hold.
func wipe(ctx context.Context, d *blockdev.Device, old, now partition.Extent, sector int64) error {
	old.Last = min(old.Last, old.First+uint64(MaxSize/sector)-1)
	zero := blockdev.Buffer(1 << 20)
	step := uint64(int64(len(zero)) / sector)
	for at := old.First; at <= old.Last; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if at >= now.First && at <= now.Last {
			at = now.Last + 1
			continue
		}
		end := min(at+step-1, old.Last)
		if at < now.First && end >= now.First {
			end = now.First - 1
		}
		if _, err := d.WriteAt(zero[:int64(end-at+1)*sector], int64(at)*sector); err != nil {
			return fmt.Errorf("wipe the former drive at %d: %w", int64(at)*sector, err)
		}
		at = end + 1
	}
	return nil
}
