package netboot

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/controlplane/images"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// Each notice is a write to the store, and anybody on the network can cause one.
const (
	noticeRate  = 500 // a second
	noticeBurst = 5000
	noticeTime  = 5 * time.Second
)

// noticed makes a notice of each response.
func (s *server) noticed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(rec, r)
		if s.Observe != nil {
			s.Observe(r.Pattern, rec.status, time.Since(began), rec.bytes)
		}
		if idlePoll(r, rec.status) || !s.notices.Allow() {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), noticeTime)
		defer cancel()
		from := remote(r)
		chassis, err := s.Store.ChassisAt(ctx, from)
		if err == nil {
			err = s.Store.AddNotice(ctx, store.NoticeHTTP, chassis, "", map[string]any{
				"address": from.String(), "method": r.Method, "url": urlForNotice(r.URL),
				"statusCode": rec.status, "time": fmt.Sprintf("%.3f", time.Since(began).Seconds()),
			})
		}
		if err != nil {
			s.Log.Error("no notice of a boot request", "path", pathForLog(r.URL), "error", err)
		}
	})
}

// idlePoll reports whether a response only says that there is nothing to do, which
// every node that polls is told every few seconds.
func idlePoll(r *http.Request, status int) bool {
	return status == http.StatusNotFound && r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/api/")
}

func remote(r *http.Request) netip.Addr {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

// urlForNotice leaves secrets out: the token in a path, the capability in a query.
func urlForNotice(u *url.URL) string {
	if strings.HasPrefix(u.Path, "/phone_home/") {
		return "/phone_home/"
	}
	text := u.EscapedPath()
	if q := u.Query(); len(q) > 0 && !q.Has(images.CapabilityParameter) {
		text += "?" + q.Encode()
	}
	return text[:min(len(text), 512)]
}

// recorder knows the status of a response. It keeps io.ReaderFrom, by which files
// go from disk to network within the kernel.
type recorder struct {
	http.ResponseWriter
	status int
	sent   bool
	bytes  int64 // of the body
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader sends the header.
func (r *recorder) WriteHeader(status int) {
	if !r.sent && status >= 200 {
		r.status, r.sent = status, true
	}
	r.ResponseWriter.WriteHeader(status)
}

// ReadFrom sends what src has.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(r.ResponseWriter, src) // which finds its ReadFrom
	r.bytes += n
	return n, err
}

// Write sends a part of the body.
func (r *recorder) Write(b []byte) (int, error) {
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}
