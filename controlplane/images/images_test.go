package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/store"
)

func library(t *testing.T, dir string, loopback bool) *Library {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(dir, "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	l, err := Open(t.Context(), Config{Dir: filepath.Join(dir, "images"), Store: s, MaxSize: 1 << 20, AllowLoopback: loopback})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func digest(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

func files(t *testing.T, l *Library) int {
	t.Helper()
	list, err := os.ReadDir(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestAdd(t *testing.T) {
	l := library(t, t.TempDir(), false)
	content := bytes.Repeat([]byte("disk "), 20000)
	img, err := l.Add(t.Context(), Request{Name: "debian-12", Format: "raw", SHA256: strings.ToUpper(digest(content))}, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if img.SHA256 != digest(content) || img.Size != int64(len(content)) || img.Created.IsZero() {
		t.Errorf("%+v", img)
	}
	f, err := l.File(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := l.Add(t.Context(), Request{Name: "debian-12", Format: "raw"}, strings.NewReader("x")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("second image of that name: %v", err)
	}
	if err := l.Remove(t.Context(), "debian-12"); err != nil {
		t.Fatal(err)
	}
	if n := files(t, l); n != 0 {
		t.Errorf("%d files left", n)
	}
}

func TestRefused(t *testing.T) {
	l := library(t, t.TempDir(), false)
	for name, c := range map[string]struct {
		req  Request
		body io.Reader
		want string
	}{
		"empty":             {Request{Name: "a", Format: "raw"}, strings.NewReader(""), "empty"},
		"name with a slash": {Request{Name: "../a", Format: "raw"}, strings.NewReader("x"), "name"},
		"no name":           {Request{Format: "raw"}, strings.NewReader("x"), "name"},
		"no format":         {Request{Name: "a"}, strings.NewReader("x"), "want raw,"},
		"unknown format":    {Request{Name: "a", Format: "vmdk"}, strings.NewReader("x"), "want raw,"},
		"wrong digest":      {Request{Name: "a", Format: "raw", SHA256: digest(nil)}, strings.NewReader("x"), "expected"},
		"bad digest":        {Request{Name: "a", Format: "raw", SHA256: "abc"}, strings.NewReader("x"), "64 hexadecimal"},
		"raw is qcow2":      {Request{Name: "a", Format: "raw"}, strings.NewReader("QFI\xfb\x00\x00\x00\x03"), "contents are qcow2"},
		"qcow2 is raw":      {Request{Name: "a", Format: "qcow2"}, strings.NewReader("\xeb\x63"), "not qcow2"},
		"zst is gz":         {Request{Name: "a", Format: "raw.zst"}, strings.NewReader("\x1f\x8b\x08"), "not raw.zst"},
		"VMDK":              {Request{Name: "a", Format: "raw"}, strings.NewReader("KDMV..."), "VMDK"},
		"too large":         {Request{Name: "a", Format: "raw"}, bytes.NewReader(make([]byte, 1<<20+1)), "larger"},
	} {
		if _, err := l.Add(t.Context(), c.req, c.body); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, body := range map[string]io.Reader{
		"cut in its first bytes": io.MultiReader(strings.NewReader("12"), &broken{}),
		"cut later":              io.MultiReader(bytes.NewReader(make([]byte, 5000)), &broken{}),
	} {
		if _, err := l.Add(t.Context(), Request{Name: "a", Format: "raw"}, body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := files(t, l); n != 0 {
		t.Errorf("%d files left of refused images", n)
	}
}

type broken struct{}

func (*broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestOpenRemovesLeftovers(t *testing.T) {
	dir := t.TempDir()
	l := library(t, dir, false)
	img, err := l.Add(t.Context(), Request{Name: "a", Format: "raw"}, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"upload-1", "7b0c9a1e-8a5f-4a53-9a55-0b6e5f0f6a11", "README"} {
		if err := os.WriteFile(filepath.Join(l.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l.store.Close()
	l = library(t, dir, false)
	if n := files(t, l); n != 2 {
		t.Errorf("%d files, want the image and one that is not ours", n)
	}
	if f, err := l.File(img); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
}

func TestFetch(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "image") })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100000")
		w.Write(make([]byte, 3000))
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20+1)) })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	l := library(t, t.TempDir(), true)
	for i, path := range []string{"/ok", "/moved"} {
		img, err := l.Fetch(t.Context(), Request{Name: string(rune('a' + i)), Format: "raw"}, srv.URL+path)
		if err != nil || img.SHA256 != digest([]byte("image")) {
			t.Errorf("%s: %+v, %v", path, img, err)
		}
	}
	for _, address := range []string{srv.URL + "/file", srv.URL + "/cut", srv.URL + "/large", srv.URL + "/absent",
		"file:///etc/passwd", "ftp://host/x", "http://", "not a url", "http://169.254.169.254/latest/meta-data"} {
		if img, err := l.Fetch(t.Context(), Request{Name: "bad", Format: "raw"}, address); err == nil {
			t.Errorf("%s was fetched: %+v", address, img)
		}
	}
	if n := files(t, l); n != 2 {
		t.Errorf("%d files, want 2", n)
	}
	if _, err := library(t, t.TempDir(), false).Fetch(t.Context(), Request{Name: "a", Format: "raw"}, srv.URL+"/ok"); !errors.Is(err, ErrInvalid) {
		t.Errorf("fetched from this machine: %v", err)
	}
}
