package store

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"net/netip"
	"slices"
)

// never takes an address that has no row. It starts at a place that depends on
// the client alone, so that a client gets the same address where nothing is known
// of it, and looks through the whole pool only where that is nearly full.
func (t *tx) never(r LeaseRequest, p pool, take func(netip.Addr) (bool, error)) (bool, error) {
	size := p.size()
	if size == 0 {
		return false, nil
	}
	if full, err := t.full(r.Subnet, p); err != nil || full {
		return false, err
	}
	h := fnv.New64a()
	h.Write([]byte(r.Client))
	start := h.Sum64() % size
	for i := range min(maxProbes, size) {
		a := p.at((start + i) % size)
		var n int
		if err := t.QueryRow(`SELECT COUNT(*) FROM leases WHERE ip = ?`, a.String()).Scan(&n); err != nil {
			return false, err
		}
		if n > 0 {
			continue
		}
		if ok, err := take(a); ok || err != nil {
			return ok, err
		}
	}
	if size <= maxProbes || size > maxPool { // the latter is IPv6, where that many neighbours are no chance
		return false, nil
	}
	taken, err := t.addresses(`SELECT ip FROM leases WHERE subnet = ? UNION SELECT ip FROM reservations WHERE subnet = ?`, r.Subnet.ID, r.Subnet.ID)
	if err != nil {
		return false, err
	}
	slices.SortFunc(taken, netip.Addr.Compare)
	for i := range size {
		a := p.at((start + i) % size)
		if _, found := slices.BinarySearchFunc(taken, a, netip.Addr.Compare); !found {
			return take(a)
		}
	}
	return false, nil
}

// full reports whether a subnet has as many rows as it may have. A pool of IPv6
// never runs out by itself, and what was once given is kept.
func (t *tx) full(sub Subnet, p pool) (bool, error) {
	if p.size() <= maxPool {
		return false, nil
	}
	var rows int
	err := t.QueryRow(`SELECT COUNT(*) FROM leases WHERE subnet = ?`, sub.ID).Scan(&rows)
	return rows >= maxLeases, err
}

// longestFree takes the address that has been free for longest or, with none
// free, the oldest offer that was not taken up at once or, without one, the address
// that was declined first.
func (t *tx) longestFree(r LeaseRequest, p pool, take func(netip.Addr) (bool, error), g *Granted) (bool, error) {
	// Reserved addresses, and those that are in no pool any more, must not stand
	// before those that could be given.
	free, err := t.some(p, `expires <= ? ORDER BY expires`, r.Subnet.ID, t.now)
	if err != nil {
		return false, err
	}
	for _, a := range free {
		if ok, err := take(a); ok || err != nil {
			return ok, err
		}
	}
	before := t.now + (offerTime - offerGrace).Milliseconds()
	offers, err := t.some(p, `state = ? AND expires <= ? ORDER BY expires`, r.Subnet.ID, leaseOffered, before)
	if err != nil {
		return false, err
	}
	for _, a := range offers {
		if ok, err := t.takeOver(r, a, false, before); ok || err != nil {
			g.IP, g.New = a, true
			return ok, err
		}
	}
	declined, err := t.some(p, `state = ? AND since <= ? ORDER BY since`, r.Subnet.ID, leaseDeclined, t.now-declineAgain.Milliseconds())
	if err != nil {
		return false, err
	}
	for _, a := range declined {
		if _, err := t.Exec(`UPDATE leases SET expires = ? WHERE ip = ? AND state = ?`, t.now, a.String(), leaseDeclined); err != nil {
			return false, fmt.Errorf("offer %s to %s: %w", a, r.Client, err)
		}
		if ok, err := take(a); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// some returns the first addresses of a subnet's leases that are in a pool and are
// not reserved.
func (t *tx) some(p pool, where string, args ...any) ([]netip.Addr, error) {
	return t.addressesIn(p, maxTries, `SELECT ip FROM leases WHERE subnet = ? AND NOT EXISTS
		(SELECT 1 FROM reservations r WHERE r.ip = leases.ip) AND `+where, args...)
}

func (t *tx) addresses(query string, args ...any) ([]netip.Addr, error) {
	return t.addressesIn(nil, math.MaxInt, query, args...)
}

// addressesIn returns what a query finds, up to limit addresses, of a pool if there
// is one.
func (t *tx) addressesIn(p pool, limit int, query string, args ...any) ([]netip.Addr, error) {
	rows, err := t.Query(query, args...)
	if err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	defer rows.Close()
	var list []netip.Addr
	for len(list) < limit && rows.Next() {
		var ip string
		if err := rows.Scan(&ip); err != nil {
			return nil, fmt.Errorf("addresses: %w", err)
		}
		a, err := netip.ParseAddr(ip)
		if err != nil {
			return nil, fmt.Errorf("addresses: %w", err)
		}
		if p == nil || p.contains(a) {
			list = append(list, a)
		}
	}
	return list, errors.Join(rows.Err(), rows.Close())
}
