package imagecache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/progress"
)

// commitEvery is how much of a download a power cut can cost.
const commitEvery = 64 << 20

// Cache keeps files of images in a Store. One goroutine at a time may use it.
type Cache struct {
	Store   Store
	Fetcher Fetcher
}

// Skipped is an image that Sync left out.
type Skipped struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// Result is what Sync achieved.
type Result struct {
	Cached  []string  `json:"cached"` // ids, by priority
	Skipped []Skipped `json:"skipped,omitempty"`
}

// Sync fetches the wanted images, the most wanted first. To make room it evicts
// what is not wanted and then what is less wanted than the image at hand. An
// image that does not fit is skipped; one that cannot be fetched, or whose
// digest is wrong (ErrDigest), is skipped too and makes Sync return an error in
// the end, after it tried the others. An interrupted download goes on where it
// was. report gets bytes of all files; its total grows while sizes get known.
func (c *Cache) Sync(ctx context.Context, wanted []Image, report progress.Func) (Result, error) {
	var res Result
	var errs []error
	skip := func(id string, err error) { res.Skipped = append(res.Skipped, Skipped{id, err.Error()}) }
	var list []Image
	for _, img := range wanted {
		if err := img.Validate(); err != nil {
			skip(img.ID, err)
			errs = append(errs, err)
			continue
		}
		if !slices.ContainsFunc(list, func(o Image) bool { return o.key() == img.key() }) {
			list = append(list, img)
		}
	}
	p := &syncProgress{report: report, sized: map[string]bool{}}
	for _, img := range list {
		p.total += img.Size
	}
	for i, img := range list {
		err := c.fetch(ctx, img, list[i+1:], list[:i], p)
		switch {
		case err == nil:
			res.Cached = append(res.Cached, img.key())
			p.base = p.at
		case ctx.Err() != nil:
			return res, errors.Join(append(errs, err)...)
		default:
			skip(img.key(), err)
			if !errors.Is(err, ErrNoRoom) {
				errs = append(errs, err)
			}
		}
	}
	return res, errors.Join(errs...)
}

// syncProgress adds up the bytes of several files.
type syncProgress struct {
	report          progress.Func
	base, at, total int64 // bytes of finished files, reported, of all files
	sized           map[string]bool
}

// file returns what reports on img, whose file turned out to have size bytes.
func (p *syncProgress) file(img Image, size int64) func(n int64) {
	if img.Size == 0 && !p.sized[img.key()] {
		p.sized[img.key()] = true
		p.total += size
	}
	return func(n int64) {
		p.at = p.base + n
		p.report.Report(p.at, p.total)
	}
}

// fetch makes sure that img is cached.
func (c *Cache) fetch(ctx context.Context, img Image, lower, higher []Image, p *syncProgress) error {
	slot, have, err := c.Store.Open(img.ID)
	if err == nil && !have.Image.SameFile(img) {
		// The id now means another file.
		err = errors.Join(slot.Close(), c.Store.Remove(img.ID))
		if err != nil {
			return err
		}
		err = ErrNotCached
	}
	if err != nil && !errors.Is(err, ErrNotCached) {
		return err
	}
	if err == nil && have.Complete {
		p.file(img, have.Image.Size)(have.Image.Size)
		return slot.Close()
	}
	if err != nil {
		slot = nil
	}
	src := &remote{f: c.Fetcher, img: img, bad: map[string]bool{}}
	for {
		d := &download{c: c, img: img, src: src, slot: slot, from: have.Done, size: have.Image.Size}
		err := d.run(ctx, c.evictable(img, lower, higher), p)
		if err == nil {
			return nil
		}
		slot, have = nil, Entry{}
		wrong := errors.Is(err, ErrDigest) || errors.Is(err, errChanged)
		if wrong {
			if rerr := c.Store.Remove(img.ID); rerr != nil {
				return errors.Join(err, rerr)
			}
		}
		// Bytes from before this run may be the wrong ones: those of no URL.
		if d.from > 0 && wrong && ctx.Err() == nil {
			continue
		}
		if retry, _ := src.again(err); ctx.Err() != nil || !retry {
			return err
		}
	}
}

// evictable lists what may go for img: what nobody wants, then from the least
// wanted on what is wanted less.
func (c *Cache) evictable(img Image, lower, higher []Image) func() ([]string, error) {
	return func() ([]string, error) {
		entries, err := c.Store.Entries()
		if err != nil {
			return nil, err
		}
		var ids []string
		for _, e := range entries {
			is := func(o Image) bool { return o.key() == e.Image.ID }
			if !is(img) && !slices.ContainsFunc(lower, is) && !slices.ContainsFunc(higher, is) {
				ids = append(ids, e.Image.ID)
			}
		}
		for _, o := range slices.Backward(lower) {
			ids = append(ids, o.key())
		}
		return ids, nil
	}
}

