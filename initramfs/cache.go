package initramfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// keptLayers is how many compressed archives the cache keeps, the last used:
// a few profiles of a few kernels.
const keptLayers = 8

// cached returns the archive compressed, from the cache if it was made before.
// The key covers every byte of the input, so a stale hit is not possible.
func cached(ctx context.Context, cacheDir string, a *archive) ([]byte, error) {
	dir := filepath.Join(cacheDir, "layer")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	name := a.key() + ".cpio.zst"
	file := filepath.Join(dir, name)
	b, err := os.ReadFile(file)
	if err == nil {
		now := time.Now()
		return b, os.Chtimes(file, now, now) // for prune
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if b, err = a.compressed(ctx); err != nil {
		return nil, err
	}
	if err := writeFile(dir, name, b); err != nil {
		return nil, err
	}
	return b, prune(dir, keptLayers)
}

// prune removes all files of dir but the newest keep.
func prune(dir string, keep int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	modified := make(map[string]time.Time)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		modified[e.Name()] = info.ModTime()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return modified[b.Name()].Compare(modified[a.Name()]) })
	for _, e := range entries[min(keep, len(entries)):] {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// lock takes the cache for one build, waiting for another to end.
func lock(ctx context.Context, dir string, log *slog.Logger) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for waited := false; ; waited = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if !waited {
			log.Info("waiting for another build with the same cache", "cache", dir)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
