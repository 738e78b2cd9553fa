// Package node serves RackHD's tasks API to chassis, over the plain HTTP that they
// boot from: a node fetches commands, runs them, and posts back how they went.
// Commands are handed out until their report has arrived, so that an answer that
// is lost loses nothing.
//
//	GET  /api/current/tasks/bootstrap.js?macAddress=MAC   a client in JavaScript for Node
//	GET  /api/current/tasks/NODE                          commands; 404: none
//	POST /api/current/tasks/NODE                          their report; 201
//	POST /api/current/notification[?nodeId=NODE]          told on the bus; 201
//
// The same is under /api/2.0. NODE is rackhd.NodeID of the chassis.
//
// Neither a node id nor a MAC address opens anything, as anybody on the network can
// read them. A request shows the capability that the chassis' agent got over its
// session, as a bearer token or in the query parameter capability; it is good for
// one boot. RackHD's own ramdisks know of no such thing: with the setting
// rackhd.tokenless_nodes a request without one is taken to be from the chassis to
// which our DHCP server has leased the address it comes from. Whoever can use
// another's address can then read that chassis' commands, and forge their reports.
//
// Everything else is answered with 403, whether or not there is such a node.
package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/controlplane/rackhd"
	"github.com/teeth-metal/teeth/controlplane/store"
	wire "github.com/teeth-metal/teeth/wire/rackhd"
)

// CapabilityParameter is the query parameter that holds a capability.
const CapabilityParameter = "capability"

var errRefused = errors.New("refused")

// Config of a Handler. All must be set.
type Config struct {
	Store    *store.Store
	Commands rackhd.Commands
	Key      string // capabilities are made with it
	// Tokenless says whether nodes need none, as it is now.
	Tokenless func() bool
	Log       *slog.Logger
}

// Each notification is a write to the store and a message on the bus.
const (
	notificationRate  = 50 // a second
	notificationBurst = 200
)

type server struct {
	Config
	large         chan struct{} // a place for each large report that is being read
	notifications *rate.Limiter
}

// Handler returns the API. It bounds bodies, and the time for them, itself.
func Handler(c Config) http.Handler {
	s := &server{Config: c, large: make(chan struct{}, maxLarge), notifications: rate.NewLimiter(notificationRate, notificationBurst)}
	mux := http.NewServeMux()
	for _, base := range []string{"/api/current", "/api/2.0"} {
		for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request) error{
			"GET " + base + "/tasks/bootstrap.js": s.bootstrap,
			"GET " + base + "/tasks/{node}":       s.next,
			"POST " + base + "/tasks/{node}":      s.report,
			"POST " + base + "/notification":      s.notification,
		} {
			mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", "no-store")
				if err := handle(w, r); err != nil {
					s.fail(w, r, err)
				}
			})
		}
	}
	return mux
}

// chassis returns the one that a request may act for.
func (s *server) chassis(r *http.Request) (store.Chassis, error) {
	id := ""
	capability := r.URL.Query().Get(CapabilityParameter)
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		capability = bearer
	}
	var err error
	switch {
	case capability != "":
		id, err = chassisOf(capability)
	case s.Tokenless():
		id, err = s.leasing(r)
	default:
		err = fmt.Errorf("%w: no capability is shown: have the ramdisk of this control plane booted, or allow RackHD's with the setting rackhd.tokenless_nodes", errRefused)
	}
	if err != nil {
		return store.Chassis{}, err
	}
	c, err := s.Store.Chassis(r.Context(), id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return c, fmt.Errorf("%w: chassis %s is gone", errRefused, id)
	case err != nil:
		return c, err
	case c.Approved == nil:
		return c, fmt.Errorf("%w: chassis %s is not approved", errRefused, id)
	case capability != "":
		err = checkCapability(s.Key, c.ID, c.BootID, capability)
	}
	return c, err
}

// leasing is the chassis that has a lease of the address that a request is from.
func (s *server) leasing(r *http.Request) (string, error) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "", fmt.Errorf("%w: address %.64q", errRefused, r.RemoteAddr)
	}
	id, err := s.Store.ChassisLeasing(r.Context(), from.Addr())
	if errors.Is(err, store.ErrNotFound) {
		return "", fmt.Errorf("%w: no capability is shown, and no chassis has a lease of %s from this control plane", errRefused, from.Addr())
	}
	return id, err
}

// node is chassis, for a path that names its node.
func (s *server) node(r *http.Request, node string) (store.Chassis, error) {
	c, err := s.chassis(r)
	if err == nil && !strings.EqualFold(node, wire.NodeID(c.ID)) {
		err = fmt.Errorf("%w: node %.24q is another than that of chassis %s", errRefused, node, c.ID)
	}
	return c, err
}

