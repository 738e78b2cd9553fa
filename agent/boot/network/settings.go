package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// leaseSetting turns a lease into what the kernel is told.
func leaseSetting(l *Lease) setting {
	s := setting{addr: kernelAddr(l.Addr), mtu: l.MTU}
	for _, r := range l.Routes {
		s.routes = append(s.routes, kernelRoute(l.Addr, r))
	}
	return s
}

func staticSetting(st *Static) setting {
	s := setting{addr: kernelAddr(st.Addr)}
	if st.Gateway.IsValid() {
		s.routes = append(s.routes, kernelRoute(st.Addr, Route{netip.PrefixFrom(netip.IPv4Unspecified(), 0), st.Gateway}))
	}
	return s
}

func kernelAddr(p netip.Prefix) netlink.Addr {
	return netlink.Addr{IPNet: ipNet(p), Broadcast: broadcastIP(p)}
}

func broadcastIP(p netip.Prefix) net.IP {
	if p.Bits() >= 31 { // no broadcast address there
		return nil
	}
	return broadcast(p).AsSlice()
}

func kernelRoute(own netip.Prefix, r Route) netlink.Route {
	k := netlink.Route{Dst: ipNet(r.To), Protocol: unix.RTPROT_DHCP, Table: unix.RT_TABLE_MAIN, Src: own.Addr().AsSlice()}
	if !r.Via.IsValid() {
		k.Scope = netlink.SCOPE_LINK
		return k
	}
	k.Gw = r.Via.AsSlice()
	if !own.Contains(r.Via) {
		// Clouds and routed data centres hand out a /32 with a gateway
		// outside of it.
		k.Flags = int(netlink.FLAG_ONLINK)
	}
	return k
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// writeResolvConf writes resolv.conf(5) so that a reader sees the old or the
// new file, never half of one. The C library, and Go's resolver, read at most
// three servers.
func writeResolvConf(path string, dns []netip.Addr, domain string) error {
	var b strings.Builder
	for _, a := range dns[:min(len(dns), 3)] {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	if domain != "" {
		fmt.Fprintf(&b, "search %s\n", domain)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("set DNS servers: %w", err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("set DNS servers: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("set DNS servers: %w", err)
	}
	return nil
}
