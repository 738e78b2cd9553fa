package dhcp

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// maxConflicts is how many addresses in use are found by probing before the client
// has to ask again.
const maxConflicts = 3

// request is a message with what is known of it.
type request struct {
	*dhcpv4.DHCPv4
	client
	in       arrival
	subnet   store.Subnet
	self     netip.Addr // our address, for the client
	override bool       // self is a relay agent's word (RFC 5107)
	host     netip.Addr // of the boot server, for the client
}

// handle answers a message as the server of a subnet.
func (s *Server) handle(ctx context.Context, m *dhcpv4.DHCPv4, in arrival) *dhcpv4.DHCPv4 {
	c, ok := readClient(m)
	if !ok {
		return nil
	}
	r := request{DHCPv4: m, client: c, in: in}
	ok, err := s.place(ctx, &r)
	if err != nil {
		s.Log.Error("DHCP: cannot look up subnets", "error", err)
		return nil
	}
	if !ok {
		s.complain("DHCP: no subnet for this client: add it with `teeth subnet add`", "interface", in.iface, "mac", c.mac, "relay", addr(m.GatewayIPAddr))
		return nil
	}
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return s.offer(ctx, r)
	case dhcpv4.MessageTypeRequest:
		return s.grant(ctx, r)
	case dhcpv4.MessageTypeInform:
		return s.inform(ctx, r)
	case dhcpv4.MessageTypeDecline:
		s.decline(ctx, r)
	case dhcpv4.MessageTypeRelease:
		s.release(ctx, r)
	}
	return nil
}

// place finds the subnet that the client is in, and by which address it knows us.
func (s *Server) place(ctx context.Context, r *request) (bool, error) {
	all, err := s.Store.Subnets(ctx)
	if err != nil {
		return false, err
	}
	of := func(a netip.Addr) bool {
		i := slices.IndexFunc(all, func(sub store.Subnet) bool { return sub.CIDR.Contains(a) })
		if i >= 0 {
			r.subnet = all[i]
		}
		return i >= 0
	}
	relay := r.RelayAgentInfo()
	var found bool
	switch giaddr, ciaddr := addr(r.GatewayIPAddr), addr(r.ClientIPAddr); {
	case giaddr.IsValid() && !isHost(giaddr): // the answer would go to many, or to this machine
	case relay != nil && giaddr.IsValid() && len(relay.Get(dhcpv4.LinkSelectionSubOption)) == 4:
		found = of(netip.AddrFrom4([4]byte(relay.Get(dhcpv4.LinkSelectionSubOption)))) // RFC 3527
	case giaddr.IsValid():
		found = of(giaddr)
	case ciaddr.IsValid() && r.in.unicast.IsValid():
		found = of(ciaddr) // it renews, past its relay agent
	default:
		for _, p := range r.in.prefixes {
			if found = of(p.Addr()); found {
				break
			}
		}
	}
	if !found {
		return false, nil
	}
	r.self = s.self(r)
	if r.host = r.self; r.subnet.NextServer.IsValid() {
		r.host = r.subnet.NextServer
	}
	if relay != nil {
		if b := relay.Get(dhcpv4.ServerIdentifierOverrideSubOption); len(b) == 4 {
			r.self, r.override = netip.AddrFrom4([4]byte(b)), true
		}
	}
	return r.self.IsValid(), nil
}

// isHost reports whether a may be the address of one other host.
func isHost(a netip.Addr) bool {
	return !a.IsMulticast() && !a.IsLoopback() && a.As4()[0] < 240 && a.As4()[0] != 0
}

// self is the address that the message was sent to or, of a broadcast, our address
// in the subnet or else the interface's first.
func (s *Server) self(r *request) netip.Addr {
	if r.in.unicast.IsValid() {
		return r.in.unicast
	}
	for _, p := range r.in.prefixes {
		if r.subnet.CIDR.Contains(p.Addr()) {
			return p.Addr()
		}
	}
	if len(r.in.prefixes) > 0 {
		return r.in.prefixes[0].Addr()
	}
	return netip.Addr{}
}

// isSelf reports whether a server identifier means us.
func (r request) isSelf(a netip.Addr) bool {
	return a == r.self || !r.override && slices.ContainsFunc(r.in.prefixes, func(p netip.Prefix) bool { return p.Addr() == a })
}

func (r request) lease(want netip.Addr) store.LeaseRequest {
	avoid := []netip.Addr{r.self}
	for _, p := range r.in.prefixes {
		avoid = append(avoid, p.Addr())
	}
	if g := addr(r.GatewayIPAddr); g.IsValid() {
		avoid = append(avoid, g) // the relay agent's
	}
	return store.LeaseRequest{Subnet: r.subnet, Client: r.key, MAC: r.mac, ID: r.id, Hostname: r.hostname, Want: want, Avoid: avoid}
}

