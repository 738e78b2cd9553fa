package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	clientPort = 68
	serverPort = 67
	ipHeader   = 20 // bytes, without options, which we never send
	udpHeader  = 8
	maxPacket  = 1500 // also what we tell the server (option 57)
	protoUDP   = 17
)

// wire carries DHCP messages to a server and back. receive returns
// os.ErrDeadlineExceeded at the deadline.
type wire interface {
	send(msg []byte) error
	receive(buf []byte, deadline time.Time) (int, error)
	interrupt() // ends the receive that waits, if one does
	Close() error
}

// rawWire broadcasts on an interface that has no address yet, with IP and UDP
// headers of our own.
type rawWire struct {
	*os.File
	index int
	from  netip.Addr
}

// openRaw opens a packet socket that sees only UDP to the client port. from is
// the source address of what is sent: zero but when a lease is rebound.
func openRaw(n nic, from netip.Addr) (*rawWire, error) {
	fail := func(what string, err error) (*rawWire, error) {
		return nil, fmt.Errorf("NIC %s: DHCP socket: %s: %w", n.name, what, err)
	}
	// Without a protocol nothing is queued before the filter is in place.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail("open", err)
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},                  // IP protocol
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protoUDP, Jf: 6},   //
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 6},                  // fragment
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 0x3fff, Jt: 4},    //
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},                 // X = header length
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 2},                  // UDP destination
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: clientPort, Jf: 1}, //
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x40000},                          // all of it
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},                                // none
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		unix.Close(fd)
		return fail("attach filter", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: n.index}); err != nil {
		unix.Close(fd)
		return fail("bind", err)
	}
	if !from.IsValid() {
		from = netip.IPv4Unspecified()
	}
	return &rawWire{os.NewFile(uintptr(fd), "dhcp "+n.name), n.index, from}, nil
}

func (w *rawWire) send(msg []byte) error {
	pkt := udpPacket(w.from, netip.AddrFrom4([4]byte{255, 255, 255, 255}), clientPort, serverPort, msg)
	to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: w.index, Halen: 6,
		Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	conn, err := w.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := conn.Write(func(fd uintptr) bool {
		serr = unix.Sendto(int(fd), pkt, 0, to)
		return !errors.Is(serr, unix.EAGAIN)
	}); err != nil {
		return err
	}
	return serr
}

func (w *rawWire) receive(buf []byte, deadline time.Time) (int, error) {
	if err := w.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	pkt := make([]byte, maxPacket)
	for {
		n, err := w.Read(pkt)
		if errors.Is(err, unix.ENETDOWN) { // once, when the link flaps
			continue
		}
		if err != nil {
			return 0, err
		}
		if msg, ok := udpPayload(pkt[:n], clientPort); ok {
			return copy(buf, msg), nil
		}
	}
}

func (w *rawWire) interrupt() { _ = w.SetReadDeadline(time.Unix(1, 0)) }

// udpWire talks to one server from an address that is ours, by way of the
// kernel's routes.
type udpWire struct {
	*net.UDPConn
	server netip.AddrPort
}

func openUDP(ctx context.Context, n nic, local, server netip.Addr) (*udpWire, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		if err := c.Control(func(fd uintptr) {
			serr = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, n.name)
		}); err != nil {
			return err
		}
		return serr
	}}
	c, err := lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(local, clientPort).String())
	if err != nil {
		return nil, fmt.Errorf("NIC %s: DHCP socket: %w", n.name, err)
	}
	return &udpWire{c.(*net.UDPConn), netip.AddrPortFrom(server, serverPort)}, nil
}

func (w *udpWire) send(msg []byte) error {
	_, err := w.WriteToUDPAddrPort(msg, w.server)
	return err
}

func (w *udpWire) receive(buf []byte, deadline time.Time) (int, error) {
	if err := w.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	n, _, err := w.ReadFromUDPAddrPort(buf)
	return n, err
}

func (w *udpWire) interrupt() { _ = w.SetReadDeadline(time.Unix(1, 0)) }

// udpPacket puts IPv4 (RFC 791) and UDP (RFC 768) headers before msg.
func udpPacket(src, dst netip.Addr, sport, dport uint16, msg []byte) []byte {
	be := binary.BigEndian
	p := make([]byte, ipHeader+udpHeader+len(msg))
	s, d := src.As4(), dst.As4()
	p[0] = 4<<4 | ipHeader/4
	p[1] = 0x10 // low delay, as DHCP clients send it
	be.PutUint16(p[2:], uint16(len(p)))
	p[8] = 64 // time to live
	p[9] = protoUDP
	copy(p[12:], s[:])
	copy(p[16:], d[:])
	be.PutUint16(p[10:], ^sum(p[:ipHeader], 0))

	u := p[ipHeader:]
	be.PutUint16(u[0:], sport)
	be.PutUint16(u[2:], dport)
	be.PutUint16(u[4:], uint16(len(u)))
	copy(u[udpHeader:], msg)
	pseudo := make([]byte, 0, 12)
	pseudo = append(append(pseudo, s[:]...), d[:]...)
	pseudo = be.AppendUint16(append(pseudo, 0, protoUDP), uint16(len(u)))
	check := ^sum(u, uint32(sum(pseudo, 0)))
	if check == 0 { // zero would say that there is no checksum
		check = 0xffff
	}
	be.PutUint16(u[6:], check)
	return p
}

// udpPayload returns what an IPv4 packet carries to a UDP port. It does not
// verify the UDP checksum: packets from a neighbour on the same host come with
// one that was left to hardware and never filled in.
func udpPayload(p []byte, port uint16) ([]byte, bool) {
	be := binary.BigEndian
	if len(p) < ipHeader || p[0]>>4 != 4 {
		return nil, false
	}
	header, total := int(p[0]&0xf)*4, int(be.Uint16(p[2:]))
	if header < ipHeader || total < header+udpHeader || total > len(p) {
		return nil, false
	}
	if p[9] != protoUDP || be.Uint16(p[6:])&0x3fff != 0 || sum(p[:header], 0) != 0xffff {
		return nil, false
	}
	u := p[header:total]
	n := int(be.Uint16(u[4:]))
	if be.Uint16(u[2:]) != port || n < udpHeader || n > len(u) {
		return nil, false
	}
	return u[udpHeader:n], true
}

// sum is the ones' complement sum of RFC 1071.
func sum(b []byte, acc uint32) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		acc += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		acc += uint32(b[0]) << 8
	}
	for acc > 0xffff {
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
