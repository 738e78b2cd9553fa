package api

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// writeStall is how long a client may take nothing of a backup.
const writeStall = time.Minute

// backup streams a backup. It is a POST since it belongs into the audit trail: it
// holds every secret of the control plane.
func (s *server) backup(w http.ResponseWriter, r *http.Request) error {
	images := false
	if v := r.URL.Query().Get("images"); v != "" {
		var err error
		if images, err = strconv.ParseBool(v); err != nil {
			return &refusal{http.StatusBadRequest, fmt.Sprintf("images: %.32q: want true or false", v)}
		}
	}
	if s.Backup == nil {
		return &refusal{http.StatusNotFound, "this server makes no backups"}
	}
	select {
	case s.backingUp <- struct{}{}:
		defer func() { <-s.backingUp }()
	default:
		return &refusal{http.StatusConflict, "a backup is being made: wait for it"}
	}
	w.Header().Set("Content-Type", "application/zstd") // RFC 8878
	w.Header().Set("Cache-Control", "no-store")
	out := &patient{w: w, c: http.NewResponseController(w)}
	err := s.Backup(r.Context(), out, images)
	if err == nil || !out.begun {
		return err
	}
	if r.Context().Err() == nil {
		s.Log.Error("a backup broke off", "error", err)
	}
	if a, ok := w.(*answer); ok {
		a.status, a.detail = statusGone, "broke off: "+err.Error()
	}
	panic(http.ErrAbortHandler) // so that the client sees that it is not whole
}

// patient writes to a client who may take hours, as long as it keeps taking.
type patient struct {
	w     io.Writer
	c     *http.ResponseController
	begun bool
}

func (p *patient) Write(b []byte) (int, error) {
	p.begun = true
	if err := p.c.SetWriteDeadline(time.Now().Add(writeStall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.w.Write(b)
}
