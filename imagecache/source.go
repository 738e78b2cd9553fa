package imagecache

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
)

// Source is where Write gets an image's file from: a File of a Cache, or a
// Fetcher's Source. Open starts at the first byte, again when called again; size
// is -1 when unknown. A source of QCOW2 must also be an io.ReaderAt.
type Source interface {
	Open(ctx context.Context) (r io.ReadCloser, size int64, err error)
}

// retrier is a Source that can say whether opening it again may help after err,
// and may fail to do what that takes.
type retrier interface {
	again(err error) (bool, error)
}

// Source returns img's file on the network, which Write then streams to a disk
// without keeping it.
func (f Fetcher) Source(img Image) Source {
	return &remote{f: f, img: img, bad: map[string]bool{}}
}

// remote fetches one image, leaving out URLs that gave a wrong file.
type remote struct {
	f     Fetcher
	img   Image
	bad   map[string]bool
	last  *stream
	tries int
}

// Open implements Source.
func (r *remote) Open(ctx context.Context) (io.ReadCloser, int64, error) {
	s, err := r.openAt(ctx, 0)
	if err != nil {
		return nil, 0, err
	}
	return s, s.size, nil
}

func (r *remote) openAt(ctx context.Context, off int64) (*stream, error) {
	s, err := r.f.open(ctx, r.img, off, r.bad)
	if err == nil {
		r.last = s
	}
	return s, err
}

// again reports whether to start anew: the file changed while it was read, or
// it was wrong and another URL may have the right one.
func (r *remote) again(err error) (bool, error) {
	const most = 4
	if r.tries++; r.tries >= most || r.last == nil {
		return false, nil
	}
	if errors.Is(err, errChanged) {
		return true, nil
	}
	if !errors.Is(err, ErrDigest) {
		return false, nil
	}
	for _, o := range r.last.origins {
		if o.used {
			r.bad[o.url] = true
		}
	}
	for _, u := range r.img.URLs {
		if !r.bad[u] {
			return true, nil
		}
	}
	return false, nil
}

// readAhead reads and digests a source on a goroutine of its own, so that the
// network, the digest and the decoder do not wait for each other.
type readAhead struct {
	full, free chan []byte
	cur        []byte // rest of buf
	buf        []byte
	stop       chan struct{}
	done       chan struct{}
	err        error // set before full is closed
	read       atomic.Int64
}

const (
	readBuffers    = 3
	readBufferSize = 1 << 20
)

// newReadAhead starts reading r into sum. head was read from r before.
func newReadAhead(r io.Reader, sum io.Writer, head []byte) *readAhead {
	a := &readAhead{
		full: make(chan []byte, readBuffers), free: make(chan []byte, readBuffers),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	for range readBuffers {
		a.free <- make([]byte, readBufferSize)
	}
	go a.run(r, sum, head)
	return a
}

func (a *readAhead) run(r io.Reader, sum io.Writer, head []byte) {
	defer close(a.done)
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.stop:
			a.err = context.Canceled
			return
		}
		n := copy(buf, head)
		head = head[n:]
		var err error
		if len(head) == 0 {
			var m int
			m, err = io.ReadFull(r, buf[n:])
			n += m
		}
		if n > 0 {
			sum.Write(buf[:n])
			a.read.Add(int64(n))
			a.full <- buf[:n]
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			// ReadFull's own: the source's end. A source that broke off early
			// has said so with another error, see cut.
			a.err = io.EOF
			return
		default:
			a.err = err
			return
		}
	}
}

// Read implements io.Reader.
func (a *readAhead) Read(b []byte) (int, error) {
	if len(a.cur) == 0 {
		if a.buf != nil {
			a.free <- a.buf[:cap(a.buf)]
			a.buf = nil
		}
		buf, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.buf, a.cur = buf, buf
	}
	n := copy(b, a.cur)
	a.cur = a.cur[n:]
	return n, nil
}

// Close stops the goroutine and waits for it. A read of the source in progress
// must be ended by its context.
func (a *readAhead) Close() error {
	close(a.stop)
	<-a.done
	return nil
}

// failure returns the error of the source itself, nil at its regular end. It
// may be called after Read returned an error.
func (a *readAhead) failure() error {
	select {
	case <-a.done:
		if a.err == io.EOF {
			return nil
		}
		return a.err
	default:
		return nil
	}
}

// cut makes an io.ErrUnexpectedEOF of a source distinguishable from the one
// that io.ReadFull makes of a regular end.
type cut struct{ io.Reader }

func (c cut) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	if err == io.ErrUnexpectedEOF {
		err = errCut
	}
	return n, err
}

var errCut = errors.New("the file ends too early")
