package api

import (
	"cmp"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
)

var graphRoutes = []route{
	{"POST /v1/chassis/{id}/decommission", (*server).decommission},
	{"POST /v1/chassis/{id}/provision", (*server).provision},
	{"GET /v1/graphs", (*server).listGraphs},
	{"POST /v1/graphs", (*server).runGraph},
	{"GET /v1/graphs/{id}", (*server).getGraph},
	{"POST /v1/graphs/{id}/cancel", (*server).cancelGraph},
	{"POST /v1/graphs/{id}/pause", (*server).pauseGraph},
	{"POST /v1/graphs/{id}/resume", (*server).resumeGraph},
	{"GET /v1/tasks", (*server).listTasks},
	{"GET /v1/tasks/{id}", (*server).getTask},
	{"POST /v1/tasks/{id}/cancel", (*server).cancelTask},
	{"GET /v1/library/graphs", (*server).libraryGraphs},
	{"GET /v1/library/graphs/{name}", (*server).libraryGraph},
	{"PUT /v1/library/graphs/{name}", (*server).defineGraph},
	{"DELETE /v1/library/graphs/{name}", (*server).removeGraph},
	{"GET /v1/library/tasks", (*server).libraryTasks},
	{"GET /v1/library/tasks/{name}", (*server).libraryTask},
	{"PUT /v1/library/tasks/{name}", (*server).defineTask},
	{"DELETE /v1/library/tasks/{name}", (*server).removeTask},
}

func (s *server) decommission(w http.ResponseWriter, r *http.Request) error {
	var in workflow.Decommission
	if err := read(w, r, &in); err != nil {
		return err
	}
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	g, err := s.Engine.Decommission(r.Context(), c, in, callerOf(r).user)
	if err != nil {
		return err
	}
	return created(w, g)
}

func (s *server) provision(w http.ResponseWriter, r *http.Request) error {
	var in workflow.Provision
	if err := read(w, r, &in); err != nil {
		return err
	}
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	g, err := s.Engine.Provision(r.Context(), c, in, callerOf(r).user)
	if err != nil {
		return err
	}
	return created(w, g)
}

func created(w http.ResponseWriter, g store.Graph) error {
	w.Header().Set("Location", "/v1/graphs/"+g.ID)
	return write(w, http.StatusAccepted, g)
}

// runRequest asks for a graph to be run.
type runRequest struct {
	Graph   string         `json:"graph"`
	Chassis string         `json:"chassis"`
	Options map[string]any `json:"options"`
	Domain  string         `json:"domain"`
}

func (s *server) runGraph(w http.ResponseWriter, r *http.Request) error {
	var in runRequest
	if err := read(w, r, &in); err != nil {
		return err
	}
	if len(in.Domain) > 64 {
		return &refusal{http.StatusBadRequest, "domain: want up to 64 characters"}
	}
	req := workflow.Request{Graph: in.Graph, Options: in.Options, Domain: in.Domain, By: callerOf(r).user}
	var err error
	if req.Chassis, err = s.chassisID(r.Context(), in.Chassis); err != nil {
		return err
	}
	g, err := s.Engine.RunGraph(r.Context(), req)
	if err != nil {
		return err
	}
	return created(w, g)
}

func (s *server) listGraphs(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	f := store.GraphFilter{Name: q.Get("name")}
	if f.Active, err = boolean(r, "active"); err != nil {
		return err
	}
	if f.Chassis, err = s.chassisParameter(r); err != nil {
		return err
	}
	items, err := s.Store.ListGraphs(r.Context(), f, q.Get("page"), n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, paged(items, n, func(g store.Graph) string { return g.ID }))
}

// boolean reads a parameter that is true, false or not there.
func boolean(r *http.Request, name string) (bool, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, &refusal{http.StatusBadRequest, name + ": want true or false"}
	}
	return b, nil
}

func (s *server) getGraph(w http.ResponseWriter, r *http.Request) error {
	g, err := s.Store.Graph(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, g)
}

func (s *server) cancelGraph(w http.ResponseWriter, r *http.Request) error {
	force, err := boolean(r, "force")
	if err != nil {
		return err
	}
	cancel := s.Engine.CancelGraph
	if force {
		cancel = s.Engine.GiveUpGraph
	}
	g, err := cancel(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, http.StatusAccepted, g)
}

