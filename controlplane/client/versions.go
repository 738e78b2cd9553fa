package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// AgentVersion is a version of the agent that hosts (Kind "agent") or ramdisks ("image")
// can upgrade to.
type AgentVersion struct {
	ID        int64  `json:"id,omitempty"`
	Version   string `json:"version"`
	Kind      string `json:"kind"`
	Arch      string `json:"arch"` // as Go names it; "": any
	URL       string `json:"url"`  // may be relative to that of the version URL
	MD5       string `json:"md5,omitempty"`
	SHA256    string `json:"sha256,omitempty"`
	Signature string `json:"signature,omitempty"` // minisign's file
	Size      int64  `json:"size,omitempty"`      // bytes
}

// ListAgentVersions returns all versions, in the order in which they were added.
func (c *Client) ListAgentVersions(ctx context.Context) ([]AgentVersion, error) {
	var out struct {
		Items []AgentVersion `json:"items"`
	}
	err := c.call(ctx, http.MethodGet, "/v1/agent-versions", nil, nil, &out)
	return out.Items, err
}

// AddAgentVersion adds a version.
func (c *Client) AddAgentVersion(ctx context.Context, v AgentVersion) (AgentVersion, error) {
	var out AgentVersion
	err := c.call(ctx, http.MethodPost, "/v1/agent-versions", nil, v, &out)
	return out, err
}

// RemoveAgentVersion removes a version by its id.
func (c *Client) RemoveAgentVersion(ctx context.Context, id int64) error {
	return c.call(ctx, http.MethodDelete, "/v1/agent-versions/"+url.PathEscape(strconv.FormatInt(id, 10)), nil, nil, nil)
}
