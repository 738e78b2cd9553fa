package network

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// patience is how long an exchange waits for its answer: each try twice as
// long as the one before (RFC 2131, section 4.1), all with one transaction id,
// so that a slow server is heard too.
type patience struct {
	first time.Duration
	tries int
}

var (
	discoverPatience = patience{2 * time.Second, 4}
	requestPatience  = patience{2 * time.Second, 3}
)

var (
	// errNak is a server's word that the address is not ours.
	errNak      = errors.New("the DHCP server took the address back (DHCPNAK)")
	errNoAnswer = errors.New("no DHCP server answered")
)

// options are those we ask for. 121 stands before 3, as RFC 3442 wants.
var options = dhcpv4.OptParameterRequestList(
	dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter,
	dhcpv4.OptionDomainNameServer, dhcpv4.OptionHostName, dhcpv4.OptionDomainName,
	dhcpv4.OptionInterfaceMTU, dhcpv4.OptionNTPServers, dhcpv4.OptionVendorSpecificInformation,
	dhcpv4.OptionIPAddressLeaseTime, dhcpv4.OptionServerIdentifier,
	dhcpv4.OptionRenewTimeValue, dhcpv4.OptionRebindingTimeValue,
)

// request says who asks. The client identifier is the one that iPXE sends, so
// that the lease of the boot firmware is found again.
func (n nic) request(more ...dhcpv4.Modifier) []dhcpv4.Modifier {
	return append([]dhcpv4.Modifier{
		dhcpv4.WithOption(options),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(maxMessage)),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(teeth.VendorClass)),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{1}, n.mac...))),
	}, more...)
}

// exchange runs ask with a client on conn, which it closes. The patience is
// the whole one: the client starts its wait anew with each answer that does
// not fit, so that a talkative neighbour could hold it for ever.
func (n nic) exchange(ctx context.Context, what string, conn net.PacketConn, p patience, ask func(context.Context, *nclient4.Client) error) error {
	// RFC 2131 wants some randomness, so that a rack that got power at once
	// does not ask at once for ever.
	first := p.first*3/4 + rand.N(p.first/2)
	client, err := nclient4.NewWithConn(conn, n.mac, nclient4.WithTimeout(first), nclient4.WithRetry(p.tries))
	if err != nil {
		conn.Close()
		return fmt.Errorf("NIC %s: %s: %w", n.name, what, err)
	}
	defer client.Close()
	whole, cancel := context.WithTimeout(ctx, first<<p.tries)
	defer cancel()
	err = ask(whole, client)
	var nak *nclient4.ErrNak
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, nclient4.ErrNoResponse), errors.Is(err, context.DeadlineExceeded):
		err = errNoAnswer
	case errors.As(err, &nak):
		err = errNak
	}
	return fmt.Errorf("NIC %s: %s: %w", n.name, what, err)
}

// discover broadcasts a DISCOVER and returns the first offer of any use. began
// is when this machine first asked: relays may wait for one that has been
// asking for a while.
func (n nic) discover(ctx context.Context, began time.Time) (*dhcpv4.DHCPv4, *Lease, error) {
	conn, err := listenPacket(n)
	if err != nil {
		return nil, nil, err
	}
	secs := uint16(min(time.Since(began)/time.Second, 0xffff))
	var offer *dhcpv4.DHCPv4
	var lease *Lease
	var useless error
	err = n.exchange(ctx, "DHCPDISCOVER", conn, discoverPatience, func(ctx context.Context, c *nclient4.Client) error {
		msg, err := dhcpv4.NewDiscovery(n.mac, n.request(withSeconds(secs))...)
		if err != nil {
			return err
		}
		// Not DiscoverOffer, which ends with the first offer of whatever kind.
		offer, err = c.SendAndRead(ctx, c.RemoteAddr(), msg, func(m *dhcpv4.DHCPv4) bool {
			if m.MessageType() != dhcpv4.MessageTypeOffer {
				return false
			}
			l, err := parseLease(m, time.Now())
			if err != nil {
				useless = fmt.Errorf("offer of %s is of no use: %w", m.ServerIdentifier(), err)
				return false
			}
			lease = l
			return true
		})
		return err
	})
	if errors.Is(err, errNoAnswer) && useless != nil {
		err = fmt.Errorf("NIC %s: DHCPDISCOVER: %w", n.name, useless)
	}
	if err != nil {
		return nil, nil, err
	}
	offer.NumSeconds = secs // the REQUEST must repeat it: RFC 2131, section 4.1
	return offer, lease, nil
}

