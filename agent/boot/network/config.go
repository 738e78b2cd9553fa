// Package network brings the network of a chassis up: it finds the NICs,
// waits for their links, gets an address by DHCPv4 on whichever NIC answers
// first or sets a static one, and keeps the lease for as long as the machine
// runs.
package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Config is what the operator says about the network.
type Config struct {
	Static  *Static          // nil means DHCPv4
	VLAN    int              // 802.1Q id, 0 means untagged
	BootMAC net.HardwareAddr // NIC preferred when several would do; nil means any
}

// Static is an IPv4 address set by hand.
type Static struct {
	Addr    netip.Prefix // address of this machine and length of its network's prefix
	Gateway netip.Addr   // zero means no default route
	DNS     []netip.Addr
}

// ParseStatic reads ADDR/LEN[,GATEWAY[,DNS…]], as in
// 192.0.2.10/24,192.0.2.1,192.0.2.53. The gateway may be left empty. The error
// is one sentence that says what is wrong.
func ParseStatic(s string) (*Static, error) {
	fields := strings.Split(s, ",")
	addr, err := netip.ParsePrefix(fields[0])
	if err != nil {
		return nil, fmt.Errorf("%q is not ADDRESS/LENGTH, as in 192.0.2.10/24,192.0.2.1", fields[0])
	}
	if !addr.Addr().Is4() {
		return nil, fmt.Errorf("%s is not an IPv4 address, and this agent sets no other", addr.Addr())
	}
	if err := usable(addr); err != nil {
		return nil, err
	}
	st := &Static{Addr: addr}
	for i, f := range fields[1:] {
		if f == "" && i == 0 {
			continue
		}
		a, err := netip.ParseAddr(f)
		if err != nil || a.IsUnspecified() || a.IsMulticast() {
			return nil, fmt.Errorf("%q is not the address of a host", f)
		}
		switch {
		case i > 0:
			st.DNS = append(st.DNS, a)
		case !a.Is4():
			return nil, fmt.Errorf("gateway %s is not an IPv4 address", a)
		case a == addr.Addr():
			return nil, fmt.Errorf("gateway %s is the address of this machine", a)
		default:
			st.Gateway = a
		}
	}
	return st, nil
}

// usable reports why p cannot be the address of this machine.
func usable(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !a.Is4():
		return fmt.Errorf("%s is not an IPv4 address", a)
	case p.Bits() < 1:
		return fmt.Errorf("%s has no network prefix", p)
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.As4()[0] == 0, a.As4()[0] >= 240:
		return fmt.Errorf("%s is not the address of a host", a)
	}
	if p.Bits() >= 31 { // RFC 3021: both addresses of a /31 are hosts
		return nil
	}
	if a == p.Masked().Addr() || a == broadcast(p) {
		return fmt.Errorf("%s is the network or broadcast address of %s", a, p.Masked())
	}
	return nil
}

// broadcast returns the highest address of an IPv4 prefix.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}

// ValidHost reports whether s is a host name by RFC 1123: labels of letters,
// digits and inner hyphens, of at most 63 characters each and 253 together.
// Names come from DHCP servers too, and end in files and logs.
func ValidHost(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return true
}

// errNoNIC is reported while no NIC has shown up.
var errNoNIC = errors.New("no NIC found: its driver or firmware may be missing from the image")
