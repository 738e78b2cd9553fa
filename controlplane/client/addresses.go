package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Subnet is a network in which DHCP gives addresses. Ranges are FIRST-LAST.
type Subnet struct {
	ID           string            `json:"id,omitempty"`
	CIDR         string            `json:"cidr"`
	Pools        []string          `json:"pools,omitempty"`
	Exclude      []string          `json:"exclude,omitempty"`
	Gateway      string            `json:"gateway,omitempty"`
	DNS          []string          `json:"dns,omitempty"`
	NTP          []string          `json:"ntp,omitempty"`
	Domain       string            `json:"domain,omitempty"`
	LeaseSeconds int64             `json:"lease_seconds,omitempty"`
	MTU          int               `json:"mtu,omitempty"`
	NextServer   string            `json:"next_server,omitempty"`
	BootFiles    map[string]string `json:"boot_files,omitempty"` // by architecture
	Created      time.Time         `json:"created,omitzero"`
}

// Lease is an address that was given or offered. State is offered, bound, released,
// declined or expired.
type Lease struct {
	IP       string    `json:"ip"`
	Subnet   string    `json:"subnet"`
	Client   string    `json:"client"`
	MAC      string    `json:"mac,omitempty"`
	Hostname string    `json:"hostname,omitempty"`
	State    string    `json:"state"`
	Since    time.Time `json:"since"`
	Expires  time.Time `json:"expires"`
	Pinned   bool      `json:"pinned,omitempty"`
}

// Reservation keeps an address for a client. To make one, see Reserve.
type Reservation struct {
	IP       string    `json:"ip,omitempty"`
	Subnet   string    `json:"subnet,omitempty"`
	MAC      string    `json:"mac,omitempty"`
	ClientID string    `json:"client_id,omitempty"` // hexadecimal
	Hostname string    `json:"hostname,omitempty"`
	Created  time.Time `json:"created,omitzero"`
}

// Subnets returns all subnets.
func (c *Client) Subnets(ctx context.Context) ([]Subnet, error) {
	return pages[Subnet](ctx, c, "/v1/subnets", nil, 0)
}

// Subnet returns the subnet with an id, the beginning of one, or a network.
func (c *Client) Subnet(ctx context.Context, ref string) (Subnet, error) {
	var out Subnet
	err := c.call(ctx, http.MethodGet, "/v1/subnets/"+url.PathEscape(ref), nil, nil, &out)
	return out, err
}

// AddSubnet adds a subnet.
func (c *Client) AddSubnet(ctx context.Context, in Subnet) (Subnet, error) {
	var out Subnet
	err := c.call(ctx, http.MethodPost, "/v1/subnets", nil, in, &out)
	return out, err
}

// SetSubnet replaces what is said of the subnet with in.CIDR.
func (c *Client) SetSubnet(ctx context.Context, in Subnet) (Subnet, error) {
	var out Subnet
	err := c.call(ctx, http.MethodPut, "/v1/subnets/"+url.PathEscape(in.CIDR), nil, in, &out)
	return out, err
}

// RemoveSubnet removes a subnet; while leases are in use only if forced.
func (c *Client) RemoveSubnet(ctx context.Context, ref string, force bool) error {
	query := url.Values{}
	if force {
		query.Set("force", "true")
	}
	return c.call(ctx, http.MethodDelete, "/v1/subnets/"+url.PathEscape(ref), query, nil, nil)
}

// Leases returns the leases of a subnet and a MAC address; "" stands for all.
func (c *Client) Leases(ctx context.Context, subnet, mac string) ([]Lease, error) {
	query := url.Values{}
	if subnet != "" {
		query.Set("subnet", subnet)
	}
	if mac != "" {
		query.Set("mac", mac)
	}
	return pages[Lease](ctx, c, "/v1/leases", query, 0)
}

// RemoveLease forgets the leases of an IP or MAC address.
func (c *Client) RemoveLease(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodDelete, "/v1/leases/"+url.PathEscape(ref), nil, nil, nil)
}

// Reservations returns all reservations.
func (c *Client) Reservations(ctx context.Context) ([]Reservation, error) {
	return pages[Reservation](ctx, c, "/v1/reservations", nil, 0)
}

// Reserve keeps an address for a client. With IP only it is the client that has it
// now, or nobody; with MAC only it is the address that the client has now.
func (c *Client) Reserve(ctx context.Context, r Reservation) error {
	in := map[string]string{}
	for k, v := range map[string]string{"ip": r.IP, "mac": r.MAC, "client_id": r.ClientID, "hostname": r.Hostname} {
		if v != "" {
			in[k] = v
		}
	}
	return c.call(ctx, http.MethodPost, "/v1/reservations", nil, in, nil)
}

// Unreserve forgets the reservations of an IP or MAC address.
func (c *Client) Unreserve(ctx context.Context, ref string) error {
	return c.call(ctx, http.MethodDelete, "/v1/reservations/"+url.PathEscape(ref), nil, nil, nil)
}
