package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	ipHeader   = 20 // bytes, without options
	udpHeader  = 8
	maxMessage = nclient4.MaxMessageSize - ipHeader - udpHeader // what fits into one Ethernet frame
)

// dhcpOnly lets the UDP packets to the client port through. It keeps the flood
// of a busy network off the socket, and an IP packet of no bytes, which would
// be the end of nclient4's receiving; nor does that know of fragments.
var dhcpOnly = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 6},
	bpf.LoadAbsolute{Off: 6, Size: 2}, // more fragments, fragment offset
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 4},
	bpf.LoadMemShift{Off: 0},          // X = length of the IP header
	bpf.LoadIndirect{Off: 2, Size: 2}, // UDP destination port
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nclient4.ClientPort, SkipTrue: 1},
	bpf.RetConstant{Val: 0x40000}, // all of it
	bpf.RetConstant{Val: 0},       // none
}

// listenPacket returns a connection that broadcasts on a NIC which has no
// address yet.
func listenPacket(n nic) (net.PacketConn, error) {
	filter, err := bpf.Assemble(dhcpOnly)
	if err != nil {
		return nil, fmt.Errorf("NIC %s: DHCP socket: %w", n.name, err)
	}
	ifi := &net.Interface{Index: n.index, Name: n.name, HardwareAddr: n.mac}
	c, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("NIC %s: DHCP socket: %w", n.name, err)
	}
	return nclient4.NewBroadcastUDPConn(steady{c}, &net.UDPAddr{Port: nclient4.ClientPort}), nil
}

// steady reads on where a packet socket says, once, that its link went down:
// nclient4 takes the first error for the end.
type steady struct{ net.PacketConn }

func (s steady) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := s.PacketConn.ReadFrom(b)
		if !errors.Is(err, unix.ENETDOWN) {
			return n, from, err
		}
	}
}

// listenUDP returns a connection by way of the kernel's routes and from the
// address of the NIC, which must have one. It hears broadcasts too.
func listenUDP(ctx context.Context, n nic) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		if err := c.Control(func(fd uintptr) {
			serr = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, n.name)
		}); err != nil {
			return err
		}
		return serr
	}}
	c, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf(":%d", nclient4.ClientPort))
	if err != nil {
		return nil, fmt.Errorf("NIC %s: DHCP socket: %w", n.name, err)
	}
	return c, nil
}
