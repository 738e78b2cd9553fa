package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// BMC is the management controller of a chassis. Protocol is ipmi or redfish.
type BMC struct {
	Chassis    string    `json:"chassis"`
	Protocol   string    `json:"protocol"`
	Address    string    `json:"address"`
	Username   string    `json:"username"`
	CertSHA256 string    `json:"cert_sha256,omitempty"`
	Insecure   bool      `json:"insecure,omitempty"`
	System     string    `json:"system,omitempty"`
	Updated    time.Time `json:"updated"`
}

// NewBMC is a BMC that is to be noted. Unless NoProbe it is asked first.
type NewBMC struct {
	Protocol   string `json:"protocol"`
	Address    string `json:"address"`
	Username   string `json:"username"`
	Password   string `json:"password"`
	CertSHA256 string `json:"cert_sha256,omitempty"`
	Insecure   bool   `json:"insecure,omitempty"`
	System     string `json:"system,omitempty"`
	NoProbe    bool   `json:"no_probe,omitempty"`
}

// BMCInfo is what a BMC says of itself.
type BMCInfo struct {
	Protocol     string      `json:"protocol"`
	Address      string      `json:"address"`
	Version      string      `json:"version,omitempty"`
	Firmware     string      `json:"firmware,omitempty"`
	Manufacturer string      `json:"manufacturer,omitempty"`
	Model        string      `json:"model,omitempty"`
	State        string      `json:"state"`
	Console      *BMCConsole `json:"console,omitempty"`
}

// BMCConsole is where the serial console of a chassis is.
type BMCConsole struct {
	Enabled  bool   `json:"enabled"`
	Protocol string `json:"protocol,omitempty"`
	Address  string `json:"address,omitempty"`
	Command  string `json:"command,omitempty"`
}

// BootDevice is what a chassis boots from: none, pxe, http
// (UEFI HTTP boot, by Redfish only), disk, cdrom or bios.
type BootDevice struct {
	Device     string `json:"device"`
	Persistent bool   `json:"persistent,omitempty"`
	UEFI       bool   `json:"uefi,omitempty"`
}

// SELEvent is an entry of the system event log.
type SELEvent struct {
	ID         string     `json:"id"`
	Time       *time.Time `json:"time,omitempty"`
	Severity   string     `json:"severity"`
	SensorType string     `json:"sensor_type,omitempty"`
	Sensor     string     `json:"sensor,omitempty"`
	Message    string     `json:"message"`
	Deasserted bool       `json:"deasserted,omitempty"`
	Raw        string     `json:"raw,omitempty"`
}

// EventLog is a system event log.
type EventLog struct {
	Total     int        `json:"total"`
	Free      int        `json:"free_bytes,omitempty"`
	Overflow  bool       `json:"overflow,omitempty"`
	Added     *time.Time `json:"added,omitempty"`
	Erased    *time.Time `json:"erased,omitempty"`
	Truncated bool       `json:"truncated,omitempty"`
	Events    []SELEvent `json:"events"`
}

// Sensor is a sensor's reading. Status is ok, warning, critical or absent.
type Sensor struct {
	Name   string   `json:"name"`
	Number string   `json:"number,omitempty"`
	Type   string   `json:"type,omitempty"`
	Value  *float64 `json:"value,omitempty"`
	Unit   string   `json:"unit,omitempty"`
	Status string   `json:"status"`
	States []string `json:"states,omitempty"`
}

// SNMPQuery is what to read of an SNMP device. Version is 2c or 3.
type SNMPQuery struct {
	Address      string   `json:"address"`
	Version      string   `json:"version,omitempty"`
	Community    string   `json:"community,omitempty"`
	User         string   `json:"user,omitempty"`
	AuthProtocol string   `json:"auth_protocol,omitempty"`
	AuthPassword string   `json:"auth_password,omitempty"`
	PrivProtocol string   `json:"priv_protocol,omitempty"`
	PrivPassword string   `json:"priv_password,omitempty"`
	Context      string   `json:"context,omitempty"`
	Get          []string `json:"get,omitempty"`
	Walk         []string `json:"walk,omitempty"`
	MaxRows      int      `json:"max_rows,omitempty"`
}

// SNMPRow is an object of an SNMP device.
type SNMPRow struct {
	OID   string `json:"oid"`
	Type  string `json:"type"`
	Value any    `json:"value"`
}

