package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/teeth-metal/teeth/controlplane/minion/records"
	"github.com/teeth-metal/teeth/internal/pattern"
)

// recordRoutes are about what Minion's agents send and are sent.
var recordRoutes = []route{
	{"GET /v1/logs", (*server).logs},
	{"GET /v1/telemetry", (*server).telemetry},
	{"GET /v1/commands", (*server).listCommands},
	{"POST /v1/commands", (*server).runCommand},
	{"GET /v1/commands/{id}", (*server).getCommand},
	{"GET /v1/commands/{id}/runs", (*server).listRuns},
	{"GET /v1/commands/{id}/runs/{run}", (*server).getRun},
	{"GET /v1/commands/{id}/output", (*server).commandOutput},
	{"POST /v1/commands/{id}/cancel", (*server).cancelCommand},
}

// recordStatus maps errors of the records database to HTTP.
func recordStatus(err error) (int, bool) {
	switch {
	case errors.Is(err, records.ErrUnavailable), errors.Is(err, records.ErrClosed):
		return http.StatusServiceUnavailable, true
	case errors.Is(err, records.ErrNotFound):
		return http.StatusNotFound, true
	case errors.Is(err, records.ErrInvalid):
		return http.StatusBadRequest, true
	}
	return 0, false
}

// records is the records database.
func (s *server) records() (*records.DB, error) {
	if s.Records == nil {
		return nil, &refusal{http.StatusServiceUnavailable, "this server has no records database"}
	}
	return s.Records, nil
}

// maxPattern bounds a regular expression and a text that is searched for.
const maxPattern = 1000

// servers are the servers that chassis and server parameters name.
func (s *server) servers(r *http.Request) ([]string, error) {
	q := r.URL.Query()
	list := q["server"]
	for _, ref := range q["chassis"] {
		c, err := s.Store.FindChassis(r.Context(), ref)
		if err != nil {
			return nil, err
		}
		list = append(list, c.ID)
	}
	if len(list) > 1000 {
		return nil, &refusal{http.StatusBadRequest, "chassis and server: at most 1000"}
	}
	return list, nil
}

func timeParameter(q url.Values, name string) (time.Time, error) {
	v := q.Get(name)
	if v == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		return t, &refusal{http.StatusBadRequest, fmt.Sprintf("%s %.40q: want a time as 2026-01-31T12:00:00Z (RFC 3339)", name, v)}
	}
	return t, nil
}

func flag(q url.Values, name string) (bool, error) {
	v := q.Get(name)
	if v == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, &refusal{http.StatusBadRequest, fmt.Sprintf("%s %.40q: want true or false", name, v)}
	}
	return b, nil
}

// search reads the parameters of a search for log lines.
func (s *server) search(r *http.Request) (f records.Search, err error) {
	q := r.URL.Query()
	if f.Limit, err = limit(r); err != nil {
		return f, err
	}
	if f.Servers, err = s.servers(r); err != nil {
		return f, err
	}
	f.Services, f.Text = q["service"], q.Get("text")
	if f.Since, err = timeParameter(q, "since"); err != nil {
		return f, err
	}
	if f.Until, err = timeParameter(q, "until"); err != nil {
		return f, err
	}
	if f.Newest, err = flag(q, "newest"); err != nil {
		return f, err
	}
	text := q.Get("regexp")
	if len(text) > maxPattern || len(f.Text) > maxPattern {
		return f, &refusal{http.StatusBadRequest, fmt.Sprintf("regexp and text: at most %d bytes", maxPattern)}
	}
	if text != "" {
		// It is matched with every line of the time asked for.
		if _, err := pattern.Compile(text, maxPattern); err != nil {
			return f, &refusal{http.StatusBadRequest, "regexp: " + err.Error()}
		}
		if f.Regexp, err = regexp.Compile(text); err != nil {
			return f, &refusal{http.StatusBadRequest, "regexp: " + err.Error()}
		}
	}
	for _, after := range []string{q.Get("page"), r.Header.Get("Last-Event-ID")} {
		if after == "" {
			continue
		}
		if f.After, err = strconv.ParseInt(after, 10, 64); err != nil || f.After < 0 {
			return f, &refusal{http.StatusBadRequest, fmt.Sprintf("page %.40q: want the next of a page, or the id of an event", after)}
		}
	}
	if before := q.Get("before"); before != "" {
		if f.Before, err = strconv.ParseInt(before, 10, 64); err != nil || f.Before < 1 {
			return f, &refusal{http.StatusBadRequest, fmt.Sprintf("before %.40q: want the earlier of a page", before)}
		}
	}
	return f, nil
}

