// Package packages fetches the packages of apps and keeps them, so that one that is
// installed again need not be fetched again.
package packages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/imagecache"
	"github.com/teeth-metal/teeth/progress"
)

// Cache is a directory of packages. It is safe for concurrent use.
type Cache struct {
	dir     *os.Root
	max     int64
	fetcher imagecache.Fetcher

	mu   sync.Mutex
	used map[string]int // how often a key is in use
}

// record describes a package that is there completely.
type record struct {
	Name   string `json:"name"` // for people
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

const maxRecord = 4096

// Open uses a directory, which it makes if need be. Packages that are not in use
// take altogether at most max bytes; 0 keeps none.
func Open(dir string, max int64, fetcher imagecache.Fetcher) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	return &Cache{dir: root, max: max, fetcher: fetcher, used: map[string]int{}}, nil
}

// Close releases the directory.
func (c *Cache) Close() error { return c.dir.Close() }

// Package is a package that was fetched. It stays in the cache until Close at least.
type Package struct {
	*os.File
	Size   int64
	SHA256 string // hexadecimal
	done   func() error
}

// Close ends the use of the package.
func (p *Package) Close() error { return errors.Join(p.File.Close(), p.done()) }

// Get returns the package that o describes, from the cache or the network. room is
// how many bytes there is room for. What was kept is verified again. report gets bytes.
// The error wraps imagecache.ErrNoRoom when there is no room for it, and
// imagecache.ErrDigest when it is not what o says.
func (c *Cache) Get(ctx context.Context, o imagecache.Object, room int64, report progress.Func) (*Package, error) {
	key := keyOf(o)
	done := c.use(key)
	p, err := c.kept(ctx, key)
	if err != nil {
		p, err = c.fetch(ctx, key, o, room, report)
	} else if o.Size > 0 && p.Size != o.Size {
		err = errors.Join(fmt.Errorf("%s: %w: the file has %d bytes, expected %d", o.Name, imagecache.ErrDigest, p.Size, o.Size), p.File.Close())
	}
	if err != nil {
		return nil, errors.Join(err, done())
	}
	p.done = done
	return p, nil
}

// keyOf names what may be the same package: the same bytes if there is a digest, else
// the same name from the same place.
func keyOf(o imagecache.Object) string {
	var parts []string
	for _, a := range slices.Sorted(maps.Keys(o.Hashes)) {
		parts = append(parts, a, strings.ToLower(o.Hashes[a]))
	}
	if len(parts) == 0 {
		parts = append([]string{o.Name, fmt.Sprint(o.Size)}, o.URLs...)
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// use keeps a key from being evicted until the function it returns is called.
func (c *Cache) use(key string) (done func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used[key]++
	return sync.OnceValue(func() error {
		c.mu.Lock()
		if c.used[key]--; c.used[key] == 0 {
			delete(c.used, key)
		}
		c.mu.Unlock()
		return c.evict(c.max)
	})
}

var errNotKept = errors.New("package is not in the cache")

// kept opens a package of the cache, unless it has rotted.
func (c *Cache) kept(ctx context.Context, key string) (*Package, error) {
	b, err := c.dir.ReadFile(key + ".json")
	if err != nil {
		return nil, errNotKept
	}
	var rec record
	if len(b) > maxRecord || json.Unmarshal(b, &rec) != nil {
		return nil, c.drop(key)
	}
	f, err := c.dir.Open(key + ".pkg")
	if err != nil {
		return nil, c.drop(key)
	}
	sum := sha256.New()
	n, err := io.Copy(sum, reader{ctx, f})
	if ctx.Err() != nil {
		return nil, errors.Join(context.Cause(ctx), f.Close())
	}
	if err != nil || n != rec.Size || hex.EncodeToString(sum.Sum(nil)) != rec.SHA256 {
		return nil, errors.Join(f.Close(), c.drop(key))
	}
	now := time.Now()
	if err := c.dir.Chtimes(key+".json", now, now); err != nil {
		return nil, errors.Join(fmt.Errorf("package cache: %w", err), f.Close())
	}
	return &Package{File: f, Size: n, SHA256: rec.SHA256}, nil
}

// reader reads until ctx is done.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(b)
}

// drop forgets a package.
func (c *Cache) drop(key string) error {
	errs := []error{errNotKept}
	for _, suffix := range []string{".json", ".pkg"} {
		if err := c.dir.Remove(key + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("package cache: %w", err))
		}
	}
	return errors.Join(errs...)
}

