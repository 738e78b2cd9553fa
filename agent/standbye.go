package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/agent/task"
	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/imagecache"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// memoryCache is where images are kept when no disk may be used. The file
// system there takes at most half of the memory.
const memoryCache = "/tmp/images"

func image(i teeth.Image) imagecache.Image {
	format := imagecache.Format(i.Format)
	if format == "" {
		format = imagecache.Raw
	}
	return imagecache.Image{ID: i.ID, Name: i.Name, URLs: i.URLs, Hashes: i.Hashes, Format: format, Size: i.Size}
}

func (a *Agent) cacheImages(params json.RawMessage) (string, bool, task.Func, error) {
	var p teeth.CacheImagesParams
	if err := teeth.DecodeParams(teeth.MethodCacheImages, params, &p, "task_id", "image_ids"); err != nil {
		return "", false, nil, err
	}
	wanted := make([]imagecache.Image, 0, len(p.ImageIDs))
	for _, id := range p.ImageIDs {
		i := slices.IndexFunc(p.Images, func(img teeth.Image) bool { return img.ID == id })
		if i < 0 {
			return "", false, nil, fmt.Errorf("image %q: %w", id, errNoImageInfo)
		}
		img := image(p.Images[i])
		if err := img.Validate(); err != nil {
			return "", false, nil, err
		}
		if len(img.URLs) == 0 {
			return "", false, nil, fmt.Errorf("image %q: %w", id, errNoImageInfo)
		}
		wanted = append(wanted, img)
	}
	return p.TaskID, true, func(ctx context.Context, t *task.Task) (_ any, err error) {
		cache, where, done, err := a.openCache(p.RootDevice, imagecache.OpenDisk)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, done()) }()
		t.Step("caching images on " + where)
		result, err := cache.Sync(ctx, wanted, t.Progress)
		for _, s := range result.Skipped {
			a.log.Warn("image not cached", "image", s.ID, "reason", s.Reason)
		}
		if err != nil {
			return nil, err
		}
		return result, nil
	}, nil
}

// opener is imagecache.OpenDisk, which makes a blank disk a cache, or ReopenDisk.
type opener func(path string, expect blockdev.Identity, protected []string) (*imagecache.Disk, error)

// openCache opens the image cache: on the largest disk that open takes and that
// is not the root device, else in memory. It says where.
func (a *Agent) openCache(hint *teeth.RootDevice, open opener) (cache *imagecache.Cache, where string, done func() error, err error) {
	disks, err := a.disks()
	if err != nil {
		return nil, "", nil, err
	}
	var protected []string
	switch root, err := rootDevice(disks, hint); {
	case err == nil:
		protected = append(protected, root.Path)
		disks = slices.DeleteFunc(disks, func(d blockdev.Info) bool { return d.Path == root.Path })
	case hint != nil:
		return nil, "", nil, err // any disk may be the one that was meant
	}
	slices.SortStableFunc(disks, func(a, b blockdev.Info) int { return cmp.Compare(b.Size, a.Size) })
	for _, d := range disks {
		if d.ReadOnly || d.Removable || d.Transport == blockdev.USB {
			continue
		}
		a.known.forget(d)
		store, err := open(d.Path, d.Identity(), protected)
		if err == nil {
			return &imagecache.Cache{Store: store}, d.Path, store.Close, nil
		}
		a.log.Info("disk is not used as image cache", "disk", d.Path, "reason", err)
	}
	capacity, err := roomFor(a.cacheDir)
	if err != nil {
		return nil, "", nil, err
	}
	dir, err := imagecache.OpenDir(a.cacheDir, capacity)
	if err != nil {
		return nil, "", nil, err
	}
	return &imagecache.Cache{Store: dir}, "memory", dir.Close, nil
}

// roomFor returns how many bytes the files in dir may have altogether: those that
// are free, and those they take already. The parent must exist.
func roomFor(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(dir), &st); err != nil {
		return 0, fmt.Errorf("free space for %s: %w", dir, err)
	}
	room := int64(st.Bavail) * st.Bsize
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	for _, f := range files {
		fi, err := f.Info()
		if err != nil {
			return 0, err
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			room += st.Blocks * 512 // whatever the block size is, stat(2)
		}
	}
	return room, nil
}

func (a *Agent) prepareImage(params json.RawMessage) (string, bool, task.Func, error) {
	var p teeth.PrepareImageParams
	if err := teeth.DecodeParams(teeth.MethodPrepareImage, params, &p, "task_id", "image_id"); err != nil {
		return "", false, nil, err
	}
	var img *imagecache.Image
	if p.Image != nil {
		i := image(*p.Image)
		if err := i.Validate(); err != nil {
			return "", false, nil, err
		}
		if i.ID != p.ImageID {
			return "", false, nil, fmt.Errorf("image_id is %q but image is %q", p.ImageID, i.ID)
		}
		img = &i
	}
	return p.TaskID, true, func(ctx context.Context, t *task.Task) (any, error) {
		disks, err := a.disks()
		if err != nil {
			return nil, err
		}
		root, err := rootDevice(disks, p.RootDevice)
		if err != nil {
			return nil, err
		}
		src, img, done, err := a.source(p.ImageID, img, p.RootDevice)
		if err != nil {
			return nil, err
		}
		defer func() {
			// What was read has matched its digest: this is no failure.
			if err := done(); err != nil {
				a.log.Warn("image cache not closed", "err", err)
			}
		}()
		t.Step(fmt.Sprintf("writing image to %s", root.Path))
		zero := a.known.of(root).zero
		a.known.forget(root)
		report, err := imagecache.Write(ctx, src, img, root.Path, imagecache.WriteOptions{
			Expect: root.Identity(), AssumeZero: zero, Progress: t.Progress,
		})
		if err != nil {
			return nil, err
		}
		a.known.set(root, content{image: img.ID})
		a.log.Info("image written", "image", img.ID, "disk", root.Path, "serial", root.Serial, "bytes", report.BytesWritten)
		return map[string]any{"disk": root, "image": img.ID, "written": report}, nil
	}, nil
}

// source returns where to read an image from: the cache if it is there, else the
// network, and what the image is.
func (a *Agent) source(id string, img *imagecache.Image, hint *teeth.RootDevice) (imagecache.Source, imagecache.Image, func() error, error) {
	cache, where, done, err := a.openCache(hint, imagecache.ReopenDisk)
	if err != nil {
		return nil, imagecache.Image{}, nil, err
	}
	file, err := cache.Open(id)
	if err == nil {
		if img == nil || file.Image.SameFile(*img) {
			a.log.Info("image comes from the cache", "image", id, "cache", where)
			return file, file.Image, func() error { return errors.Join(file.Close(), done()) }, nil
		}
		err = errors.Join(fmt.Errorf("%w: another file is, under this id", imagecache.ErrNotCached), file.Close())
	}
	reason := err
	switch err := done(); {
	case !errors.Is(reason, imagecache.ErrNotCached):
		return nil, imagecache.Image{}, nil, errors.Join(reason, err)
	case err != nil:
		return nil, imagecache.Image{}, nil, err
	case img == nil:
		return nil, imagecache.Image{}, nil, fmt.Errorf("image %q is not cached: %w", id, errNoImageInfo)
	}
	a.log.Info("image comes straight from the network", "image", id, "reason", reason)
	return imagecache.Fetcher{}.Source(*img), *img, func() error { return nil }, nil
}
