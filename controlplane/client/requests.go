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
	OpenRun     string          `json:"open_run,omitempty"` // that is not finished
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

// Task is one command to one chassis. State is pending, sent, running, complete,
// error or cancelled.
type Task struct {
	ID       string          `json:"id"`
	Run      string          `json:"run"`
	Chassis  string          `json:"chassis"`
	Position int             `json:"position"`
	After    string          `json:"after,omitempty"`
	Method   string          `json:"method"`
	State    string          `json:"state"`
	Percent  float64         `json:"percent"`
	ETA      *float64        `json:"eta,omitempty"` // seconds left
	Step     string          `json:"step,omitempty"`
	Msg      string          `json:"msg,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Cancel   bool            `json:"cancel_requested,omitempty"`
	BootID   string          `json:"boot_id,omitempty"`
	Created  time.Time       `json:"created"`
	Started  *time.Time      `json:"started,omitempty"`
	Finished *time.Time      `json:"finished,omitempty"`
}

// Final reports whether the task has ended.
func (t Task) Final() bool {
	return t.State == "complete" || t.State == "error" || t.State == "cancelled"
}

// Run is a sequence of tasks. State is pending, running, complete, error or
// cancelled.
type Run struct {
	ID      string    `json:"id"`
	Chassis string    `json:"chassis"`
	Kind    string    `json:"kind"`
	State   string    `json:"state"`
	Created time.Time `json:"created"`
	Tasks   []Task    `json:"tasks"`
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

// Decommission says how a chassis is emptied and checked.
type Decommission struct {
	Disks    []string             `json:"disks,omitempty"`  // by serial number, WWN or kernel name; empty: all
	Method   string               `json:"method,omitempty"` // auto (default), zeroout, overwrite
	Verify   string               `json:"verify,omitempty"` // full (default), sample
	Firmware []teeth.FirmwareItem `json:"firmware,omitempty"`
	Spec     json.RawMessage      `json:"spec,omitempty"` // of package hwinfo/qc
	// Steps are what is done, in this order: erase, firmware, qc (default all).
	Steps []string `json:"steps,omitempty"`
}

// Provision says what a chassis is to run.
type Provision struct {
	Image       string            `json:"image"`                 // id or name
	RootDevice  *teeth.RootDevice `json:"root_device,omitempty"` // nil: the smallest disk of at least 4 GiB
	Hostname    string            `json:"hostname,omitempty"`
	SSHKeys     []string          `json:"ssh_keys,omitempty"` // lines of authorized_keys
	UserData    string            `json:"user_data,omitempty"`
	NetworkData json.RawMessage   `json:"network_data,omitempty"` // nil: DHCP on the NIC it booted from
	Files       map[string][]byte `json:"files,omitempty"`        // absolute path to contents
	Boot        string            `json:"boot,omitempty"`         // auto (default), kexec, reboot
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

// Decommission starts a run that erases the chassis and checks it.
func (c *Client) Decommission(ctx context.Context, ref string, in Decommission) (Run, error) {
	var out Run
	err := c.call(ctx, http.MethodPost, chassisPath(ref, "/decommission"), nil, in, &out)
	return out, err
}

// Provision starts a run that puts an image on the chassis and boots it.
func (c *Client) Provision(ctx context.Context, ref string, in Provision) (Run, error) {
	var out Run
	err := c.call(ctx, http.MethodPost, chassisPath(ref, "/provision"), nil, in, &out)
	return out, err
}

// Run returns a run and its tasks.
func (c *Client) Run(ctx context.Context, id string) (Run, error) {
	var out Run
	err := c.call(ctx, http.MethodGet, "/v1/runs/"+url.PathEscape(id), nil, nil, &out)
	return out, err
}

// ListTasks returns up to limit tasks (0: all), newest first, of one chassis or,
// with "", of all.
func (c *Client) ListTasks(ctx context.Context, chassis string, limit int) ([]Task, error) {
	query := url.Values{}
	if chassis != "" {
		query.Set("chassis", chassis)
	}
	return pages[Task](ctx, c, "/v1/tasks", query, limit)
}

// Task returns the task with this id, or whose id alone begins so.
func (c *Client) Task(ctx context.Context, id string) (Task, error) {
	var out Task
	err := c.call(ctx, http.MethodGet, "/v1/tasks/"+url.PathEscape(id), nil, nil, &out)
	return out, err
}

// CancelTask cancels a task, at once if it is pending; otherwise the task ends
// when its agent has stopped the work.
func (c *Client) CancelTask(ctx context.Context, id string) (Task, error) {
	var out Task
	err := c.call(ctx, http.MethodPost, "/v1/tasks/"+url.PathEscape(id)+"/cancel", nil, nil, &out)
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
