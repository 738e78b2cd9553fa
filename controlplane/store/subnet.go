package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Bounds of a subnet.
const (
	DefaultLease = 12 * time.Hour
	minLease     = time.Minute
	maxLease     = 365 * 24 * time.Hour
	maxRanges    = 64      // pools, and as many exclusions
	maxPool      = 1 << 16 // IPv4 addresses in the pools of a subnet
	maxHosts     = 8       // DNS servers, and as many time servers
	maxSubnets   = 4096
)

// Subnet is a network in which DHCP gives addresses, and what it tells clients
// there. A chassis reaches it directly or through a relay agent.
type Subnet struct {
	ID           string       `json:"id"`
	CIDR         netip.Prefix `json:"cidr"`
	Pools        []Range      `json:"pools"`             // none: addresses of reservations only
	Exclude      []Range      `json:"exclude,omitempty"` // addresses of the pools that are not given
	Gateway      netip.Addr   `json:"gateway,omitzero"`
	DNS          []netip.Addr `json:"dns,omitempty"`
	NTP          []netip.Addr `json:"ntp,omitempty"`
	Domain       string       `json:"domain,omitempty"`
	LeaseSeconds int64        `json:"lease_seconds,omitempty"` // 0: DefaultLease
	MTU          int          `json:"mtu,omitempty"`           // bytes; 0: not told
	// NextServer is the address of the boot server as chassis there reach it. Zero: the
	// server's own address on the interface on which it was asked.
	NextServer netip.Addr `json:"next_server,omitzero"`
	// BootFiles names boot files other than the usual, by architecture: bios, efi32,
	// efi64, arm32, arm64, and the same with "-http". A name is a file on our TFTP
	// or HTTP server, or a URL.
	BootFiles map[string]string `json:"boot_files,omitempty"`
	Created   time.Time         `json:"created"`
}

// Lease returns how long an address is given for.
func (s Subnet) Lease() time.Duration {
	if s.LeaseSeconds == 0 {
		return DefaultLease
	}
	return time.Duration(s.LeaseSeconds) * time.Second
}

// Architectures are the names of client architectures in Subnet.BootFiles.
var Architectures = []string{
	"bios", "efi32", "efi64", "arm32", "arm64",
	"efi32-http", "efi64-http", "arm32-http", "arm64-http",
}

var (
	domainPattern   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
	bootFilePattern = regexp.MustCompile(`^[A-Za-z0-9._~:/?&=%+@\[\]-]{1,255}$`)
)

// Validate reports, in one sentence, why a subnet cannot be served.
func (s Subnet) Validate() error {
	c := s.CIDR
	switch {
	case !c.IsValid():
		return errors.New("subnet: its network is missing: give it as 192.0.2.0/24")
	case c != c.Masked():
		return fmt.Errorf("subnet %s: bits beyond the prefix are set: write %s", c, c.Masked())
	case c.Addr().Is4In6():
		return fmt.Errorf("subnet %s: write an IPv4 network as such", c)
	case c.Addr().Is4() && (c.Bits() < 8 || c.Bits() > 30), c.Addr().Is6() && (c.Bits() < 16 || c.Bits() > 126):
		return fmt.Errorf("subnet %s: want a prefix of 8 to 30 bits, or with IPv6 of 16 to 126", c)
	case c.Addr().IsMulticast(), c.Addr().IsLoopback(), c.Addr().IsUnspecified():
		return fmt.Errorf("subnet %s: not a network of hosts", c)
	case s.LeaseSeconds != 0 && (s.Lease() < minLease || s.Lease() > maxLease || s.LeaseSeconds > int64(maxLease/time.Second)):
		return fmt.Errorf("subnet %s: lease of %d seconds: want %d to %d", c, s.LeaseSeconds, minLease/time.Second, maxLease/time.Second)
	case s.MTU != 0 && (s.MTU < 576 || s.MTU > 65535):
		return fmt.Errorf("subnet %s: MTU %d: want 576 to 65535", c, s.MTU)
	case s.Domain != "" && (len(s.Domain) > 253 || !domainPattern.MatchString(s.Domain)):
		return fmt.Errorf("subnet %s: domain %.40q is not a domain name", c, s.Domain)
	case len(s.DNS) > maxHosts || len(s.NTP) > maxHosts:
		return fmt.Errorf("subnet %s: at most %d name servers and as many time servers", c, maxHosts)
	case s.Gateway.IsValid() && !c.Contains(s.Gateway):
		return fmt.Errorf("subnet %s: gateway %s is not in it", c, s.Gateway)
	}
	for _, a := range slices.Concat(s.DNS, s.NTP, []netip.Addr{s.NextServer}) {
		if a.IsValid() && (a.Is4() != c.Addr().Is4() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast()) {
			return fmt.Errorf("subnet %s: %s cannot be a server's address there", c, a)
		}
	}
	for arch, file := range s.BootFiles {
		if !slices.Contains(Architectures, arch) {
			return fmt.Errorf("subnet %s: boot file for %.20q: want one of %s", c, arch, strings.Join(Architectures, ", "))
		}
		if !bootFilePattern.MatchString(file) {
			return fmt.Errorf("subnet %s: boot file %.60q: want the name of a file or a URL", c, file)
		}
	}
	return s.validateRanges()
}

