package api

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/teeth-metal/teeth/controlplane/minion/records"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// NewCommand is a request to run a command.
type NewCommand struct {
	Chassis  []string          `json:"chassis,omitempty"`
	Servers  []string          `json:"servers,omitempty"` // agents that are no chassis, by their own id
	All      bool              `json:"all,omitempty"`     // chassis that are approved
	Argv     []string          `json:"argv"`
	Internal bool              `json:"internal,omitempty"` // a function of the agent's own
	Shell    bool              `json:"shell,omitempty"`    // argv is a line for a shell
	Env      map[string]string `json:"env,omitempty"`
	Timeout  float64           `json:"timeout,omitempty"` // seconds that it may run; the agent's default unless set
	Output   int64             `json:"output,omitempty"`  // bytes of output that the agent sends; its default unless set
	Expires  int64             `json:"expires,omitempty"` // seconds that it waits for an agent that is away; 0: as long as it is kept
}

// Bounds of a request to run a command, as agents have them.
const (
	maxTimeout    = 24 * time.Hour
	agentTimeout  = 5 * time.Minute
	maxOutputSent = 64 << 20
)

// options are what of a command goes to agents that know options.
func (in NewCommand) options() ([]string, error) {
	var list []string
	if in.Timeout < 0 || in.Timeout > maxTimeout.Seconds() {
		return nil, &refusal{http.StatusBadRequest, fmt.Sprintf("timeout: want seconds, at most %.0f", maxTimeout.Seconds())}
	}
	if in.Timeout > 0 {
		list = append(list, "timeout="+strconv.FormatFloat(in.Timeout, 'f', -1, 64))
	}
	if in.Output < 0 || in.Output > maxOutputSent {
		return nil, &refusal{http.StatusBadRequest, fmt.Sprintf("output: want bytes, at most %d", maxOutputSent)}
	}
	if in.Output > 0 {
		list = append(list, "limit="+strconv.FormatInt(in.Output, 10))
	}
	if in.Expires < 0 || in.Expires > int64(records.DefaultKeep/time.Second) {
		return nil, &refusal{http.StatusBadRequest, fmt.Sprintf("expires: want seconds, at most %d", int64(records.DefaultKeep/time.Second))}
	}
	if in.Shell {
		list = append(list, "shell=1")
	}
	for name, value := range in.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return nil, &refusal{http.StatusBadRequest, fmt.Sprintf("env: %.80q is no name of a variable", name)}
		}
		list = append(list, "env="+name+"="+value)
	}
	slices.Sort(list)
	if in.Internal && len(list) > 0 && (in.Shell || len(in.Env) > 0) {
		return nil, &refusal{http.StatusBadRequest, "shell and env are for programs, not for what the agent does itself"}
	}
	return list, nil
}

// targets are the servers that a command is for.
func (s *server) targets(r *http.Request, in NewCommand) ([]string, error) {
	list := slices.Clone(in.Servers)
	if len(in.Chassis)+len(list) > 0 && in.All {
		return nil, &refusal{http.StatusBadRequest, "name chassis, or all of them"}
	}
	if len(in.Chassis)+len(list) > 1000 {
		return nil, &refusal{http.StatusBadRequest, "chassis and servers: at most 1000 by name"}
	}
	for _, id := range list {
		if id == "" || len(id) > 256 {
			return nil, &refusal{http.StatusBadRequest, "servers: want ids"}
		}
	}
	for _, ref := range in.Chassis {
		c, err := s.Store.FindChassis(r.Context(), ref)
		if err != nil {
			return nil, err
		}
		list = append(list, c.ID)
	}
	for after := ""; in.All; {
		page, err := s.Store.ListChassis(r.Context(), after, store.MaxPage)
		if err != nil {
			return nil, err
		}
		for _, c := range page {
			after = c.ID
			if c.Approved != nil {
				list = append(list, c.ID)
			}
		}
		if len(page) < store.MaxPage {
			break
		}
	}
	return list, nil
}

// runCommand issues a command. The audit trail has its arguments, and never output.
func (s *server) runCommand(w http.ResponseWriter, r *http.Request) error {
	db, err := s.records()
	if err != nil {
		return err
	}
	var in NewCommand
	if err := read(w, r, &in); err != nil {
		return err
	}
	options, err := in.options()
	if err != nil {
		return err
	}
	servers, err := s.targets(r, in)
	if err != nil {
		return err
	}
	c := records.NewCommand{Servers: servers, Argv: in.Argv, Internal: in.Internal, Options: options, By: callerOf(r).user, RunLimit: agentTimeout}
	if in.Timeout > 0 {
		c.RunLimit = time.Duration(max(in.Timeout, 1) * float64(time.Second))
	}
	if in.Expires > 0 {
		c.Expires = time.Now().Add(time.Duration(in.Expires) * time.Second)
	}
	issued, err := db.Issue(r.Context(), c)
	if err != nil {
		return err
	}
	if a, ok := w.(*answer); ok {
		a.detail = audited(issued.ID, servers, in)
	}
	return write(w, http.StatusCreated, issued)
}

// audited is what the audit trail has of a command, which outlives its records. The
// values of variables may be secrets.
func audited(id string, servers []string, in NewCommand) string {
	const most = 10 // of servers by name; who named more can look them up by the command's id
	how := ""
	switch {
	case in.Internal:
		how = " internal"
	case in.Shell:
		how = " in a shell"
	}
	if names := slices.Sorted(maps.Keys(in.Env)); len(names) > 0 {
		how += fmt.Sprintf(" with %q", names)
	}
	where := strings.Join(servers[:min(len(servers), most)], " ")
	if len(servers) > most {
		where += fmt.Sprintf(" and %d more", len(servers)-most)
	}
	return fmt.Sprintf("command %s on %s%s: %q", id, where, how, in.Argv)
}

