package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
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

const vendorClass = "teeth-agent"

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
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(maxPacket - ipHeader - udpHeader)),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(vendorClass)),
		dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{1}, n.mac...))),
	}, more...)
}

// ask sends msg until a message of the wanted types arrives that is an answer
// to it and that accept takes.
func (n nic) ask(ctx context.Context, w wire, msg *dhcpv4.DHCPv4, p patience, accept func(*dhcpv4.DHCPv4) bool) error {
	defer context.AfterFunc(ctx, w.interrupt)()
	buf := make([]byte, maxPacket)
	began := time.Now()
	for try := range p.tries {
		// Relays may wait for a client that has been asking for a while.
		msg.NumSeconds = uint16(min(time.Since(began)/time.Second, 0xffff))
		if err := w.send(msg.ToBytes()); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		wait := p.first << try
		// RFC 2131 wants up to a second of randomness either way, so that a
		// rack that got power at once does not ask at once for ever.
		wait += time.Duration((rand.Float64() - 0.5) * float64(min(wait/2, 2*time.Second)))
		deadline := time.Now().Add(wait)
		for {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			got, err := w.receive(buf, deadline)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return fmt.Errorf("receive: %w", err)
			}
			m, err := dhcpv4.FromBytes(buf[:got])
			if err != nil || m.OpCode != dhcpv4.OpcodeBootReply ||
				m.TransactionID != msg.TransactionID || !bytes.Equal(m.ClientHWAddr, n.mac) {
				continue
			}
			if accept(m) {
				return nil
			}
		}
	}
	return errNoAnswer
}

// discover broadcasts a DISCOVER and returns the first offer of any use.
func (n nic) discover(ctx context.Context) (*dhcpv4.DHCPv4, *Lease, error) {
	w, err := openRaw(n, netip.Addr{})
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	msg, err := dhcpv4.NewDiscovery(n.mac, n.request()...)
	if err != nil {
		return nil, nil, fmt.Errorf("NIC %s: DHCPDISCOVER: %w", n.name, err)
	}
	var offer *dhcpv4.DHCPv4
	var lease *Lease
	var useless error
	err = n.ask(ctx, w, msg, discoverPatience, func(m *dhcpv4.DHCPv4) bool {
		if m.MessageType() != dhcpv4.MessageTypeOffer {
			return false
		}
		l, err := parseLease(m, time.Now())
		if err != nil {
			useless = fmt.Errorf("offer of %s is of no use: %w", m.ServerIdentifier(), err)
			return false
		}
		offer, lease = m, l
		return true
	})
	if errors.Is(err, errNoAnswer) && useless != nil {
		err = useless
	}
	if err != nil {
		return nil, nil, fmt.Errorf("NIC %s: DHCPDISCOVER: %w", n.name, err)
	}
	return offer, lease, nil
}

// accept requests what was offered.
func (n nic) accept(ctx context.Context, offer *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, *Lease, error) {
	w, err := openRaw(n, netip.Addr{})
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	msg, err := dhcpv4.NewRequestFromOffer(offer, n.request()...)
	if err != nil {
		return nil, nil, fmt.Errorf("NIC %s: DHCPREQUEST: %w", n.name, err)
	}
	server, _ := addr4(offer.ServerIdentifier())
	return n.granted(ctx, w, msg, server, nil)
}

// renew asks for more time: the server of the lease by unicast or, when
// rebinding, any server by broadcast (RFC 2131, section 4.4.5). ack is the
// message that the lease came with.
func (n nic) renew(ctx context.Context, ack *dhcpv4.DHCPv4, lease *Lease, rebind bool) (*dhcpv4.DHCPv4, *Lease, error) {
	xid, err := dhcpv4.GenerateTransactionID()
	if err != nil {
		return nil, nil, fmt.Errorf("NIC %s: DHCP transaction id: %w", n.name, err)
	}
	msg, err := dhcpv4.NewRenewFromAck(ack, n.request(dhcpv4.WithTransactionID(xid))...)
	if err != nil {
		return nil, nil, fmt.Errorf("NIC %s: DHCPREQUEST: %w", n.name, err)
	}
	var w wire
	server := lease.Server
	if rebind {
		server = netip.Addr{}
		w, err = openRaw(n, lease.Addr.Addr())
	} else {
		w, err = openUDP(ctx, n, lease.Addr.Addr(), server)
	}
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	return n.granted(ctx, w, msg, server, ack)
}

// granted sends a DHCPREQUEST and checks the answer of the server, of any
// server if that is the zero Addr. What the answer leaves out is taken from
// old, if given: some servers do not repeat themselves on renewal.
func (n nic) granted(ctx context.Context, w wire, msg *dhcpv4.DHCPv4, server netip.Addr, old *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, *Lease, error) {
	asked := time.Now()
	var reply *dhcpv4.DHCPv4
	err := n.ask(ctx, w, msg, requestPatience, func(m *dhcpv4.DHCPv4) bool {
		from, ok := addr4(m.ServerIdentifier())
		t := m.MessageType()
		if t != dhcpv4.MessageTypeAck && t != dhcpv4.MessageTypeNak || !ok || server.IsValid() && from != server {
			return false
		}
		reply = m
		return true
	})
	if err != nil {
		return nil, nil, fmt.Errorf("NIC %s: DHCPREQUEST: %w", n.name, err)
	}
	if reply.MessageType() == dhcpv4.MessageTypeNak {
		return nil, nil, fmt.Errorf("NIC %s: %w", n.name, errNak)
	}
	reply = inherit(reply, old)
	lease, err := parseLease(reply, asked)
	if err != nil {
		return nil, nil, fmt.Errorf("NIC %s: lease of %s is of no use: %w", n.name, reply.ServerIdentifier(), err)
	}
	return reply, lease, nil
}

// inherit returns m with the options of old that it lacks. The times of a
// lease are its own.
func inherit(m, old *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	if old == nil {
		return m
	}
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
