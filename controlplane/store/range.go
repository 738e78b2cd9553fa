package store

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// Range is the addresses from First to Last, both included, of one family.
// Its text is FIRST-LAST, or one address.
type Range struct{ First, Last netip.Addr }

// ParseRange reads FIRST-LAST or one address.
func ParseRange(text string) (Range, error) {
	first, last, two := strings.Cut(text, "-")
	if !two {
		last = first
	}
	a, err := netip.ParseAddr(strings.TrimSpace(first))
	b, err2 := netip.ParseAddr(strings.TrimSpace(last))
	r := Range{a, b}
	if err != nil || err2 != nil || !r.valid() {
		return Range{}, fmt.Errorf("range %.80q: want FIRST-LAST, as in 192.0.2.100-192.0.2.199", text)
	}
	return r, nil
}

func (r Range) valid() bool {
	return r.First.IsValid() && r.Last.IsValid() && r.First.Is4() == r.Last.Is4() &&
		!r.First.Is4In6() && !r.Last.Is4In6() && r.First.Zone() == "" && r.Last.Zone() == "" && !r.Last.Less(r.First)
}

// Contains reports whether a is in the range.
func (r Range) Contains(a netip.Addr) bool {
	return a.Is4() == r.First.Is4() && !a.Less(r.First) && !r.Last.Less(a)
}

func (r Range) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// MarshalText returns FIRST-LAST.
func (r Range) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads FIRST-LAST or one address.
func (r *Range) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRange(string(b))
	return err
}

// size is how many addresses there are, at most 2^63-1.
func (r Range) size() uint64 {
	a, b := r.First.As16(), r.Last.As16()
	if binary.BigEndian.Uint64(a[:8]) != binary.BigEndian.Uint64(b[:8]) {
		return math.MaxInt64
	}
	n := binary.BigEndian.Uint64(b[8:]) - binary.BigEndian.Uint64(a[8:])
	return min(n, math.MaxInt64-1) + 1
}

// at returns the address n after First.
func (r Range) at(n uint64) netip.Addr {
	b := r.First.As16()
	low := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], low+n)
	if low+n < low { // into the upper half
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])+1)
	}
	a := netip.AddrFrom16(b)
	if r.First.Is4() {
		a = a.Unmap()
	}
	return a
}

// pool is the addresses that a subnet gives to whoever asks.
type pool []Range

// pool returns the pools without the exclusions, the gateway, the boot server and
// the addresses that no host may have.
func (s Subnet) pool() pool {
	p := slices.Clone(pool(s.Pools))
	for _, x := range s.Exclude {
		p = p.without(x)
	}
	no := []netip.Addr{s.Gateway, s.NextServer, s.CIDR.Addr()} // of IPv6 it is the routers' anycast address
	if s.CIDR.Addr().Is4() {
		no = append(no, lastAddress(s.CIDR))
	}
	for _, a := range no {
		if a.IsValid() {
			p = p.without(Range{a, a})
		}
	}
	return p
}

// Gives reports whether a is in a pool of the subnet, excluded addresses apart.
func (s Subnet) Gives(a netip.Addr) bool { return s.pool().contains(a) }

func (p pool) without(x Range) pool {
	var out pool
	for _, r := range p {
		if r.First.Is4() != x.First.Is4() || x.Last.Less(r.First) || r.Last.Less(x.First) {
			out = append(out, r)
			continue
		}
		if r.First.Less(x.First) {
			out = append(out, Range{r.First, x.First.Prev()})
		}
		if x.Last.Less(r.Last) {
			out = append(out, Range{x.Last.Next(), r.Last})
		}
	}
	return out
}

func (p pool) contains(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(r Range) bool { return r.Contains(a) })
}

func (p pool) size() uint64 {
	var n uint64
	for _, r := range p {
		n = min(n+r.size(), math.MaxInt64) // each is below 2^63
	}
	return n
}

// at returns the address at index n, below size.
func (p pool) at(n uint64) netip.Addr {
	for _, r := range p {
		if n < r.size() {
			return r.at(n)
		}
		n -= r.size()
	}
	return netip.Addr{}
}

// lastAddress is the broadcast address of an IPv4 network.
func lastAddress(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|(1<<(32-p.Bits())-1))
	return netip.AddrFrom4(b)
}

// position is an address as text that sorts.
func position(a netip.Addr) string {
	b := a.As16()
	return hex.EncodeToString(b[:])
}
