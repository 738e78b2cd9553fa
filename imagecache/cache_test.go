package imagecache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/partition"
)

// stores opens one of each kind with room for about 15 MiB. reopen closes it and
// opens it again.
func stores(t *testing.T, each func(t *testing.T, s Store, reopen func() Store)) {
	t.Run("dir", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "cache")
		var d *Dir
		reopen := func() Store {
			if d != nil {
				d.Close()
			}
			var err error
			if d, err = OpenDir(path, 15*mib); err != nil {
				t.Fatal(err)
			}
			return d
		}
		each(t, reopen(), reopen)
		d.Close()
	})
	t.Run("disk", func(t *testing.T) {
		path := blank(t, 18*mib)
		var d *Disk
		reopen := func() Store {
			if d != nil {
				d.Close()
			}
			var err error
			if d, err = OpenDisk(path, blockdev.Identity{Size: 18 * mib}, nil); err != nil {
				t.Fatal(err)
			}
			return d
		}
		each(t, reopen(), reopen)
		d.Close()
		run(t, nil, "sgdisk", "-v", path)
	})
}

func blank(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return path
}

// cached fails unless the cache holds exactly these files.
func cached(t *testing.T, c *Cache, files map[string][]byte) {
	t.Helper()
	entries, err := c.Store.Entries()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, ok := files[e.Image.ID]; !ok {
			t.Errorf("%s is cached", e.Image.ID)
		}
	}
	for id, want := range files {
		f, err := c.Open(id)
		if err != nil {
			t.Error(err)
			continue
		}
		r, size, err := f.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want) || size != int64(len(want)) {
			t.Errorf("%s: %d bytes of %d, %v", id, len(got), len(want), err)
		}
		if _, err := f.ReadAt(make([]byte, 1), size); err != io.EOF {
			t.Errorf("%s: read past the end: %v", id, err)
		}
		f.Close()
	}
}

func TestSync(t *testing.T) {
	stores(t, func(t *testing.T, s Store, reopen func() Store) {
		c := &Cache{Store: s, Fetcher: fast}
		files := [][]byte{random(0, 4*mib+777), random(1, 4*mib+1), random(2, 4*mib), random(3, 6*mib), random(4, 30*mib)}
		var imgs []Image
		var servers []*server
		for i, f := range files {
			servers = append(servers, serve(t, f))
			imgs = append(imgs, imageOf(i, Raw, f, servers[i].url()))
		}
		imgs[1].Size = 0
		var done, total int64
		res, err := c.Sync(context.Background(), []Image{imgs[0], imgs[1], imgs[0]}, func(d, t int64) { done, total = d, t })
		if err != nil || !slices.Equal(res.Cached, []string{id(0), id(1)}) || res.Skipped != nil {
			t.Fatalf("%+v, %v", res, err)
		}
		if want := int64(len(files[0]) + len(files[1])); done != want || total != want {
			t.Errorf("progress ended at %d of %d, want %d", done, total, want)
		}
		cached(t, c, map[string][]byte{id(0): files[0], id(1): files[1]})

		// Again, after a restart: nothing is fetched. Upper-case ids are the same.
		c.Store = reopen()
		imgs[0].ID = strings.ToUpper(imgs[0].ID)
		if _, err := c.Sync(context.Background(), imgs[:2], nil); err != nil {
			t.Fatal(err)
		}
		if servers[0].requests != 1 || servers[1].requests != 1 {
			t.Errorf("%d and %d requests", servers[0].requests, servers[1].requests)
		}
		// Two more: what is not wanted goes, what does not fit is skipped, and
		// nothing goes for it.
		res, err = c.Sync(context.Background(), []Image{imgs[2], imgs[4], imgs[0]}, nil)
		if err != nil || !slices.Equal(res.Cached, []string{id(2), id(0)}) || len(res.Skipped) != 1 || res.Skipped[0].ID != id(4) {
			t.Fatalf("%+v, %v", res, err)
		}
		res, err = c.Sync(context.Background(), []Image{imgs[3], imgs[2], imgs[0]}, nil)
		if err != nil || !slices.Equal(res.Cached, []string{id(3), id(2)}) && !slices.Equal(res.Cached, []string{id(3), id(2), id(0)}) {
			t.Fatalf("%+v, %v", res, err)
		}
		// The most wanted comes in even when a less wanted one has to go.
		res, err = c.Sync(context.Background(), []Image{imgs[1], imgs[3], imgs[2]}, nil)
		if err != nil || len(res.Cached) < 2 || res.Cached[0] != id(1) || res.Cached[1] != id(3) {
			t.Fatalf("%+v, %v", res, err)
		}
		if f, err := c.Open(id(1)); err != nil {
			t.Error(err)
		} else {
			f.Close()
		}
		if _, err := c.Open(id(9)); !errors.Is(err, ErrNotCached) {
			t.Errorf("unknown id: %v", err)
		}
		if _, err := c.Open("../../etc/passwd"); err == nil {
			t.Error("path as id: accepted")
		}
	})
}

