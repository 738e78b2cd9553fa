package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// Chassis is one machine. State is discovered, rejected, inspecting, ready, working,
// in_service, failed or offline. Lists leave Inventory and Phases out.
type Chassis struct {
	ID          string          `json:"id"`
	Name        string          `json:"name,omitempty"`
	State       string          `json:"state"`
	Connected   bool            `json:"connected"`
	UUID        string          `json:"uuid,omitempty"`
	Serial      string          `json:"serial,omitempty"`
	MAC         string          `json:"mac,omitempty"`
	MACs        []string        `json:"macs"`
	Version     string          `json:"version,omitempty"`
	BootID      string          `json:"boot_id,omitempty"`
	Address     string          `json:"address,omitempty"`
	OpenGraph   string          `json:"open_graph,omitempty"` // that is not finished
	LastSeen    time.Time       `json:"last_seen"`
	Created     time.Time       `json:"created"`
	Inspected   *time.Time      `json:"inspected,omitempty"`
	InstalledAt *time.Time      `json:"installed_at,omitempty"`
	InServiceAt *time.Time      `json:"in_service_at,omitempty"`
	Approved    *time.Time      `json:"approved,omitempty"`
	ApprovedBy  string          `json:"approved_by,omitempty"` // a user or a rule
	Rejected    *time.Time      `json:"rejected,omitempty"`
	Inventory   json.RawMessage `json:"inventory,omitempty"` // in the form of package hwinfo
	Phases      []teeth.Phase   `json:"phases,omitempty"`    // of its last boot
}

// Image is an OS image.
type Image struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Format  string    `json:"format"`
	Size    int64     `json:"size"`
	SHA256  string    `json:"sha256"`
	Created time.Time `json:"created"`
}

// LogEvent is a log message of a chassis.
type LogEvent struct {
	Chassis string          `json:"chassis"`
	Time    time.Time       `json:"time"`
	Message string          `json:"message"`
	Fields  json.RawMessage `json:"fields,omitempty"`
}

// NewImage describes an image that is to be added. Format is raw, raw.gz,
// raw.zst, raw.xz or qcow2. SHA256 is optional.
type NewImage struct {
	Name   string `json:"name"`
	Format string `json:"format"`
	SHA256 string `json:"sha256,omitempty"`
}

// Version returns the server's software version.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v struct {
		Version string `json:"version"`
	}
	err := c.call(ctx, http.MethodGet, "/v1/version", nil, nil, &v)
	return v.Version, err
}

// ListChassis returns all chassis.
func (c *Client) ListChassis(ctx context.Context) ([]Chassis, error) {
	return pages[Chassis](ctx, c, "/v1/chassis", nil, 0)
}

func chassisPath(ref, rest string) string { return "/v1/chassis/" + url.PathEscape(ref) + rest }

// Chassis returns the one that ref means: its id or the beginning of it, name,
// MAC address, serial number or UUID.
func (c *Client) Chassis(ctx context.Context, ref string) (Chassis, error) {
	var out Chassis
	err := c.call(ctx, http.MethodGet, chassisPath(ref, ""), nil, nil, &out)
	return out, err
}

// ChassisLog returns up to limit of a chassis' newest log messages, oldest first.
func (c *Client) ChassisLog(ctx context.Context, ref string, limit int) ([]LogEvent, error) {
	return pages[LogEvent](ctx, c, chassisPath(ref, "/log"), nil, limit)
}

// Inspect has a connected chassis report its inventory anew.
func (c *Client) Inspect(ctx context.Context, ref string) (Chassis, error) {
	var out Chassis
	err := c.call(ctx, http.MethodPost, chassisPath(ref, "/inspect"), nil, nil, &out)
	return out, err
}

// ListImages returns all images by name.
func (c *Client) ListImages(ctx context.Context) ([]Image, error) {
	return pages[Image](ctx, c, "/v1/images", nil, 0)
}

// Image returns the image with this id or name.
func (c *Client) Image(ctx context.Context, ref string) (Image, error) {
	var out Image
	err := c.call(ctx, http.MethodGet, "/v1/images/"+url.PathEscape(ref), nil, nil, &out)
	return out, err
}

// UploadImage adds an image whose file r reads. Size, if known, lets the server
// see a cut in the transfer; 0 is unknown.
func (c *Client) UploadImage(ctx context.Context, in NewImage, r io.Reader, size int64) (Image, error) {
	query := url.Values{"name": {in.Name}, "format": {in.Format}}
	if in.SHA256 != "" {
		query.Set("sha256", in.SHA256)
	}
	var out Image
	resp, err := c.do(ctx, http.MethodPost, "/v1/images", query, "application/octet-stream", size, r, nil)
	if err != nil {
		return out, err
	}
	return out, decode(ctx, resp, &out)
}

// FetchImage has the server add the image at an http or https URL. It returns
// when the server has all of it.
func (c *Client) FetchImage(ctx context.Context, in NewImage, address string) (Image, error) {
	var out Image
	err := c.call(ctx, http.MethodPost, "/v1/images", nil, struct {
		NewImage
		URL string `json:"url"`
	}{in, address}, &out)
	return out, err
}

// RemoveImage deletes an image that no unfinished task needs.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodDelete, "/v1/images/"+url.PathEscape(ref), nil, nil, nil)
}
