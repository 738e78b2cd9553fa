package client

import (
	"context"
	"net/http"
)

// AgentConfig is what the agent on a chassis' installed system needs to go on under the
// chassis' id: keys of its configuration file. GroupKey is a secret: whoever has it can
// speak for the chassis as long as that is approved.
type AgentConfig struct {
	StreamServers []string `json:"streamservers" yaml:"streamservers"` // host:port
	CASHA256      string   `json:"ca_sha256" yaml:"ca_sha256"`
	GroupID       string   `json:"group_id" yaml:"group_id"`
	GroupKey      string   `json:"group_key" yaml:"group_key"`
	ServerID      string   `json:"server_id" yaml:"server_id"`
	ServerName    string   `json:"server_name" yaml:"server_name,omitempty"` // for people
}

// AgentConfig returns it. It needs the role admin.
func (c *Client) AgentConfig(ctx context.Context, ref string) (AgentConfig, error) {
	var out AgentConfig
	err := c.call(ctx, http.MethodPost, chassisPath(ref, "/agent-config"), nil, nil, &out)
	return out, err
}
