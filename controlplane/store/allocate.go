package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// ErrNoAddress is wrapped where a subnet has no address to give.
var ErrNoAddress = errors.New("no address is free")

const (
	offerTime   = time.Minute     // how long an offer is held
	declineTime = time.Hour       // how long an address is left alone that somebody else uses
	offerGrace  = 3 * time.Second // an offer this old gives way where no other address is free
	maxOffers   = 4096            // open ones of a subnet
	maxProbes   = 32              // addresses that are tried before all are looked through

	// An address that was declined this long ago is given where no other is free:
	// one client could decline them all.
	declineAgain = time.Minute
	maxTries     = 64 // addresses that were in use before, and are tried
)

// maxLeases bounds the rows of a subnet whose pools have more addresses: used ones
// are given again then. It is a variable for tests.
var maxLeases = 1 << 17

// LeaseRequest says who wants an address.
type LeaseRequest struct {
	Subnet   Subnet
	Client   string // as in Lease
	MAC      string
	ID       string     // client identifier or DUID, hexadecimal; may be empty
	Hostname string     // already checked
	Want     netip.Addr // what the client asks for; may be zero
	Avoid    []netip.Addr
}

// Granted is an address for a client, with what a reservation says of it.
type Granted struct {
	Lease
	ReservedName string // host name of the reservation
	New          bool   // the client did not have it before
}

// OfferLease finds the address for a client and holds it for a minute: that of its
// reservation, else the one it has or had, else the one it wants, else one that
// was never given, else the one that has been free for longest. With none left it
// is ErrNoAddress.
func (s *Store) OfferLease(ctx context.Context, r LeaseRequest) (Granted, error) {
	var g Granted
	err := s.update(ctx, func(t *tx) (err error) {
		g, err = t.offer(r)
		return err
	})
	return g, err
}

func (t *tx) offer(r LeaseRequest) (Granted, error) {
	p := r.Subnet.pool()
	for _, a := range r.Avoid {
		p = p.without(Range{a, a})
	}
	reserved, name, err := t.reservedFor(r)
	if err != nil {
		return Granted{}, err
	}
	had, state, expires, err := t.had(r)
	if err != nil {
		return Granted{}, err
	}
	g := Granted{ReservedName: name, Lease: Lease{Subnet: r.Subnet.ID, Client: r.Client, MAC: r.MAC, Hostname: r.Hostname, State: leaseOffered}}
	take := func(a netip.Addr) (bool, error) {
		if !a.IsValid() || a != reserved && !p.contains(a) {
			return false, nil
		}
		if a == had && state == leaseBound && expires > t.now {
			g.IP, g.State = a, state
			return true, nil
		}
		free, err := t.takeOver(r, a, a == reserved, t.now)
		if free {
			g.IP, g.New = a, a != had
		}
		return free, err
	}
	for _, a := range []netip.Addr{reserved, had} {
		if ok, err := take(a); ok || err != nil {
			return g, err
		}
	}
	var open int
	if err := t.QueryRow(`SELECT COUNT(*) FROM leases WHERE subnet = ? AND state = ? AND expires > ?`, r.Subnet.ID, leaseOffered, t.now).Scan(&open); err != nil {
		return Granted{}, err
	}
	if open >= maxOffers {
		return Granted{}, fmt.Errorf("subnet %s: %d offers are open: %w", r.Subnet.CIDR, open, ErrNoAddress)
	}
	if ok, err := take(r.Want); ok || err != nil {
		return g, err
	}
	if ok, err := t.never(r, p, take); ok || err != nil {
		return g, err
	}
	if ok, err := t.longestFree(r, p, take, &g); ok || err != nil {
		return g, err
	}
	return Granted{}, fmt.Errorf("subnet %s: all %d addresses of its pools are taken: %w", r.Subnet.CIDR, p.size(), ErrNoAddress)
}