func (s Subnet) validateRanges() error {
	if len(s.Pools) > maxRanges || len(s.Exclude) > maxRanges {
		return fmt.Errorf("subnet %s: at most %d pools and as many exclusions", s.CIDR, maxRanges)
	}
	for _, r := range slices.Concat(s.Pools, s.Exclude) {
		if !r.valid() || !s.CIDR.Contains(r.First) || !s.CIDR.Contains(r.Last) {
			return fmt.Errorf("subnet %s: range %s: want FIRST-LAST in this network", s.CIDR, r)
		}
	}
	for i, r := range s.Pools {
		for _, other := range s.Pools[:i] {
			if r.Contains(other.First) || other.Contains(r.First) {
				return fmt.Errorf("subnet %s: pools %s and %s overlap", s.CIDR, other, r)
			}
		}
	}
	if p := s.pool(); s.CIDR.Addr().Is4() && p.size() > maxPool {
		return fmt.Errorf("subnet %s: its pools have %d addresses: at most %d", s.CIDR, p.size(), maxPool)
	}
	return nil
}

// AddSubnet stores a subnet; its ID and Created are set. One that overlaps another
// is ErrConflict.
func (s *Store) AddSubnet(ctx context.Context, sub Subnet) (Subnet, error) {
	sub.ID = uuid.NewString()
	if err := sub.Validate(); err != nil {
		return Subnet{}, fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	err := s.update(ctx, func(t *tx) error {
		sub.Created = time.UnixMilli(t.now).UTC()
		rows, err := t.Query(`SELECT cidr FROM subnets`)
		if err != nil {
			return err
		}
		defer rows.Close()
		n := 0
		for rows.Next() {
			var text string
			if err := rows.Scan(&text); err != nil {
				return err
			}
			n++
			if other, err := netip.ParsePrefix(text); err == nil && other.Overlaps(sub.CIDR) {
				return fmt.Errorf("subnet %s overlaps %s: remove that one first: %w", sub.CIDR, other, ErrConflict)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		if n >= maxSubnets {
			return fmt.Errorf("there are %d subnets already: %w", n, ErrConflict)
		}
		b, err := json.Marshal(sub)
		if err != nil {
			return err
		}
		_, err = t.Exec(`INSERT INTO subnets (id, cidr, options, created) VALUES (?, ?, ?, ?)`, sub.ID, sub.CIDR.String(), string(b), t.now)
		return err
	})
	return sub, err
}

// SetSubnet replaces what is stored of the subnet with this ID. Its network stays.
func (s *Store) SetSubnet(ctx context.Context, sub Subnet) (Subnet, error) {
	if err := sub.Validate(); err != nil {
		return Subnet{}, fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	err := s.update(ctx, func(t *tx) error {
		b, err := json.Marshal(sub)
		if err != nil {
			return err
		}
		res, err := t.Exec(`UPDATE subnets SET options = ? WHERE id = ? AND cidr = ?`, string(b), sub.ID, sub.CIDR.String())
		return changed(res, err, "subnet "+sub.ID)
	})
	return sub, err
}

// changed is ErrNotFound if a statement that worked has changed nothing.
func changed(res sql.Result, err error, what string) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Subnets returns all subnets in the order of their making.
func (s *Store) Subnets(ctx context.Context) ([]Subnet, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT options FROM subnets ORDER BY created, cidr`)
	if err != nil {
		return nil, fmt.Errorf("list subnets: %w", err)
	}
	defer rows.Close()
	list := []Subnet{}
	for rows.Next() {
		var text string
		var sub Subnet
		if err := rows.Scan(&text); err != nil {
			return nil, fmt.Errorf("list subnets: %w", err)
		}
		if err := json.Unmarshal([]byte(text), &sub); err != nil {
			return nil, fmt.Errorf("list subnets: %w", err)
		}
		list = append(list, sub)
	}
	return list, rows.Err()
}

// Subnet returns the subnet that ref means: its network, or its id or the beginning of it.
func (s *Store) Subnet(ctx context.Context, ref string) (Subnet, error) {
	all, err := s.Subnets(ctx)
	if err != nil {
		return Subnet{}, err
	}
	var found []Subnet
	for _, sub := range all {
		if sub.ID == ref || sub.CIDR.String() == ref {
			return sub, nil
		}
		if ref != "" && strings.HasPrefix(sub.ID, ref) {
			found = append(found, sub)
		}
	}
	switch len(found) {
	case 0:
		return Subnet{}, fmt.Errorf("subnet %.60q: %w", ref, ErrNotFound)
	case 1:
		return found[0], nil
	}
	return Subnet{}, fmt.Errorf("subnet %.60q: %w", ref, ErrAmbiguous)
}

// RemoveSubnet forgets a subnet with its reservations and leases. While leases
// are in use it is ErrConflict, unless forced.
func (s *Store) RemoveSubnet(ctx context.Context, ref string, force bool) error {
	sub, err := s.Subnet(ctx, ref)
	if err != nil {
		return err
	}
	return s.update(ctx, func(t *tx) error {
		var used int
		if err := t.QueryRow(`SELECT COUNT(*) FROM leases WHERE subnet = ? AND state = ? AND expires > ?`, sub.ID, leaseBound, t.now).Scan(&used); err != nil {
			return err
		}
		if used > 0 && !force {
			return fmt.Errorf("subnet %s: %d of its addresses are in use: wait for the leases to end, or force it: %w", sub.CIDR, used, ErrConflict)
		}
		for _, statement := range []string{`DELETE FROM leases WHERE subnet = ?`, `DELETE FROM reservations WHERE subnet = ?`} {
			if _, err := t.Exec(statement, sub.ID); err != nil {
				return err
			}
		}
		res, err := t.Exec(`DELETE FROM subnets WHERE id = ?`, sub.ID)
		return changed(res, err, "subnet "+sub.CIDR.String())
	})
}
