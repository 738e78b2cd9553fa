package api

import (
	"net/http"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// enrolmentRoutes are about which chassis may work.
var enrolmentRoutes = []route{
	{"POST /v1/chassis/{id}/approve", (*server).approve},
	{"POST /v1/chassis/{id}/reject", (*server).reject},
	{"DELETE /v1/chassis/{id}", (*server).forgetChassis},
	{"GET /v1/enrolment/rules", (*server).listRules},
	{"POST /v1/enrolment/rules", (*server).addRule},
	{"DELETE /v1/enrolment/rules/{id}", (*server).removeRule},
}

func (s *server) approve(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err == nil {
		err = s.Store.Approve(r.Context(), c.ID, callerOf(r).user)
	}
	if err != nil {
		return err
	}
	return s.getChassis(w, r)
}

func (s *server) reject(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err == nil {
		err = s.Store.Reject(r.Context(), c.ID, callerOf(r).user)
	}
	if err != nil {
		return err
	}
	return s.getChassis(w, r)
}

func (s *server) forgetChassis(w http.ResponseWriter, r *http.Request) error {
	force, err := boolean(r, "force")
	if err != nil {
		return err
	}
	c, err := s.chassis(r)
	if err == nil {
		err = s.Store.Forget(r.Context(), c.ID, callerOf(r).user, force)
	}
	return done(w, err)
}

func (s *server) listRules(w http.ResponseWriter, r *http.Request) error {
	items, err := s.Store.Rules(r.Context())
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, list[store.Rule]{Items: items})
}

func (s *server) addRule(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Kind  string `json:"kind"`
		Value string `json:"value"`
	}
	if err := read(w, r, &in); err != nil {
		return err
	}
	rule, err := s.Store.AddRule(r.Context(), store.Rule{Kind: in.Kind, Value: in.Value, By: callerOf(r).user})
	if err != nil {
		return err
	}
	return write(w, http.StatusCreated, rule)
}

func (s *server) removeRule(w http.ResponseWriter, r *http.Request) error {
	return done(w, s.Store.RemoveRule(r.Context(), r.PathValue("id")))
}
