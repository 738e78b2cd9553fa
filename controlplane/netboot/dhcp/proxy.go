package dhcp

import (
	"context"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// proxyPort is where firmware asks a proxy for its boot file (PXE 2.1, section 2.2.1).
const proxyPort = 4011

// handleProxy answers firmware and iPXE with a boot file, and never with an address:
// those are another server's business.
func (s *Server) handleProxy(ctx context.Context, m *dhcpv4.DHCPv4, in arrival) *dhcpv4.DHCPv4 {
	c, ok := readClient(m)
	if !ok || !c.pxe {
		return nil
	}
	var answer dhcpv4.MessageType
	switch t := m.MessageType(); {
	case t == dhcpv4.MessageTypeDiscover && in.port == dhcpv4.ServerPort:
		answer = dhcpv4.MessageTypeOffer
	case (t == dhcpv4.MessageTypeRequest || t == dhcpv4.MessageTypeInform) && in.port == proxyPort:
		answer = dhcpv4.MessageTypeAck
	default:
		return nil
	}
	r := request{DHCPv4: m, client: c, in: in}
	if r.self = s.self(&r); !r.self.IsValid() {
		s.complain("DHCP: the interface has no IPv4 address, so chassis cannot be told where we are", "interface", in.iface)
		return nil
	}
	// A subnet is no condition here. Where one is, it may say where the files are.
	r.host = r.self
	if err := s.proxySubnet(ctx, &r); err != nil {
		s.Log.Error("DHCP: cannot look up subnets", "error", err)
		return nil
	}
	reply, err := dhcpv4.NewReplyFromRequest(m,
		dhcpv4.WithMessageType(answer),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(r.self.AsSlice())))
	if err != nil {
		s.Log.Error("DHCP: cannot make an answer", "error", err)
		return nil
	}
	reply.ClientIPAddr, reply.YourIPAddr = net.IPv4zero, net.IPv4zero
	if answer == dhcpv4.MessageTypeAck {
		reply.ClientIPAddr = m.ClientIPAddr
	}
	if !s.boot(r, reply) {
		return nil
	}
	if !r.boot.HTTP {
		reply.UpdateOption(dhcpv4.OptClassIdentifier(classPXE)) // which makes it a proxy's offer
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, pxeDirect))
	}
	s.fit(r, reply)
	return reply
}

// proxySubnet takes boot files and the boot server's address from a subnet that the
// client, its relay agent or our interface is in.
func (s *Server) proxySubnet(ctx context.Context, r *request) error {
	all, err := s.Store.Subnets(ctx)
	if err != nil {
		return err
	}
	for _, a := range []netip.Addr{addr(r.GatewayIPAddr), addr(r.ClientIPAddr), r.self} {
		for _, sub := range all {
			if a.IsValid() && sub.CIDR.Contains(a) {
				r.subnet = sub
				if sub.NextServer.IsValid() {
					r.host = sub.NextServer
				}
				return nil
			}
		}
	}
	r.subnet = store.Subnet{}
	return nil
}
