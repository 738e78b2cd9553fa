package imagecache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"
)

// Fetcher gets files of images over HTTP and HTTPS. Its zero value works.
type Fetcher struct {
	// Client is used with our own rule on redirects; nil is a default client.
	Client *http.Client
	// Stall is how long a server may send nothing; 0 is 30 s. Less than 64 KiB in
	// ten times that is as good as nothing.
	Stall time.Duration
	// Attempts is how many failures in a row, over all URLs, are one too many;
	// 0 is 8. Between rounds over the URLs the wait grows from Backoff to 30 s.
	Attempts int
	Backoff  time.Duration // 0 is 1 s
	// MaxSize bounds a file whose Image has no size; 0 is 256 GiB.
	MaxSize int64
}

// errChanged says that a server's file is no longer the one we have a part of.
var errChanged = errors.New("the file on the server has changed")

// errStalled ends a request that brings nothing.
var errStalled = errors.New("the server sends nothing, or next to nothing")

const (
	maxBackoff = 30 * time.Second
	// headway is what a connection must bring for earlier failures to be
	// forgotten, so that a server that sends single bytes cannot keep us for ever.
	headway = 64 << 10
	// slowest is within how many times Stall a connection must make headway.
	slowest = 10
)

// origin is one URL of an image.
type origin struct {
	url  string
	etag string // strong, of the file we have read from it
	dead error  // never to be asked again
	last error
	used bool // some bytes came from it
}

// stream reads one file from any of its URLs, going on where a broken
// connection ended. It is not safe for concurrent use.
type stream struct {
	f       Fetcher
	client  *http.Client
	ctx     context.Context
	what    string // that is fetched, for errors
	img     Image
	origins []*origin
	cur     int
	off     int64 // next byte to return
	size    int64 // of the whole file, -1 unknown
	body    io.ReadCloser
	cancel  context.CancelCauseFunc
	fails   int
	fresh   int64 // bytes from this connection
	err     error
}

// open starts reading at off. It returns once a server has answered, so that
// the size is known if the server tells it. URLs in skip are not asked.
func (f Fetcher) open(ctx context.Context, img Image, off int64, skip map[string]bool) (*stream, error) {
	if err := img.Validate(); err != nil {
		return nil, err
	}
	return f.start(ctx, "image "+img.ID, img, off, skip)
}