// fetch gets a package from the network. What came of it stays when it fails, to go on
// there.
func (c *Cache) fetch(ctx context.Context, key string, o imagecache.Object, room int64, report progress.Func) (*Package, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	f, err := c.dir.OpenFile(key+".part", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	p, err := c.fetchTo(ctx, f, key, o, room, report)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return p, nil
}

func (c *Cache) fetchTo(ctx context.Context, f *os.File, key string, o imagecache.Object, room int64, report progress.Func) (*Package, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	room += st.Size() // that much of it is there
	if o.Size > room {
		// What is kept of others may be in the way.
		before := c.size()
		if err := c.evict(0); err != nil {
			return nil, err
		}
		room += before - c.size()
	}
	if o.Size > room {
		return nil, fmt.Errorf("%s: %w: it has %d bytes, %d are free", o.Name, imagecache.ErrNoRoom, o.Size, room)
	}
	g := c.fetcher
	if g.MaxSize <= 0 || g.MaxSize > room {
		g.MaxSize = max(room, 1)
	}
	sum, err := g.Get(ctx, o, f, report)
	if err != nil {
		return nil, err
	}
	if st, err = f.Stat(); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = c.dir.Rename(key+".part", key+".pkg")
	}
	if err == nil {
		err = c.note(key, record{o.Name, sum, st.Size()})
	}
	if err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	return &Package{File: f, Size: st.Size(), SHA256: sum}, nil
}

// note makes the package known. A record that a power cut spoils costs the package.
func (c *Cache) note(key string, r record) error {
	if len(r.Name) > 512 {
		r.Name = r.Name[:512]
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return c.dir.WriteFile(key+".json", b, 0o600)
}

type kept struct {
	key  string
	size int64
	at   time.Time
}

// list returns what is there, the longest unused first.
func (c *Cache) list() ([]kept, error) {
	d, err := c.dir.Open(".")
	if err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	defer d.Close()
	infos, err := d.Readdir(-1)
	if err != nil {
		return nil, fmt.Errorf("package cache: %w", err)
	}
	all := map[string]*kept{}
	for _, st := range infos {
		key, suffix, _ := strings.Cut(st.Name(), ".")
		if all[key] == nil {
			all[key] = &kept{key: key}
		}
		if suffix != "json" {
			all[key].size += st.Size()
		}
		if st.ModTime().After(all[key].at) {
			all[key].at = st.ModTime()
		}
	}
	var out []kept
	for _, k := range all {
		out = append(out, *k)
	}
	slices.SortFunc(out, func(a, b kept) int { return a.at.Compare(b.at) })
	return out, nil
}

func (c *Cache) size() (n int64) {
	all, err := c.list()
	if err != nil {
		return 0
	}
	for _, k := range all {
		n += k.size
	}
	return n
}

// Trim removes all packages that are not in use.
func (c *Cache) Trim() error { return c.evict(0) }

// evict removes what was not used for longest until the rest has at most max bytes.
// What is in use stays.
func (c *Cache) evict(max int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, err := c.list()
	if err != nil {
		return err
	}
	var sum int64
	for _, k := range all {
		sum += k.size
	}
	var errs []error
	for _, k := range all {
		if sum <= max {
			break
		}
		if c.used[k.key] > 0 {
			continue
		}
		for _, suffix := range []string{".json", ".pkg", ".part"} {
			if err := c.dir.Remove(filepath.Clean(k.key + suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("package cache: %w", err))
			}
		}
		sum -= k.size
	}
	return errors.Join(errs...)
}
