package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// State is how the machine is on the network.
type State struct {
	NIC   string           // interface with the address, "eth0" or "eth0.100"; "" while there is none
	MAC   net.HardwareAddr // hardware address of that NIC
	Addr  netip.Prefix
	Lease *Lease // nil if the address is static
}

// Manager holds the network of the machine. Call Up once, then Keep.
type Manager struct {
	cfg    Config
	log    *slog.Logger
	resolv string
	list   func() ([]nic, error)

	bound *binding // touched by Up and Keep only

	mu    sync.Mutex
	state State
}

// binding is an address in use.
type binding struct {
	nic   nic // with the address: the VLAN interface, if there is one
	ack   *dhcpv4.DHCPv4
	lease *Lease
}

// New returns a Manager that does nothing before Up. What it cannot tell as an
// error, attempts that failed and were followed by others, it writes to log.
func New(cfg Config, log *slog.Logger) *Manager {
	return &Manager{cfg: cfg, log: log, resolv: "/etc/resolv.conf", list: physicalNICs}
}

// State returns how things are now.
func (m *Manager) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

func (m *Manager) setState(s State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
}

// Up brings the network up. It tries until it has an address or ctx is done;
// the error then says what stood in the way last.
func (m *Manager) Up(ctx context.Context) error {
	if m.cfg.Static != nil {
		return m.static(ctx)
	}
	b, err := m.race(ctx)
	if err != nil {
		return err
	}
	m.use(b)
	return nil
}

// Keep renews the lease as long as ctx lasts. When the lease is lost it takes
// the address away and starts over on all NICs. Up must have succeeded.
func (m *Manager) Keep(ctx context.Context) error {
	if m.bound == nil { // static
		<-ctx.Done()
		return ctx.Err()
	}
	for {
		b := m.bound
		err := keepLease(ctx, b.lease, func(ctx context.Context, l *Lease, rebind bool) (*Lease, error) {
			ack, renewed, err := b.nic.renew(ctx, b.ack, l, rebind)
			if err != nil {
				m.log.Warn("DHCP renewal failed", "nic", b.nic.name, "rebinding", rebind, "err", err)
				return nil, err
			}
			m.use(&binding{b.nic, ack, renewed})
			b = m.bound
			return renewed, nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.log.Error("DHCP lease lost", "nic", b.nic.name, "addr", b.lease.Addr, "err", err)
		m.setState(State{})
		if err := b.nic.clear(); err != nil {
			m.log.Warn("cannot take the address away", "err", err)
		}
		next, err := m.race(ctx)
		if err != nil {
			return err
		}
		m.use(next)
	}
}

// use applies a lease to its NIC. What the kernel refuses of it is logged: an
// address without one of its routes is better than none.
func (m *Manager) use(b *binding) {
	if err := b.nic.apply(leaseSetting(b.lease)); err != nil {
		m.log.Warn("DHCP lease applied in part", "err", err)
	}
	if len(b.lease.DNS) > 0 {
		if err := writeResolvConf(m.resolv, b.lease.DNS, b.lease.Domain); err != nil {
			m.log.Warn(err.Error())
		}
	}
	m.bound = b
	m.setState(State{b.nic.name, b.nic.mac, b.lease.Addr, b.lease})
	m.log.Info("DHCP lease", "nic", b.nic.name, "mac", b.nic.mac.String(), "lease", b.lease)
}

// static sets the address of the command line on the boot NIC or, when that is
// not known, on the first NIC with a link.
func (m *Manager) static(ctx context.Context) error {
	n, err := m.firstCarrier(ctx)
	if err != nil {
		return err
	}
	leaf, err := n.vlan(m.cfg.VLAN)
	if err != nil {
		return err
	}
	st := m.cfg.Static
	if err := leaf.apply(staticSetting(st)); err != nil {
		return fmt.Errorf("static address %s: %w", st.Addr, err)
	}
	if len(st.DNS) > 0 {
		if err := writeResolvConf(m.resolv, st.DNS, ""); err != nil {
			m.log.Warn(err.Error())
		}
	}
	m.setState(State{NIC: leaf.name, MAC: leaf.mac, Addr: st.Addr})
	m.log.Info("static address", "nic", leaf.name, "mac", leaf.mac.String(), "addr", st.Addr, "gateway", st.Gateway)
	return nil
}

// others sets every NIC but n down.
func (m *Manager) others(n nic) {
	nics, err := m.list()
	for _, o := range nics {
		if o.index != n.index {
			err = errors.Join(err, o.down())
		}
	}
	if err != nil {
		m.log.Warn("cannot set the unused NICs down", "err", err)
	}
}
