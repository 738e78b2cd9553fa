package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// answer remembers what was answered.
type answer struct {
	http.ResponseWriter
	status int
	bytes  int64  // of the body
	detail string // of a refusal
}

func (a *answer) WriteHeader(code int) {
	if a.status == 0 {
		a.status = code
	}
	a.ResponseWriter.WriteHeader(code)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(b)
	a.bytes += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// statusGone is what other servers log for a client that did not wait.
const statusGone = 499

func (a *answer) code() int {
	if a.status == 0 {
		return statusGone
	}
	return a.status
}

// serve carries out one operation: it finds out who asks, whether they may, and
// records it if it changes something.
func (s *server) serve(r route, w http.ResponseWriter, req *http.Request) {
	c, err := s.gate.admit(w, req)
	if err != nil {
		s.problem(w, req, err)
		return
	}
	req = req.WithContext(context.WithValue(req.Context(), callerKey{}, c))
	need := roleOf(r.pattern)
	do := func() error {
		if !c.role.Includes(need) {
			return &refusal{http.StatusForbidden, fmt.Sprintf("this needs the role %s; %s has the role %s", need, c.user, c.role)}
		}
		return r.handle(s, w, req)
	}
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		if err := do(); err != nil {
			s.problem(w, req, err)
		}
		return
	}
	s.audited(r, w, req, c, do)
}

// audited records a request, has it carried out, and records how it ended. What
// cannot be recorded is not done. What is in the trail without an end was cut off.
func (s *server) audited(r route, w http.ResponseWriter, req *http.Request, c caller, do func() error) {
	begun := time.Now()
	host, _, _ := net.SplitHostPort(req.RemoteAddr)
	id, err := s.Store.BeginAudit(req.Context(), store.AuditEntry{
		User: c.user, Token: c.token.Name, Address: host,
		Method: req.Method, Path: clip(req.URL.EscapedPath(), 512), Target: s.target(r, req),
	})
	if err != nil {
		s.problem(w, req, err)
		return
	}
	a, ok := w.(*answer)
	if !ok {
		a = &answer{ResponseWriter: w}
	}
	defer func() { // also when the handler panics, which ends as 500 at most
		ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), 10*time.Second)
		defer cancel()
		if err := s.Store.EndAudit(ctx, id, a.code(), clip(a.detail, 500), time.Since(begun)); err != nil && !errors.Is(err, store.ErrClosed) {
			s.Log.Error("the audit trail lacks how a request ended", "user", c.user, "method", req.Method, "path", req.URL.Path, "status", a.code(), "error", err)
		}
	}()
	if err := do(); err != nil {
		s.problem(a, req, err)
	}
}

// target is the id of the chassis that a request is about, or "".
func (s *server) target(r route, req *http.Request) string {
	ref := ""
	switch _, path, _ := strings.Cut(r.pattern, " "); {
	case strings.HasPrefix(path, "/v1/chassis/{id}"):
		ref = req.PathValue("id")
	case strings.HasPrefix(path, "/v1/apps/{host}"):
		ref = req.PathValue("host")
	default:
		return ""
	}
	c, err := s.Store.FindChassis(req.Context(), ref)
	if err != nil {
		return "" // the handler says so
	}
	return c.ID
}

// clip shortens a text to at most n bytes.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
