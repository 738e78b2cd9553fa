package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"

	"github.com/teeth-metal/teeth/agent/boot/lastwords"
)

const (
	rescan      = 100 * time.Millisecond // NICs appear as drivers load
	slowRescan  = 2 * time.Second
	slowCarrier = 15 * time.Second // then a missing link is worth a word
	// A candidate that is not the best there could be waits this long for a
	// better one; longer for the NIC that firmware booted from, which works.
	grace     = 2 * time.Second
	bootGrace = 5 * time.Second
	minPause  = time.Second // after a discovery that got no answer
	maxPause  = 30 * time.Second
)

// candidate is a NIC with an offer.
type candidate struct {
	nic, leaf nic // the hardware, and the VLAN on it, else the same
	offer     *dhcpv4.DHCPv4
	lease     *Lease
	again     chan struct{} // tells its goroutine to look for another offer
}

// race looks for a DHCP server on all NICs at once and takes the first usable
// offer. It sets the other NICs down. It ends with an address or with ctx.
func (m *Manager) race(ctx context.Context) (*binding, error) {
	raceCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		offers  = make(chan candidate)
		running = map[int]nic{}
		wg      sync.WaitGroup
		pool    []candidate
		decide  <-chan time.Time
		last    = errNoNIC
		began   = time.Now()
		spoken  bool
	)
	look := time.NewTicker(rescan)
	defer look.Stop()
	for {
		nics, err := m.list()
		if err != nil {
			last = err
		}
		for _, n := range nics {
			if _, ok := running[n.index]; ok {
				continue
			}
			running[n.index] = n
			last = errNoAnswer
			wg.Add(1)
			lastwords.Go("DHCP on "+n.name, func() {
				defer wg.Done()
				m.runner(raceCtx, n, offers)
			})
		}
		if !spoken && time.Since(began) > slowCarrier {
			spoken = true
			look.Reset(slowRescan)
			if len(nics) == 0 {
				m.log.Warn(errNoNIC.Error())
			} else {
				m.log.Warn("still no DHCP lease, trying on", "nics", carrierNames(nics))
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("network: %w (%w)", last, context.Cause(ctx))
		case <-look.C:
			continue
		case c := <-offers:
			pool = append(pool, c)
			if wait := m.wait(c); wait == 0 {
				decide = time.After(0)
			} else if decide == nil {
				decide = time.After(wait)
			}
			continue
		case <-decide:
		}
		decide = nil
		best := m.best(pool)
		ack, lease, err := best.leaf.accept(ctx, best.offer)
		if err != nil {
			last = err
			m.log.Warn("DHCP offer came to nothing", "err", err)
			pool = without(pool, best)
			close(best.again)
			if len(pool) > 0 {
				decide = time.After(0)
			}
			continue
		}
		cancel()
		wg.Wait() // so that none of them sets its NIC up again
		m.dropVLANs(best.nic)
		m.others(best.nic)
		return &binding{best.leaf, ack, lease}, nil
	}
}

// runner looks for offers on one NIC and hands each to the race. It pauses
// after each that came to nothing, so that a server which offers what it then
// refuses is not flooded.
func (m *Manager) runner(ctx context.Context, n nic, offers chan<- candidate) {
	began := time.Now()
	for pause := minPause; ctx.Err() == nil; pause = min(2*pause, maxPause) {
		c, err := m.candidate(ctx, n, began)
		var gone netlink.LinkNotFoundError
		switch {
		case ctx.Err() != nil:
			return
		case errors.As(err, &gone): // unplugged; if it returns, it is another
			m.log.Warn(err.Error())
			return
		case errors.Is(err, errNoAnswer):
			m.log.Debug(err.Error())
		case err != nil:
			m.log.Warn(err.Error())
		default:
			select {
			case <-ctx.Done():
				return
			case offers <- c:
			}
			select {
			case <-ctx.Done():
				return
			case <-c.again:
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (m *Manager) candidate(ctx context.Context, n nic, began time.Time) (candidate, error) {
	if err := n.up(); err != nil {
		return candidate{}, err
	}
	if err := n.carrier(ctx); err != nil {
		return candidate{}, err
	}
	leaf, err := n.vlan(m.cfg.VLAN)
	if err != nil {
		return candidate{}, err
	}
	offer, lease, err := leaf.discover(ctx, began)
	if err != nil {
		return candidate{}, err
	}
	return candidate{n, leaf, offer, lease, make(chan struct{})}, nil
}

// score orders candidates: the NIC that firmware booted from before others, a
// way out of the local network before none.
func (m *Manager) score(c candidate) int {
	s := 0
	if m.isBoot(c.nic) {
		s += 2
	}
	if c.lease.hasDefault() {
		s++
	}
	return s
}

func (m *Manager) isBoot(n nic) bool {
	return m.cfg.BootMAC != nil && bytes.Equal(n.mac, m.cfg.BootMAC)
}

// wait is how long c has to wait for a better candidate. The NIC that is
// better may not have shown up yet: drivers are loaded while we look.
func (m *Manager) wait(c candidate) time.Duration {
	switch {
	case m.cfg.BootMAC != nil && !m.isBoot(c.nic):
		return bootGrace
	case !c.lease.hasDefault() && !m.isBoot(c.nic):
		return grace
	}
	return 0
}

// best returns the candidate of the highest score, of several the first.
func (m *Manager) best(pool []candidate) candidate {
	best := pool[0]
	for _, c := range pool[1:] {
		if m.score(c) > m.score(best) {
			best = c
		}
	}
	return best
}

func without(pool []candidate, c candidate) []candidate {
	var out []candidate
	for _, p := range pool {
		if p.nic.index != c.nic.index {
			out = append(out, p)
		}
	}
	return out
}

// dropVLANs removes the VLAN interfaces that the race left on other NICs.
func (m *Manager) dropVLANs(keep nic) {
	if m.cfg.VLAN == 0 {
		return
	}
	links, err := netlink.LinkList()
	for _, l := range links {
		v, ok := l.(*netlink.Vlan)
		if ok && v.VlanId == m.cfg.VLAN && v.ParentIndex != keep.index {
			err = errors.Join(err, netlink.LinkDel(l))
		}
	}
	if err != nil {
		m.log.Warn("cannot remove the unused VLAN interfaces", "err", err)
	}
}

// firstCarrier sets all NICs up, waits for a link on the boot NIC or, when
// that is not known or has none for long, on any, and sets the others down.
func (m *Manager) firstCarrier(ctx context.Context) (nic, error) {
	began, spoken := time.Now(), false
	up := map[int]bool{}
	for {
		nics, err := m.list()
		if err != nil {
			return nic{}, err
		}
		var ready []nic
		for _, n := range nics {
			if !up[n.index] {
				if err := n.up(); err != nil {
					m.log.Warn(err.Error())
					continue
				}
				up[n.index] = true
			}
			if ok, err := n.hasCarrier(); ok && err == nil {
				ready = append(ready, n)
			}
		}
		for _, n := range ready {
			// The boot NIC may still be negotiating its link.
			if m.isBoot(n) || m.cfg.BootMAC == nil || time.Since(began) > slowCarrier {
				m.others(n)
				return n, nil
			}
		}
		if !spoken && time.Since(began) > slowCarrier {
			spoken = true
			m.log.Warn("still no NIC to set the static address on", "nics", carrierNames(nics))
		}
		select {
		case <-ctx.Done():
			return nic{}, fmt.Errorf("static address: %w (%w)", errNoNIC, context.Cause(ctx))
		case <-time.After(carrierPoll):
		}
	}
}
