package imagecache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const mib = 1 << 20

// random returns n bytes that do not compress, the same for the same seed.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= n; i += 8 {
		v := r.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b
}

// sparse returns the contents of a disk of n bytes: data, holes, and data at
// both ends.
func sparse(seed uint64, n int) []byte {
	b := random(seed, n)
	clear(b[n/4 : n/2])
	clear(b[n/2+100<<10 : n/2+700<<10])
	return b
}

func id(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }

func imageOf(n int, f Format, file []byte, urls ...string) Image {
	sum := sha256.Sum256(file)
	return Image{ID: id(n), Name: "test", URLs: urls, Format: f, Size: int64(len(file)), Hashes: map[string]string{"sha256": hex.EncodeToString(sum[:])}}
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zst(t testing.TB, b []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, append(opts, zstd.WithEncoderConcurrency(1))...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// run pipes b through a program that `make setup` installs.
func run(t testing.TB, b []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(b)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v %s", name, args, err, errs.String())
	}
	return out
}

// qcow converts b with qemu-img.
func qcow(t testing.TB, b []byte, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	raw, out := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	if err := os.WriteFile(raw, b, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, nil, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, out)...)
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// dirty makes a plain file as a disk with old data on every byte.
func dirty(t testing.TB, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xd1}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// server serves one file with faults.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	file     []byte
	etag     string
	cut      int  // bytes after which the connection breaks; 0 never
	noRange  bool // ignores Range
	chunked  bool // does not tell the size
	stall    bool // sends half of the file and then nothing
	status   int  // answers with this
	lie      int  // added to the size it tells
	lieRange int  // added to the first byte of Content-Range
	requests int
	ranges   []string
	onCut    func(*server)
}

func serve(t testing.TB, file []byte) *server {
	t.Helper()
	s := &server{file: file, etag: `"1"`}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *server) url() string { return s.URL + "/image?token=SECRET" }

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	s.ranges = append(s.ranges, r.Header.Get("Range"))
	if s.status != 0 {
		w.WriteHeader(s.status)
		return
	}
	w.Header().Set("ETag", s.etag)
	body := s.file
	first, code := 0, http.StatusOK
	if spec, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && !s.noRange {
		if ir := r.Header.Get("If-Range"); ir == "" || ir == s.etag {
			first, _ = strconv.Atoi(strings.TrimSuffix(spec, "-"))
			if first >= len(body) {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			body, code = body[first:], http.StatusPartialContent
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first+s.lieRange, len(s.file)-1, len(s.file)+s.lie))
		}
	}
	if !s.chunked {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)+s.lie))
	}
	w.WriteHeader(code)
	if s.cut > 0 && len(body) > s.cut {
		w.Write(body[:s.cut])
		w.(http.Flusher).Flush()
		if s.onCut != nil {
			s.onCut(s)
		}
		panic(http.ErrAbortHandler)
	}
	if s.stall {
		w.Write(body[:len(body)/2])
		w.(http.Flusher).Flush()
		s.stall = false
		s.mu.Unlock()
		<-r.Context().Done()
		s.mu.Lock()
		return
	}
	if s.chunked {
		w.(http.Flusher).Flush()
	}
	w.Write(body)
}

// fast is a Fetcher that does not make tests wait.
var fast = Fetcher{Backoff: time.Millisecond, Stall: 300 * time.Millisecond, Attempts: 4}