// start is open for what need not be an image: only its URLs and its size count.
func (f Fetcher) start(ctx context.Context, what string, img Image, off int64, skip map[string]bool) (*stream, error) {
	s := &stream{f: f.defaults(), ctx: ctx, what: what, img: img, off: off, size: -1}
	if img.Size > 0 {
		s.size = img.Size
	}
	for _, u := range img.URLs {
		if !skip[u] {
			s.origins = append(s.origins, &origin{url: u})
		}
	}
	if len(s.origins) == 0 {
		return nil, fmt.Errorf("%s: no URL to fetch it from", what)
	}
	client := http.Client{Transport: transport}
	if f.Client != nil {
		client = *f.Client
	}
	client.CheckRedirect = checkRedirect
	client.Timeout = 0 // for the whole body; a stalled one ends sooner
	s.client = &client
	if s.size < 0 || off < s.size {
		if err := s.connect(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (f Fetcher) defaults() Fetcher {
	if f.Stall <= 0 {
		f.Stall = 30 * time.Second
	}
	if f.Attempts <= 0 {
		f.Attempts = 8
	}
	if f.Backoff <= 0 {
		f.Backoff = time.Second
	}
	if f.MaxSize <= 0 {
		f.MaxSize = 256 << 30
	}
	return f
}

var transport = func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true // digests are of the file's own bytes
	return t
}()

func checkRedirect(req *http.Request, via []*http.Request) error {
	from := via[len(via)-1].URL.Scheme
	to := req.URL.Scheme
	switch {
	case len(via) >= 10:
		return errors.New("more than 10 redirects")
	case to != "http" && to != "https", from == "https" && to == "http":
		return fmt.Errorf("redirect from %s to %.20s refused", from, to)
	}
	return nil
}

// Read implements io.Reader. It returns io.EOF only when the whole file came.
func (s *stream) Read(b []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.read(b)
	s.err = err
	return n, err
}

func (s *stream) read(b []byte) (int, error) {
	for {
		if s.size >= 0 && s.off >= s.size {
			return 0, io.EOF
		}
		if s.body == nil {
			if err := s.connect(); err != nil {
				return 0, err
			}
			continue
		}
		if s.size >= 0 {
			b = b[:min(int64(len(b)), s.size-s.off)]
		}
		n, err := s.body.Read(b)
		if n > 0 {
			s.origins[s.cur].used = true
			s.off += int64(n)
			if s.fresh += int64(n); s.fresh >= headway {
				s.fails = 0
			}
			if s.off > s.f.MaxSize && s.img.Size == 0 {
				return 0, fmt.Errorf("%s: %w: more than %d bytes", s.what, ErrNoRoom, s.f.MaxSize)
			}
			return n, nil // an error comes again with the next read
		}
		if err == io.EOF && s.size < 0 {
			s.size = s.off
			return 0, io.EOF
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			s.failed(err)
		}
	}
}

// Close ends the transfer.
func (s *stream) Close() error {
	s.drop()
	return nil
}

func (s *stream) drop() {
	if s.body != nil {
		s.cancel(nil)
		s.body.Close()
		s.body = nil
	}
}

// failed notes an error of the current URL and turns to the next.
func (s *stream) failed(err error) {
	s.drop()
	s.origins[s.cur].last = err
	s.fails++
	s.cur = (s.cur + 1) % len(s.origins)
}

// connect asks one URL after the other until one sends the file from s.off.
func (s *stream) connect() error {
	for {
		if err := context.Cause(s.ctx); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		alive := 0
		for _, o := range s.origins {
			if o.dead == nil {
				alive++
			}
		}
		if alive == 0 || s.fails >= s.f.Attempts {
			return s.giveUp()
		}
		if s.origins[s.cur].dead != nil {
			s.cur = (s.cur + 1) % len(s.origins)
			continue
		}
		if s.fails > 0 && s.fails%alive == 0 {
			if err := s.wait(s.fails / alive); err != nil {
				return err
			}
		}
		err := s.request(s.origins[s.cur])
		if err == nil {
			return nil
		}
		if errors.Is(err, errChanged) {
			s.drop()
			return fmt.Errorf("%s: %s: %w", s.what, shown(s.origins[s.cur].url), err)
		}
		s.failed(err)
	}
}

// giveUp tells what became of every URL.
func (s *stream) giveUp() error {
	var errs []error
	for _, o := range s.origins {
		err := o.dead
		if err == nil {
			err = o.last
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", shown(o.url), err))
		}
	}
	return fmt.Errorf("%s: fetch: %w", s.what, errors.Join(errs...))
}

func (s *stream) wait(round int) error {
	d := min(s.f.Backoff<<min(round-1, 10), maxBackoff)
	d = d/2 + rand.N(d/2+1)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.ctx.Done():
		return fmt.Errorf("%s: %w", s.what, context.Cause(s.ctx))
	case <-t.C:
		return nil
	}
}

// request asks o for the file from s.off and leaves its body in s.body.
func (s *stream) request(o *origin) error {
	ctx, cancel := context.WithCancelCause(s.ctx)
	body, err := s.do(ctx, cancel, o)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return err
	}
	s.body, s.cancel, s.fresh = body, cancel, 0
	return nil
}

func (s *stream) do(ctx context.Context, cancel context.CancelCauseFunc, o *origin) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.url, nil)
	if err != nil {
		o.dead = errors.New("bad URL")
		return nil, o.dead
	}
	req.Header.Set("Accept-Encoding", "identity")
	if s.off > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", s.off))
		if o.etag != "" {
			req.Header.Set("If-Range", o.etag)
		}
	}
	timer := time.AfterFunc(s.f.Stall, func() { cancel(errStalled) })
	resp, err := s.client.Do(req)
	if err != nil {
		timer.Stop()
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err // without the URL, which may hold a secret
		}
		return nil, err
	}
	body := &watched{ReadCloser: resp.Body, timer: timer, stall: s.f.Stall, ctx: ctx}
	if err := s.answer(resp, body, o); err != nil {
		timer.Stop()
		resp.Body.Close()
		return nil, err
	}
	timer.Stop()
	return body, nil
}

// watched is a body whose request ends when a read takes too long.
type watched struct {
	io.ReadCloser
	timer *time.Timer
	stall time.Duration
	ctx   context.Context

	got    int           // bytes since the last headway
	waited time.Duration // within Read only: a slow disk is not the server's fault
}

func (w *watched) Read(b []byte) (int, error) {
	if w.waited > slowest*w.stall {
		return 0, errStalled
	}
	w.timer.Reset(w.stall)
	begin := time.Now()
	n, err := w.ReadCloser.Read(b)
	w.timer.Stop()
	w.waited += time.Since(begin)
	if w.got += n; w.got >= headway {
		w.got, w.waited = 0, 0
	}
	if err != nil && err != io.EOF {
		if cause := context.Cause(w.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

// unexpected turns the end of a file where more must come into an error that
// nobody takes for success.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// shown is what of a URL may be logged: no user, no query.
func shown(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "URL"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
