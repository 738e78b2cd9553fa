package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const carrierPoll = 50 * time.Millisecond

// nic is a physical network interface.
type nic struct {
	index int
	name  string
	mac   net.HardwareAddr
}

// physicalNICs lists the Ethernet interfaces that are hardware: sysfs has a
// device for them.
func physicalNICs() ([]nic, error) {
	return listNICs(func(l netlink.Link) bool {
		_, err := os.Stat(filepath.Join("/sys/class/net", l.Attrs().Name, "device"))
		return err == nil
	})
}

func listNICs(physical func(netlink.Link) bool) ([]nic, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list NICs: %w", err)
	}
	var out []nic
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback == 0 && len(a.HardwareAddr) == 6 && physical(l) {
			out = append(out, nic{a.Index, a.Name, a.HardwareAddr})
		}
	}
	slices.SortFunc(out, func(a, b nic) int { return a.index - b.index })
	return out, nil
}

func (n nic) up() error {
	l, err := netlink.LinkByIndex(n.index)
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("NIC %s: set up: %w", n.name, err)
	}
	return nil
}

func (n nic) down() error {
	l, err := netlink.LinkByIndex(n.index)
	if err == nil {
		err = netlink.LinkSetDown(l)
	}
	if err != nil {
		return fmt.Errorf("NIC %s: set down: %w", n.name, err)
	}
	return nil
}

// hasCarrier reports whether the NIC has a link.
func (n nic) hasCarrier() (bool, error) {
	l, err := netlink.LinkByIndex(n.index)
	if err != nil {
		return false, fmt.Errorf("NIC %s: %w", n.name, err)
	}
	return l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0, nil
}

// carrier waits until the NIC has a link, for as long as ctx lasts.
func (n nic) carrier(ctx context.Context) error {
	tick := time.NewTicker(carrierPoll)
	defer tick.Stop()
	for {
		if ok, err := n.hasCarrier(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("NIC %s: no carrier: %w", n.name, ctx.Err())
		case <-tick.C:
		}
	}
}

// vlan makes the 802.1Q interface id on top of the NIC, or finds it.
func (n nic) vlan(id int) (nic, error) {
	if id == 0 {
		return n, nil
	}
	name := fmt.Sprintf("%s.%d", n.name, id)
	if len(name) >= unix.IFNAMSIZ {
		name = fmt.Sprintf("vlan%d.%d", n.index, id)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.ParentIndex = n.index
	err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nic{}, fmt.Errorf("NIC %s: make VLAN %d: %w", n.name, id, err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nic{}, fmt.Errorf("NIC %s: VLAN %d: %w", n.name, id, err)
	}
	v := nic{l.Attrs().Index, name, l.Attrs().HardwareAddr}
	return v, v.up()
}

// setting is all that is applied to one interface.
type setting struct {
	addr   netlink.Addr
	routes []netlink.Route
	mtu    int
}

// apply gives the NIC its address and routes, and takes away every other IPv4
// address it has. Routes that the kernel refuses are part of the error, which
// does not keep the rest from being applied.
func (n nic) apply(s setting) error {
	l, err := netlink.LinkByIndex(n.index)
	if err != nil {
		return fmt.Errorf("NIC %s: %w", n.name, err)
	}
	var errs []error
	if s.mtu > 0 && s.mtu != l.Attrs().MTU {
		if err := netlink.LinkSetMTU(l, s.mtu); err != nil {
			errs = append(errs, fmt.Errorf("NIC %s: set MTU %d: %w", n.name, s.mtu, err))
		}
	}
	if err := netlink.AddrReplace(l, &s.addr); err != nil {
		return errors.Join(append(errs, fmt.Errorf("NIC %s: set address %s: %w", n.name, s.addr.IPNet, err))...)
	}
	errs = append(errs, n.removeAddrs(l, s.addr.IPNet))
	// Routes without a gateway first: they make the gateways of others known.
	for _, onLink := range []bool{true, false} {
		for _, r := range s.routes {
			if (r.Gw == nil) != onLink {
				continue
			}
			r.LinkIndex = n.index
			if err := netlink.RouteReplace(&r); err != nil {
				errs = append(errs, fmt.Errorf("NIC %s: set route to %s by %s: %w", n.name, r.Dst, r.Gw, err))
			}
		}
	}
	return errors.Join(errs...)
}

// removeAddrs removes the IPv4 addresses of the link but keep, and with them
// the routes that rest on them.
func (n nic) removeAddrs(l netlink.Link, keep *net.IPNet) error {
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("NIC %s: list addresses: %w", n.name, err)
	}
	var errs []error
	for _, a := range addrs {
		if keep != nil && a.IPNet.String() == keep.String() {
			continue
		}
		if err := netlink.AddrDel(l, &a); err != nil {
			errs = append(errs, fmt.Errorf("NIC %s: remove address %s: %w", n.name, a.IPNet, err))
		}
	}
	return errors.Join(errs...)
}

// clear takes all addresses and their routes away.
func (n nic) clear() error {
	l, err := netlink.LinkByIndex(n.index)
	if err != nil {
		return fmt.Errorf("NIC %s: %w", n.name, err)
	}
	return n.removeAddrs(l, nil)
}

// carrierNames says, for the log, which NICs have a link and which have not.
func carrierNames(nics []nic) string {
	var out []string
	for _, n := range nics {
		state := "no carrier"
		if ok, err := n.hasCarrier(); ok && err == nil {
			state = "carrier"
		}
		out = append(out, fmt.Sprintf("%s %s (%s)", n.name, n.mac, state))
	}
	return strings.Join(out, ", ")
}