// accept requests what was offered.
func (n nic) accept(ctx context.Context, offer *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, *Lease, error) {
	conn, err := listenPacket(n)
	if err != nil {
		return nil, nil, err
	}
	asked := time.Now()
	var ack *dhcpv4.DHCPv4
	err = n.exchange(ctx, "DHCPREQUEST", conn, requestPatience, func(ctx context.Context, c *nclient4.Client) error {
		got, err := c.RequestFromOffer(ctx, offer, n.request(withSeconds(offer.NumSeconds))...)
		if err == nil {
			ack = got.ACK
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return n.granted(ack, asked)
}

// renew asks for more time: the server of the lease by unicast or, when
// rebinding, any server by broadcast (RFC 2131, section 4.4.5). ack is the
// message that the lease came with: what the answer leaves out is taken from
// it, as some servers do not repeat themselves.
func (n nic) renew(ctx context.Context, ack *dhcpv4.DHCPv4, lease *Lease, rebind bool) (*dhcpv4.DHCPv4, *Lease, error) {
	what, to := "DHCPREQUEST to renew", &net.UDPAddr{IP: lease.Server.AsSlice(), Port: nclient4.ServerPort}
	if rebind {
		what, to = "DHCPREQUEST to rebind", nclient4.DefaultServers
	}
	conn, err := listenUDP(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	asked := time.Now()
	var reply *dhcpv4.DHCPv4
	err = n.exchange(ctx, what, conn, requestPatience, func(ctx context.Context, c *nclient4.Client) error {
		xid, err := dhcpv4.GenerateTransactionID()
		if err != nil {
			return err
		}
		msg, err := dhcpv4.NewRenewFromAck(ack, n.request(dhcpv4.WithTransactionID(xid))...)
		if err != nil {
			return err
		}
		// Not Renew, which hears none but the server of the first offer and
		// so cannot rebind.
		reply, err = c.SendAndRead(ctx, to, msg, func(m *dhcpv4.DHCPv4) bool {
			from, ok := addr4(m.ServerIdentifier())
			t := m.MessageType()
			return (t == dhcpv4.MessageTypeAck || t == dhcpv4.MessageTypeNak) && ok && (rebind || from == lease.Server)
		})
		if err == nil && reply.MessageType() == dhcpv4.MessageTypeNak {
			return errNak
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return n.granted(inherit(reply, ack), asked)
}

// granted checks an ACK.
func (n nic) granted(ack *dhcpv4.DHCPv4, asked time.Time) (*dhcpv4.DHCPv4, *Lease, error) {
	lease, err := parseLease(ack, asked)
	if err != nil {
		return nil, nil, fmt.Errorf("NIC %s: lease of %s is of no use: %w", n.name, ack.ServerIdentifier(), err)
	}
	return ack, lease, nil
}

func withSeconds(secs uint16) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) { m.NumSeconds = secs }
}

// inherit returns m with the options of old that it lacks. The times of a
// lease are its own.
func inherit(m, old *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	newRouter := m.Options.Has(dhcpv4.OptionRouter)
	for code, value := range old.Options {
		c := dhcpv4.GenericOptionCode(code)
		switch c {
		case dhcpv4.GenericOptionCode(dhcpv4.OptionIPAddressLeaseTime.Code()),
			dhcpv4.GenericOptionCode(dhcpv4.OptionRenewTimeValue.Code()),
			dhcpv4.GenericOptionCode(dhcpv4.OptionRebindingTimeValue.Code()):
			continue
		case dhcpv4.GenericOptionCode(dhcpv4.OptionClasslessStaticRoute.Code()):
			if newRouter { // it would be hidden
				continue
			}
		}
		if !m.Options.Has(c) {
			m.UpdateOption(dhcpv4.OptGeneric(c, value))
		}
	}
	return m
}
