package imagecache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/teeth-metal/teeth/partition"
)

// Store is where a Cache keeps files. Dir and Disk are stores.
type Store interface {
	// Entries returns what the store holds, complete or not.
	Entries() ([]Entry, error)
	// Create makes an empty slot of size bytes for img. When there is no room it
	// removes entries of the ids in evictable, from the first on, but only if
	// that helps; it returns the removed ones. The error wraps ErrNoRoom when
	// not even removing all of them would make room.
	Create(img Image, size int64, evictable []string) (s Slot, evicted []string, err error)
	// Open returns the slot of an id; the error wraps ErrNotCached.
	Open(id string) (Slot, Entry, error)
	// Remove forgets an id; one that is not there is no error.
	Remove(id string) error
}

// Slot is the place of one file in a Store. Writes go from the beginning to the
// end, at multiples of 4096 bytes.
type Slot interface {
	io.ReaderAt
	io.WriterAt
	// Commit makes the first done bytes durable and then the knowledge of them.
	Commit(done int64, complete bool) error
	Close() error
}

// Entry describes a file in a Store. Image has no URLs.
type Entry struct {
	Image    Image // Size is always set
	Done     int64 // durable bytes
	Complete bool  // all bytes are there, and the digest matched when they came
}

// record is how an Entry is kept.
type record struct {
	ID       string            `json:"id"`
	Name     string            `json:"name,omitempty"`
	Hashes   map[string]string `json:"hashes"`
	Format   Format            `json:"format"`
	Size     int64             `json:"size"`
	Done     int64             `json:"done"`
	Complete bool              `json:"complete,omitempty"`
}

func newRecord(img Image, size int64) record {
	return record{ID: img.key(), Name: img.Name, Hashes: img.digester().want, Format: img.Format, Size: size}
}

// entry checks a record that was read from a store.
func (r record) entry() (Entry, error) {
	img := Image{ID: r.ID, Name: r.Name, Hashes: r.Hashes, Format: r.Format, Size: r.Size}
	if err := img.Validate(); err != nil {
		return Entry{}, err
	}
	if img.key() != r.ID || r.Size <= 0 || r.Done < 0 || r.Done > r.Size || r.Complete && r.Done != r.Size {
		return Entry{}, fmt.Errorf("image %s: bad record in the cache: %d of %d bytes", r.ID, r.Done, r.Size)
	}
	return Entry{Image: img, Done: r.Done, Complete: r.Complete}, nil
}

// Dir is a Store in a directory, such as a tmpfs.
type Dir struct {
	root     *os.Root
	capacity int64
	mu       sync.Mutex
}

// maxRecord bounds a record that is read.
const maxRecord = 4096

// OpenDir uses a directory, which it makes if need be, for files of altogether
// capacity bytes.
func OpenDir(path string, capacity int64) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	d := &Dir{root: root, capacity: capacity}
	if err := d.sweep(); err != nil {
		root.Close()
		return nil, err
	}
	return d, nil
}

// sweep removes files that a power cut left without a record.
func (d *Dir) sweep() error {
	names, err := d.names()
	if err != nil {
		return err
	}
	for _, n := range names {
		id, isImage := strings.CutSuffix(n, ".img")
		if strings.HasSuffix(n, ".json.new") || isImage && !slices.Contains(names, id+".json") {
			if err := d.root.Remove(n); err != nil {
				return fmt.Errorf("image cache: %w", err)
			}
		}
	}
	return nil
}