// logs returns log lines, or follows the log.
func (s *server) logs(w http.ResponseWriter, r *http.Request) error {
	db, err := s.records()
	if err != nil {
		return err
	}
	f, err := s.search(r)
	if err != nil {
		return err
	}
	follow, err := flag(r.URL.Query(), "follow")
	if err != nil {
		return err
	}
	p, err := db.Find(r.Context(), f)
	if err != nil {
		return err
	}
	if !follow {
		out := struct {
			list[records.Log]
			More    bool   `json:"more"`
			Earlier string `json:"earlier,omitempty"`
		}{list: list[records.Log]{p.Lines, strconv.FormatInt(p.Next, 10)}, More: p.More}
		if f.Newest && p.More {
			out.Earlier = strconv.FormatInt(p.Earlier, 10)
		}
		return write(w, http.StatusOK, out)
	}
	return s.streamEvents(w, r, func(e *eventStream) error {
		for ; ; p, err = db.Find(r.Context(), f) {
			if err != nil {
				return err
			}
			for _, l := range p.Lines {
				if err := e.send(strconv.FormatInt(l.Seq, 10), "line", l); err != nil {
					return err
				}
			}
			moved := p.Next != f.After
			f.After, f.Before, f.Newest, f.Limit = p.Next, 0, false, records.MaxLines
			if moved { // where to go on, also when nothing was found
				if err := e.mark(strconv.FormatInt(f.After, 10)); err != nil {
					return err
				}
			}
			if p.More {
				continue
			}
			changed := db.Lines()
			if head, err := db.Head(r.Context()); err == nil && head > f.After {
				continue
			}
			if err := e.wait(changed); err != nil {
				return err
			}
		}
	})
}

// pollRecords is how often is looked for what another server has not told of.
const pollRecords = time.Second

// eventStream is a stream of server-sent events (WHATWG HTML, 9.2).
type eventStream struct {
	s       *server
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	beat    *time.Ticker
}

// streamEvents lets do send events until it returns an error, or nil to end the stream. Once
// it has begun, an error can only end it.
func (s *server) streamEvents(w http.ResponseWriter, r *http.Request, do func(*eventStream) error) error {
	end, err := s.watchers.begin(callerOf(r).user)
	if err != nil {
		return err
	}
	defer end()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	e := &eventStream{s: s, w: w, r: r, control: http.NewResponseController(w), beat: time.NewTicker(heartbeat)}
	defer e.beat.Stop()
	if err := do(e); err != nil && !errors.Is(err, errGone) && r.Context().Err() == nil {
		s.Log.Error("event stream", "path", r.URL.Path, "error", err)
	}
	return nil
}

// errGone: nobody reads the stream any more, or the server ends.
var errGone = errors.New("the stream has ended")

func (e *eventStream) write(text string) error {
	e.control.SetWriteDeadline(time.Now().Add(heartbeat))
	if _, err := e.w.Write([]byte(text)); err != nil {
		return errGone
	}
	return nil
}

func (e *eventStream) send(id, kind string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if id != "" {
		id = "id: " + id + "\n"
	}
	return e.write(id + "event: " + kind + "\ndata: " + string(data) + "\n\n")
}

// mark sets where a client that comes back goes on.
func (e *eventStream) mark(id string) error { return e.write("id: " + id + "\n\n") }

// wait sends what was written and returns when changed is closed, or it is time to look.
func (e *eventStream) wait(changed <-chan struct{}) error {
	if e.control.Flush() != nil {
		return errGone
	}
	poll := time.NewTimer(pollRecords)
	defer poll.Stop()
	select {
	case <-changed:
		select { // many changes are one look
		case <-time.After(settle):
		case <-e.r.Context().Done():
		}
	case <-poll.C:
	case <-e.beat.C:
		return e.write(":\n\n")
	case <-e.r.Context().Done():
		return errGone
	case <-e.s.done.Done():
		return errGone
	}
	return nil
}

// telemetry returns the newest measurement of each label, or those of a time.
func (s *server) telemetry(w http.ResponseWriter, r *http.Request) error {
	db, err := s.records()
	if err != nil {
		return err
	}
	n, err := limit(r)
	if err != nil {
		return err
	}
	servers, err := s.servers(r)
	if err != nil {
		return err
	}
	if len(servers) != 1 {
		return &refusal{http.StatusBadRequest, "telemetry: name one chassis or server"}
	}
	q := r.URL.Query()
	since, err := timeParameter(q, "since")
	if err != nil {
		return err
	}
	until, err := timeParameter(q, "until")
	if err != nil {
		return err
	}
	var items []records.Measurement
	if since.IsZero() && until.IsZero() {
		items, err = db.Latest(r.Context(), servers[0])
	} else {
		items, err = db.Measurements(r.Context(), servers[0], q.Get("label"), since, until, n)
	}
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, list[records.Measurement]{Items: items})
}
