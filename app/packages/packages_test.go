package packages

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/imagecache"
)

const room = 1 << 30

// server has files of any name: as many bytes as the name is long, times 1000.
func server(t *testing.T) (url string, asked *atomic.Int32) {
	asked = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content(r.URL.Path[1:])))
	}))
	t.Cleanup(s.Close)
	return s.URL + "/", asked
}

func content(name string) []byte { return bytes.Repeat([]byte(name), 1000) }

func object(url, name string) imagecache.Object {
	sum := sha256.Sum256(content(name))
	return imagecache.Object{
		Name: "package " + name, URLs: []string{url + name}, Size: int64(1000 * len(name)),
		Hashes: map[string]string{"sha256": hex.EncodeToString(sum[:])},
	}
}

func cache(t *testing.T, max int64) (*Cache, string) {
	t.Helper()
	dir := t.TempDir()
	c, err := Open(dir, max, imagecache.Fetcher{Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, dir
}

func get(t *testing.T, c *Cache, o imagecache.Object) *Package {
	t.Helper()
	p, err := c.Get(t.Context(), o, room, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(io.NewSectionReader(p, 0, p.Size))
	if err != nil || string(b) != string(content(strings.TrimPrefix(o.Name, "package "))) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	return p
}

func TestGet(t *testing.T) {
	url, asked := server(t)
	c, dir := cache(t, 3000)
	use := func(name string) { // and keep it
		t.Helper()
		p := get(t, c, object(url, name))
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		// Their order is told by the file system's clock.
		time.Sleep(5 * time.Millisecond)
	}
	there := func() string {
		found, err := filepath.Glob(dir + "/*.pkg")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range found {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, string(b[:1]))
		}
		all := strings.Join(names, "")
		out := ""
		for _, n := range []string{"a", "b", "c", "d"} {
			if strings.Contains(all, n) {
				out += n
			}
		}
		return out
	}
	use("a")
	use("b")
	use("c")
	use("a") // not the longest unused any more
	if asked.Load() != 3 || there() != "abc" {
		t.Errorf("%d requests, %s", asked.Load(), there())
	}
	use("d")
	if there() != "acd" {
		t.Error(there())
	}
	// What is in use stays, though the cache is full of it.
	p := get(t, c, object(url, "cc"))
	q := get(t, c, object(url, "dd"))
	use("b")
	if _, err := io.ReadAll(io.NewSectionReader(p, 0, p.Size)); err != nil || !strings.Contains(there(), "c") || !strings.Contains(there(), "d") {
		t.Error(err, there())
	}
	if err := errors.Join(p.Close(), q.Close()); err != nil {
		t.Error(err)
	}
	var sum int64
	found, _ := filepath.Glob(dir + "/*")
	for _, f := range found {
		if st, err := os.Stat(f); err == nil && strings.HasSuffix(f, ".pkg") {
			sum += st.Size()
		}
	}
	if sum > 3000 {
		t.Errorf("%d bytes are kept", sum)
	}
}

func TestNothingKept(t *testing.T) {
	url, _ := server(t)
	c, dir := cache(t, 0)
	if err := get(t, c, object(url, "a")).Close(); err != nil {
		t.Fatal(err)
	}
	if found, _ := filepath.Glob(dir + "/*"); len(found) != 0 {
		t.Error(found)
	}
}

// What rotted, or was changed, is fetched again.
func TestRotten(t *testing.T) {
	url, asked := server(t)
	c, dir := cache(t, room)
	o := object(url, "a")
	for i, spoil := range []func(pkg, rec string) error{
		func(pkg, _ string) error { return os.WriteFile(pkg, content("b"), 0o600) },
		func(pkg, _ string) error { return os.Truncate(pkg, 5) },
		func(_, rec string) error { return os.WriteFile(rec, []byte("{"), 0o600) },
		func(pkg, _ string) error { return os.Remove(pkg) },
		func(_, rec string) error { return os.Truncate(rec, 0) },
	} {
		if err := get(t, c, o).Close(); err != nil {
			t.Fatal(err)
		}
		if n := asked.Load(); n != int32(i+1) {
			t.Fatalf("%d requests before %d", n, i)
		}
		if err := spoil(filepath.Join(dir, keyOf(o)+".pkg"), filepath.Join(dir, keyOf(o)+".json")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRoom(t *testing.T) {
	url, _ := server(t)
	c, dir := cache(t, room)
	if err := get(t, c, object(url, "aaaa")).Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), object(url, "b"), 500, nil); err != nil {
		t.Error("an older package was in the way:", err)
	}
	if _, err := c.Get(t.Context(), object(url, "cc"), 500, nil); !errors.Is(err, imagecache.ErrNoRoom) {
		t.Error(err)
	}
	unknown := object(url, "dd")
	unknown.Size = 0
	if _, err := c.Get(t.Context(), unknown, 500, nil); !errors.Is(err, imagecache.ErrNoRoom) {
		t.Error(err)
	}
	if found, _ := filepath.Glob(dir + "/*.part"); len(found) > 2 {
		t.Error(found)
	}
}

// Without a digest, only the same version from the same place is the same package.
func TestKey(t *testing.T) {
	a := imagecache.Object{Name: "x 1", URLs: []string{"http://a/x"}}
	for _, b := range []imagecache.Object{
		{Name: "x 2", URLs: []string{"http://a/x"}}, {Name: "x 1", URLs: []string{"http://b/x"}}, {Name: "x 1", URLs: []string{"http://a/x"}, Size: 1},
	} {
		if keyOf(a) == keyOf(b) {
			t.Errorf("%+v is the same", b)
		}
	}
	a.Hashes = map[string]string{"sha256": "AB"}
	b := imagecache.Object{Name: "other", Hashes: map[string]string{"sha256": "ab"}}
	if keyOf(a) != keyOf(b) {
		t.Error("the same digest is not the same")
	}
}

func TestCanceled(t *testing.T) {
	url, _ := server(t)
	c, _ := cache(t, room)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(ctx, object(url, "a"), room, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(c.used) != 0 {
		t.Error("it is still in use")
	}
}
