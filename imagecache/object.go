package imagecache

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/teeth-metal/teeth/progress"
)

// Object is a file on the network that is not an image, an app's package for
// instance.
type Object struct {
	Name string // for errors: "package web 1.2"
	URLs []string
	// Hashes are as in Image, but there may be none: then what came is not verified.
	Hashes map[string]string
	Size   int64 // bytes; 0 if unknown
}

// Get fetches an object into f, which holds nothing or the beginning of the object
// from an earlier Get that failed. A broken connection is resumed where it ended. The
// digests and the size are checked, and an error about them wraps ErrDigest; f is then
// empty. Get returns the SHA-256 of the file, in hexadecimal. report gets bytes.
func (g Fetcher) Get(ctx context.Context, o Object, f *os.File, report progress.Func) (sha256 string, err error) {
	img := Image{ID: o.Name, URLs: o.URLs, Hashes: map[string]string{"sha256": ""}, Size: o.Size}
	for algorithm, want := range o.Hashes {
		make, known := algorithms[algorithm]
		if b, err := hex.DecodeString(want); !known || err != nil || len(b) != make().Size() {
			return "", fmt.Errorf("%s: digest by %.20q is not one of sha256 or sha512", o.Name, algorithm)
		}
		img.Hashes[algorithm] = want
	}
	for _, s := range o.URLs {
		if u, err := url.Parse(s); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return "", fmt.Errorf("%s: a URL is not of http or https", o.Name) // it may hold a secret
		}
	}
	r := &remote{f: g, img: img, bad: map[string]bool{}}
	for {
		sum, from, err := r.get(ctx, o, f, report)
		if err == nil {
			return sum, nil
		}
		if errors.Is(err, ErrDigest) || errors.Is(err, errChanged) {
			if terr := f.Truncate(0); terr != nil {
				return "", errors.Join(err, terr)
			}
			// Bytes from before may be the wrong ones: those of no URL.
			if from > 0 && ctx.Err() == nil {
				continue
			}
		}
		if retry, _ := r.again(err); ctx.Err() != nil || !retry {
			return "", err
		}
	}
}

// get is one attempt. It goes on after the first off bytes, which f had.
func (r *remote) get(ctx context.Context, o Object, f *os.File, report progress.Func) (sha256 string, off int64, err error) {
	sum := r.img.digester()
	if len(o.Hashes) > 0 { // without, nothing tells whether a beginning is of this file
		st, err := f.Stat()
		if err != nil {
			return "", off, fmt.Errorf("%s: %w", o.Name, err)
		}
		off = st.Size()
	}
	if o.Size > 0 && off > o.Size {
		off = 0
	}
	if err := f.Truncate(off); err != nil {
		return "", off, fmt.Errorf("%s: %w", o.Name, err)
	}
	if err := copyContext(ctx, sum, io.NewSectionReader(f, 0, off), func(int64) {}); err != nil {
		return "", off, fmt.Errorf("%s: read the part that is there: %w", o.Name, err)
	}
	s, err := r.f.start(ctx, o.Name, r.img, off, r.bad)
	if err != nil {
		return "", off, err
	}
	r.last = s
	defer s.Close()
	if s.size >= 0 && s.size < off {
		return "", off, fmt.Errorf("%s: %w: %d bytes, had %d", o.Name, errChanged, s.size, off)
	}
	to := io.NewOffsetWriter(f, off)
	if err := copyContext(ctx, io.MultiWriter(to, sum), s, func(n int64) { report.Report(off+n, max(s.size, 0)) }); err != nil {
		return "", off, fmt.Errorf("%s: %w", o.Name, err)
	}
	for algorithm, want := range o.Hashes {
		if got := hex.EncodeToString(sum.sums[algorithm].Sum(nil)); !strings.EqualFold(got, want) {
			return "", off, fmt.Errorf("%s: %w: %s is %s, expected %s", o.Name, ErrDigest, algorithm, got, want)
		}
	}
	return hex.EncodeToString(sum.sums["sha256"].Sum(nil)), off, nil
}
