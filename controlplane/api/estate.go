package api

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/teeth-metal/teeth/controlplane/settings"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// estateRoutes are about the servers of an estate, and what they have in common.
var estateRoutes = []route{
	{"GET /v1/servers", (*server).listServers},
	{"GET /v1/settings", (*server).listSettings},
	{"GET /v1/settings/{key}", (*server).getSetting},
	{"PUT /v1/settings/{key}", (*server).setSetting},
	{"DELETE /v1/settings/{key}", (*server).resetSetting},
}

func settingStatus(err error) (int, bool) {
	switch {
	case errors.Is(err, settings.ErrUnknown):
		return http.StatusNotFound, true
	case errors.Is(err, settings.ErrInvalid):
		return http.StatusBadRequest, true
	}
	return 0, false
}

func (s *server) listServers(w http.ResponseWriter, r *http.Request) error {
	items, err := s.Store.Servers(r.Context())
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, list[store.Server]{Items: items})
}

func (s *server) listSettings(w http.ResponseWriter, r *http.Request) error {
	items, err := s.Settings.List(r.Context())
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, list[settings.Setting]{Items: items})
}

func (s *server) getSetting(w http.ResponseWriter, r *http.Request) error {
	one, err := s.Settings.One(r.Context(), r.PathValue("key"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, one)
}

func (s *server) setSetting(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Value json.RawMessage `json:"value"`
	}
	if err := read(w, r, &in); err != nil {
		return err
	}
	if in.Value == nil { // null is another thing, which package settings refuses
		return &refusal{http.StatusBadRequest, "value: it is missing"}
	}
	return s.changeSetting(w, r, in.Value)
}

func (s *server) resetSetting(w http.ResponseWriter, r *http.Request) error {
	return s.changeSetting(w, r, nil)
}

// changeSetting answers with what is in effect then. The audit trail has who set
// which key; the log has its value, too.
func (s *server) changeSetting(w http.ResponseWriter, r *http.Request, value json.RawMessage) error {
	key, by := r.PathValue("key"), callerOf(r).user
	if err := s.Settings.Set(r.Context(), key, value, by); err != nil {
		return err
	}
	one, err := s.Settings.One(r.Context(), key)
	if err != nil {
		return err
	}
	s.Log.Log(r.Context(), slog.LevelInfo+2, "a setting was changed", "key", key, "value", string(one.Value), "by", by)
	return write(w, http.StatusOK, one)
}
