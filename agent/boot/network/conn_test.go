package network

import (
	"net"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// script is a packet socket that gives what it was told and keeps what it was
// sent.
type script struct {
	net.PacketConn
	reads []error // nil is a packet
	sent  []byte
}

func (s *script) ReadFrom(b []byte) (int, net.Addr, error) {
	err := s.reads[0]
	s.reads = s.reads[1:]
	if err != nil {
		return 0, nil, &net.OpError{Op: "read", Err: err}
	}
	return copy(b, s.sent), nil, nil
}

func (s *script) WriteTo(b []byte, _ net.Addr) (int, error) {
	s.sent = slices.Clone(b)
	return len(b), nil
}

func TestFilter(t *testing.T) {
	vm, err := bpf.NewVM(dhcpOnly)
	must(t, err)
	s := &script{}
	c := nclient4.NewBroadcastUDPConn(s, &net.UDPAddr{Port: nclient4.ServerPort})
	_, err = c.WriteTo([]byte("hello"), &net.UDPAddr{IP: net.IPv4bcast, Port: nclient4.ClientPort})
	must(t, err)
	change := func(i int, b byte) []byte {
		p := slices.Clone(s.sent)
		p[i] = b
		return p
	}
	options := slices.Insert(change(0, 0x46), ipHeader, 1, 1, 1, 1) // a header of 24 bytes
	tests := []struct {
		name   string
		packet []byte
		want   bool
	}{
		{"to the client", s.sent, true},
		{"padded", append(slices.Clone(s.sent), 0, 0, 0), true},
		{"must not be fragmented", change(6, 0x40), true},
		{"IP options", options, true},
		{"TCP", change(9, unix.IPPROTO_TCP), false},
		{"to the server", change(ipHeader+3, nclient4.ServerPort), false},
		{"first fragment", change(6, 0x20), false},
		{"last fragment", change(7, 1), false},
		{"cut in the UDP header", s.sent[:ipHeader+3], false},
		{"cut in the IP header", s.sent[:9], false},
		{"empty", nil, false},
	}
	for _, tt := range tests {
		n, err := vm.Run(tt.packet)
		if err != nil || (n >= len(tt.packet) && n > 0) != tt.want {
			t.Errorf("%s: %d of %d bytes, %v", tt.name, n, len(tt.packet), err)
		}
	}
}

// A link that goes down is not the end of the exchange, but a NIC that is gone
// is.
func TestSteady(t *testing.T) {
	s := &script{sent: []byte("x"), reads: []error{unix.ENETDOWN, unix.ENETDOWN, nil, unix.ENODEV}}
	b := make([]byte, 8)
	if n, _, err := (steady{s}).ReadFrom(b); n != 1 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, _, err := (steady{s}).ReadFrom(b); err == nil {
		t.Error("ENODEV is lost")
	}
}
