package api

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/teeth-metal/teeth/controlplane/minion/records"
)

// versionRoutes are about what agents can upgrade to.
var versionRoutes = []route{
	{"GET /v1/agent-versions", (*server).listVersions},
	{"POST /v1/agent-versions", (*server).addVersion},
	{"DELETE /v1/agent-versions/{id}", (*server).removeVersion},
}

func (s *server) listVersions(w http.ResponseWriter, r *http.Request) error {
	db, err := s.records()
	if err != nil {
		return err
	}
	items, err := db.AgentVersions(r.Context())
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, list[records.AgentVersion]{Items: items})
}

// NewVersion is a version of the agent that was published.
type NewVersion struct {
	Version   string `json:"version"`
	Kind      string `json:"kind"`
	Arch      string `json:"arch"`
	URL       string `json:"url"`
	MD5       string `json:"md5"`
	SHA256    string `json:"sha256"`
	Signature string `json:"signature"`
	Size      int64  `json:"size"`
}

func (s *server) addVersion(w http.ResponseWriter, r *http.Request) error {
	db, err := s.records()
	if err != nil {
		return err
	}
	var in NewVersion
	if err := read(w, r, &in); err != nil {
		return err
	}
	v, err := db.AddAgentVersion(r.Context(), records.AgentVersion{
		Version: in.Version, Kind: in.Kind, Arch: in.Arch, URL: in.URL, MD5: in.MD5, SHA256: in.SHA256, Signature: in.Signature, Size: in.Size,
	})
	if errors.Is(err, records.ErrConflict) {
		return &refusal{http.StatusConflict, err.Error()}
	}
	if err != nil {
		return err
	}
	return write(w, http.StatusCreated, v)
}

func (s *server) removeVersion(w http.ResponseWriter, r *http.Request) error {
	db, err := s.records()
	if err != nil {
		return err
	}
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return &refusal{http.StatusNotFound, "an agent version's id is a number"}
	}
	if err := db.RemoveAgentVersion(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