func TestSyncFailures(t *testing.T) {
	stores(t, func(t *testing.T, s Store, reopen func() Store) {
		c := &Cache{Store: s, Fetcher: fast}
		file, other := random(1, 3*mib), random(2, 3*mib)
		bad, good, mirror := serve(t, other), serve(t, file), serve(t, file)
		// A wrong digest is refused, the others are cached all the same.
		res, err := c.Sync(context.Background(), []Image{imageOf(1, Raw, file, bad.url()), {ID: "x"}, imageOf(2, Raw, file, good.url())}, nil)
		if !errors.Is(err, ErrDigest) || !slices.Equal(res.Cached, []string{id(2)}) || len(res.Skipped) != 2 {
			t.Fatalf("%+v, %v", res, err)
		}
		cached(t, c, map[string][]byte{id(2): file})
		// A second URL has the right file.
		if _, err := c.Sync(context.Background(), []Image{imageOf(1, Raw, file, bad.url(), mirror.url())}, nil); err != nil {
			t.Fatal(err)
		}
		// The image's definition changes.
		if _, err := c.Sync(context.Background(), []Image{imageOf(1, Raw, other, bad.url())}, nil); err != nil {
			t.Fatal(err)
		}
		cached(t, c, map[string][]byte{id(1): other, id(2): file})
		// A server that tells no size.
		bad.chunked = true
		img := imageOf(3, Raw, other, bad.url())
		img.Size = 0
		if _, err := c.Sync(context.Background(), []Image{img}, nil); err == nil || !strings.Contains(err.Error(), "size") {
			t.Errorf("no size: %v", err)
		}
	})
}

