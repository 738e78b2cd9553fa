package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// States of a lease. A bound one that has run out is shown as expired.
const (
	leaseOffered  = "offered"  // held for a client that has not asked for it yet
	leaseBound    = "bound"    // in use
	leaseReleased = "released" // given back; its client gets it again while nobody else needs it
	leaseDeclined = "declined" // a host that is no client of ours uses it
	leaseExpired  = "expired"
)

// Lease is an address that was given or offered to a client.
type Lease struct {
	IP       netip.Addr `json:"ip"`
	Subnet   string     `json:"subnet"`
	Client   string     `json:"client"` // "mac:…", "id:…" (client identifier) or "duid:…/IAID" (DHCPv6)
	MAC      string     `json:"mac,omitempty"`
	Hostname string     `json:"hostname,omitempty"`
	State    string     `json:"state"` // offered, bound, released, declined, expired
	Since    time.Time  `json:"since"` // in this state
	Expires  time.Time  `json:"expires"`
	Pinned   bool       `json:"pinned,omitempty"` // a reservation keeps it
}

// Active reports whether the address is in use.
func (l Lease) Active() bool { return l.State == leaseBound }

const leaseColumns = `l.ip, l.subnet, l.client, l.mac, l.hostname, l.state, l.since, l.expires,
	CASE WHEN EXISTS (SELECT 1 FROM reservations r WHERE r.ip = l.ip) THEN 1 ELSE 0 END`

func scanLease(row scanner) (Lease, error) {
	var l Lease
	var ip string
	var since, expires int64
	var pinned int
	if err := row.Scan(&ip, &l.Subnet, &l.Client, &l.MAC, &l.Hostname, &l.State, &since, &expires, &pinned); err != nil {
		return l, err
	}
	l.Since, l.Expires, l.Pinned = time.UnixMilli(since).UTC(), time.UnixMilli(expires).UTC(), pinned != 0
	if l.State == leaseBound && !l.Expires.After(time.Now()) {
		l.State = leaseExpired
	}
	var err error
	if l.IP, err = netip.ParseAddr(ip); err != nil {
		return l, fmt.Errorf("lease of %q: %w", ip, err)
	}
	return l, nil
}

// LookupLease returns the lease of an address that is in use, else ErrNotFound.
func (s *Store) LookupLease(ctx context.Context, ip netip.Addr) (Lease, error) {
	l, err := scanLease(s.r.QueryRowContext(ctx, `SELECT `+leaseColumns+` FROM leases l WHERE l.ip = ?`, ip.Unmap().String()))
	if errors.Is(err, sql.ErrNoRows) || err == nil && !l.Active() {
		return Lease{}, fmt.Errorf("lease of %s: %w", ip, ErrNotFound)
	}
	return l, err
}

// PeekLeases returns the leases that are in use, in the order of their addresses,
// at most MaxPage.
func (s *Store) PeekLeases(ctx context.Context) ([]Lease, error) {
	return s.leasesWhere(ctx, `l.state = ? AND l.expires > ? ORDER BY l.position LIMIT ?`, leaseBound, time.Now().UnixMilli(), MaxPage)
}

// ListLeases returns up to limit leases of a subnet's id ("": of all) and a MAC
// address ("": of all) that come after an address, in whatever state.
func (s *Store) ListLeases(ctx context.Context, subnet, mac string, after netip.Addr, limit int) ([]Lease, error) {
	from := ""
	if after.IsValid() {
		from = position(after)
	}
	return s.leasesWhere(ctx, `(? = '' OR l.subnet = ?) AND (? = '' OR l.mac = ?) AND l.position > ? ORDER BY l.position LIMIT ?`,
		subnet, subnet, mac, mac, from, page(limit))
}

func (s *Store) leasesWhere(ctx context.Context, where string, args ...any) ([]Lease, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+leaseColumns+` FROM leases l WHERE `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	defer rows.Close()
	list := []Lease{}
	for rows.Next() {
		l, err := scanLease(rows)
		if err != nil {
			return nil, fmt.Errorf("list leases: %w", err)
		}
		list = append(list, l)
	}
	return list, rows.Err()
}

// RemoveLeaseByMAC forgets the leases of a MAC address and returns how many there
// were. The clients learn of it when they renew.
func (s *Store) RemoveLeaseByMAC(ctx context.Context, mac string) (int, error) {
	return s.removeLeases(ctx, "mac", strings.ToLower(mac))
}

// RemoveLeaseByIP forgets the lease of an address and returns how many there were.
func (s *Store) RemoveLeaseByIP(ctx context.Context, ip netip.Addr) (int, error) {
	return s.removeLeases(ctx, "ip", ip.Unmap().String())
}

func (s *Store) removeLeases(ctx context.Context, column, value string) (int, error) {
	var n int64
	err := s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`DELETE FROM leases WHERE `+column+` = ?`, value)
		if err != nil {
			return fmt.Errorf("remove lease of %s: %w", value, err)
		}
		n, err = res.RowsAffected()
		return err
	})
	return int(n), err
}

// IPInRange reports whether DHCP gives the address: it is in a pool.
func (s *Store) IPInRange(ctx context.Context, ip netip.Addr) (bool, error) {
	all, err := s.Subnets(ctx)
	if err != nil {
		return false, err
	}
	for _, sub := range all {
		if sub.CIDR.Contains(ip.Unmap()) {
			return sub.Gives(ip.Unmap()), nil
		}
	}
	return false, nil
}

// ChassisAt returns the id of the chassis that has an address, by its lease or else
// by the address that its agent was seen with last; "" if none is known.
func (s *Store) ChassisAt(ctx context.Context, ip netip.Addr) (string, error) {
	var id string
	a := ip.Unmap().String()
	err := s.r.QueryRowContext(ctx, `SELECT c.id FROM chassis c JOIN leases l ON l.mac = c.mac
		WHERE l.ip = ? AND l.mac <> '' ORDER BY c.last_seen DESC LIMIT 1`, a).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = s.r.QueryRowContext(ctx, `SELECT id FROM chassis WHERE address = ? ORDER BY last_seen DESC LIMIT 1`, a).Scan(&id)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("chassis with address %s: %w", ip, err)
	}
	return id, nil
}