// Poller reads something again and again.
type Poller struct {
	ID       string          `json:"id"`
	Chassis  string          `json:"chassis,omitempty"`
	Kind     string          `json:"kind"`
	Name     string          `json:"name,omitempty"`
	Interval float64         `json:"interval"` // seconds
	Paused   bool            `json:"paused,omitempty"`
	Rules    json.RawMessage `json:"rules"`
	Created  time.Time       `json:"created"`
	Next     time.Time       `json:"next"`
	Polled   *time.Time      `json:"polled,omitempty"`
	Answered *time.Time      `json:"answered,omitempty"`
	Failures int             `json:"failures,omitempty"`
	Error    string          `json:"error,omitempty"`
	Server   string          `json:"server,omitempty"`
	SNMP     *SNMPQuery      `json:"snmp,omitempty"`
}

// PollerSpec describes a poller. Rules are as package controlplane/poller has them.
type PollerSpec struct {
	Chassis  string          `json:"chassis,omitempty"`
	Kind     string          `json:"kind"`
	Name     string          `json:"name,omitempty"`
	Interval float64         `json:"interval,omitempty"`
	Paused   bool            `json:"paused,omitempty"`
	Rules    json.RawMessage `json:"rules,omitempty"`
	SNMP     *SNMPQuery      `json:"snmp,omitempty"`
}

// PollerResult is what a poller has read once.
type PollerResult struct {
	Time   time.Time       `json:"time"`
	Result json.RawMessage `json:"result"`
}

// Alert is what a poller's rule has found.
type Alert struct {
	ID        string     `json:"id"`
	Number    int64      `json:"number"`
	Poller    string     `json:"poller"`
	Chassis   string     `json:"chassis,omitempty"`
	Kind      string     `json:"kind"`
	Rule      string     `json:"rule"`
	Item      string     `json:"item,omitempty"`
	Severity  string     `json:"severity"`
	Message   string     `json:"message"`
	Value     string     `json:"value,omitempty"`
	Raised    time.Time  `json:"raised"`
	Cleared   *time.Time `json:"cleared,omitempty"`
	ClearedBy string     `json:"cleared_by,omitempty"`
}

// SKU is a kind of machine. Rules are as package controlplane/sku has them.
type SKU struct {
	ID      string          `json:"id"`
	Name    string          `json:"name"`
	Rules   json.RawMessage `json:"rules"`
	Graph   string          `json:"graph,omitempty"`
	Options json.RawMessage `json:"options,omitempty"`
	Created time.Time       `json:"created"`
}

// SKUAssignment is which SKU a chassis has.
type SKUAssignment struct {
	Chassis  string     `json:"chassis"`
	SKU      string     `json:"sku,omitempty"`
	Name     string     `json:"name,omitempty"`
	Assigned *time.Time `json:"assigned,omitempty"`
	Step     string     `json:"graph_step,omitempty"`
	Graph    string     `json:"graph,omitempty"`
	Error    string     `json:"error,omitempty"`
}

// ListBMCs returns all BMCs that are noted.
func (c *Client) ListBMCs(ctx context.Context) ([]BMC, error) {
	return pages[BMC](ctx, c, "/v1/bmcs", nil, 0)
}

// BMC returns the BMC of a chassis.
func (c *Client) BMC(ctx context.Context, chassis string) (b BMC, err error) {
	return b, c.call(ctx, http.MethodGet, chassisPath(chassis, "/bmc"), nil, nil, &b)
}

// SetBMC notes the BMC of a chassis.
func (c *Client) SetBMC(ctx context.Context, chassis string, in NewBMC) (b BMC, err error) {
	return b, c.call(ctx, http.MethodPut, chassisPath(chassis, "/bmc"), nil, in, &b)
}

// RemoveBMC forgets the BMC of a chassis.
func (c *Client) RemoveBMC(ctx context.Context, chassis string) error {
	return c.call(ctx, http.MethodDelete, chassisPath(chassis, "/bmc"), nil, nil, nil)
}

// BMCInfo asks the BMC of a chassis what it is.
func (c *Client) BMCInfo(ctx context.Context, chassis string) (i BMCInfo, err error) {
	return i, c.call(ctx, http.MethodGet, chassisPath(chassis, "/bmc/info"), nil, nil, &i)
}

// Power returns on, off or unknown.
func (c *Client) Power(ctx context.Context, chassis string) (string, error) {
	var out struct{ State string }
	err := c.call(ctx, http.MethodGet, chassisPath(chassis, "/power"), nil, nil, &out)
	return out.State, err
}

// SetPower has a chassis turned on, off, shutdown, cycle or reset.
func (c *Client) SetPower(ctx context.Context, chassis, action string) error {
	return c.call(ctx, http.MethodPost, chassisPath(chassis, "/power"), nil, map[string]string{"action": action}, nil)
}

// SetBootDevice overrides what a chassis boots from.
func (c *Client) SetBootDevice(ctx context.Context, chassis string, in BootDevice) error {
	return c.call(ctx, http.MethodPost, chassisPath(chassis, "/boot-device"), nil, in, nil)
}

