package imagecache

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// answer checks a response and brings body to s.off.
func (s *stream) answer(resp *http.Response, body io.Reader, o *origin) error {
	etag := resp.Header.Get("ETag")
	if strings.HasPrefix(etag, "W/") {
		etag = "" // weak: does not promise the same bytes
	}
	dead := func(format string, args ...any) error {
		o.dead = fmt.Errorf(format, args...)
		return o.dead
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return dead("sent with content encoding %.20q", e)
	}
	total := int64(-1)
	switch resp.StatusCode {
	case http.StatusOK:
		total = resp.ContentLength
		if o.etag != "" && etag != o.etag {
			return errChanged
		}
	case http.StatusPartialContent:
		first, t, err := contentRange(resp.Header.Get("Content-Range"))
		if err != nil {
			return dead("%w", err)
		}
		if s.off == 0 || first != s.off {
			return dead("sent the file from byte %d, asked for it from %d", first, s.off)
		}
		if o.etag != "" && etag != "" && etag != o.etag {
			return errChanged
		}
		total = t
	case http.StatusRequestedRangeNotSatisfiable: // it has less than we got
		other := func(x *origin) bool { return x.used && x != o }
		if !o.used && slices.ContainsFunc(s.origins, other) {
			return dead("the file has fewer than %d bytes", s.off)
		}
		return errChanged
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return fmt.Errorf("status %d", resp.StatusCode)
	default:
		if resp.StatusCode >= 500 {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return dead("status %d", resp.StatusCode)
	}
	switch {
	case total >= 0 && s.size >= 0 && total != s.size:
		return dead("%w: the file has %d bytes, expected %d", ErrDigest, total, s.size)
	case total > s.f.MaxSize && s.img.Size == 0:
		return dead("%w: the file has %d bytes, the limit is %d", ErrNoRoom, total, s.f.MaxSize)
	}
	if resp.StatusCode == http.StatusOK && s.off > 0 {
		// The server ignores Range: read up to where we were. If this is another
		// file, the digest tells.
		if _, err := io.CopyN(io.Discard, body, s.off); err != nil {
			return fmt.Errorf("server without Range: %w", unexpected(err))
		}
	}
	if total >= 0 {
		s.size = total
	}
	o.etag = etag
	return nil
}

// contentRange reads "bytes 0-499/1234" (RFC 9110 section 14.4); total is -1
// when the server does not know it.
func contentRange(h string) (first, total int64, err error) {
	bad := fmt.Errorf("bad Content-Range %.60q", h)
	rest, ok := strings.CutPrefix(h, "bytes ")
	span, size, ok2 := strings.Cut(rest, "/")
	from, to, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, bad
	}
	first, err1 := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	total = -1
	var err3 error
	if size != "*" {
		total, err3 = strconv.ParseInt(size, 10, 64)
	}
	if err1 != nil || err2 != nil || err3 != nil || first < 0 || last < first || total >= 0 && last >= total || size != "*" && total < 0 {
		return 0, 0, bad
	}
	return first, total, nil
}
