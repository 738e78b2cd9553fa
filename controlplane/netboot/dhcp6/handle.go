package dhcp6

import (
	"bytes"
	"context"
	"encoding/hex"
	"net"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// maxRelays is how many relay agents a message may have come through (RFC 8415, HOP_COUNT_LIMIT).
const maxRelays = 8

// request is a client's message with what is known of it.
type request struct {
	*dhcpv6.Message
	in     arrival
	duid   string // hexadecimal; "" if it says none
	mac    string // "" if unknown
	subnet *store.Subnet
	host   netip.Addr // our address for the client; zero if we have none
}

// handle answers a message, or not: nil.
func (s *Server) handle(ctx context.Context, m dhcpv6.DHCPv6, in arrival) dhcpv6.DHCPv6 {
	r := &request{in: in}
	var relay *dhcpv6.RelayMessage
	var links []netip.Addr // of the relay agents, that nearest to the client first
	for at, depth := m, 0; ; depth++ {
		rm, ok := at.(*dhcpv6.RelayMessage)
		if !ok {
			if r.Message, ok = at.(*dhcpv6.Message); !ok {
				return nil
			}
			break
		}
		if depth == maxRelays || rm.Type() != dhcpv6.MessageTypeRelayForward {
			return nil
		}
		if relay == nil {
			relay = rm
		}
		if a, ok := netip.AddrFromSlice(rm.LinkAddr); ok && !a.IsUnspecified() {
			links = append([]netip.Addr{a}, links...)
		}
		if kind, mac := rm.Options.ClientLinkLayerAddress(); kind == iana.HWTypeEthernet && len(mac) == 6 {
			r.mac = mac.String() // RFC 6939
		}
		if at = rm.Options.RelayMessage(); at == nil {
			return nil
		}
	}
	if !r.identify() {
		return nil
	}
	if err := s.place(ctx, r, links, relay != nil); err != nil {
		s.Log.Error("DHCPv6: cannot look up subnets", "error", err)
		return nil
	}
	reply := s.dispatch(ctx, r)
	switch {
	case reply == nil:
		return nil // of the interface's type
	case relay == nil:
		return reply
	}
	back, err := dhcpv6.NewRelayReplFromRelayForw(relay, reply)
	if err != nil {
		s.complain("DHCPv6: cannot answer through a relay agent", "error", err)
		return nil
	}
	return back
}

// identify reads who the client is. It returns false for a message that RFC 8415,
// section 16, wants discarded.
func (r *request) identify() bool {
	if id := r.Options.ClientID(); id != nil {
		b := id.ToBytes()
		if len(b) < 3 || len(b) > 130 {
			return false
		}
		r.duid = hex.EncodeToString(b)
		if mac := macOf(id); r.mac == "" && mac != "" {
			r.mac = mac
		}
	}
	server := r.Options.ServerID()
	mine := server != nil && bytes.Equal(server.ToBytes(), r.in.duid.ToBytes())
	switch r.Type() {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		return r.duid != "" && server == nil
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		return r.duid != "" && mine
	case dhcpv6.MessageTypeInformationRequest:
		return (server == nil || mine) && len(r.Options.IANA()) == 0 && len(r.Options.IATA()) == 0
	}
	return false
}

func macOf(id dhcpv6.DUID) string {
	var kind iana.HWType
	var mac net.HardwareAddr
	switch id := id.(type) {
	case *dhcpv6.DUIDLL:
		kind, mac = id.HWType, id.LinkLayerAddr
	case *dhcpv6.DUIDLLT:
		kind, mac = id.HWType, id.LinkLayerAddr
	}
	if kind != iana.HWTypeEthernet || len(mac) != 6 {
		return ""
	}
	return mac.String()
}

// place finds the subnet that the client is in, if there is one, and our address
// for it. A link-local address would need the client's name of its interface.
func (s *Server) place(ctx context.Context, r *request, links []netip.Addr, relayed bool) error {
	all, err := s.Store.Subnets(ctx)
	if err != nil {
		return err
	}
	if !relayed {
		for _, p := range r.in.prefixes {
			links = append(links, p.Addr())
		}
	}
	for _, a := range links {
		i := slices.IndexFunc(all, func(sub store.Subnet) bool { return sub.CIDR.Contains(a) })
		if i >= 0 {
			r.subnet = &all[i]
			break
		}
	}
	for _, p := range r.in.prefixes {
		if !r.host.IsValid() || r.subnet != nil && r.subnet.CIDR.Contains(p.Addr()) {
			r.host = p.Addr()
		}
	}
	if r.subnet != nil && r.subnet.NextServer.IsValid() {
		r.host = r.subnet.NextServer
	}
	return nil
}

func (s *Server) dispatch(ctx context.Context, r *request) *dhcpv6.Message {
	if r.Type() == dhcpv6.MessageTypeInformationRequest {
		return s.inform(r)
	}
	if r.subnet == nil {
		if r.Type() == dhcpv6.MessageTypeSolicit && r.wantsBoot() {
			reply := s.answerTo(r, dhcpv6.MessageTypeAdvertise)
			if !s.boot(r, reply) {
				return nil
			}
			return reply
		}
		return nil
	}
	switch r.Type() {
	case dhcpv6.MessageTypeSolicit:
		kind := dhcpv6.MessageTypeAdvertise
		if r.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
			kind = dhcpv6.MessageTypeReply
		}
		return s.assign(ctx, r, kind)
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		return s.assign(ctx, r, dhcpv6.MessageTypeReply)
	case dhcpv6.MessageTypeConfirm:
		return s.confirm(r)
	}
	return s.giveBack(ctx, r)
}