// reservedFor returns the address and host name that are reserved for a client.
func (t *tx) reservedFor(r LeaseRequest) (netip.Addr, string, error) {
	var ip, name string
	err := t.QueryRow(`SELECT ip, hostname FROM reservations WHERE subnet = ? AND (client <> '' AND client = ? OR mac <> '' AND mac = ?)
		ORDER BY CASE WHEN client <> '' AND client = ? THEN 0 ELSE 1 END LIMIT 1`, r.Subnet.ID, r.ID, r.MAC, r.ID).Scan(&ip, &name)
	if errors.Is(err, sql.ErrNoRows) {
		return netip.Addr{}, "", nil
	}
	if err != nil {
		return netip.Addr{}, "", fmt.Errorf("reservation for %s: %w", r.Client, err)
	}
	a, err := netip.ParseAddr(ip)
	return a, name, err
}

// had returns the address that the client has or had last.
func (t *tx) had(r LeaseRequest) (a netip.Addr, state string, expires int64, err error) {
	var ip string
	err = t.QueryRow(`SELECT ip, state, expires FROM leases WHERE subnet = ? AND client = ?`, r.Subnet.ID, r.Client).Scan(&ip, &state, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return a, "", 0, nil
	}
	if err != nil {
		return a, "", 0, fmt.Errorf("lease of %s: %w", r.Client, err)
	}
	a, err = netip.ParseAddr(ip)
	return a, state, expires, err
}

