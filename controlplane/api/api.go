// Package api is the control plane's REST interface for operators, version 1. It
// is described by the fragments in openapi/, which the server itself serves as one document.
//
// Answers are JSON; errors are problem details (RFC 9457); lists come in pages.
// Every request but the one for the description needs a token as a bearer token
// (RFC 6750), whose user has a role that allows it. A request that changes
// something is in the audit trail before it is carried out.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/controlplane/api/quota"
	"github.com/teeth-metal/teeth/controlplane/backbone"
	"github.com/teeth-metal/teeth/controlplane/gateway"
	"github.com/teeth-metal/teeth/controlplane/images"
	"github.com/teeth-metal/teeth/controlplane/minion/records"
	"github.com/teeth-metal/teeth/controlplane/poller"
	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/settings"
	"github.com/teeth-metal/teeth/controlplane/sku"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
	"github.com/teeth-metal/teeth/internal/jsondepth"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// maxBody bounds a request in JSON. The largest is a provision with files, whose
// command to the agent is bounded by teeth.MaxLine.
const maxBody = 1 << 20

// bodyStall is how long a client may send nothing of its body. It is a variable
// for tests.
var bodyStall = time.Minute

// Config of the interface.
type Config struct {
	Store    *store.Store
	Gateway  *gateway.Gateway
	Engine   *workflow.Engine
	Images   *images.Library
	Power    *power.Service
	Pollers  *poller.Service
	SKUs     *sku.Service
	Apps     *backbone.Master
	Records  *records.DB // logs, telemetry and commands of Minion's agents; nil: none
	Settings *settings.Live
	// AgentConfig is what a chassis' agent needs after hand-off; nil: there is none.
	AgentConfig func(store.Chassis) (AgentConfig, error)
	Token       string // of the admin who has access to the server's data directory
	Version     string // of the server's software
	Log         *slog.Logger

	Limits  Limits
	Health  http.Handler // answers /healthz and /readyz; nil: neither is there
	Metrics http.Handler // answers /metrics; nil: it is not there
	Observe Observe      // is told of every request; may be nil
	// Backup writes a backup, with images if asked for; nil: there is none.
	Backup func(ctx context.Context, w io.Writer, images bool) error
}

// Observe is told of a request that has been answered. Route is its pattern, "" if
// there is none for it; code is the HTTP status, 499 if the client did not wait; sent
// are the bytes of the body.
type Observe func(route string, code int, took time.Duration, sent int64)

type server struct {
	Config
	gate      *gate
	watchers  watchers
	backingUp chan struct{}
	done      context.Context
}

// route is one operation of the description. Who may ask for it is in roles.
type route struct {
	pattern string
	handle  func(*server, http.ResponseWriter, *http.Request) error
}

// routes are all operations. A subject with more than a few has a file of its own,
// and a list that is joined here.
var routes = slices.Concat(
	coreRoutes, graphRoutes, operatorRoutes, enrolmentRoutes, addressRoutes, hardwareRoutes, catalogRoutes, estateRoutes, appRoutes, recordRoutes, versionRoutes, agentConfigRoutes,
)

var coreRoutes = []route{
	{"GET /v1/version", (*server).version},
	{"GET /v1/chassis", (*server).listChassis},
	{"GET /v1/chassis/{id}", (*server).getChassis},
	{"GET /v1/chassis/{id}/log", (*server).chassisLog},
	{"POST /v1/chassis/{id}/inspect", (*server).inspect},
	{"GET /v1/images", (*server).listImages},
	{"POST /v1/images", (*server).addImage},
	{"GET /v1/images/{id}", (*server).getImage},
	{"DELETE /v1/images/{id}", (*server).removeImage},
	{"GET /v1/events", (*server).events},
}

// Handler returns the interface. Event streams end when ctx does.
func Handler(ctx context.Context, c Config) http.Handler {
	s := &server{Config: c, gate: newGate(c.Store, c.Token, c.Limits), backingUp: make(chan struct{}, 1), done: ctx}
	go s.gate.keep(ctx, func(err error) { s.Log.Error("cannot record the use of tokens", "error", err) })
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) { s.serve(r, w, req) })
	}
	mux.HandleFunc("GET /v1/openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml") // RFC 9512
		w.Write(description)
	})
	if c.Health != nil {
		mux.Handle("GET /healthz", c.Health)
		mux.Handle("GET /readyz", c.Health)
	}
	if c.Metrics != nil {
		mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, req *http.Request) {
			s.serve(route{"GET /metrics", func(_ *server, w http.ResponseWriter, req *http.Request) error {
				c.Metrics.ServeHTTP(w, req)
				return nil
			}}, w, req)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		s.problem(w, req, &refusal{http.StatusNotFound, "no such resource; see /v1/openapi.yaml"})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// The server waits for what is left of a body even where no handler reads
			// it, and would without end. Who reads one to its end removes the deadline.
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyStall))
		}
		a := &answer{ResponseWriter: w}
		begun := time.Now()
		if err := s.gate.pace(a, r); err != nil {
			s.problem(a, r, err)
		} else {
			mux.ServeHTTP(a, r)
		}
		if s.Observe != nil {
			s.Observe(r.Pattern, a.code(), time.Since(begun), a.bytes)
		}
	})
}

