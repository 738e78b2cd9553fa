package imagecache

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

func objectFile(t *testing.T, beginning []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "object"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(beginning); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestGetObject(t *testing.T) {
	file := random(1, 3*mib)
	hashes := imageOf(1, Raw, file).Hashes
	wrong := map[string]string{"sha256": imageOf(1, Raw, file[1:]).Hashes["sha256"]}
	for _, c := range []struct {
		name      string
		set       func(*server)
		beginning []byte
		hashes    map[string]string
		size      int64
		want      error
		requests  int
	}{
		{"no digest, no size", func(*server) {}, nil, nil, 0, nil, 1},
		{"digest and size", func(*server) {}, nil, hashes, 3 * mib, nil, 1},
		{"connection breaks", func(s *server) { s.cut = mib }, nil, hashes, 0, nil, 3},
		{"goes on after a beginning", func(*server) {}, file[:mib], hashes, 0, nil, 1},
		{"all was there", func(*server) {}, file, hashes, 3 * mib, nil, 0},
		{"beginning of another file", func(*server) {}, file[1:mib], hashes, 3 * mib, nil, 2},
		{"more than there is", func(*server) {}, append(bytes.Clone(file), 0), hashes, 0, nil, 2},
		{"a beginning that no digest vouches for", func(*server) {}, file[1:mib], nil, 0, nil, 1},
		{"wrong digest", func(*server) {}, nil, wrong, 0, ErrDigest, 1},
		{"wrong size", func(*server) {}, nil, nil, 3*mib + 1, ErrDigest, 1},
		{"too large", func(*server) {}, nil, nil, 0, ErrNoRoom, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, file)
			c.set(s)
			f := objectFile(t, c.beginning)
			g := fast
			if c.want == ErrNoRoom {
				g.MaxSize = mib
			}
			o := Object{Name: "package x", URLs: []string{s.url()}, Hashes: c.hashes, Size: c.size}
			sum, err := g.Get(context.Background(), o, f, nil)
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if s.requests != c.requests {
				t.Errorf("%d requests, want %d (%q)", s.requests, c.requests, s.ranges)
			}
			if err != nil {
				if got, _ := os.ReadFile(f.Name()); len(got) != 0 {
					t.Errorf("%d wrong bytes are left", len(got))
				}
				return
			}
			if got, _ := os.ReadFile(f.Name()); !bytes.Equal(got, file) || sum != hashes["sha256"] {
				t.Errorf("%d bytes, sha256 %s", len(got), sum)
			}
		})
	}
}

func TestGetObjectSecondURL(t *testing.T) {
	file := random(1, mib)
	gone, good := serve(t, file), serve(t, file)
	gone.status = http.StatusNotFound
	f := objectFile(t, nil)
	o := Object{Name: "package x", URLs: []string{gone.url(), good.url()}, Size: mib}
	if _, err := fast.Get(context.Background(), o, f, nil); err != nil {
		t.Fatal(err)
	}
}
