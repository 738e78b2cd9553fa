package imagecache

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/partition"
)

// Types of the partitions of a cache disk, made for Teeth. The first partition
// marks the disk as ours and holds nothing; every other one holds an image,
// whose id is the partition's GUID.
var (
	MarkerType = partition.MustGUID("3b0c5a3e-6f0d-4b8f-9d0e-7ee7ca0c4e00")
	ImageType  = partition.MustGUID("3b0c5a3e-6f0d-4b8f-9d0e-7ee7ca0c4e01")
)

// cacheAlign is what partitions are aligned to.
const cacheAlign = 1 << 20

// Disk is a Store that has a whole disk, or a plain file of fixed size, to
// itself: a GPT with one partition per image, which outlives power cuts.
type Disk struct {
	d     *blockdev.Device
	read  *os.File // buffered: direct reads would have to be aligned
	table *partition.GPT
	mu    sync.Mutex
}

// OpenDisk uses the disk at path. It takes a disk that is a cache already or a
// blank one, whose first and last MiB are zero, and refuses any other, so that
// it never destroys data. The disk stays open exclusively until Close.
func OpenDisk(path string, expect blockdev.Identity, protected []string) (*Disk, error) {
	return openDisk(path, expect, protected, true)
}

// ReopenDisk is OpenDisk for reading what was cached: it leaves a blank disk
// blank, with an error that wraps ErrNotCached.
func ReopenDisk(path string, expect blockdev.Identity, protected []string) (*Disk, error) {
	return openDisk(path, expect, protected, false)
}

func openDisk(path string, expect blockdev.Identity, protected []string, format bool) (*Disk, error) {
	d, err := blockdev.OpenTarget(path, expect, protected)
	if err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	s := &Disk{d: d}
	if err := s.open(path, format); err != nil {
		d.Close()
		return nil, fmt.Errorf("image cache on disk %s: %w", path, err)
	}
	return s, nil
}

func (s *Disk) open(path string, format bool) error {
	size, sector := s.d.Info.Size, int64(s.d.Info.LogicalBlock)
	table, err := partition.ReadGPT(s.d, size, sector)
	switch {
	case errors.Is(err, partition.ErrNoTable) && !format:
		return fmt.Errorf("%w: it has no partition table", ErrNotCached)
	case errors.Is(err, partition.ErrNoTable):
		if table, err = s.format(size, sector); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		if err := isCache(table); err != nil {
			return err
		}
	}
	s.table = table
	s.read, err = os.Open(path)
	return err
}

func isCache(t *partition.GPT) error {
	marked := false
	for slot := range t.Slots() {
		e, used := t.Entry(slot)
		switch {
		case !used, e.Type == ImageType:
		case e.Type == MarkerType:
			marked = true
		default:
			return fmt.Errorf("it holds partition %d (%s): erase the disk first to use it as a cache", slot+1, e.Name)
		}
	}
	if !marked {
		return errors.New("it has a partition table that is not a cache's: erase the disk first to use it as one")
	}
	return nil
}

func (s *Disk) format(size, sector int64) (*partition.GPT, error) {
	if size < 8*cacheAlign {
		return nil, fmt.Errorf("%w: a disk of %d bytes", ErrNoRoom, size)
	}
	buf := blockdev.Buffer(cacheAlign)
	last := (size - cacheAlign) / blockdev.Alignment * blockdev.Alignment
	for _, off := range []int64{0, last} {
		b := buf[:min(cacheAlign, size-off)]
		if _, err := s.d.ReadAt(b, off); err != nil {
			return nil, fmt.Errorf("read at %d: %w", off, err)
		}
		if !isZero(b) {
			return nil, errors.New("it is neither blank nor a cache: erase the disk first to use it as one")
		}
	}
	t, err := partition.NewGPT(size, sector)
	if err != nil {
		return nil, err
	}
	first := uint64(cacheAlign / sector)
	if _, err := t.Add(partition.Entry{
		Type: MarkerType, GUID: partition.NewGUID(), Name: "teeth image cache",
		Extent: partition.Extent{First: first, Last: 2*first - 1},
	}); err != nil {
		return nil, err
	}
	return t, t.Write(s.d)
}

// Close releases the disk.
func (s *Disk) Close() error { return errors.Join(s.read.Close(), s.d.Close()) }

