package api

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
)

const (
	heartbeat = 15 * time.Second
	// settle is how long changes gather before they are sent, so that many at
	// once cost a watcher one look at the store.
	settle = 100 * time.Millisecond
)

// events streams changes as server-sent events (WHATWG HTML, 9.2). Their ids are
// the store's revisions, so a client that comes back with Last-Event-ID goes on
// where it was, even after a restart of the server.
func (s *server) events(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f := store.Filter{Graph: q.Get("graph")}
	var err error
	if f.Chassis, err = s.chassisParameter(r); err != nil {
		return err
	}
	if f.Graph != "" {
		g, err := s.Store.Graph(r.Context(), f.Graph)
		if err != nil {
			return err
		}
		f.Graph = g.ID
	}
	since, _ := s.Store.Revision()
	var first []store.Change
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n < 0 {
			return &refusal{http.StatusBadRequest, "Last-Event-ID: want the id of an event"}
		}
		since = min(n, since)
	} else if f.Graph != "" {
		since = 0 // it and its tasks are all there is
	} else if f.Chassis != "" {
		var err error
		if first, err = s.beginning(r, f.Chassis, since); err != nil {
			return err
		}
	}
	end, err := s.watchers.begin(callerOf(r).user)
	if err != nil {
		return err
	}
	defer end()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return s.stream(w, r, f, since, first)
}

// Event streams that may be open: of one user, and of all. Each costs a connection
// and, at every change, a look at the store.
const (
	maxStreams        = 256
	maxStreamsOfAUser = 64
)

// watchers counts the open event streams of users.
type watchers struct {
	mu   sync.Mutex
	all  int
	each map[string]int
}

// begin counts a stream until end is called.
func (w *watchers) begin(user string) (end func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.all >= maxStreams:
		return nil, &refusal{http.StatusServiceUnavailable, "too many event streams are open"}
	case w.each[user] >= maxStreamsOfAUser:
		return nil, &refusal{http.StatusTooManyRequests, fmt.Sprintf("%s has %d event streams open: close some", user, maxStreamsOfAUser)}
	}
	if w.each == nil {
		w.each = map[string]int{}
	}
	w.all++
	w.each[user]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.all--
		if w.each[user]--; w.each[user] == 0 {
			delete(w.each, user)
		}
	}, nil
}

// beginning is a chassis as it is at revision rev, and its unfinished tasks.
func (s *server) beginning(r *http.Request, chassis string, rev int64) ([]store.Change, error) {
	c, err := s.Store.Chassis(r.Context(), chassis)
	if err != nil {
		return nil, err
	}
	c.Inventory, c.Phases = nil, nil
	changes := []store.Change{{Rev: rev, Chassis: &c}}
	tasks, err := s.Store.OpenTasks(r.Context(), chassis)
	for i := range tasks {
		changes = append(changes, store.Change{Rev: rev, Task: &tasks[i]})
	}
	return changes, err
}

// stream returns nil: once it has begun, an error can only end it.
func (s *server) stream(w http.ResponseWriter, r *http.Request, f store.Filter, since int64, changes []store.Change) error {
	control := http.NewResponseController(w)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		_, changed := s.Store.Revision() // before the look, so that nothing falls between
		more, upTo, err := s.Store.Changes(r.Context(), since, f, store.MaxPage)
		if err != nil {
			if r.Context().Err() == nil {
				s.Log.Error("event stream", "error", err)
			}
			return nil
		}
		since = upTo
		control.SetWriteDeadline(time.Now().Add(heartbeat))
		for _, c := range append(changes, more...) {
			kind, data, err := eventData(c)
			if err != nil {
				s.Log.Error("event stream", "error", err)
				return nil
			}
			if _, err := fmt.Fprintf(w, "id: %d\nevent: %s\ndata: %s\n\n", c.Rev, kind, data); err != nil {
				return nil
			}
		}
		changes = nil
		if control.Flush() != nil {
			return nil
		}
		if len(more) == store.MaxPage {
			continue
		}
		for waiting := true; waiting; {
			select {
			case <-changed:
				waiting = false
			case <-beat.C:
				control.SetWriteDeadline(time.Now().Add(heartbeat))
				if _, err := fmt.Fprint(w, ":\n\n"); err != nil || control.Flush() != nil {
					return nil
				}
			case <-r.Context().Done():
				return nil
			case <-s.done.Done():
				return nil
			}
		}
		select {
		case <-time.After(settle):
		case <-r.Context().Done():
			return nil
		}
	}
}
