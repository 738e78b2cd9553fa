package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// Server is one of the control planes that share a database. Sessions is how many
// chassis are connected to it.
type Server struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"` // host name
	Version  string    `json:"version"`
	Boot     string    `json:"boot,omitempty"` // base URL of its boot listener
	Started  time.Time `json:"started"`
	Seen     time.Time `json:"seen"`
	Alive    bool      `json:"alive"`
	Sessions int       `json:"sessions"`
}

// Setting is a part of the servers' configuration that can be changed while they
// run. By and Changed are empty while it has its default.
type Setting struct {
	Key     string          `json:"key"`
	Value   json.RawMessage `json:"value"`
	Default json.RawMessage `json:"default"`
	About   string          `json:"about"`
	By      string          `json:"by,omitempty"`
	Changed *time.Time      `json:"changed,omitempty"`
}

// ListServers returns all servers, the longest running first.
func (c *Client) ListServers(ctx context.Context) ([]Server, error) {
	return pages[Server](ctx, c, "/v1/servers", nil, 0)
}

// ListSettings returns all settings by key.
func (c *Client) ListSettings(ctx context.Context) ([]Setting, error) {
	return pages[Setting](ctx, c, "/v1/settings", nil, 0)
}

func settingPath(key string) string { return "/v1/settings/" + url.PathEscape(key) }

// Setting returns the setting with this key.
func (c *Client) Setting(ctx context.Context, key string) (Setting, error) {
	var out Setting
	err := c.call(ctx, http.MethodGet, settingPath(key), nil, nil, &out)
	return out, err
}

// SetSetting changes a setting for all servers.
func (c *Client) SetSetting(ctx context.Context, key string, value json.RawMessage) (Setting, error) {
	var out Setting
	err := c.call(ctx, http.MethodPut, settingPath(key), nil, map[string]json.RawMessage{"value": value}, &out)
	return out, err
}

// ResetSetting returns a setting to its default.
func (c *Client) ResetSetting(ctx context.Context, key string) (Setting, error) {
	var out Setting
	err := c.call(ctx, http.MethodDelete, settingPath(key), nil, nil, &out)
	return out, err
}
