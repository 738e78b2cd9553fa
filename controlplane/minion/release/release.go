// Package release is the version URL: it tells agents what the newest version of the
// agent is, in the form of the original's document, with what ours need to verify it.
//
//	GET /api/v1/minion?kind=agent&arch=amd64
//	{"latest_version": "1.3.0", "md5": "…", "download_url": "…", "sha256": "…", "signature": "…", "size": 1}
//
// Ours say kind and arch, and are told of signed versions only. An original says
// neither, and is told of the newest agent there is.
package release

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"regexp"

	"golang.org/x/sync/semaphore"

	"github.com/teeth-metal/teeth/controlplane/minion/records"
)

// Path of the version URL, the original's.
const Path = "/api/v1/minion"

// Versions is the database, as far as it matters here.
type Versions interface {
	NewestAgentVersion(ctx context.Context, kind, arch string, signed bool) (records.AgentVersion, error)
}

// answer is what agents read.
type answer struct {
	Version   string `json:"latest_version"`
	MD5       string `json:"md5"`
	URL       string `json:"download_url"`
	SHA256    string `json:"sha256,omitempty"`
	Signature string `json:"signature,omitempty"`
	Size      int64  `json:"size,omitempty"`
}

// Anybody on the boot network may ask. What reads logs and sends commands has the rest
// of the database's connections.
const atOnce = 2

// arch is what an architecture may be called.
var arch = regexp.MustCompile(`^[a-z0-9]{0,16}$`)

// Handler answers at Path.
func Handler(db Versions, log *slog.Logger) http.Handler {
	asking := semaphore.NewWeighted(atOnce)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		kind, of := q.Get("kind"), q.Get("arch")
		ours := kind != "" || of != ""
		if kind == "" {
			kind = records.KindAgent
		}
		v, err := records.AgentVersion{}, records.ErrNotFound
		if arch.MatchString(of) && (kind == records.KindAgent || kind == records.KindImage) {
			if asking.Acquire(r.Context(), 1) != nil {
				return // nobody waits for an answer any more
			}
			func() {
				defer asking.Release(1)
				v, err = db.NewestAgentVersion(r.Context(), kind, of, ours)
			}()
		}
		switch {
		case errors.Is(err, records.ErrNotFound):
			http.Error(w, "there is no such version: add one with `teeth agent-version add`", http.StatusNotFound)
			return
		case err != nil:
			if r.Context().Err() == nil {
				log.Error("cannot tell an agent of the newest version", "error", err)
			}
			w.Header().Set("Retry-After", "10")
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		a := answer{Version: v.Version, MD5: v.MD5, URL: v.URL, SHA256: v.SHA256, Signature: v.Signature, Size: v.Size}
		if !ours {
			a.URL = absolute(r, v.URL) // which the original takes as it is
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(a) // a client that has gone is nobody to tell
	})
}

// absolute is a URL as the one who asks reaches this server.
func absolute(r *http.Request, u string) string {
	if len(u) == 0 || u[0] != '/' {
		return u
	}
	if r.TLS != nil {
		return "https://" + r.Host + u
	}
	return "http://" + r.Host + u
}