// next hands out commands.
func (s *server) next(w http.ResponseWriter, r *http.Request) error {
	c, err := s.node(r, r.PathValue("node"))
	if err != nil {
		return err
	}
	batch, ok, err := s.Commands.Next(r.Context(), c)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: node %s has no commands to run", errNothing, wire.NodeID(c.ID))
	}
	s.Log.Debug("commands handed out", "chassis", c.ID, "task", batch.TaskID)
	return answer(w, http.StatusOK, batch)
}

// errNothing is what a node that has nothing to do is told. Its client looks
// again in a while.
var errNothing = fmt.Errorf("no active task: %w", store.ErrNotFound)

// report takes what came of them.
func (s *server) report(w http.ResponseWriter, r *http.Request) error {
	c, err := s.node(r, r.PathValue("node"))
	if err != nil {
		return err
	}
	body, done, err := s.read(w, r)
	if err != nil {
		return err
	}
	defer done()
	tasks, err := wire.ParseNodeTasks(body, wire.MaxNodePost)
	if err != nil {
		return err
	}
	if err := s.Commands.Report(r.Context(), c, tasks); err != nil {
		return err
	}
	s.Log.Info("commands reported", "chassis", c.ID, "task", tasks.TaskID, "bytes", len(body))
	return answer(w, http.StatusCreated, map[string]any{})
}

// notification passes on what a node says. RackHD's nodes send nothing, or a small
// object.
func (s *server) notification(w http.ResponseWriter, r *http.Request) error {
	var c store.Chassis
	var err error
	node := r.URL.Query().Get("nodeId")
	if node == "" { // for whoever listens, but not from whoever likes
		c, err = s.chassis(r)
		c.ID = ""
	} else {
		c, err = s.node(r, node)
	}
	if err != nil {
		return err
	}
	if !s.notifications.Allow() {
		return errBusy
	}
	body, err := readAll(w, r, maxNotification)
	if err != nil {
		return err
	}
	if len(strings.TrimSpace(string(body))) == 0 {
		body = []byte("{}")
	}
	if err := wire.CheckBody(body, maxNotification); err != nil {
		return err
	}
	if err := s.Store.AddNotice(r.Context(), store.NoticeFromNode, c.ID, "", json.RawMessage(body)); err != nil {
		return err
	}
	return answer(w, http.StatusCreated, json.RawMessage(body))
}

func answer(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", wire.ContentType)
	w.WriteHeader(status)
	w.Write(append(b, '\n')) // whoever has gone asks again
	return nil
}

// fail answers as RackHD does, with the reason as message.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusInternalServerError, "internal error"
	var large *http.MaxBytesError
	switch {
	case errors.Is(err, errRefused):
		// The reason says whether there is such a node: it is for the log alone.
		s.Log.Warn("a node's request is refused", "address", r.RemoteAddr, "path", fmt.Sprintf("%.128q", r.URL.Path), "error", err)
		status, text = http.StatusForbidden, "this needs a capability of the node; the control plane's log says more"
	case errors.As(err, &large):
		status, text = http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", large.Limit)
	case errors.Is(err, store.ErrNotFound):
		status, text = http.StatusNotFound, err.Error()
	case errors.Is(err, store.ErrConflict):
		s.Log.Warn("a node's report is refused", "address", r.RemoteAddr, "error", err)
		status, text = http.StatusConflict, err.Error()
	case errors.Is(err, wire.ErrInvalid):
		s.Log.Warn("a node's request makes no sense", "address", r.RemoteAddr, "path", fmt.Sprintf("%.128q", r.URL.Path), "error", err)
		status, text = http.StatusBadRequest, err.Error()
	case errors.Is(err, errBody):
		status, text = http.StatusRequestTimeout, err.Error()
	case errors.Is(err, errBusy), errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrInDoubt):
		s.Log.Warn("a node is to ask again", "address", r.RemoteAddr, "error", err)
		w.Header().Set("Retry-After", "10")
		status, text = http.StatusServiceUnavailable, "not now"
	case r.Context().Err() != nil:
		return // nobody is there to read it
	default:
		s.Log.Error("a node's request has failed", "address", r.RemoteAddr, "path", fmt.Sprintf("%.128q", r.URL.Path), "error", err)
	}
	if status >= 400 && r.Method == http.MethodPost {
		w.Header().Set("Connection", "close") // what is left of the body is not read
	}
	answer(w, status, map[string]any{"message": text, "status": status, "UUID": "", "createdAt": wire.Timestamp(time.Now())})
}
