package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// Route is a route to a network by way of a router; the zero Prefix' bits with
// address 0.0.0.0 make it the default route.
type Route struct {
	To  netip.Prefix
	Via netip.Addr // zero means the network is on the link
}

// Lease is what a DHCP server granted, checked and in plain Go values. Its
// comments name the options of RFC 2132 unless another RFC is given.
type Lease struct {
	Addr       netip.Prefix // yiaddr and option 1
	Routes     []Route      // option 121 (RFC 3442), or option 3 without it
	DNS        []netip.Addr // option 6
	NTP        []netip.Addr // option 42
	Hostname   string       // option 12, "" if absent or not a host name
	Domain     string       // option 15, "" if absent or not a domain
	MTU        int          // option 26, 0 if absent
	Server     netip.Addr   // option 54, the server that granted it
	NextServer netip.Addr   // siaddr, zero if absent
	Vendor     []byte       // option 43, undecoded; it may hold a token: not for logs
	Obtained   time.Time    // when it was asked for, on this machine's clock
	Renew      time.Duration
	Rebind     time.Duration
	Expire     time.Duration // 0 means never; then Renew and Rebind are 0 too
}

const (
	maxRoutes = 64
	maxHosts  = 8 // of each kind: DNS, NTP
	minMTU    = 576
	maxMTU    = 65535
	infinite  = 0xffffffff
	// minLease keeps a broken or hostile server from making us renew without
	// end.
	minLease = 10 * time.Second
)

// ControlPlane returns where the DHCP server says the control plane is, most
// specific first: the servers of option 43, then the next-server with the port
// given. None is an empty list.
func (l *Lease) ControlPlane(port string) []string {
	var out []string
	for _, server := range l.vendor().Servers {
		if host, p, err := net.SplitHostPort(server); err == nil {
			if num, err := strconv.ParseUint(p, 10, 16); err == nil && num > 0 && validTarget(host) && len(out) < maxHosts {
				out = append(out, net.JoinHostPort(host, p))
			}
		}
	}
	if l.NextServer.IsValid() {
		out = append(out, net.JoinHostPort(l.NextServer.String(), port))
	}
	return out
}

// CASHA256 returns the pin of the control plane's CA that the DHCP server gives,
// 64 hexadecimal digits in lower case, or "". It is worth as much as the boot
// network is trusted.
func (l *Lease) CASHA256() string { return l.vendor().CASHA256 }

// Token returns the secret with which the DHCP server lets this machine introduce
// itself, or "". It comes once, not with renewals.
func (l *Lease) Token() string { return l.vendor().Token }

func (l *Lease) vendor() teeth.VendorOptions { return teeth.ParseVendorOptions(l.Vendor) }

func validTarget(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.Zone() == "" || ValidHost(host)
}

// LogValue is the lease in short.
func (l *Lease) LogValue() slog.Value {
	var gw netip.Addr
	for _, r := range l.Routes {
		if r.To.Bits() == 0 {
			gw = r.Via
		}
	}
	return slog.GroupValue(
		slog.Any("addr", l.Addr), slog.Any("gateway", gw), slog.Any("dns", l.DNS),
		slog.Any("server", l.Server), slog.Duration("lease", l.Expire))
}

// hasDefault reports whether the lease leads beyond its own network.
func (l *Lease) hasDefault() bool {
	return slices.ContainsFunc(l.Routes, func(r Route) bool { return r.To.Bits() == 0 })
}