// Connections that Serve accepts. Requests under way have grace to end when the
// server does.
const (
	maxConnections = 2048
	maxPerAddress  = 256
	grace          = 10 * time.Second
)

// Serve serves h over TLS (l is a TLS listener) until ctx ends, then lets
// requests finish for a while.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ConnState:         quota.NewConns(maxConnections, maxPerAddress).ConnState,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		end, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		if srv.Shutdown(end) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-closed
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("REST interface on %s: %w", l.Addr(), err)
	}
	return nil
}

// refusal is an error with the HTTP status that goes with it.
type refusal struct {
	status int
	detail string
}

func (r *refusal) Error() string { return r.detail }

// status maps errors of the packages below to HTTP.
func status(err error) int {
	var known *refusal
	var large *http.MaxBytesError
	var agent *teeth.MethodError
	for _, part := range []func(error) (int, bool){hardwareStatus, settingStatus, recordStatus} {
		if code, ok := part(err); ok {
			return code
		}
	}
	switch {
	case errors.As(err, &known):
		return known.status
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrInDoubt), errors.Is(err, store.ErrClosed):
		return http.StatusServiceUnavailable
	case errors.Is(err, store.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrAmbiguous), errors.Is(err, gateway.ErrNotConnected):
		return http.StatusConflict
	case errors.Is(err, store.ErrInvalid), errors.Is(err, workflow.ErrInvalid), errors.Is(err, images.ErrInvalid), errors.Is(err, io.ErrUnexpectedEOF):
		return http.StatusBadRequest
	case errors.Is(err, definition.ErrUnknown): // but not as a part of what is invalid
		return http.StatusNotFound
	case errors.As(err, &agent), errors.Is(err, images.ErrFetch):
		return http.StatusBadGateway
	case errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusRequestTimeout
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

func (s *server) problem(w http.ResponseWriter, r *http.Request, err error) {
	code := status(err)
	detail := err.Error()
	if code == http.StatusInternalServerError {
		if r.Context().Err() != nil {
			return // nobody is there to read it
		}
		s.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		detail = "internal error; see the server's log"
		if strings.HasPrefix(r.URL.Path, "/v1/images") || errors.Is(err, store.ErrInDoubt) {
			detail = err.Error() // a full disk, or the other server's answer: the operator can help it
		}
	}
	if a, ok := w.(*answer); ok {
		a.detail = detail
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{
		"type": "about:blank", "title": http.StatusText(code), "status": code, "detail": detail,
	})
}

func write(w http.ResponseWriter, code int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	w.Write(append(b, '\n'))
	return nil
}

// done answers a request that has no more to tell than that it was carried out.
func done(w http.ResponseWriter, err error) error {
	if err == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return err
}

// maxNesting is how deep a request's JSON may nest. What is stored of it is told
// again inside other JSON, whose decoders and encoders have bounds, too.
const maxNesting = 64

// read decodes a request's JSON strictly: a misspelt option of something that
// destroys data must not be ignored.
func read(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := readRaw(w, r)
	if err != nil {
		return err
	}
	if jsondepth.Exceeds(b, maxNesting) {
		return &refusal{http.StatusBadRequest, fmt.Sprintf("request: it nests deeper than %d", maxNesting)}
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return &refusal{http.StatusBadRequest, "request: " + err.Error()}
	}
	if _, err := dec.Token(); err != io.EOF {
		return &refusal{http.StatusBadRequest, "request: text after the JSON object"}
	}
	return nil
}

// readRaw returns a request's body, at most maxBody of it.
func readRaw(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	if err != nil && !errors.As(err, &large) {
		return nil, &refusal{http.StatusBadRequest, "request: " + err.Error()}
	}
	if err == nil {
		// Left standing, the deadline would end requests that take longer to carry out.
		http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	return b, err
}

// list is a page of items. Next is the page parameter of the page after it.
type list[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

func paged[T any](items []T, limit int, key func(T) string) list[T] {
	l := list[T]{Items: items}
	if items == nil {
		l.Items = []T{}
	}
	if len(items) == limit {
		l.Next = key(items[limit-1])
	}
	return l
}

// page answers with the page that a request asks for: what fetch finds after the
// page parameter, which is the key of the last item of the page before.
func page[T any](w http.ResponseWriter, r *http.Request, fetch func(ctx context.Context, after string, limit int) ([]T, error), key func(T) string) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	items, err := fetch(r.Context(), r.URL.Query().Get("page"), n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, paged(items, n, key))
}

// limit reads the limit parameter: 100 unless given, at most store.MaxPage.
func limit(r *http.Request) (int, error) {
	v := r.URL.Query().Get("limit")
	if v == "" {
		return 100, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > store.MaxPage {
		return 0, &refusal{http.StatusBadRequest, fmt.Sprintf("limit: want a number from 1 to %d", store.MaxPage)}
	}
	return n, nil
}
