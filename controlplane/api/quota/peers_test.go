package quota

import (
	"net/netip"
	"testing"
)

func TestPeers(t *testing.T) {
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	p := NewPeers(Bounds{Total: 5, PerAddress: 3, Greeting: 3})
	enter := func(from netip.Addr, want Excess) {
		t.Helper()
		if got := p.Enter(from); got != want {
			t.Fatalf("%s: %v, want %v", from, got, want)
		}
	}
	enter(a, None)
	enter(a, None)
	enter(a, GreetingPerAddress)
	enter(b, None)
	enter(b, Greeting)
	p.Greeted(a)
	p.Greeted(a)
	enter(a, None)
	p.Greeted(a)
	enter(a, PerAddress)
	p.Leave(a)
	enter(a, None)
	p.Greeted(a)
	enter(c, None)
	enter(c, Total)
	p.Greeted(b)
	p.Greeted(c)
	for _, from := range []netip.Addr{a, a, a, b, c} {
		p.Leave(from)
	}
	if p.Open() != 0 || len(p.from) != 0 || len(p.greets) != 0 || p.greeting != 0 {
		t.Errorf("left: %+v", p)
	}
}
