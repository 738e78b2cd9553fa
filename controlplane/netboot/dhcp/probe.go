package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

const (
	probeTime  = 500 * time.Millisecond
	arpLength  = 28
	arpRequest = 1
	arpReply   = 2
)

// arpProbe reports whether a host on an interface has the address a. It asks without
// an address of its own, so that it changes nobody's ARP table (RFC 5227).
func arpProbe(ctx context.Context, iface string, a netip.Addr) (bool, error) {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return false, fmt.Errorf("probe %s: %w", a, err)
	}
	if len(ifi.HardwareAddr) != 6 {
		return false, nil // not Ethernet
	}
	c, err := packet.Listen(ifi, packet.Datagram, unix.ETH_P_ARP, nil)
	if err != nil {
		return false, fmt.Errorf("probe %s: %w", a, err)
	}
	defer c.Close()
	until := time.Now().Add(probeTime)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	if err := c.SetDeadline(until); err != nil {
		return false, fmt.Errorf("probe %s: %w", a, err)
	}
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	if _, err := c.WriteTo(arpQuestion(ifi.HardwareAddr, a), &packet.Addr{HardwareAddr: broadcast}); err != nil {
		return false, fmt.Errorf("probe %s: %w", a, err)
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("probe %s: %w", a, err)
		}
		if arpAnswers(buf[:n], a) {
			return true, nil
		}
	}
}

// arpQuestion is an ARP request for an address (RFC 826).
func arpQuestion(from net.HardwareAddr, a netip.Addr) []byte {
	b := make([]byte, arpLength)
	binary.BigEndian.PutUint16(b, 1) // Ethernet
	binary.BigEndian.PutUint16(b[2:], unix.ETH_P_IP)
	b[4], b[5] = 6, 4
	binary.BigEndian.PutUint16(b[6:], arpRequest)
	copy(b[8:], from)
	target := a.As4()
	copy(b[24:], target[:])
	return b
}

// arpAnswers reports whether b says that a host has the address.
func arpAnswers(b []byte, a netip.Addr) bool {
	return len(b) >= arpLength && binary.BigEndian.Uint16(b) == 1 && b[4] == 6 && b[5] == 4 &&
		binary.BigEndian.Uint16(b[6:]) == arpReply && netip.AddrFrom4([4]byte(b[14:18])) == a
}
