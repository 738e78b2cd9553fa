package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/controlplane/backbone"
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
	return write(w, http.StatusOK, h)
}

// appConsent are what an operator has to say to do without a check.
type appConsent struct {
	Replace bool `json:"replace"`
	Unseen  bool `json:"unseen"`
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
	c.Replace, c.Unseen, c.By = consent.Replace, consent.Unseen, callerOf(r).user
	h, err := s.Apps.Change(r.Context(), r.PathValue("host"), c)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, h)
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