// EventLog reads the event log of a chassis: the newest limit entries (0: all).
func (c *Client) EventLog(ctx context.Context, chassis string, limit int) (l EventLog, err error) {
	q := url.Values{}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return l, c.call(ctx, http.MethodGet, chassisPath(chassis, "/sel"), q, nil, &l)
}

// Sensors reads the sensors of a chassis.
func (c *Client) Sensors(ctx context.Context, chassis string) ([]Sensor, error) {
	var out struct{ Items []Sensor }
	err := c.call(ctx, http.MethodGet, chassisPath(chassis, "/sensors"), nil, nil, &out)
	return out.Items, err
}

// QuerySNMP reads objects of an SNMP device, and says whether there are more.
func (c *Client) QuerySNMP(ctx context.Context, in SNMPQuery) (rows []SNMPRow, more bool, err error) {
	var out struct {
		Items     []SNMPRow
		Truncated bool
	}
	err = c.call(ctx, http.MethodPost, "/v1/snmp", nil, in, &out)
	return out.Items, out.Truncated, err
}

// ListPollers returns the pollers of a chassis, or ("") all.
func (c *Client) ListPollers(ctx context.Context, chassis string) ([]Poller, error) {
	return pages[Poller](ctx, c, "/v1/pollers", url.Values{"chassis": {chassis}}, 0)
}

// Poller returns a poller, by its id or the beginning of it.
func (c *Client) Poller(ctx context.Context, id string) (p Poller, err error) {
	return p, c.call(ctx, http.MethodGet, "/v1/pollers/"+url.PathEscape(id), nil, nil, &p)
}

// AddPoller defines a poller.
func (c *Client) AddPoller(ctx context.Context, in PollerSpec) (p Poller, err error) {
	return p, c.call(ctx, http.MethodPost, "/v1/pollers", nil, in, &p)
}

// ChangePoller defines a poller anew.
func (c *Client) ChangePoller(ctx context.Context, id string, in PollerSpec) (p Poller, err error) {
	return p, c.call(ctx, http.MethodPut, "/v1/pollers/"+url.PathEscape(id), nil, in, &p)
}

// RemovePoller removes a poller with its results and alerts.
func (c *Client) RemovePoller(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/pollers/"+url.PathEscape(id), nil, nil, nil)
}

// PollerResults returns what a poller has read, newest first.
func (c *Client) PollerResults(ctx context.Context, id string) ([]PollerResult, error) {
	var out struct{ Items []PollerResult }
	err := c.call(ctx, http.MethodGet, "/v1/pollers/"+url.PathEscape(id)+"/results", nil, nil, &out)
	return out.Items, err
}

// ListAlerts returns up to limit (0: all) alerts, newest first: those that are
// open, of a chassis or ("") all, and with cleared those that are over too.
func (c *Client) ListAlerts(ctx context.Context, chassis string, cleared bool, limit int) ([]Alert, error) {
	q := url.Values{"chassis": {chassis}, "cleared": {strconv.FormatBool(cleared)}}
	return pages[Alert](ctx, c, "/v1/alerts", q, limit)
}

// ClearAlert clears an alert.
func (c *Client) ClearAlert(ctx context.Context, id string) (a Alert, err error) {
	return a, c.call(ctx, http.MethodPost, "/v1/alerts/"+url.PathEscape(id)+"/clear", nil, nil, &a)
}

// ListSKUs returns all SKUs.
func (c *Client) ListSKUs(ctx context.Context) ([]SKU, error) {
	return pages[SKU](ctx, c, "/v1/skus", nil, 0)
}

// PutSKU defines a SKU from a JSON object with name, rules, graph and options.
func (c *Client) PutSKU(ctx context.Context, spec json.RawMessage) (k SKU, err error) {
	return k, c.call(ctx, http.MethodPost, "/v1/skus", nil, spec, &k)
}

// SKU returns a SKU, by id or name.
func (c *Client) SKU(ctx context.Context, ref string) (k SKU, err error) {
	return k, c.call(ctx, http.MethodGet, "/v1/skus/"+url.PathEscape(ref), nil, nil, &k)
}

// RemoveSKU removes a SKU.
func (c *Client) RemoveSKU(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodDelete, "/v1/skus/"+url.PathEscape(ref), nil, nil, nil)
}

// SKUChassis returns the chassis that have a SKU.
func (c *Client) SKUChassis(ctx context.Context, ref string) ([]SKUAssignment, error) {
	return pages[SKUAssignment](ctx, c, "/v1/skus/"+url.PathEscape(ref)+"/chassis", nil, 0)
}

// SKUOf returns which SKU a chassis has.
func (c *Client) SKUOf(ctx context.Context, chassis string) (a SKUAssignment, err error) {
	return a, c.call(ctx, http.MethodGet, chassisPath(chassis, "/sku"), nil, nil, &a)
}
