package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Reservation keeps an address for the client with a MAC address or a client
// identifier. With neither it keeps the address from everybody.
type Reservation struct {
	IP       netip.Addr `json:"ip"`
	Subnet   string     `json:"subnet"`
	MAC      string     `json:"mac,omitempty"`
	Client   string     `json:"client_id,omitempty"` // DHCP client identifier or DUID, hexadecimal
	Hostname string     `json:"hostname,omitempty"`  // told to the client
	Created  time.Time  `json:"created"`
}

const maxReservations = 1 << 17

// Reserve stores a reservation; Subnet and Created are set. It replaces the one of
// the same address, and moves the client from another address of the subnet. An
// address that another client uses is ErrConflict.
func (s *Store) Reserve(ctx context.Context, r Reservation) (Reservation, error) {
	r.IP = r.IP.Unmap()
	if r.MAC != "" {
		mac, err := net.ParseMAC(r.MAC)
		if err != nil {
			return Reservation{}, fmt.Errorf("MAC address %.40q: want six pairs of hexadecimal digits: %w", r.MAC, ErrInvalid)
		}
		r.MAC = mac.String()
	}
	r.Client = strings.ToLower(strings.ReplaceAll(r.Client, ":", ""))
	if _, err := hex.DecodeString(r.Client); err != nil || len(r.Client) > 260 {
		return Reservation{}, fmt.Errorf("client identifier %.40q: want hexadecimal digits: %w", r.Client, ErrInvalid)
	}
	if r.Hostname != "" && (len(r.Hostname) > 253 || !domainPattern.MatchString(r.Hostname)) {
		return Reservation{}, fmt.Errorf("host name %.40q: want letters, digits, hyphens and dots: %w", r.Hostname, ErrInvalid)
	}
	sub, err := s.subnetOf(ctx, r.IP)
	if err != nil {
		return Reservation{}, err
	}
	r.Subnet = sub.ID
	err = s.update(ctx, func(t *tx) error {
		r.Created = time.UnixMilli(t.now).UTC()
		return t.reserve(r)
	})
	return r, err
}

func (t *tx) reserve(r Reservation) error {
	var n int
	if err := t.QueryRow(`SELECT COUNT(*) FROM reservations`).Scan(&n); err != nil {
		return err
	}
	if n >= maxReservations {
		return fmt.Errorf("there are %d reservations already: %w", n, ErrConflict)
	}
	if r.MAC != "" || r.Client != "" {
		var mac, client string
		err := t.QueryRow(`SELECT mac, client FROM leases WHERE ip = ? AND state = ? AND expires > ?`, r.IP.String(), leaseBound, t.now).Scan(&mac, &client)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		mine := r.MAC != "" && mac == r.MAC || r.Client != "" && (client == "id:"+r.Client || strings.HasPrefix(client, "duid:"+r.Client+"/"))
		if err == nil && !mine {
			return fmt.Errorf("%s is in use by %s: remove that lease first, or choose another address: %w", r.IP, client, ErrConflict)
		}
	}
	if _, err := t.Exec(`DELETE FROM reservations WHERE ip = ? OR subnet = ? AND (mac <> '' AND mac = ? OR client <> '' AND client = ?)`,
		r.IP.String(), r.Subnet, r.MAC, r.Client); err != nil {
		return err
	}
	_, err := t.Exec(`INSERT INTO reservations (ip, position, subnet, mac, client, hostname, created) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		r.IP.String(), position(r.IP), r.Subnet, r.MAC, r.Client, r.Hostname, t.now)
	return err
}

// subnetOf returns the subnet that an address is in.
func (s *Store) subnetOf(ctx context.Context, ip netip.Addr) (Subnet, error) {
	all, err := s.Subnets(ctx)
	if err != nil {
		return Subnet{}, err
	}
	for _, sub := range all {
		if sub.CIDR.Contains(ip) {
			return sub, nil
		}
	}
	return Subnet{}, fmt.Errorf("subnet of %s: %w", ip, ErrNotFound)
}

// ListReservations returns up to limit reservations that come after an address.
func (s *Store) ListReservations(ctx context.Context, after netip.Addr, limit int) ([]Reservation, error) {
	from := ""
	if after.IsValid() {
		from = position(after)
	}
	rows, err := s.r.QueryContext(ctx, `SELECT ip, subnet, mac, client, hostname, created FROM reservations WHERE position > ? ORDER BY position LIMIT ?`, from, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list reservations: %w", err)
	}
	defer rows.Close()
	list := []Reservation{}
	for rows.Next() {
		var r Reservation
		var ip string
		var created int64
		if err := rows.Scan(&ip, &r.Subnet, &r.MAC, &r.Client, &r.Hostname, &created); err != nil {
			return nil, fmt.Errorf("list reservations: %w", err)
		}
		if r.IP, err = netip.ParseAddr(ip); err != nil {
			return nil, fmt.Errorf("list reservations: %w", err)
		}
		r.Created = time.UnixMilli(created).UTC()
		list = append(list, r)
	}
	return list, rows.Err()
}

// PinMAC keeps for a client the addresses that it has now. A MAC address without a
// lease is ErrNotFound.
func (s *Store) PinMAC(ctx context.Context, mac string) error {
	mac = strings.ToLower(mac)
	return s.pin(ctx, mac, `l.mac = ? AND l.mac <> ''`, mac)
}

// PinIP keeps an address for the client that has it now or, if none has, from
// everybody. An address that is in no subnet is ErrNotFound.
func (s *Store) PinIP(ctx context.Context, ip netip.Addr) error {
	ip = ip.Unmap()
	err := s.pin(ctx, ip.String(), `l.ip = ?`, ip.String())
	if errors.Is(err, ErrNotFound) {
		_, err = s.Reserve(ctx, Reservation{IP: ip})
	}
	return err
}

func (s *Store) pin(ctx context.Context, what, where, value string) error {
	return s.update(ctx, func(t *tx) error {
		rows, err := t.Query(`SELECT `+leaseColumns+` FROM leases l WHERE `+where+` AND l.state = ? AND l.expires > ?`, value, leaseBound, t.now)
		if err != nil {
			return err
		}
		defer rows.Close()
		var found []Lease
		for rows.Next() {
			l, err := scanLease(rows)
			if err != nil {
				return err
			}
			found = append(found, l)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("lease of %s: %w", what, ErrNotFound)
		}
		for _, l := range found {
			r := Reservation{IP: l.IP, Subnet: l.Subnet, MAC: l.MAC}
			if kind, id, _ := strings.Cut(l.Client, ":"); kind == "id" || kind == "duid" {
				id, _, _ = strings.Cut(id, "/")
				r.Client = id
			}
			if err := t.reserve(r); err != nil {
				return fmt.Errorf("pin %s: %w", l.IP, err)
			}
		}
		return nil
	})
}

// UnpinMAC forgets the reservations of a MAC address and returns how many there were.
func (s *Store) UnpinMAC(ctx context.Context, mac string) (int, error) {
	return s.unpin(ctx, "mac", strings.ToLower(mac))
}

// UnpinIP forgets the reservation of an address and returns how many there were.
func (s *Store) UnpinIP(ctx context.Context, ip netip.Addr) (int, error) {
	return s.unpin(ctx, "ip", ip.Unmap().String())
}

func (s *Store) unpin(ctx context.Context, column, value string) (int, error) {
	var n int64
	err := s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`DELETE FROM reservations WHERE `+column+` = ? AND ? <> ''`, value, value)
		if err != nil {
			return fmt.Errorf("unpin %s: %w", value, err)
		}
		n, err = res.RowsAffected()
		return err
	})
	return int(n), err
}
