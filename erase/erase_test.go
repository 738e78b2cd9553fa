package erase

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/progress"
)

// oldDisk makes a plain file of size bytes, none of them zero.
func oldDisk(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, bytes.Repeat([]byte("old data"), int(size/8+1))[:size], 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func allZero(t testing.TB, path string) bool {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return len(bytes.Trim(b, "\x00")) == 0
}

// steady fails the test when progress goes backwards, beyond its total, or ends
// short of it.
func steady(t *testing.T) (f progress.Func, finished func()) {
	var last, total int64 = -1, -1
	return func(d, tot int64) {
			if d < last || d > tot || (total >= 0 && tot != total) {
				t.Errorf("progress went from %d of %d to %d of %d", last, total, d, tot)
			}
			last, total = d, tot
		}, func() {
			if last != total || total <= 0 {
				t.Errorf("progress ended at %d of %d", last, total)
			}
		}
}

func TestDisk(t *testing.T) {
	tests := []struct {
		name   string
		size   int64
		method Method
		verify Verify
	}{
		{"defaults", 5 << 20, "", ""},
		{"auto", 5<<20 + 4096, Auto, Full},
		{"zeroout", 5 << 20, ZeroOut, Full},
		{"overwrite", 5 << 20, Overwrite, Full},
		{"one sector", 512, Auto, Full},
		{"one sector more than a piece", piece + 512, Overwrite, Full},
		{"less than a sector", 100, Overwrite, Full},
		{"odd end", 3<<20 + 1001, Overwrite, Full},
		{"odd end by command", 3<<20 + 1001, ZeroOut, Full},
		{"sample of a small disk, which is all", 1<<20 + 7, Auto, Sample},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := oldDisk(t, tt.size)
			f, finished := steady(t)
			r, err := Disk(t.Context(), path, Options{
				Expect: blockdev.Identity{Size: tt.size}, Method: tt.method, Verify: tt.verify, Progress: f,
			})
			if err != nil {
				t.Fatal(err)
			}
			finished()
			if !allZero(t, path) {
				t.Error("old data is still there")
			}
			if st, err := os.Stat(path); err != nil || st.Size() != tt.size {
				t.Errorf("the file's size changed: %v %v", st, err)
			}
			if r.BytesErased != tt.size || r.Disk.Path != path || r.Disk.Size != tt.size || r.Finished.Before(r.Started) || len(r.Warnings) != 0 {
				t.Errorf("report %+v", r)
			}
			if r.BytesVerified != tt.size || r.Verify != Full {
				t.Errorf("%d bytes verified (%s), want all %d", r.BytesVerified, r.Verify, tt.size)
			}
			if tt.method == Overwrite && (r.Method != Overwrite || r.BytesWritten != tt.size) {
				t.Errorf("method %s, %d bytes written", r.Method, r.BytesWritten)
			}
			if r.Method != Overwrite && r.Method != ZeroOut {
				t.Errorf("method %q says not what was done", r.Method)
			}
		})
	}
}

// A large file with holes and an odd end, in which only some places hold data.
func TestDiskSample(t *testing.T) {
	const size = smallDisk + 4096 + 7
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range []int64{0, 1 << 30, size - 8} {
		if _, err := f.WriteAt([]byte("old data"), off); err != nil {
			t.Fatal(err)
		}
	}
	p, finished := steady(t)
	r, err := Disk(t.Context(), path, Options{AnyDisk: true, Method: ZeroOut, Verify: Sample, Progress: p})
	if err != nil {
		t.Fatal(err)
	}
	if r.Method == Overwrite {
		t.Log("the file system of the temporary directory cannot make holes")
	}
	finished()
	if r.BytesErased != size || r.Verify != Sample || r.BytesVerified < size/10 || r.BytesVerified > size/8 {
		t.Errorf("report %+v", r)
	}
	for _, off := range []int64{0, 1 << 30, size - 8} {
		b := make([]byte, 8)
		if _, err := f.ReadAt(b, off); err != nil || string(b) != strings.Repeat("\x00", 8) {
			t.Errorf("at %d: %q, %v", off, b, err)
		}
	}
}