// A download that was interrupted anywhere goes on from whole pages, also in
// another process, and a partial file of something else does no harm.
func TestSyncResumes(t *testing.T) {
	stores(t, func(t *testing.T, s Store, reopen func() Store) {
		c := &Cache{Store: s, Fetcher: fast}
		file := random(1, 5*mib+99)
		srv := serve(t, file)
		img := imageOf(1, Raw, file, srv.url())
		srv.cut = 2*mib + 5000
		srv.onCut = func(s *server) { s.status = 500 }
		if _, err := c.Sync(context.Background(), []Image{img}, nil); err == nil {
			t.Fatal("no error")
		}
		if _, err := c.Open(img.ID); !errors.Is(err, ErrNotCached) {
			t.Errorf("incomplete: %v", err)
		}
		srv.mu.Lock()
		srv.status, srv.cut, srv.ranges = 0, 0, nil
		srv.mu.Unlock()
		c.Store = reopen()
		if _, err := c.Sync(context.Background(), []Image{img}, nil); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("bytes=%d-", (2*mib+5000)/4096*4096); !slices.Equal(srv.ranges, []string{want}) {
			t.Errorf("asked for %q, want %s", srv.ranges, want)
		}
		cached(t, c, map[string][]byte{id(1): file})

		// The part that is there is of another file.
		half := random(9, 5*mib+99)
		if err := c.Store.Remove(img.ID); err != nil {
			t.Fatal(err)
		}
		slot, _, err := c.Store.Create(img, img.Size, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := slot.WriteAt(half[:mib], 0); err != nil {
			t.Fatal(err)
		}
		if err := slot.Commit(mib, false); err != nil {
			t.Fatal(err)
		}
		slot.Close()
		if _, err := c.Sync(context.Background(), []Image{img}, nil); err != nil {
			t.Fatal(err)
		}
		cached(t, c, map[string][]byte{id(1): file})
	})
}

func TestSyncCancel(t *testing.T) {
	stores(t, func(t *testing.T, s Store, reopen func() Store) {
		file := random(1, 5*mib)
		srv := serve(t, file)
		img := imageOf(1, Raw, file, srv.url())
		c := &Cache{Store: s, Fetcher: fast}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if _, err := c.Sync(ctx, []Image{img}, func(done, _ int64) {
			if done >= 2*mib {
				cancel()
			}
		}); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		c.Store = reopen()
		if _, err := c.Sync(context.Background(), []Image{img}, nil); err != nil {
			t.Fatal(err)
		}
		cached(t, c, map[string][]byte{id(1): file})
	})
}

// A file that rots in the cache is not written, and fetched anew.
func TestCacheRots(t *testing.T) {
	stores(t, func(t *testing.T, s Store, reopen func() Store) {
		raw := sparse(1, 5*mib)
		srv := serve(t, raw)
		img := imageOf(1, Raw, raw, srv.url())
		c := &Cache{Store: s, Fetcher: fast}
		if _, err := c.Sync(context.Background(), []Image{img}, nil); err != nil {
			t.Fatal(err)
		}
		f, err := c.Open(img.ID)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		disk := dirty(t, 8*mib)
		if _, err := Write(context.Background(), f, img, disk, WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		holds(t, disk, raw)
		other := img
		other.Hashes = imageOf(1, Raw, raw[:5]).Hashes
		if _, err := Write(context.Background(), f, other, disk, WriteOptions{}); !errors.Is(err, ErrNotCached) {
			t.Errorf("other image of the same id: %v", err)
		}
		slot, _, err := c.Store.Open(img.ID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := slot.WriteAt(make([]byte, 4096), 8192); err != nil {
			t.Fatal(err)
		}
		if err := slot.Commit(img.Size, true); err != nil {
			t.Fatal(err)
		}
		slot.Close()
		if _, err := Write(context.Background(), f, img, disk, WriteOptions{}); !errors.Is(err, ErrDigest) {
			t.Errorf("rotten: %v", err)
		}
		unbootable(t, disk)
		if _, err := c.Open(img.ID); !errors.Is(err, ErrNotCached) {
			t.Errorf("rotten file is still cached: %v", err)
		}
		if _, err := c.Sync(context.Background(), []Image{img}, nil); err != nil {
			t.Fatal(err)
		}
		cached(t, c, map[string][]byte{id(1): raw})
	})
}

func TestOpenDiskRefuses(t *testing.T) {
	gpt := blank(t, 16*mib)
	run(t, nil, "sgdisk", "-n", "1:0:0", gpt)
	empty := blank(t, 16*mib)
	run(t, nil, "sgdisk", "-o", empty)
	shared := blank(t, 16*mib)
	if d, err := OpenDisk(shared, blockdev.Identity{}, nil); err != nil {
		t.Fatal(err)
	} else {
		d.Close()
	}
	run(t, nil, "sgdisk", "-n", "5:0:0", shared)
	back := blank(t, 16*mib)
	if err := os.Truncate(back, 15*mib); err != nil {
		t.Fatal(err)
	}
	if f, err := os.OpenFile(back, os.O_APPEND|os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	} else if _, err := f.Write(bytes.Repeat([]byte{1}, mib)); err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"old data": dirty(t, 16*mib), "somebody's GPT": gpt, "an empty GPT": empty, "a cache with a stranger": shared,
		"data at the end only": back, "too small": blank(t, 4*mib), "no disk": "/dev/null",
	} {
		before, _ := os.ReadFile(path)
		if d, err := OpenDisk(path, blockdev.Identity{}, nil); err == nil {
			d.Close()
			t.Errorf("%s: accepted", name)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
			t.Errorf("%s: the disk changed", name)
		}
	}
	if _, err := OpenDisk(blank(t, 16*mib), blockdev.Identity{Serial: "X"}, nil); !errors.Is(err, blockdev.ErrMismatch) {
		t.Errorf("wrong serial: %v", err)
	}
}

// Whichever of the disk's last writes a power cut loses, the cache opens, and
// what it calls complete is complete.
func TestDiskPowerCut(t *testing.T) {
	path := blank(t, 9*mib)
	d, err := OpenDisk(path, blockdev.Identity{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c := &Cache{Store: d, Fetcher: fast}
	files := map[string][]byte{}
	var want []Image
	check := func(step string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copyPath := filepath.Join(t.TempDir(), "copy")
		if err := os.WriteFile(copyPath, b, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := OpenDisk(copyPath, blockdev.Identity{}, nil)
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		defer again.Close()
		entries, err := again.Entries()
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		for _, e := range entries {
			if !e.Complete {
				continue
			}
			f, err := (&Cache{Store: again}).Open(e.Image.ID)
			if err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			got, err := io.ReadAll(io.NewSectionReader(f, 0, f.size))
			if err != nil || !bytes.Equal(got, files[e.Image.ID]) {
				t.Errorf("%s: %s is called complete, but is not: %v", step, e.Image.ID, err)
			}
		}
		if slices.ContainsFunc(entries, func(e Entry) bool { return e.Done > 0 && files[e.Image.ID] == nil }) {
			t.Errorf("%s: an unknown image", step)
		}
	}
	check("blank")
	// Each takes the room of one before, and each is checked at every MiB.
	for i := range 4 {
		file := random(uint64(i), 2*mib+i)
		files[id(i)] = file
		img := imageOf(i, Raw, file, serve(t, file).url())
		want = append([]Image{img}, want...)
		if _, err := c.Sync(context.Background(), want[:min(len(want), 2)], func(done, _ int64) {
			check(fmt.Sprint("image ", i, " at ", done))
		}); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprint("after image ", i))
	}
}

// Either copy of a header may be lost while it is written.
func TestTornHeader(t *testing.T) {
	path := blank(t, 16*mib)
	d, err := OpenDisk(path, blockdev.Identity{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	file := random(1, 3*mib)
	img := imageOf(1, Raw, file)
	slot, _, err := d.Create(img, img.Size, nil)
	if err != nil {
		t.Fatal(err)
	}
	for done := int64(mib); done <= 3*mib; done += mib {
		if err := slot.Commit(done, false); err != nil {
			t.Fatal(err)
		}
		s := slot.(*diskSlot)
		good := make([]byte, headerSize)
		if _, err := s.disk.read.ReadAt(good, s.start); err != nil {
			t.Fatal(err)
		}
		torn := blockdev.Buffer(headerSize)
		copy(torn, good)
		clear(torn[s.seq%2*headerCopy+512:][:512])
		torn[s.seq%2*headerCopy+30] ^= 1
		if _, err := d.d.WriteAt(torn, s.start); err != nil {
			t.Fatal(err)
		}
		if done > mib {
			_, e, err := d.Open(img.ID)
			if err != nil || e.Done != done-mib {
				t.Errorf("torn while writing %d: %+v, %v", done, e, err)
			}
		}
		copy(torn, good)
		if _, err := d.d.WriteAt(torn, s.start); err != nil {
			t.Fatal(err)
		}
	}
	if _, e, err := d.Open(img.ID); err != nil || e.Done != 3*mib {
		t.Errorf("%+v, %v", e, err)
	}
}

func FuzzHeader(f *testing.F) {
	h, err := encodeHeader(newRecord(imageOf(1, Raw, []byte("x")), 1), 7)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(h[headerFixed:bytes.IndexByte(h[headerFixed:], 0)+headerFixed], uint64(7))
	f.Fuzz(func(t *testing.T, text []byte, seq uint64) {
		b := sealHeader(text, seq)
		e, got, err := decodeHeader(b)
		if err != nil {
			return
		}
		if got != seq || e.Done > e.Image.Size || e.Image.Validate() != nil {
			t.Fatalf("%+v", e)
		}
		if _, err := partition.ParseGUID(e.Image.ID); err != nil {
			t.Fatal(err)
		}
	})
}

// A size near the end of its type must not wrap around to one that fits.
func TestCreateHugeSize(t *testing.T) {
	stores(t, func(t *testing.T, s Store, _ func() Store) {
		img := imageOf(1, Raw, []byte("x"))
		slot, _, err := s.Create(img, mib, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := slot.Close(); err != nil {
			t.Fatal(err)
		}
		for _, size := range []int64{math.MaxInt64, math.MaxInt64 - mib + 1, math.MaxInt64 - 8191} {
			slot, _, err := s.Create(imageOf(2, Raw, []byte("y")), size, []string{id(1)})
			if err == nil {
				slot.Close()
			}
			if !errors.Is(err, ErrNoRoom) {
				t.Errorf("size %d: %v", size, err)
			}
		}
		if e, err := s.Entries(); err != nil || len(e) != 1 {
			t.Errorf("left are %v, %v", e, err)
		}
	})
}
