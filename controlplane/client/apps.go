package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/teeth-metal/teeth/wire/backbone"
)

// AppHost is a host and how its apps are.
type AppHost struct {
	ID         string `json:"id"`
	Name       string `json:"name,omitempty"`
	Chassis    string `json:"chassis,omitempty"`
	Host       string `json:"host,omitempty"`
	Hostname   string `json:"hostname,omitempty"`
	State      string `json:"state"` // missing, refused, ok, converging, retrying, errors, failed
	Responding bool   `json:"responding"`
	Desired    bool   `json:"desired"`
	Settled    bool   `json:"settled"`
	Transport  string `json:"transport,omitempty"`
	Agent      string `json:"agent,omitempty"`
	Reason     string `json:"reason,omitempty"`

	Revision  int64      `json:"revision,omitempty"`
	Changed   *time.Time `json:"changed,omitempty"`
	ChangedBy string     `json:"changed_by,omitempty"`
	Received  *time.Time `json:"received,omitempty"`
	Timestamp *time.Time `json:"timestamp,omitempty"`
	Sent      *time.Time `json:"sent,omitempty"`
	Attempts  int        `json:"attempts,omitempty"`
	Error     string     `json:"error,omitempty"`

	Apps []App `json:"apps"`

	DesiredApps json.RawMessage `json:"desired_apps,omitempty"` // left out in lists, and for viewers
	Status      json.RawMessage `json:"status,omitempty"`       // left out in lists, and for viewers
}

// App is one app of a host.
type App struct {
	Name     string          `json:"name"`
	State    string          `json:"state"` // ok, differs, absent, unwanted
	Version  string          `json:"version,omitempty"`
	Running  *bool           `json:"running,omitempty"`
	Services map[string]bool `json:"services,omitempty"`

	DesiredVersion string  `json:"desired_version,omitempty"`
	DesiredRunning *bool   `json:"desired_running,omitempty"`
	Step           string  `json:"step,omitempty"`
	Percent        float64 `json:"percent,omitempty"`
	ExitCode       *int    `json:"exit_code,omitempty"`
	Restarts       int     `json:"restarts,omitempty"`
	Error          string  `json:"error,omitempty"`
}

// AppChange is a change of the apps that a host is to have.
type AppChange struct {
	Put     map[string]backbone.App `json:"put,omitempty"`
	Remove  []string                `json:"remove,omitempty"`
	Replace bool                    `json:"replace,omitempty"` // may remove apps that nobody asked for
	Unseen  bool                    `json:"unseen,omitempty"`  // the host may never have said anything
	// Revision, unless it is 0, is what is refused to be changed when it is no longer
	// the one that is desired.
	Revision int64 `json:"revision,omitempty"`
}

func appPath(host, more string) string { return "/v1/apps/" + url.PathEscape(host) + more }

// ListAppHosts returns all hosts that have apps, or are to have some.
func (c *Client) ListAppHosts(ctx context.Context) ([]AppHost, error) {
	return pages[AppHost](ctx, c, "/v1/apps", nil, 0)
}

// AppHost returns a host with its apps, by anything that names a chassis, or by what the
// host's slave calls it.
func (c *Client) AppHost(ctx context.Context, host string) (AppHost, error) {
	var h AppHost
	err := c.call(ctx, http.MethodGet, appPath(host, ""), nil, nil, &h)
	return h, err
}

// ChangeApps changes some of the apps that a host is to have.
func (c *Client) ChangeApps(ctx context.Context, host string, in AppChange) (AppHost, error) {
	var h AppHost
	err := c.call(ctx, http.MethodPatch, appPath(host, ""), nil, in, &h)
	return h, err
}

// SetApps sets all apps that a host is to have. Of in only Replace, Unseen and
// Revision count.
func (c *Client) SetApps(ctx context.Context, host string, apps map[string]backbone.App, in AppChange) (AppHost, error) {
	if apps == nil {
		apps = map[string]backbone.App{}
	}
	var h AppHost
	err := c.call(ctx, http.MethodPut, appPath(host, ""), nil, map[string]any{"apps": apps, "replace": in.Replace, "unseen": in.Unseen, "revision": in.Revision}, &h)
	return h, err
}

// ForgetApps makes nothing desired of a host; its apps stay as they are.
func (c *Client) ForgetApps(ctx context.Context, host string) error {
	return c.call(ctx, http.MethodDelete, appPath(host, ""), nil, nil, nil)
}

// PingAppHost has a host say at once how its apps are.
func (c *Client) PingAppHost(ctx context.Context, host string) error {
	return c.call(ctx, http.MethodPost, appPath(host, "/ping"), nil, nil, nil)
}

// ErrApps is wrapped by the error of a host that has given up, or refuses what is
// desired of it.
var ErrApps = errors.New("the apps are not as desired")

// appPoll is how often a host that is waited for is looked at.
const appPoll = 500 * time.Millisecond

// WaitApps waits until a host's apps are as desired and its slave is done, calling show,
// unless it is nil, for each change. It gives up when the slave does.
func (c *Client) WaitApps(ctx context.Context, host string, show func(AppHost)) (AppHost, error) {
	tick := time.NewTicker(appPoll)
	defer tick.Stop()
	var h AppHost
	shown := ""
	for {
		newest, err := c.AppHost(ctx, host)
		if ctx.Err() != nil && h.ID != "" {
			return h, fmt.Errorf("host %s is %s: %w", h.ID, h.State, ctx.Err())
		}
		if err != nil {
			return h, err
		}
		h = newest
		now, err := json.Marshal([]any{h.Apps, h.State, h.Error})
		if err != nil {
			return h, err
		}
		if show != nil && string(now) != shown {
			shown = string(now)
			show(h)
		}
		switch {
		case !h.Desired:
			return h, fmt.Errorf("host %s: nothing is desired of it any more: %w", h.ID, ErrApps)
		case h.Settled && h.State == string(backbone.StateOK):
			return h, nil
		case h.State == "refused":
			return h, fmt.Errorf("host %s refuses: %s: %w", h.ID, h.Reason, ErrApps)
		case h.State == string(backbone.StateFailed) && h.worksOn():
			return h, fmt.Errorf("host %s has given up: %s: %w", h.ID, h.why(), ErrApps)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// worksOn reports whether the host's last status is of after it was told what is desired.
func (h AppHost) worksOn() bool {
	return h.Sent != nil && h.Changed != nil && h.Received != nil && !h.Sent.Before(*h.Changed) && h.Received.After(*h.Sent)
}

func (h AppHost) why() string {
	if h.Reason != "" {
		return h.Reason
	}
	for _, a := range h.Apps {
		if a.Error != "" {
			return a.Name + ": " + a.Error
		}
	}
	return "its slave says " + h.State
}