// parseLease checks an OFFER or ACK. What is of no use in it is left out; an
// error means that the whole is of no use.
func parseLease(m *dhcpv4.DHCPv4, asked time.Time) (*Lease, error) {
	ip, ok := addr4(m.YourIPAddr)
	if !ok {
		return nil, errors.New("it has no address")
	}
	mask := m.Options.Get(dhcpv4.OptionSubnetMask)
	if len(mask) != 4 {
		return nil, errors.New("it has no subnet mask")
	}
	ones, bits := net.IPMask(mask).Size()
	if bits != 32 {
		return nil, fmt.Errorf("its subnet mask %s has holes", net.IP(mask))
	}
	l := &Lease{Addr: netip.PrefixFrom(ip, ones), Obtained: asked}
	if err := usable(l.Addr); err != nil {
		return nil, err
	}
	server, ok := addr4(m.Options.Get(dhcpv4.OptionServerIdentifier))
	if !ok || server.IsUnspecified() || server.IsMulticast() {
		return nil, errors.New("it does not say which server it is from")
	}
	l.Server = server
	if err := l.times(m); err != nil {
		return nil, err
	}
	if next, ok := addr4(m.ServerIPAddr); ok && !next.IsUnspecified() && !next.IsMulticast() {
		l.NextServer = next
	}
	l.DNS = hosts(m.DNS())
	l.NTP = hosts(m.NTPServers())
	l.Routes = routes(m, l.Addr.Addr())
	l.Vendor = slices.Clone(m.Options.Get(dhcpv4.OptionVendorSpecificInformation))
	if h := text(m.Options.Get(dhcpv4.OptionHostName)); ValidHost(h) {
		l.Hostname = h
	}
	if d := text(m.Options.Get(dhcpv4.OptionDomainName)); ValidHost(d) {
		l.Domain = d
	}
	if b := m.Options.Get(dhcpv4.OptionInterfaceMTU); len(b) == 2 {
		if mtu := int(b[0])<<8 | int(b[1]); mtu >= minMTU && mtu <= maxMTU {
			l.MTU = mtu
		}
	}
	return l, nil
}

// times sets T1, T2 and the end of the lease (RFC 2131, section 4.4.5), with
// the defaults of one half and seven eighths where the server's make no sense.
func (l *Lease) times(m *dhcpv4.DHCPv4) error {
	secs := func(c dhcpv4.OptionCode) (time.Duration, bool) {
		b := m.Options.Get(c)
		if len(b) != 4 {
			return 0, false
		}
		return time.Duration(uint32(b[0])<<24|uint32(b[1])<<16|uint32(b[2])<<8|uint32(b[3])) * time.Second, true
	}
	expire, ok := secs(dhcpv4.OptionIPAddressLeaseTime)
	if !ok {
		return errors.New("it does not say how long it lasts")
	}
	if expire == infinite*time.Second {
		return nil
	}
	if expire < minLease {
		return fmt.Errorf("it lasts only %s", expire)
	}
	l.Expire = expire
	l.Renew, _ = secs(dhcpv4.OptionRenewTimeValue)
	l.Rebind, _ = secs(dhcpv4.OptionRebindingTimeValue)
	if l.Renew < minLease/2 || l.Rebind <= l.Renew || l.Expire <= l.Rebind {
		l.Renew, l.Rebind = expire/2, expire*7/8
	}
	return nil
}

// routes reads option 121 and, only in its absence, option 3 (RFC 3442 says
// that routers must be ignored when there are classless routes).
func routes(m *dhcpv4.DHCPv4, own netip.Addr) []Route {
	var out []Route
	if classless := m.ClasslessStaticRoute(); len(classless) > 0 {
		for _, r := range classless[:min(len(classless), maxRoutes)] {
			dst, ok := addr4(r.Dest.IP)
			ones, bits := r.Dest.Mask.Size()
			via, okVia := addr4(r.Router)
			if !ok || !okVia || bits != 32 || via == own || dst.IsLoopback() || dst.IsMulticast() || via.IsLoopback() || via.IsMulticast() {
				continue
			}
			if via.IsUnspecified() { // RFC 3442: the network is on this link
				via = netip.Addr{}
			}
			out = append(out, Route{netip.PrefixFrom(dst, ones).Masked(), via})
		}
		return out
	}
	for _, r := range m.Router() {
		via, ok := addr4(r)
		if ok && via != own && !via.IsUnspecified() && !via.IsLoopback() && !via.IsMulticast() {
			return []Route{{netip.PrefixFrom(netip.IPv4Unspecified(), 0), via}}
		}
	}
	return out
}

func hosts(ips []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		a, ok := addr4(ip)
		if ok && !a.IsUnspecified() && !a.IsMulticast() && !slices.Contains(out, a) && len(out) < maxHosts {
			out = append(out, a)
		}
	}
	return out
}

func addr4(ip []byte) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	a = a.Unmap()
	return a, ok && a.Is4()
}

// text takes the trailing NULs away that some servers send.
func text(b []byte) string {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	if !utf8.Valid(b) {
		return ""
	}
	return string(b)
}
