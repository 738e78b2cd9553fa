package images

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
)

// estate is a server with its library, as other servers see it.
type estate struct {
	*Library
	store  *store.Store
	served atomic.Int64 // requests
	change func(w http.ResponseWriter, r *http.Request, contents []byte) bool
}

const estateKey = "0123456789abcdefghijklmnopqrstuvwxyz"

func join(t *testing.T, dsn string) *estate {
	t.Helper()
	s, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l, err := Open(t.Context(), Config{Dir: t.TempDir(), Store: s, Key: estateKey})
	if err != nil {
		t.Fatal(err)
	}
	e := &estate{Library: l, store: s}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.served.Add(1)
		id := filepath.Base(r.URL.Path)
		if err := CheckCapability(estateKey, id, r.FormValue(CapabilityParameter), time.Now()); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		b, err := os.ReadFile(filepath.Join(l.dir, id))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		if e.change != nil && e.change(w, r, b) {
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	}))
	t.Cleanup(srv.Close)
	if err := s.SetBoot(t.Context(), srv.URL); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestCopiesOfAnEstate(t *testing.T) {
	dsn := postgrestest.Start(t, "fsync = off").Database(t)
	a, b := join(t, dsn), join(t, dsn)
	contents := bytes.Repeat([]byte("disk image "), 300_000)
	img, err := a.Add(t.Context(), Request{Name: "debian", Format: "raw"}, bytes.NewReader(contents))
	if err != nil {
		t.Fatal(err)
	}
	read := func(e *estate) ([]byte, error) {
		f, err := e.File(img)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(f)
	}
	forget := func(e *estate) {
		t.Helper()
		if err := errors.Join(os.Remove(filepath.Join(e.dir, img.ID)), e.store.RemoveImageCopy(t.Context(), img.ID)); err != nil {
			t.Fatal(err)
		}
	}

	// Many wait for one transfer.
	a.change = func(http.ResponseWriter, *http.Request, []byte) bool {
		time.Sleep(200 * time.Millisecond)
		return false
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := read(b); err != nil || !bytes.Equal(got, contents) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if n := a.served.Load(); n != 1 {
		t.Errorf("%d transfers", n)
	}

	// A transfer that is cut short goes on where it was.
	forget(b)
	var ranges []string
	a.change = func(w http.ResponseWriter, r *http.Request, all []byte) bool {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) > 1 {
			return false
		}
		w.Header().Set("Content-Length", "3300000")
		w.Write(all[:1<<20])
		return true
	}
	if _, err := read(b); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a transfer that was cut short: %v", err)
	}
	if got, err := read(b); err != nil || !bytes.Equal(got, contents) || len(ranges) != 2 || ranges[1] == "" {
		t.Errorf("%d bytes, %v; asked for %q", len(got), err, ranges)
	}

	// A file that is not what the store says is never served.
	forget(b)
	a.change = func(w http.ResponseWriter, r *http.Request, all []byte) bool {
		other := bytes.Clone(all)
		other[len(other)/2] ^= 1
		w.Write(other)
		return true
	}
	if got, err := read(b); err == nil {
		t.Errorf("served %d bytes of another file", len(got))
	}
	a.change = nil
	if got, err := read(b); err != nil || !bytes.Equal(got, contents) {
		t.Errorf("%d bytes, %v", len(got), err)
	}

	// A server without the key gets nothing, and one that is alone says so.
	c := join(t, dsn)
	c.key = "guessed"
	if _, err := read(c); err == nil {
		t.Error("got the image with another key")
	}
	forget(a)
	forget(b)
	if _, err := read(b); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("nobody has it: %v", err)
	}
}

// Keep copies what others take in, and drops the files of what they remove.
func TestKeep(t *testing.T) {
	dsn := postgrestest.Start(t, "fsync = off").Database(t)
	a := join(t, dsn)
	img, err := a.Add(t.Context(), Request{Name: "debian", Format: "raw"}, bytes.NewReader([]byte("disk")))
	if err != nil {
		t.Fatal(err)
	}
	b := join(t, dsn)
	stray := filepath.Join(b.dir, "5f2f0c5c-6a53-4dc5-9d8c-2f5f2b1a0c11")
	fresh := filepath.Join(b.dir, copyPrefix+"5f2f0c5c-6a53-4dc5-9d8c-2f5f2b1a0c12")
	for path, age := range map[string]time.Duration{stray: 2 * strayAge, fresh: 0} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	go b.Keep(t.Context())
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, err := os.Stat(filepath.Join(b.dir, img.ID))
		_, strayErr := os.Stat(stray)
		if err == nil && strayErr != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("copy: %v, stray file: %v", err, strayErr)
		}
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("removed the beginning of a transfer: %v", err)
	}
	if err := b.Remove(t.Context(), "debian"); err != nil {
		t.Error(err)
	}
}
