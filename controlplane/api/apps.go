package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/controlplane/backbone"
	"github.com/teeth-metal/teeth/controlplane/store"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// appRoutes are about the apps that hosts are to have, and have.
var appRoutes = []route{
	{"GET /v1/apps", (*server).listAppHosts},
	{"GET /v1/apps/{host}", (*server).getAppHost},
	{"PUT /v1/apps/{host}", (*server).setApps},
	{"PATCH /v1/apps/{host}", (*server).changeApps},
	{"DELETE /v1/apps/{host}", (*server).forgetApps},
	{"POST /v1/apps/{host}/ping", (*server).pingAppHost},
}

func (s *server) listAppHosts(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	items, err := s.Apps.List(r.Context(), r.URL.Query().Get("page"), n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, paged(items, n, func(h backbone.Host) string { return h.ID }))
}

func (s *server) getAppHost(w http.ResponseWriter, r *http.Request) error {
	h, err := s.Apps.Host(r.Context(), r.PathValue("host"))
	if err != nil {
		return err
	}
	// They have configurations and URLs, with passwords in them.
	if !callerOf(r).role.Includes(store.Operator) {
		h.DesiredApps, h.Status = nil, nil
	}
	return write(w, http.StatusOK, h)
}

// appConsent are what an operator has to say to do without a check.
type appConsent struct {
	Replace  bool  `json:"replace"`
	Unseen   bool  `json:"unseen"`
	Revision int64 `json:"revision"`
}

func (s *server) setApps(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Apps json.RawMessage `json:"apps"`
		appConsent
	}
	if err := read(w, r, &in); err != nil {
		return err
	}
	apps, err := apps(in.Apps)
	if err != nil {
		return err
	}
	return s.change(w, r, backbone.Change{Set: apps}, in.appConsent)
}

func (s *server) changeApps(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Put    json.RawMessage `json:"put"`
		Remove []string        `json:"remove"`
		appConsent
	}
	if err := read(w, r, &in); err != nil {
		return err
	}
	var put map[string]wire.App
	if in.Put != nil {
		var err error
		if put, err = apps(in.Put); err != nil {
			return err
		}
	}
	if len(put)+len(in.Remove) == 0 {
		return &refusal{http.StatusBadRequest, "neither put nor remove names an app"}
	}
	return s.change(w, r, backbone.Change{Put: put, Remove: in.Remove}, in.appConsent)
}

// apps reads a set as strictly as read does everything else: a misspelt field must not
// be passed on as one that we do not know.
func apps(raw json.RawMessage) (map[string]wire.App, error) {
	if raw == nil {
		return nil, &refusal{http.StatusBadRequest, `apps is missing: {"apps": {}} is the empty set`}
	}
	all, err := wire.ParseApps(raw)
	if err != nil {
		return nil, &refusal{http.StatusBadRequest, err.Error()}
	}
	for name, a := range all {
		for field := range a.Extra {
			if !slices.Contains([]string{"du_config"}, field) && !strings.HasPrefix(field, "x-") {
				return nil, &refusal{http.StatusBadRequest, fmt.Sprintf("app %s: there is no field %.64q (one of your own begins with x-)", name, field)}
			}
		}
	}
	return all, nil
}

func (s *server) change(w http.ResponseWriter, r *http.Request, c backbone.Change, consent appConsent) error {
	c.Replace, c.Unseen, c.Revision, c.By = consent.Replace, consent.Unseen, consent.Revision, callerOf(r).user
	if a, ok := w.(*answer); ok {
		a.detail = changed(c)
	}
	h, err := s.Apps.Change(r.Context(), r.PathValue("host"), c)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, h)
}

// changed is what the audit trail has of a change: names and versions, as a configuration
// may hold secrets.
func changed(c backbone.Change) string {
	named := func(apps map[string]wire.App) string {
		var list []string
		for _, name := range slices.Sorted(maps.Keys(apps)) {
			list = append(list, fmt.Sprintf("%s %.64q", name, apps[name].Version))
		}
		return strings.Join(list, ", ")
	}
	var parts []string
	if c.Set != nil {
		parts = append(parts, "all apps: "+cmp.Or(named(c.Set), "none"))
	}
	if len(c.Put) > 0 {
		parts = append(parts, "put "+named(c.Put))
	}
	if len(c.Remove) > 0 {
		parts = append(parts, fmt.Sprintf("remove %.64q", c.Remove))
	}
	if c.Replace {
		parts = append(parts, "in place of what is there")
	}
	return strings.Join(parts, "; ")
}

func (s *server) forgetApps(w http.ResponseWriter, r *http.Request) error {
	if err := s.Apps.Forget(r.Context(), r.PathValue("host")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) pingAppHost(w http.ResponseWriter, r *http.Request) error {
	id, _, err := s.Apps.Find(r.Context(), r.PathValue("host"))
	if err != nil {
		return err
	}
	if err := s.Apps.Ping(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}