// takeOver makes a the client's, as an offer, if nobody else has it, where an
// offer to another client counts until the time before. mine says that a
// reservation gives it to this client.
func (t *tx) takeOver(r LeaseRequest, a netip.Addr, mine bool, before int64) (bool, error) {
	if !mine {
		var n int
		if err := t.QueryRow(`SELECT COUNT(*) FROM reservations WHERE ip = ?`, a.String()).Scan(&n); err != nil || n > 0 {
			return false, err
		}
	}
	var held int
	err := t.QueryRow(`SELECT COUNT(*) FROM leases WHERE ip = ? AND client <> ? AND (state <> ? AND expires > ? OR state = ? AND expires > ?)`,
		a.String(), r.Client, leaseOffered, t.now, leaseOffered, before).Scan(&held)
	if err != nil || held > 0 {
		return false, err
	}
	if !mine {
		var known int
		if err := t.QueryRow(`SELECT COUNT(*) FROM leases WHERE ip = ?`, a.String()).Scan(&known); err != nil {
			return false, err
		}
		if known == 0 {
			if full, err := t.full(r.Subnet, r.Subnet.pool()); err != nil || full {
				return false, err
			}
		}
	}
	// A client has one row in a subnet. That of its former address goes.
	if _, err := t.Exec(`DELETE FROM leases WHERE subnet = ? AND client = ? AND ip <> ?`, r.Subnet.ID, r.Client, a.String()); err != nil {
		return false, err
	}
	// The condition stands here once more for another server in between.
	res, err := t.Exec(`INSERT INTO leases (ip, position, subnet, client, mac, hostname, state, since, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (ip) DO UPDATE SET subnet = excluded.subnet, client = excluded.client, mac = excluded.mac, hostname = excluded.hostname,
			state = excluded.state, since = excluded.since, expires = excluded.expires
		WHERE leases.client = excluded.client OR leases.state <> ? AND leases.expires <= ? OR leases.state = ? AND leases.expires <= ?`,
		a.String(), position(a), r.Subnet.ID, r.Client, r.MAC, r.Hostname, leaseOffered, t.now, t.now+offerTime.Milliseconds(),
		leaseOffered, t.now, leaseOffered, before)
	if err != nil {
		return false, fmt.Errorf("offer %s to %s: %w", a, r.Client, err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// BindLease gives a client the address r.Want for so long, from now. It must have
// been offered to it, be its own, or be free; else it is ErrConflict. An address
// that is neither in a pool nor reserved for the client is ErrNotFound. A new
// lease is a notice.
func (s *Store) BindLease(ctx context.Context, r LeaseRequest, during time.Duration) (Granted, error) {
	var g Granted
	err := s.update(ctx, func(t *tx) error {
		reserved, name, err := t.reservedFor(r)
		if err != nil {
			return err
		}
		had, state, expires, err := t.had(r)
		if err != nil {
			return err
		}
		g = Granted{ReservedName: name, Lease: Lease{IP: r.Want, Subnet: r.Subnet.ID, Client: r.Client, MAC: r.MAC, Hostname: r.Hostname, State: leaseBound}}
		if !r.Want.IsValid() || r.Want != reserved && (!r.Subnet.Gives(r.Want) || slices.Contains(r.Avoid, r.Want)) {
			return fmt.Errorf("lease of %s for %s: %w", r.Want, r.Client, ErrNotFound)
		}
		if reserved.IsValid() && r.Want != reserved {
			// An operator has moved it.
			if free, err := t.isFree(reserved, r.Client); err != nil || free {
				return errors.Join(err, fmt.Errorf("lease of %s for %s: %s is reserved for it: %w", r.Want, r.Client, reserved, ErrConflict))
			}
		}
		g.New = had != r.Want || state != leaseBound || expires <= t.now
		since, until := t.now, t.now+during.Milliseconds()
		if g.New {
			ok, err := t.takeOver(r, r.Want, r.Want == reserved, t.now)
			if err != nil {
				return err
			}
			if !ok {
				return fmt.Errorf("lease of %s for %s: another has it: %w", r.Want, r.Client, ErrConflict)
			}
			_, err = t.Exec(`UPDATE leases SET state = ?, since = ?, expires = ? WHERE ip = ?`, leaseBound, since, until, r.Want.String())
			if err != nil {
				return fmt.Errorf("lease of %s for %s: %w", r.Want, r.Client, err)
			}
		} else if _, err := t.Exec(`UPDATE leases SET hostname = ?, expires = ? WHERE ip = ?`, r.Hostname, until, r.Want.String()); err != nil {
			return fmt.Errorf("lease of %s for %s: %w", r.Want, r.Client, err)
		}
		g.Since, g.Expires = time.UnixMilli(since).UTC(), time.UnixMilli(until).UTC()
		if !g.New {
			return nil
		}
		chassis, err := t.chassisByMAC(r.MAC)
		if err != nil {
			return err
		}
		return t.notice(NoticeDHCPBound, chassis, r.Want.String(), map[string]string{
			"ip": r.Want.String(), "mac": r.MAC, "hostname": r.Hostname, "expires": g.Expires.Format(time.RFC3339),
		})
	})
	return g, err
}

func (t *tx) isFree(a netip.Addr, client string) (bool, error) {
	var n int
	err := t.QueryRow(`SELECT COUNT(*) FROM leases WHERE ip = ? AND client <> ? AND expires > ?`, a.String(), client, t.now).Scan(&n)
	return n == 0, err
}

// chassisByMAC returns the id of the chassis that was seen last with a MAC address, or "".
func (t *tx) chassisByMAC(mac string) (string, error) {
	if mac == "" {
		return "", nil
	}
	var id string
	err := t.QueryRow(`SELECT id FROM chassis WHERE `+byMACs(1)+` ORDER BY last_seen DESC LIMIT 1`, mac).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return id, err
}

// ReleaseLease takes an address back that its client gives up.
func (s *Store) ReleaseLease(ctx context.Context, subnet, client string, ip netip.Addr) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`UPDATE leases SET state = ?, since = ?, expires = ? WHERE subnet = ? AND client = ? AND ip = ? AND state IN (?, ?)`,
			leaseReleased, t.now, t.now, subnet, client, ip.String(), leaseBound, leaseOffered)
		return changed(res, err, fmt.Sprintf("lease of %s for %s", ip, client))
	})
}

// DeclineLease leaves an address alone for an hour: its client, or our own probe,
// has found that another host uses it.
func (s *Store) DeclineLease(ctx context.Context, subnet, client string, ip netip.Addr) error {
	return s.update(ctx, func(t *tx) error {
		// The client is free to get another, and the address to be declined again.
		res, err := t.Exec(`UPDATE leases SET state = ?, client = ?, since = ?, expires = ? WHERE subnet = ? AND client = ? AND ip = ? AND state IN (?, ?)`,
			leaseDeclined, "conflict:"+ip.String(), t.now, t.now+declineTime.Milliseconds(), subnet, client, ip.String(), leaseBound, leaseOffered)
		return changed(res, err, fmt.Sprintf("lease of %s for %s", ip, client))
	})
}