// download is one attempt at a file.
type download struct {
	c    *Cache
	img  Image
	src  *remote
	slot Slot  // nil: to be made
	from int64 // bytes the slot has
	size int64
}

func (d *download) run(ctx context.Context, evictable func() ([]string, error), p *syncProgress) (err error) {
	defer func() {
		if d.slot != nil {
			err = errors.Join(err, d.slot.Close())
		}
	}()
	sum := d.img.digester()
	if d.slot != nil {
		// Writes are in whole pages, so go on from one.
		d.from = d.from / blockdev.Alignment * blockdev.Alignment
		if err := copyContext(ctx, sum, io.NewSectionReader(d.slot, 0, d.from), func(int64) {}); err != nil {
			return fmt.Errorf("image %s: read the part that is cached: %w", d.img.ID, err)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := d.src.openAt(ctx, d.from)
	if err != nil {
		return err
	}
	defer s.Close()
	if d.slot != nil && s.size >= 0 && s.size != d.size {
		return fmt.Errorf("image %s: %w: %d bytes, had %d", d.img.ID, errChanged, s.size, d.size)
	}
	if d.slot == nil {
		if s.size < 0 {
			return fmt.Errorf("image %s: the server does not tell its size: give the image one", d.img.ID)
		}
		if s.size == 0 {
			return fmt.Errorf("image %s: %w: the file is empty", d.img.ID, ErrDigest)
		}
		ids, err := evictable()
		if err != nil {
			return err
		}
		if d.slot, _, err = d.c.Store.Create(d.img, s.size, ids); err != nil {
			return fmt.Errorf("image %s: %w", d.img.ID, err)
		}
		d.size = s.size
	}
	return d.copy(s, cancel, sum, p.file(d.img, d.size))
}

// copy moves the stream to the slot, and marks it complete if the digest is right.
func (d *download) copy(s *stream, cancel func(), sum *digester, report func(int64)) error {
	ahead := newReadAhead(cut{s}, sum, nil)
	defer func() {
		cancel() // ends a read that is under way
		ahead.Close()
	}()
	buf := blockdev.Buffer(1 << 20)
	done, safe := d.from, d.from
	for done < d.size {
		n, err := readFull(ahead, buf[:min(int64(len(buf)), d.size-done)])
		if done+int64(n) < d.size {
			n = n / blockdev.Alignment * blockdev.Alignment // where the next time can go on
		}
		if n > 0 {
			if _, werr := d.slot.WriteAt(buf[:n], done); werr != nil {
				return fmt.Errorf("image %s: %w", d.img.ID, errors.Join(werr, err))
			}
			done += int64(n)
		}
		if err != nil && done < d.size {
			if done > safe {
				err = errors.Join(unexpected(err), d.slot.Commit(done, false))
			}
			return fmt.Errorf("image %s: fetch: %w", d.img.ID, unexpected(err))
		}
		if done-safe >= commitEvery && done < d.size {
			if err := d.slot.Commit(done, false); err != nil {
				return fmt.Errorf("image %s: %w", d.img.ID, err)
			}
			safe = done
		}
		report(done)
	}
	if err := finishSum(ahead, sum); err != nil {
		return err
	}
	return d.slot.Commit(d.size, true)
}

// File is a complete cached file. It is a Source for Write, which verifies it
// once more as it reads it.
type File struct {
	Image Image // without URLs
	slot  Slot
	store Store
	size  int64
}

// Open returns the cached file of an image id. The error wraps ErrNotCached
// when it is not there or not complete.
func (c *Cache) Open(id string) (*File, error) {
	slot, e, err := c.Store.Open(id)
	if err != nil {
		return nil, err
	}
	if !e.Complete {
		return nil, errors.Join(fmt.Errorf("image %s: %w: only %d of %d bytes are there", strings.ToLower(id), ErrNotCached, e.Done, e.Image.Size), slot.Close())
	}
	return &File{Image: e.Image, slot: slot, store: c.Store, size: e.Image.Size}, nil
}

// Open implements Source.
func (f *File) Open(context.Context) (io.ReadCloser, int64, error) {
	return io.NopCloser(io.NewSectionReader(f.slot, 0, f.size)), f.size, nil
}

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(b []byte, off int64) (int, error) {
	return io.NewSectionReader(f.slot, 0, f.size).ReadAt(b, off)
}

// Close releases the file.
func (f *File) Close() error { return f.slot.Close() }

// again drops a file that rotted, so that the next Sync fetches it anew.
func (f *File) again(err error) (bool, error) {
	if errors.Is(err, ErrDigest) {
		return false, f.store.Remove(f.Image.ID)
	}
	return false, nil
}