func TestRefused(t *testing.T) {
	const size = 64 << 10
	any := Options{AnyDisk: true}
	link := func(t *testing.T, path string) string {
		l := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(path, l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	tests := []struct {
		name string
		opt  func(t *testing.T, path string) Options
		want string
		is   error
	}{
		{"no identity", func(*testing.T, string) Options { return Options{} }, "names no disk", nil},
		{"wrong size", func(*testing.T, string) Options { return Options{Expect: blockdev.Identity{Size: 1}} }, "size", blockdev.ErrMismatch},
		{"wrong serial", func(*testing.T, string) Options {
			return Options{Expect: blockdev.Identity{Serial: "X", Size: size}}
		}, "serial", blockdev.ErrMismatch},
		{"wrong serial though any disk", func(*testing.T, string) Options {
			return Options{Expect: blockdev.Identity{Serial: "X"}, AnyDisk: true}
		}, "serial", blockdev.ErrMismatch},
		{"protected", func(_ *testing.T, p string) Options {
			return Options{AnyDisk: true, Protected: []string{"/no/such/disk", p}}
		}, "protected", nil},
		{"protected by another name", func(t *testing.T, p string) Options {
			return Options{AnyDisk: true, Protected: []string{link(t, p)}}
		}, "protected", nil},
		{"read-only", func(t *testing.T, p string) Options {
			if err := os.Chmod(p, 0o400); err != nil {
				t.Fatal(err)
			}
			return any
		}, "read-only", nil},
		{"method", func(*testing.T, string) Options { return Options{AnyDisk: true, Method: "shred"} }, `unknown method "shred"`, nil},
		{"verification", func(*testing.T, string) Options { return Options{AnyDisk: true, Verify: "none"} }, `unknown verification "none"`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := oldDisk(t, size)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Disk(t.Context(), path, tt.opt(t, path))
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want %q refused", err, tt.want)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v does not wrap %v", err, tt.is)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
				t.Errorf("the disk was touched (%v)", err)
			}
		})
	}
}

func TestRefusedPaths(t *testing.T) {
	dir := t.TempDir()
	empty := oldDisk(t, 0)
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file",
		dir:                        "neither a block device nor a plain file",
		"/dev/null":                "neither a block device nor a plain file",
		empty:                      "no medium",
	} {
		if _, err := Disk(t.Context(), path, Options{AnyDisk: true}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if _, err := Disk(t.Context(), filepath.Join(dir, "none"), Options{AnyDisk: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("cause is lost: %v", err)
	}
}

// The disks this machine runs from are in use, and must be refused by whatever
// sees that first. The identity is wrong on purpose, in case nothing does.
func TestRefusedInUse(t *testing.T) {
	disks, err := blockdev.Sysfs{}.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		_, err := Disk(t.Context(), d.Path, Options{Expect: blockdev.Identity{Serial: "no disk has this", Size: 1}})
		if !errors.Is(err, ErrRefused) {
			t.Fatalf("%s: %v", d.Path, err)
		}
	}
}

func TestCancelledBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := oldDisk(t, 4096)
	if _, err := Disk(ctx, path, Options{AnyDisk: true}); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrRefused) {
		t.Errorf("got %v", err)
	}
	if allZero(t, path) {
		t.Error("erased though cancelled before it began")
	}
}

func TestCancel(t *testing.T) {
	for _, m := range []Method{Overwrite, ZeroOut} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		const size = 32 << 20
		var done int64
		_, err := Disk(ctx, oldDisk(t, size), Options{AnyDisk: true, Method: m, Progress: func(d, _ int64) {
			if done = d; d >= 2<<20 {
				cancel()
			}
		}})
		if !errors.Is(err, context.Canceled) || errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", m, err)
		}
		// Zeroing a file is one command, after which the verification is cut off.
		if done >= 2*size {
			t.Errorf("%s went on to %d after the cancel", m, done)
		}
	}
}

func TestVerifyZero(t *testing.T) {
	const size = 16 << 20
	zero := filepath.Join(t.TempDir(), "zero.img")
	if err := os.WriteFile(zero, make([]byte, size), 0o400); err != nil { // reading needs no right to write
		t.Fatal(err)
	}
	for _, v := range []Verify{"", Full, Sample} {
		f, finished := steady(t)
		n, err := VerifyZero(t.Context(), zero, v, f)
		if err != nil || n < size/10 || (v != Sample && n != size) {
			t.Errorf("%q: %d bytes, %v", v, n, err)
		}
		finished()
	}
	if _, err := VerifyZero(t.Context(), zero, "some", nil); err == nil {
		t.Error("an unknown verification is accepted")
	}
	if _, err := VerifyZero(t.Context(), oldDisk(t, 0), Full, nil); err == nil {
		t.Error("a disk of no size is verified")
	}
	for _, off := range []int64{0, 1, piece - 1, piece, 5<<20 + 12345, size - 1} {
		b := make([]byte, size)
		b[off] = 1
		path := filepath.Join(t.TempDir(), "one.img")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := VerifyZero(t.Context(), path, Full, nil)
		if !errors.Is(err, ErrVerify) || !strings.Contains(err.Error(), path) {
			t.Errorf("byte %d: %v", off, err)
		}
		os.Remove(path)
	}
}

func BenchmarkErase(b *testing.B) {
	const size = 256 << 20
	path := oldDisk(b, size)
	bench := func(name string, f func() error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, m := range []Method{Overwrite, ZeroOut} {
		bench(string(m), func() error {
			_, err := Disk(b.Context(), path, Options{AnyDisk: true, Method: m})
			return err
		})
	}
	// Not a hole, so that the read is one.
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, v := range []Verify{Full, Sample} {
		bench("verify-"+string(v), func() error {
			_, err := VerifyZero(b.Context(), path, v, nil)
			return err
		})
	}
}
