package dhcp

import (
	"bytes"
	"net/netip"
	"testing"

	"golang.org/x/net/ipv4"
)

func TestDatagram(t *testing.T) {
	from, to := netip.MustParseAddrPort("192.0.2.1:67"), netip.MustParseAddrPort("192.0.2.100:68")
	for _, payload := range []string{"", "odd", "even", string(bytes.Repeat([]byte{0xff}, 1001))} {
		b, err := datagram(from, to, []byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		h, err := ipv4.ParseHeader(b)
		if err != nil || h.TotalLen != len(b) || h.Src.String() != "192.0.2.1" || h.Dst.String() != "192.0.2.100" || h.Protocol != 17 {
			t.Fatalf("%+v, %v", h, err)
		}
		if checksum(0, b[:ipHeader]) != 0 {
			t.Error("IP checksum")
		}
		udp := b[ipHeader:]
		if sum := checksum(17+uint32(len(udp)), append(bytes.Clone(b[12:20]), udp...)); sum != 0 {
			t.Errorf("UDP checksum of %q: %x", payload, sum)
		}
	}
	if _, err := datagram(from, netip.MustParseAddrPort("[2001:db8::1]:68"), nil); err == nil {
		t.Error("IPv6 accepted")
	}
	if _, err := datagram(from, to, make([]byte, 1<<16)); err == nil {
		t.Error("too long a payload accepted")
	}
}

func TestARP(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.7")
	q := arpQuestion(mac1, a)
	if arpAnswers(q, a) {
		t.Error("a question is taken for the answer")
	}
	q[7] = arpReply
	copy(q[14:18], []byte{192, 0, 2, 7})
	if !arpAnswers(q, a) || arpAnswers(q, netip.MustParseAddr("192.0.2.8")) || arpAnswers(q[:20], a) {
		t.Error("answers are not told from others")
	}
}