func (s *Server) offer(ctx context.Context, r request) *dhcpv4.DHCPv4 {
	ask := r.lease(addr(r.RequestedIPAddress()))
	for range maxConflicts {
		g, err := s.Store.OfferLease(ctx, ask)
		if errors.Is(err, store.ErrNoAddress) {
			s.complain("DHCP: no address for a client: enlarge the pools with `teeth subnet add`", "subnet", r.subnet.CIDR, "mac", r.mac, "error", err)
			return nil
		}
		if err != nil {
			s.Log.Error("DHCP: cannot offer an address", "mac", r.mac, "error", err)
			return nil
		}
		if !s.Probe || !g.New || r.GatewayIPAddr != nil && !r.GatewayIPAddr.IsUnspecified() {
			return s.reply(ctx, r, dhcpv4.MessageTypeOffer, &g)
		}
		used, err := s.probe(ctx, r.in.iface, g.IP)
		if err != nil {
			s.Log.Warn("DHCP: cannot probe an address", "ip", g.IP, "error", err)
		}
		if !used {
			return s.reply(ctx, r, dhcpv4.MessageTypeOffer, &g)
		}
		s.Log.Warn("DHCP: an address of the pool is in use by a host that has no lease", "ip", g.IP, "subnet", r.subnet.CIDR)
		if err := s.Store.DeclineLease(ctx, r.subnet.ID, r.key, g.IP); err != nil {
			s.Log.Error("DHCP: cannot set an address aside", "ip", g.IP, "error", err)
			return nil
		}
	}
	return nil
}

// grant answers a REQUEST. RFC 2131, section 4.3.2, tells by its fields what the
// client is about.
func (s *Server) grant(ctx context.Context, r request) *dhcpv4.DHCPv4 {
	server, want, has := addr(r.ServerIdentifier()), addr(r.RequestedIPAddress()), addr(r.ClientIPAddr)
	selecting := server.IsValid()
	if selecting && !r.isSelf(server) {
		return nil // it took another server's offer; ours runs out by itself
	}
	renews := !want.IsValid() && has.IsValid()
	if renews {
		want = has
	}
	if !want.IsValid() {
		return nil
	}
	if !r.subnet.CIDR.Contains(want) {
		return s.refuse(r, "it is of another network", want)
	}
	g, err := s.Store.BindLease(ctx, r.lease(want), s.leaseTime(r))
	switch {
	case err == nil:
		if g.New {
			s.Log.Info("lease given", "ip", want, "mac", r.mac, "hostname", r.hostname, "subnet", r.subnet.CIDR, "until", g.Expires)
		}
		return s.reply(ctx, r, dhcpv4.MessageTypeAck, &g)
	case errors.Is(err, store.ErrConflict):
		return s.refuse(r, "it is another client's", want)
	case errors.Is(err, store.ErrNotFound) && (selecting || renews && r.in.unicast.IsValid()):
		return s.refuse(r, "it is in no pool", want)
	case errors.Is(err, store.ErrNotFound):
		return nil // perhaps another server's: RFC 2131 wants silence
	}
	s.Log.Error("DHCP: cannot give an address", "ip", want, "mac", r.mac, "error", err)
	return nil
}

// refuse is a DHCPNAK: the client shall begin anew.
func (s *Server) refuse(r request, why string, want netip.Addr) *dhcpv4.DHCPv4 {
	s.complain("DHCP: an address was refused: "+why, "ip", want, "mac", r.mac, "subnet", r.subnet.CIDR)
	reply, err := dhcpv4.NewReplyFromRequest(r.DHCPv4,
		dhcpv4.WithMessageType(dhcpv4.MessageTypeNak),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(r.self.AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptMessage("address refused: "+why)))
	if err != nil {
		s.Log.Error("DHCP: cannot make an answer", "error", err)
		return nil
	}
	// The relay agent shall broadcast it: the client has no address to send it to.
	reply.SetBroadcast()
	return reply
}

func (s *Server) inform(ctx context.Context, r request) *dhcpv4.DHCPv4 {
	if !r.subnet.CIDR.Contains(addr(r.ClientIPAddr)) {
		return nil
	}
	return s.reply(ctx, r, dhcpv4.MessageTypeAck, nil)
}

func (s *Server) decline(ctx context.Context, r request) {
	ip := addr(r.RequestedIPAddress())
	if !ip.IsValid() || !r.isSelf(addr(r.ServerIdentifier())) {
		return
	}
	err := s.Store.DeclineLease(ctx, r.subnet.ID, r.key, ip)
	switch {
	case err == nil:
		s.Log.Warn("DHCP: a client found its address in use by another host; it is set aside for an hour", "ip", ip, "mac", r.mac)
	case !errors.Is(err, store.ErrNotFound):
		s.Log.Error("DHCP: cannot set an address aside", "ip", ip, "mac", r.mac, "error", err)
	}
}

func (s *Server) release(ctx context.Context, r request) {
	ip := addr(r.ClientIPAddr)
	if !ip.IsValid() {
		return
	}
	err := s.Store.ReleaseLease(ctx, r.subnet.ID, r.key, ip)
	switch {
	case err == nil:
		s.Log.Info("lease given back", "ip", ip, "mac", r.mac)
	case !errors.Is(err, store.ErrNotFound):
		s.Log.Error("DHCP: cannot take an address back", "ip", ip, "mac", r.mac, "error", err)
	}
}

// leaseTime is what the client asks for, within what the subnet allows.
func (s *Server) leaseTime(r request) time.Duration {
	longest := r.subnet.Lease()
	if asked := r.IPAddressLeaseTime(longest); asked >= time.Minute && asked < longest {
		return asked
	}
	return longest
}