func (s *server) listCommands(w http.ResponseWriter, r *http.Request) error {
	db, err := s.records()
	if err != nil {
		return err
	}
	servers, err := s.servers(r)
	if err != nil {
		return err
	}
	if len(servers) > 1 {
		return &refusal{http.StatusBadRequest, "commands: name one chassis or server, or none"}
	}
	return page(w, r, func(ctx context.Context, before string, limit int) ([]records.Command, error) {
		return db.ListCommands(ctx, strings.Join(servers, ""), before, limit)
	}, func(c records.Command) string { return c.ID })
}

func (s *server) getCommand(w http.ResponseWriter, r *http.Request) error {
	db, err := s.records()
	if err != nil {
		return err
	}
	c, err := db.Command(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, c)
}

func (s *server) listRuns(w http.ResponseWriter, r *http.Request) error {
	db, err := s.records()
	if err != nil {
		return err
	}
	return page(w, r, func(ctx context.Context, after string, limit int) ([]records.Run, error) {
		return db.Runs(ctx, r.PathValue("id"), after, time.Time{}, limit)
	}, func(r records.Run) string { return r.ID })
}

func (s *server) getRun(w http.ResponseWriter, r *http.Request) error {
	db, err := s.records()
	if err != nil {
		return err
	}
	run := r.PathValue("run")
	found, err := db.Run(r.Context(), r.PathValue("id"), run)
	if status(err) == http.StatusNotFound {
		c, e := s.Store.FindChassis(r.Context(), run)
		if e != nil {
			return err
		}
		found, err = db.Run(r.Context(), r.PathValue("id"), c.ID)
	}
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, found)
}

func (s *server) cancelCommand(w http.ResponseWriter, r *http.Request) error {
	db, err := s.records()
	if err != nil {
		return err
	}
	if _, err := db.Command(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	if _, err := db.Cancel(r.Context(), r.PathValue("id")); err != nil {
		return err
	}
	c, err := db.Command(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, c)
}

// Output is a part of what a run has written. Offset is where it begins, in bytes.
type Output struct {
	Run    string `json:"run"`
	Server string `json:"server"`
	Stream string `json:"stream"` // stdout or stderr
	Offset int    `json:"offset"`
	Text   string `json:"text"`
}

// maxOutputEvent bounds the text of one event.
const maxOutputEvent = 64 << 10

// commandOutput streams what a command's runs write, and what becomes of them, until
// all have ended.
func (s *server) commandOutput(w http.ResponseWriter, r *http.Request) error {
	db, err := s.records()
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if _, err := db.Command(r.Context(), id); err != nil {
		return err
	}
	return s.streamEvents(w, r, func(e *eventStream) error {
		told := map[string]*toldRun{}
		since := time.Time{}
		for {
			changed := db.Results() // before the look, so that nothing falls between
			newest := since
			for after := ""; ; {
				runs, err := db.Runs(r.Context(), id, after, since, store.MaxPage)
				if err != nil {
					return err
				}
				for _, run := range runs {
					after = run.ID
					if run.Updated.After(newest) {
						newest = run.Updated
					}
					if told[run.ID] == nil {
						told[run.ID] = &toldRun{}
					}
					if err := told[run.ID].tell(e, db, run); err != nil {
						return err
					}
				}
				if len(runs) < store.MaxPage {
					break
				}
			}
			// Transactions that began before may be committed after.
			since = newest.Add(-time.Minute)
			ended := true
			for _, t := range told {
				ended = ended && records.Final(t.state)
			}
			if ended {
				return e.send("", "end", struct{}{})
			}
			if err := e.wait(changed); err != nil {
				return err
			}
		}
	})
}

// toldRun is how much of a run a stream has sent.
type toldRun struct {
	state          string
	updated        time.Time
	stdout, stderr int   // bytes
	parts          int64 // of one that goes on
}

func (t *toldRun) tell(e *eventStream, db *records.DB, run records.Run) error {
	if t.state == run.State && t.updated.Equal(run.Updated) {
		return nil
	}
	if run.State == records.Running {
		for more := true; more; {
			parts, err := db.Parts(e.r.Context(), run.ID, t.parts)
			if err != nil {
				return err
			}
			for _, p := range parts {
				if err := t.output(e, run, p.Stdout, p.Stderr); err != nil {
					return err
				}
			}
			t.parts += int64(len(parts))
			more = len(parts) > 0
		}
	}
	if records.Final(run.State) {
		full, err := db.Run(e.r.Context(), run.Command, run.ID)
		if err != nil {
			return err
		}
		if err := t.output(e, run, full.Stdout[min(t.stdout, len(full.Stdout)):], full.Stderr[min(t.stderr, len(full.Stderr)):]); err != nil {
			return err
		}
	}
	if t.state == run.State {
		t.updated = run.Updated
		return nil
	}
	t.state, t.updated = run.State, run.Updated
	return e.send("", "run", run)
}

// output sends what follows on what was sent.
func (t *toldRun) output(e *eventStream, run records.Run, stdout, stderr string) error {
	for _, s := range []struct {
		name, text string
		sent       *int
	}{{"stdout", stdout, &t.stdout}, {"stderr", stderr, &t.stderr}} {
		for text := s.text; text != ""; {
			n := len(text)
			if n > maxOutputEvent {
				for n = maxOutputEvent; n > 1 && !utf8.RuneStart(text[n]); {
					n--
				}
			}
			if err := e.send("", "output", Output{run.ID, run.Server, s.name, *s.sent, text[:n]}); err != nil {
				return err
			}
			*s.sent += n
			text = text[n:]
		}
	}
	return nil
}