// answerTo is the beginning of an answer.
func (s *Server) answerTo(r *request, kind dhcpv6.MessageType) *dhcpv6.Message {
	reply := &dhcpv6.Message{MessageType: kind, TransactionID: r.TransactionID}
	if id := r.GetOneOption(dhcpv6.OptionClientID); id != nil {
		reply.AddOption(id)
	}
	reply.AddOption(dhcpv6.OptServerID(r.in.duid))
	if kind == dhcpv6.MessageTypeReply && r.Type() == dhcpv6.MessageTypeSolicit {
		dhcpv6.WithRapidCommit(reply)
	}
	return reply
}

// inform answers one that has an address already. Without a subnet we know nothing to
// tell but what to boot.
func (s *Server) inform(r *request) *dhcpv6.Message {
	if r.subnet == nil && !r.wantsBoot() {
		return nil
	}
	reply := s.answerTo(r, dhcpv6.MessageTypeReply)
	if !s.boot(r, reply) && r.subnet == nil {
		return nil
	}
	s.settings(r, reply)
	return reply
}

// settings adds what the subnet says.
func (s *Server) settings(r *request, reply *dhcpv6.Message) {
	if r.subnet == nil {
		return
	}
	if len(r.subnet.DNS) > 0 {
		dhcpv6.WithDNS(ips(r.subnet.DNS)...)(reply)
	}
	if r.subnet.Domain != "" {
		dhcpv6.WithDomainSearchList(r.subnet.Domain)(reply)
	}
	if len(r.subnet.NTP) > 0 && r.IsOptionRequested(dhcpv6.OptionNTPServer) {
		ntp := &dhcpv6.OptNTPServer{}
		for _, ip := range ips(r.subnet.NTP) {
			sub := dhcpv6.NTPSuboptionSrvAddr(ip)
			ntp.Suboptions.Add(&sub)
		}
		reply.AddOption(ntp)
	}
}

func ips(list []netip.Addr) []net.IP {
	out := make([]net.IP, len(list))
	for i, a := range list {
		out[i] = a.AsSlice()
	}
	return out
}

// confirm says whether the client's addresses are right for where it is (RFC 8415,
// section 18.3.3).
func (s *Server) confirm(r *request) *dhcpv6.Message {
	code, asked := iana.StatusSuccess, false
	for _, ia := range r.Options.IANA() {
		for _, o := range ia.Options.Addresses() {
			asked = true
			if a, ok := netip.AddrFromSlice(o.IPv6Addr); !ok || !r.subnet.CIDR.Contains(a) {
				code = iana.StatusNotOnLink
			}
		}
	}
	if !asked {
		return nil
	}
	reply := s.answerTo(r, dhcpv6.MessageTypeReply)
	reply.AddOption(&dhcpv6.OptStatusCode{StatusCode: code})
	return reply
}
