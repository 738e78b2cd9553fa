package api

import "net/http"

// agentConfigRoutes are about the agent of a chassis after hand-off.
var agentConfigRoutes = []route{
	{"POST /v1/chassis/{id}/agent-config", (*server).agentConfig},
}

// AgentConfig is what the agent on a chassis' installed system needs to go on under
// the chassis' id: the keys of its configuration file, package agent/host.
type AgentConfig struct {
	StreamServers []string `json:"streamservers"` // host:port
	CASHA256      string   `json:"ca_sha256"`
	GroupID       string   `json:"group_id"`
	GroupKey      string   `json:"group_key"` // a secret, of this chassis alone
	ServerID      string   `json:"server_id"`
	ServerName    string   `json:"server_name"` // for people
}

// agentConfig hands out a chassis' key. It is no GET, so that it is in the audit trail.
func (s *server) agentConfig(w http.ResponseWriter, r *http.Request) error {
	c, err := s.chassis(r)
	if err != nil {
		return err
	}
	switch {
	case s.AgentConfig == nil:
		return &refusal{http.StatusServiceUnavailable, "this server has no StreamServer"}
	case c.Approved == nil || c.Rejected != nil:
		return &refusal{http.StatusConflict, "chassis " + c.ID + " is not approved: its agent would be refused; approve it first"}
	}
	conf, err := s.AgentConfig(c)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return write(w, http.StatusOK, conf)
}
