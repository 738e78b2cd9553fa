package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// prefixesFor is how long the addresses of an interface are taken for known.
const prefixesFor = 5 * time.Second

// receiveNothing is the filter of a socket that only sends.
var receiveNothing = []bpf.RawInstruction{{Op: 0x06}} // return 0 bytes

// listener is the sockets on one interface and port: one that receives and sends by
// way of the kernel's IP, and one for clients that have no address to be found by.
type listener struct {
	name string
	port int
	udp  *ipv4.PacketConn

	mu       sync.Mutex
	raw      *packet.Conn // opened when it is first needed
	prefixes []netip.Prefix
	known    time.Time
}

// listen opens the UDP socket. A proxy shares the port with a server of the same
// machine; two servers on one port would be a mistake.
func listen(ctx context.Context, name string, port int, share bool) (*listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		e := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1))
			if share {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
			}
		})
		return errors.Join(e, err)
	}}
	c, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, fmt.Errorf("DHCP on %s: %w", name, err)
	}
	udp := ipv4.NewPacketConn(c)
	if err := udp.SetControlMessage(ipv4.FlagDst, true); err != nil {
		c.Close()
		return nil, fmt.Errorf("DHCP on %s: %w", name, err)
	}
	return &listener{name: name, port: port, udp: udp}, nil
}

func (l *listener) close() {
	l.udp.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.raw != nil {
		l.raw.Close()
		l.raw = nil
	}
}

// read receives a message into buf and says how it came.
func (l *listener) read(buf []byte) (int, arrival, error) {
	n, cm, from, err := l.udp.ReadFrom(buf)
	if err != nil {
		return 0, arrival{}, err
	}
	in := arrival{iface: l.name, port: l.port}
	if u, ok := from.(*net.UDPAddr); ok {
		in.from = u.AddrPort()
	}
	if in.prefixes, err = l.addresses(); err != nil {
		return 0, arrival{}, err
	}
	if cm != nil {
		// Also 255.255.255.255 and the broadcast address of the network come here.
		for _, p := range in.prefixes {
			if d := addr(cm.Dst); d == p.Addr() {
				in.unicast = d
			}
		}
	}
	return n, in, nil
}

// addresses are the interface's own, with the lengths of their networks' prefixes.
func (l *listener) addresses() ([]netip.Prefix, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.known) < prefixesFor {
		return l.prefixes, nil
	}
	ifi, err := net.InterfaceByName(l.name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", l.name, err)
	}
	all, err := ifi.Addrs()
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", l.name, err)
	}
	l.prefixes = nil
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			l.prefixes = append(l.prefixes, p)
		}
	}
	l.known = time.Now()
	return l.prefixes, nil
}

// send delivers an answer as RFC 2131, section 4.1, has it.
func (l *listener) send(m, reply *dhcpv4.DHCPv4, in arrival) error {
	b := reply.ToBytes()
	to, raw := destination(m, reply, in)
	if !raw {
		if _, err := l.udp.WriteTo(b, nil, net.UDPAddrFromAddrPort(to)); err != nil {
			return fmt.Errorf("send to %s: %w", to, err)
		}
		return nil
	}
	from, _ := netip.AddrFromSlice(reply.ServerIdentifier().To4())
	frame, err := datagram(netip.AddrPortFrom(from, uint16(l.port)), to, b)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for again := false; ; again = true {
		if l.raw == nil {
			ifi, err := net.InterfaceByName(l.name)
			if err == nil {
				l.raw, err = packet.Listen(ifi, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: receiveNothing})
			}
			if err != nil {
				return fmt.Errorf("packet socket on %s: %w", l.name, err)
			}
		}
		_, err := l.raw.WriteTo(frame, &packet.Addr{HardwareAddr: m.ClientHWAddr})
		if err == nil {
			return nil
		}
		l.raw.Close() // the interface may have been made anew
		l.raw = nil
		if again {
			return fmt.Errorf("send to %s: %w", m.ClientHWAddr, err)
		}
	}
}

// destination returns where an answer goes, and whether it must be sent to the
// client's hardware address since nothing answers ARP for its IP address yet.
func destination(m, reply *dhcpv4.DHCPv4, in arrival) (to netip.AddrPort, raw bool) {
	broadcast := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), dhcpv4.ClientPort)
	nak := reply.MessageType() == dhcpv4.MessageTypeNak
	giaddr, ciaddr, yiaddr := addr(m.GatewayIPAddr), addr(m.ClientIPAddr), addr(reply.YourIPAddr)
	switch {
	case in.port == proxyPort && in.from.Addr().IsValid() && !in.from.Addr().IsUnspecified():
		return in.from, false // firmware asks from whatever port it likes
	case giaddr.IsValid():
		return netip.AddrPortFrom(giaddr, dhcpv4.ServerPort), false
	case nak:
		return broadcast, false
	case ciaddr.IsValid() && reply.MessageType() == dhcpv4.MessageTypeAck:
		return netip.AddrPortFrom(ciaddr, dhcpv4.ClientPort), false
	case m.IsBroadcast() || !yiaddr.IsValid() || m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != 6:
		return broadcast, false
	}
	return netip.AddrPortFrom(yiaddr, dhcpv4.ClientPort), true
}