// Entries implements Store. A partition without a valid header is an entry of
// which nothing is done.
func (s *Disk) Entries() ([]Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Entry
	for slot := range s.table.Slots() {
		p, ok := s.table.Entry(slot)
		if !ok || p.Type != ImageType {
			continue
		}
		e, _, err := s.header(p)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// offset returns where partition p begins, in bytes.
func (s *Disk) offset(p partition.Entry) int64 { return int64(p.Extent.First) * s.table.SectorSize }

// room returns how large a file partition p can hold.
func (s *Disk) room(p partition.Entry) int64 {
	return int64(p.Extent.Sectors())*s.table.SectorSize - headerSize
}

// header reads the newer valid header of p.
func (s *Disk) header(p partition.Entry) (Entry, uint64, error) {
	e := Entry{Image: Image{ID: p.GUID.String(), Size: max(s.room(p), 0)}}
	if s.room(p) <= 0 {
		return e, 0, nil
	}
	b := blockdev.Buffer(headerSize)
	if _, err := s.d.ReadAt(b, s.offset(p)); err != nil {
		return e, 0, fmt.Errorf("image cache: read header of %s: %w", p.GUID, err)
	}
	var newest uint64
	for _, h := range [][]byte{b[:headerCopy], b[headerCopy:]} {
		got, seq, err := decodeHeader(h)
		if err == nil && got.Image.ID == p.GUID.String() && got.Image.Size <= s.room(p) && seq > newest {
			e, newest = got, seq
		}
	}
	return e, newest, nil
}

// Create implements Store. Partitions are placed first fit.
func (s *Disk) Create(img Image, size int64, evictable []string) (Slot, []string, error) {
	if err := img.Validate(); err != nil {
		return nil, nil, err
	}
	guid, err := partition.ParseGUID(img.ID)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at, evict, err := s.makeRoom(guid, size, evictable)
	if err != nil {
		return nil, nil, err
	}
	// The table first forgets what lay there, then the header says "nothing
	// yet", then the table shows it: after a power cut no old header speaks for
	// new bytes.
	if s.removeAll(append(evict, guid.String())) {
		if err := s.table.Write(s.d); err != nil {
			return nil, evict, fmt.Errorf("image cache: %w", err)
		}
	}
	slot := &diskSlot{disk: s, start: int64(at.First) * s.table.SectorSize, rec: newRecord(img, size), seq: 1}
	if err := slot.clear(); err != nil {
		return nil, evict, err
	}
	if _, err := s.table.Add(partition.Entry{Type: ImageType, GUID: guid, Extent: at, Name: "image"}); err != nil {
		return nil, evict, fmt.Errorf("image cache: %w", err)
	}
	if err := s.table.Write(s.d); err != nil {
		return nil, evict, fmt.Errorf("image cache: %w", err)
	}
	return slot, evict, nil
}

// makeRoom finds the first place for a file of size bytes and which entries
// have to go for it. It changes nothing.
func (s *Disk) makeRoom(guid partition.GUID, size int64, evictable []string) (partition.Extent, []string, error) {
	sector := s.table.SectorSize
	need := uint64((headerSize + size + cacheAlign - 1) / cacheAlign * cacheAlign / sector)
	align := uint64(cacheAlign / sector)
	free := s.table.Free()
	extents := map[string]partition.Extent{}
	for slot := range s.table.Slots() {
		p, ok := s.table.Entry(slot)
		switch {
		case !ok || p.Type != ImageType:
		case p.GUID == guid: // will be replaced
			free = append(free, p.Extent)
		default:
			extents[p.GUID.String()] = p.Extent
		}
	}
	var evict []string
	for {
		free = join(free)
		for _, f := range free {
			first := (f.First + align - 1) / align * align
			if first <= f.Last && f.Last-first+1 >= need {
				return partition.Extent{First: first, Last: first + need - 1}, evict, nil
			}
		}
		for len(evictable) > 0 {
			if _, ok := extents[evictable[0]]; ok {
				break
			}
			evictable = evictable[1:]
		}
		if len(evictable) == 0 {
			var most uint64
			for _, f := range free {
				most = max(most, f.Sectors())
			}
			return partition.Extent{}, nil, fmt.Errorf("%w: %d bytes are needed, the largest free space is %d bytes", ErrNoRoom, size, int64(most)*sector)
		}
		id := evictable[0]
		evict = append(evict, id)
		free = append(free, extents[id])
		delete(extents, id)
	}
}

// join sorts extents and merges neighbours.
func join(e []partition.Extent) []partition.Extent {
	slices.SortFunc(e, func(a, b partition.Extent) int { return cmp.Compare(a.First, b.First) })
	var out []partition.Extent
	for _, x := range e {
		if n := len(out); n > 0 && out[n-1].Last+1 == x.First {
			out[n-1].Last = x.Last
		} else {
			out = append(out, x)
		}
	}
	return out
}

// removeAll drops ids from the table in memory and reports whether it changed.
func (s *Disk) removeAll(ids []string) bool {
	changed := false
	for slot := range s.table.Slots() {
		if p, ok := s.table.Entry(slot); ok && p.Type == ImageType && slices.Contains(ids, p.GUID.String()) {
			s.table.Remove(slot)
			changed = true
		}
	}
	return changed
}

// Open implements Store.
func (s *Disk) Open(id string) (Slot, Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id = strings.ToLower(id)
	for slot := range s.table.Slots() {
		p, ok := s.table.Entry(slot)
		if !ok || p.Type != ImageType || p.GUID.String() != id {
			continue
		}
		e, seq, err := s.header(p)
		if err != nil {
			return nil, Entry{}, err
		}
		if seq == 0 {
			break
		}
		return &diskSlot{disk: s, start: s.offset(p), rec: newRecord(e.Image, e.Image.Size), seq: seq}, e, nil
	}
	return nil, Entry{}, fmt.Errorf("image %.64s: %w", id, ErrNotCached)
}

// Remove implements Store.
func (s *Disk) Remove(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.removeAll([]string{strings.ToLower(id)}) {
		return nil
	}
	if err := s.table.Write(s.d); err != nil {
		return fmt.Errorf("image cache: %w", err)
	}
	return nil
}

type diskSlot struct {
	disk  *Disk
	start int64 // of the partition
	rec   record
	seq   uint64
}

// clear writes the first header and makes the other copy invalid.
func (s *diskSlot) clear() error {
	b := blockdev.Buffer(headerSize)
	h, err := encodeHeader(s.rec, s.seq)
	if err != nil {
		return err
	}
	copy(b[s.seq%2*headerCopy:], h)
	if _, err := s.disk.d.WriteAt(b, s.start); err != nil {
		return fmt.Errorf("image cache: write header: %w", err)
	}
	return s.disk.d.Flush()
}

// Commit implements Slot.
func (s *diskSlot) Commit(done int64, complete bool) error {
	if err := s.disk.d.Flush(); err != nil {
		return fmt.Errorf("image cache: %w", err)
	}
	s.rec.Done, s.rec.Complete = done, complete
	h, err := encodeHeader(s.rec, s.seq+1)
	if err != nil {
		return err
	}
	b := blockdev.Buffer(headerSize)
	if _, err := s.disk.d.ReadAt(b, s.start); err != nil {
		return fmt.Errorf("image cache: read header: %w", err)
	}
	s.seq++
	copy(b[s.seq%2*headerCopy:][:headerCopy], h)
	if _, err := s.disk.d.WriteAt(b, s.start); err != nil {
		return fmt.Errorf("image cache: write header: %w", err)
	}
	return s.disk.d.Flush()
}

// ReadAt implements io.ReaderAt.
func (s *diskSlot) ReadAt(b []byte, off int64) (int, error) {
	return s.disk.read.ReadAt(b, s.start+headerSize+off)
}

// WriteAt implements io.WriterAt. The last write is filled up with zeros.
func (s *diskSlot) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off%blockdev.Alignment != 0 || off+int64(len(b)) > s.rec.Size {
		return 0, fmt.Errorf("image cache: write of %d bytes at %d of %d", len(b), off, s.rec.Size)
	}
	full := b
	if rest := len(b) % blockdev.Alignment; rest > 0 {
		full = blockdev.Buffer(len(b) + blockdev.Alignment - rest)
		copy(full, b)
	}
	if _, err := s.disk.d.WriteAt(full, s.start+headerSize+off); err != nil {
		return 0, fmt.Errorf("image cache: %w", err)
	}
	return len(b), nil
}

// Close implements Slot. The disk stays open.
func (s *diskSlot) Close() error { return nil }
