package dhcp6

import (
	"context"
	"encoding/hex"
	"errors"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// maxIAs is how many addresses a client gets in one subnet.
const maxIAs = 4

// assign answers with an address for each identity association of the client.
func (s *Server) assign(ctx context.Context, r *request, kind dhcpv6.MessageType) *dhcpv6.Message {
	reply := s.answerTo(r, kind)
	given, known := 0, 0
	for i, ia := range r.Options.IANA() {
		if i == maxIAs {
			break
		}
		answer, ok, found := s.one(ctx, r, ia, kind)
		if answer == nil {
			return nil // the store failed: the client shall ask again
		}
		if ok {
			given++
		}
		if found {
			known++
		}
		reply.AddOption(answer)
	}
	if r.Type() == dhcpv6.MessageTypeRebind && known == 0 {
		return nil // another server's
	}
	if kind == dhcpv6.MessageTypeAdvertise && given == 0 && len(r.Options.IANA()) > 0 {
		// RFC 8415, section 18.3.9: the client looks for another server.
		reply.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail, StatusMessage: "no address is free"})
	}
	s.settings(r, reply)
	s.boot(r, reply)
	return reply
}

// one answers an identity association. found says that the client's addresses are
// ours to judge.
func (s *Server) one(ctx context.Context, r *request, ia *dhcpv6.OptIANA, kind dhcpv6.MessageType) (answer *dhcpv6.OptIANA, ok, found bool) {
	during := r.subnet.Lease()
	answer = &dhcpv6.OptIANA{IaId: ia.IaId, T1: during / 2, T2: (during * 4 / 5).Truncate(time.Second)}
	ask := store.LeaseRequest{Subnet: *r.subnet, Client: "duid:" + r.duid + "/" + hex.EncodeToString(ia.IaId[:]), MAC: r.mac, ID: r.duid}
	for _, p := range r.in.prefixes {
		ask.Avoid = append(ask.Avoid, p.Addr())
	}
	if o := ia.Options.OneAddress(); o != nil {
		ask.Want, _ = netip.AddrFromSlice(o.IPv6Addr)
	}
	renews := r.Type() == dhcpv6.MessageTypeRenew || r.Type() == dhcpv6.MessageTypeRebind
	if renews && !r.subnet.CIDR.Contains(ask.Want) {
		// It has moved: its address is worth nothing here.
		if ask.Want.IsValid() {
			answer.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: ask.Want.AsSlice()})
		}
		return answer, false, true
	}
	if !renews {
		offer, err := s.Store.OfferLease(ctx, ask)
		if errors.Is(err, store.ErrNoAddress) {
			s.complain("DHCPv6: no address for a client", "subnet", r.subnet.CIDR, "duid", r.duid, "error", err)
			answer.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail, StatusMessage: "no address is free"})
			answer.T1, answer.T2 = 0, 0
			return answer, false, true
		}
		if err != nil {
			s.Log.Error("DHCPv6: cannot offer an address", "duid", r.duid, "error", err)
			return nil, false, false
		}
		ask.Want = offer.IP
	}
	if kind == dhcpv6.MessageTypeReply {
		g, err := s.Store.BindLease(ctx, ask, during)
		switch {
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
			answer.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoBinding, StatusMessage: "the address is not this client's"})
			answer.T1, answer.T2 = 0, 0
			return answer, false, errors.Is(err, store.ErrConflict)
		case err != nil:
			s.Log.Error("DHCPv6: cannot give an address", "ip", ask.Want, "duid", r.duid, "error", err)
			return nil, false, false
		case g.New:
			s.Log.Info("lease given", "ip", ask.Want, "mac", r.mac, "duid", r.duid, "subnet", r.subnet.CIDR, "until", g.Expires)
		}
	}
	answer.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: ask.Want.AsSlice(), PreferredLifetime: during, ValidLifetime: during})
	return answer, true, true
}

// giveBack answers RELEASE and DECLINE.
func (s *Server) giveBack(ctx context.Context, r *request) *dhcpv6.Message {
	reply := s.answerTo(r, dhcpv6.MessageTypeReply)
	for i, ia := range r.Options.IANA() {
		if i == maxIAs {
			break
		}
		client := "duid:" + r.duid + "/" + hex.EncodeToString(ia.IaId[:])
		for j, o := range ia.Options.Addresses() {
			a, ok := netip.AddrFromSlice(o.IPv6Addr)
			if !ok || j == maxIAs {
				break
			}
			var err error
			if r.Type() == dhcpv6.MessageTypeDecline {
				err = s.Store.DeclineLease(ctx, r.subnet.ID, client, a)
			} else {
				err = s.Store.ReleaseLease(ctx, r.subnet.ID, client, a)
			}
			switch {
			case err == nil:
				s.Log.Info("lease given back", "ip", a, "duid", r.duid, "how", r.Type())
			case errors.Is(err, store.ErrNotFound):
				no := &dhcpv6.OptIANA{IaId: ia.IaId}
				no.Options.Add(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoBinding, StatusMessage: "the address is not this client's"})
				reply.AddOption(no)
			default:
				s.Log.Error("DHCPv6: cannot take an address back", "ip", a, "duid", r.duid, "error", err)
				return nil
			}
		}
	}
	reply.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess})
	return reply
}
