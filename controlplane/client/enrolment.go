package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Rule approves a chassis that nobody has approved or rejected yet. Kind is all,
// token, subnet, serial or mac.
type Rule struct {
	ID      string    `json:"id,omitempty"`
	Kind    string    `json:"kind"`
	Value   string    `json:"value,omitempty"`
	Created time.Time `json:"created,omitzero"`
	By      string    `json:"by,omitempty"` // who made it
}

// Approve lets a chassis work.
func (c *Client) Approve(ctx context.Context, ref string) (Chassis, error) {
	var out Chassis
	err := c.call(ctx, http.MethodPost, chassisPath(ref, "/approve"), nil, nil, &out)
	return out, err
}

// Reject refuses a chassis until it is approved, and ends its session.
func (c *Client) Reject(ctx context.Context, ref string) (Chassis, error) {
	var out Chassis
	err := c.call(ctx, http.MethodPost, chassisPath(ref, "/reject"), nil, nil, &out)
	return out, err
}

// Forget deletes a chassis with its tasks and its log. Unless it is forced, it is
// refused while the chassis is connected or has work to finish.
func (c *Client) Forget(ctx context.Context, ref string, force bool) error {
	query := url.Values{}
	if force {
		query.Set("force", "true")
	}
	return c.call(ctx, http.MethodDelete, chassisPath(ref, ""), query, nil, nil)
}

// ListRules returns the stored enrolment rules.
func (c *Client) ListRules(ctx context.Context) ([]Rule, error) {
	var out struct {
		Items []Rule `json:"items"`
	}
	err := c.call(ctx, http.MethodGet, "/v1/enrolment/rules", nil, nil, &out)
	return out.Items, err
}

// AddRule stores an enrolment rule.
func (c *Client) AddRule(ctx context.Context, kind, value string) (Rule, error) {
	var out Rule
	in := map[string]string{"kind": kind}
	if value != "" {
		in["value"] = value
	}
	err := c.call(ctx, http.MethodPost, "/v1/enrolment/rules", nil, in, &out)
	return out, err
}

// RemoveRule removes an enrolment rule. What it has approved stays approved.
func (c *Client) RemoveRule(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/enrolment/rules/"+url.PathEscape(id), nil, nil, nil)
}