func (d *Dir) names() ([]string, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

// Close releases the directory.
func (d *Dir) Close() error { return d.root.Close() }

// Entries implements Store.
func (d *Dir) Entries() ([]Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.entries()
}

func (d *Dir) entries() ([]Entry, error) {
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, n := range names {
		id, ok := strings.CutSuffix(n, ".json")
		if !ok {
			continue
		}
		e, err := d.entry(id)
		if err != nil {
			// A record that a power cut damaged is as good as none.
			if err := d.remove(id); err != nil {
				return nil, err
			}
			continue
		}
		all = append(all, e)
	}
	return all, nil
}

func (d *Dir) entry(id string) (Entry, error) {
	f, err := d.root.Open(id + ".json")
	if err != nil {
		return Entry{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return Entry{}, err
	}
	e, err := parseRecord(b)
	if err != nil {
		return Entry{}, err
	}
	st, err := d.root.Stat(id + ".img")
	if err != nil {
		return Entry{}, err
	}
	if e.Image.ID != id || st.Size() < e.Done {
		return Entry{}, fmt.Errorf("image cache: the file of %s has %d bytes, expected %d", id, st.Size(), e.Done)
	}
	return e, nil
}

func parseRecord(b []byte) (Entry, error) {
	if len(b) > maxRecord {
		return Entry{}, errors.New("image cache: record is too long")
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return Entry{}, fmt.Errorf("image cache: record: %w", err)
	}
	return r.entry()
}

// Create implements Store.
func (d *Dir) Create(img Image, size int64, evictable []string) (Slot, []string, error) {
	if err := img.Validate(); err != nil {
		return nil, nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.remove(img.key()); err != nil {
		return nil, nil, err
	}
	all, err := d.entries()
	if err != nil {
		return nil, nil, err
	}
	sizes, used := map[string]int64{}, int64(0)
	for _, e := range all {
		sizes[e.Image.ID] = e.Image.Size
		used += e.Image.Size
	}
	var evict []string
	for _, id := range evictable {
		if size <= d.capacity-used { // no sum, which could wrap around
			break
		}
		if n, ok := sizes[id]; ok {
			used -= n
			delete(sizes, id)
			evict = append(evict, id)
		}
	}
	if size > d.capacity-used {
		return nil, nil, fmt.Errorf("%w: %d bytes are needed, %d of %d are free", ErrNoRoom, size, d.capacity-used, d.capacity)
	}
	for _, id := range evict {
		if err := d.remove(id); err != nil {
			return nil, nil, err
		}
	}
	f, err := d.root.OpenFile(img.key()+".img", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, evict, fmt.Errorf("image cache: %w", err)
	}
	s := &dirSlot{File: f, dir: d, rec: newRecord(img, size)}
	if err := s.Commit(0, false); err != nil {
		return nil, evict, errors.Join(err, s.Close())
	}
	return s, evict, nil
}

// Open implements Store.
func (d *Dir) Open(id string) (Slot, Entry, error) {
	if _, err := partition.ParseGUID(id); err != nil {
		return nil, Entry{}, fmt.Errorf("image id: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	id = strings.ToLower(id)
	e, err := d.entry(id)
	if errors.Is(err, os.ErrNotExist) {
		return nil, Entry{}, fmt.Errorf("image %s: %w", id, ErrNotCached)
	}
	if err != nil {
		return nil, Entry{}, fmt.Errorf("image %s: %w: %w", id, ErrNotCached, err)
	}
	f, err := d.root.OpenFile(id+".img", os.O_RDWR, 0)
	if err != nil {
		return nil, Entry{}, fmt.Errorf("image cache: %w", err)
	}
	return &dirSlot{File: f, dir: d, rec: newRecord(e.Image, e.Image.Size)}, e, nil
}

// Remove implements Store.
func (d *Dir) Remove(id string) error {
	if _, err := partition.ParseGUID(id); err != nil {
		return fmt.Errorf("image id: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.remove(strings.ToLower(id))
}

func (d *Dir) remove(id string) error {
	for _, suffix := range []string{".json", ".img", ".json.new"} {
		if err := d.root.Remove(id + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("image cache: %w", err)
		}
	}
	return nil
}

type dirSlot struct {
	*os.File
	dir *Dir
	rec record
}

// Commit implements Slot: the record is replaced by renaming.
func (s *dirSlot) Commit(done int64, complete bool) error {
	if err := s.Sync(); err != nil {
		return fmt.Errorf("image cache: %w", err)
	}
	s.rec.Done, s.rec.Complete = done, complete
	b, err := json.Marshal(s.rec)
	if err != nil {
		return fmt.Errorf("image cache: record: %w", err)
	}
	name := s.rec.ID + ".json"
	f, err := s.dir.root.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("image cache: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = s.dir.root.Rename(name+".new", name)
	}
	if err == nil {
		err = syncDir(s.dir.root)
	}
	if err != nil {
		return fmt.Errorf("image cache: %w", err)
	}
	return nil
}

func syncDir(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