func (s *server) pauseGraph(w http.ResponseWriter, r *http.Request) error {
	g, err := s.Engine.PauseGraph(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, g)
}

func (s *server) resumeGraph(w http.ResponseWriter, r *http.Request) error {
	g, err := s.Engine.ResumeGraph(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, g)
}

func (s *server) listTasks(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	chassis, err := s.chassisParameter(r)
	if err != nil {
		return err
	}
	items, err := s.Store.ListTasks(r.Context(), chassis, r.URL.Query().Get("page"), n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, paged(items, n, func(t store.Task) string { return t.ID }))
}

func (s *server) getTask(w http.ResponseWriter, r *http.Request) error {
	t, err := s.Store.Task(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, t)
}

func (s *server) cancelTask(w http.ResponseWriter, r *http.Request) error {
	force, err := boolean(r, "force")
	if err != nil {
		return err
	}
	cancel := s.Engine.CancelTask
	if force {
		cancel = s.Engine.GiveUpTask
	}
	t, err := cancel(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, http.StatusAccepted, t)
}

// definitions are a page of those whose names come after the page parameter.
func definitions[T any](s *server, w http.ResponseWriter, r *http.Request, of func(workflow.Library) []T, name func(T) string) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	lib, err := s.Engine.Library(r.Context())
	if err != nil {
		return err
	}
	all := of(lib)
	after := r.URL.Query().Get("page")
	i := slices.IndexFunc(all, func(t T) bool { return cmp.Compare(name(t), after) > 0 })
	if i < 0 {
		i = len(all)
	}
	return write(w, http.StatusOK, paged(all[i:min(len(all), i+n)], n, name))
}

func (s *server) libraryGraphs(w http.ResponseWriter, r *http.Request) error {
	return definitions(s, w, r, func(l workflow.Library) []definition.Graph { return l.Graphs }, func(g definition.Graph) string { return g.InjectableName })
}

func (s *server) libraryTasks(w http.ResponseWriter, r *http.Request) error {
	return definitions(s, w, r, func(l workflow.Library) []definition.Task { return l.Tasks }, func(t definition.Task) string { return t.InjectableName })
}

func (s *server) libraryGraph(w http.ResponseWriter, r *http.Request) error {
	lib, err := s.Engine.Library(r.Context())
	if err != nil {
		return err
	}
	g, err := lib.Graph(r.PathValue("name"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, g)
}

func (s *server) libraryTask(w http.ResponseWriter, r *http.Request) error {
	lib, err := s.Engine.Library(r.Context())
	if err != nil {
		return err
	}
	t, err := lib.Task(r.PathValue("name"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, t)
}

// definitionOf reads a definition, JSON or YAML, whose name must be that of the
// path.
func definitionOf(w http.ResponseWriter, r *http.Request, kind string) ([]byte, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, definition.MaxSize))
	if err != nil {
		return nil, err
	}
	http.NewResponseController(w).SetReadDeadline(time.Time{})
	have, name, err := definition.Kind(raw)
	switch {
	case err != nil:
		return nil, err
	case have != kind:
		return nil, &refusal{http.StatusBadRequest, "the definition is one of a " + have}
	case name != r.PathValue("name"):
		return nil, &refusal{http.StatusBadRequest, "its injectableName is not the name in the path"}
	}
	return raw, nil
}

func (s *server) defineGraph(w http.ResponseWriter, r *http.Request) error {
	raw, err := definitionOf(w, r, store.DefinedGraph)
	if err != nil {
		return err
	}
	if _, err := s.Engine.DefineGraph(r.Context(), raw); err != nil {
		return err
	}
	return s.libraryGraph(w, r)
}

func (s *server) defineTask(w http.ResponseWriter, r *http.Request) error {
	raw, err := definitionOf(w, r, store.DefinedTask)
	if err != nil {
		return err
	}
	if _, err := s.Engine.DefineTask(r.Context(), raw); err != nil {
		return err
	}
	return s.libraryTask(w, r)
}

func (s *server) removeGraph(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.Engine.RemoveGraph(r.Context(), r.PathValue("name")))
}

func (s *server) removeTask(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.Engine.RemoveTask(r.Context(), r.PathValue("name")))
}
