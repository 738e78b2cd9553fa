package imagecache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func fetchAll(t *testing.T, f Fetcher, img Image) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := f.open(ctx, img, 0, nil)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return io.ReadAll(s)
}

func TestFetch(t *testing.T) {
	file := random(1, 3*mib)
	for _, c := range []struct {
		name     string
		set      func(*server)
		noSize   bool
		requests int
	}{
		{"plain", func(s *server) {}, false, 1},
		{"size unknown to us", func(s *server) {}, true, 1},
		{"size unknown to all", func(s *server) { s.chunked = true }, true, 1},
		{"connection breaks", func(s *server) { s.cut = mib }, false, 3},
		{"breaks without ETag", func(s *server) { s.cut, s.etag = mib, "" }, false, 3},
		{"breaks with a weak ETag", func(s *server) { s.cut, s.etag = mib, `W/"1"` }, false, 3},
		{"breaks, no Range", func(s *server) {
			s.cut, s.noRange = 2*mib, true
			s.onCut = func(s *server) { s.cut = 0 }
		}, false, 2},
		{"breaks, size unknown to us", func(s *server) { s.cut = mib }, true, 3},
		{"stalls", func(s *server) { s.stall = true }, false, 2},
	} {
		s := serve(t, file)
		c.set(s)
		img := imageOf(1, Raw, file, s.url())
		if c.noSize {
			img.Size = 0
		}
		got, err := fetchAll(t, fast, img)
		if err != nil || !bytes.Equal(got, file) {
			t.Errorf("%s: %d bytes of %d, %v", c.name, len(got), len(file), err)
		}
		if s.requests != c.requests {
			t.Errorf("%s: %d requests, want %d (%q)", c.name, s.requests, c.requests, s.ranges)
		}
	}
}

func TestFetchSeveralURLs(t *testing.T) {
	file := random(1, 2*mib)
	gone, broken, good := serve(t, file), serve(t, file), serve(t, file)
	gone.status, broken.cut = http.StatusNotFound, mib/2
	broken.onCut = func(s *server) { s.status = http.StatusServiceUnavailable }
	got, err := fetchAll(t, fast, imageOf(1, Raw, file, gone.url(), broken.url(), good.url()))
	if err != nil || !bytes.Equal(got, file) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if len(good.ranges) != 1 || good.ranges[0] == "" {
		t.Errorf("the last server was asked for %q", good.ranges)
	}
	if gone.requests != 1 {
		t.Errorf("a server without the file was asked %d times", gone.requests)
	}
}

func TestFetchFails(t *testing.T) {
	file := random(1, mib)
	for name, c := range map[string]struct {
		set    func(*server)
		change func(*Image)
		want   error
		text   string
	}{
		"not found":          {func(s *server) { s.status = 404 }, nil, nil, "404"},
		"always busy":        {func(s *server) { s.status = 503 }, nil, nil, "503"},
		"partial unasked":    {func(s *server) { s.status = 206 }, nil, nil, "Content-Range"},
		"strange success":    {func(s *server) { s.status = 203 }, nil, nil, "203"},
		"redirect to no URL": {func(s *server) { s.status = 300 }, nil, nil, "300"},
		"lies, longer":       {func(s *server) { s.lie = 1 }, func(i *Image) { i.Size = 0 }, errChanged, ""},
		"cut for ever":       {func(s *server) { s.cut = 1000 }, nil, io.ErrUnexpectedEOF, ""},
		"not our size":       {func(s *server) {}, func(i *Image) { i.Size++ }, ErrDigest, "expected"},
		"wrong range":        {func(s *server) { s.cut, s.lieRange = mib/2, 1 }, nil, nil, "asked for"},
		"changes":            {func(s *server) { s.cut, s.onCut = mib/2, func(s *server) { s.etag = `"2"` } }, nil, errChanged, ""},
		"shrinks":            {func(s *server) { s.cut, s.onCut, s.etag = mib/2, func(s *server) { s.file = s.file[:10] }, "" }, nil, errChanged, ""},
		"too large":          {func(s *server) {}, func(i *Image) { i.Size = 0 }, ErrNoRoom, ""},
		"too large, unknown": {func(s *server) { s.chunked = true }, func(i *Image) { i.Size = 0 }, ErrNoRoom, ""},
	} {
		s := serve(t, file)
		c.set(s)
		img := imageOf(1, Raw, file, s.url())
		if c.change != nil {
			c.change(&img)
		}
		f := fast
		if strings.HasPrefix(name, "too large") {
			f.MaxSize = mib / 2
		}
		got, err := fetchAll(t, f, img)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %d bytes, error %v", name, len(got), err)
		} else if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: the error shows the token: %v", name, err)
		}
	}
}

func TestFetchRedirects(t *testing.T) {
	file := random(1, 1000)
	plain := serve(t, file)
	to := func(target string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target, http.StatusFound) })
	}
	ok := httptest.NewServer(to(plain.url()))
	defer ok.Close()
	secure := httptest.NewTLSServer(to(plain.url()))
	defer secure.Close()
	local := httptest.NewServer(to("file:///etc/shadow"))
	defer local.Close()
	f := fast
	f.Attempts = 1
	f.Client = secure.Client()
	if got, err := fetchAll(t, f, imageOf(1, Raw, file, ok.URL)); err != nil || !bytes.Equal(got, file) {
		t.Errorf("http to http: %v", err)
	}
	for _, u := range []string{secure.URL, local.URL} {
		if _, err := fetchAll(t, f, imageOf(1, Raw, file, u)); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", u, err)
		}
	}
	if f.Client.CheckRedirect != nil {
		t.Error("the caller's client was changed")
	}
}

func TestFetchCancel(t *testing.T) {
	s := serve(t, random(1, mib))
	s.stall = true
	f := fast
	f.Stall = time.Minute
	ctx, cancel := context.WithCancel(context.Background())
	r, err := f.open(ctx, imageOf(1, Raw, s.file, s.url()), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	time.AfterFunc(50*time.Millisecond, cancel)
	begin := time.Now()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) || time.Since(begin) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
}

func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-499/1234")
	f.Add("bytes 1-2/*")
	f.Add("bytes */7")
	f.Fuzz(func(t *testing.T, h string) {
		first, total, err := contentRange(h)
		if err == nil && (first < 0 || total != -1 && total <= first) {
			t.Fatalf("%q: %d of %d", h, first, total)
		}
	})
}

// A server that sends a byte now and then is given up like one that sends none.
func TestFetchTrickle(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1048576")
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte{'x'}); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	}))
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	f := Fetcher{Backoff: time.Millisecond, Stall: 100 * time.Millisecond, Attempts: 2}
	img := imageOf(1, Raw, []byte("x"), s.URL+"/image")
	img.Size = 0
	r, _, err := f.Source(img).Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, errStalled) {
		t.Errorf("error: %v", err)
	}
}

// A mirror with a shorter file does not spoil what another one sent so far.
func TestFetchShortMirror(t *testing.T) {
	file := random(1, 3*mib)
	good, short := serve(t, file), serve(t, file[:mib/2])
	good.cut = mib
	got, err := fetchAll(t, fast, imageOf(1, Raw, file, good.url(), short.url()))
	if err != nil || !bytes.Equal(got, file) {
		t.Errorf("%d bytes of %d, %v", len(got), len(file), err)
	}
	if short.requests != 1 {
		t.Errorf("the short one was asked %d times", short.requests)
	}
}
