package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func testSubnet(t testing.TB, s *Store, cidr string, pools ...string) Subnet {
	t.Helper()
	sub := Subnet{CIDR: netip.MustParsePrefix(cidr), LeaseSeconds: 600}
	for _, p := range pools {
		r, err := ParseRange(p)
		if err != nil {
			t.Fatal(err)
		}
		sub.Pools = append(sub.Pools, r)
	}
	sub, err := s.AddSubnet(t.Context(), sub)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func wants(sub Subnet, mac string, want string) LeaseRequest {
	r := LeaseRequest{Subnet: sub, Client: "mac:" + mac, MAC: mac, Hostname: "h"}
	if want != "" {
		r.Want = ip(want)
	}
	return r
}

func TestLeaseLife(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	sub := testSubnet(t, s, "192.0.2.0/24", "192.0.2.10-192.0.2.19")
	const mac = "52:54:00:00:00:01"
	offer, err := s.OfferLease(ctx, wants(sub, mac, ""))
	if err != nil || !offer.New || !sub.Gives(offer.IP) {
		t.Fatal(offer, err)
	}
	if _, err := s.LookupLease(ctx, offer.IP); !errors.Is(err, ErrNotFound) {
		t.Errorf("an offer is no lease: %v", err)
	}
	if again, err := s.OfferLease(ctx, wants(sub, mac, "192.0.2.11")); err != nil || again.IP != offer.IP {
		t.Errorf("second offer is %s, %v, the first was %s", again.IP, err, offer.IP)
	}
	if _, err := s.BindLease(ctx, wants(sub, "52:54:00:00:00:02", offer.IP.String()), time.Hour); !errors.Is(err, ErrConflict) {
		t.Errorf("another client's request: %v", err)
	}
	r := wants(sub, mac, offer.IP.String())
	got, err := s.BindLease(ctx, r, time.Hour)
	if err != nil || !got.New {
		t.Fatal(got, err)
	}
	if renewed, err := s.BindLease(ctx, r, 2*time.Hour); err != nil || renewed.New || !renewed.Expires.After(got.Expires) {
		t.Errorf("renewal: %+v, %v", renewed, err)
	}
	l, err := s.LookupLease(ctx, offer.IP)
	if err != nil || l.MAC != mac || !l.Active() || !l.Since.Equal(got.Since) {
		t.Errorf("lookup: %+v, %v", l, err)
	}
	notices, err := s.Notices(ctx, 0, 10)
	if err != nil || len(notices) != 1 || notices[0].Kind != NoticeDHCPBound {
		t.Fatalf("notices: %+v, %v", notices, err)
	}
	var data map[string]string
	if err := json.Unmarshal(notices[0].Data, &data); err != nil || data["ip"] != offer.IP.String() || data["mac"] != mac {
		t.Errorf("notice: %v, %v", data, err)
	}
	if err := s.ReleaseLease(ctx, sub.ID, r.Client, offer.IP); err != nil {
		t.Error(err)
	}
	if back, err := s.OfferLease(ctx, wants(sub, mac, "")); err != nil || back.IP != offer.IP {
		t.Errorf("after its release the client is offered %s, %v", back.IP, err)
	}
	if err := s.DeclineLease(ctx, sub.ID, r.Client, offer.IP); err != nil {
		t.Error(err)
	}
	if other, err := s.OfferLease(ctx, wants(sub, mac, offer.IP.String())); err != nil || other.IP == offer.IP {
		t.Errorf("a declined address is offered again: %s, %v", other.IP, err)
	}
}

func TestEveryAddressOnce(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	sub := testSubnet(t, s, "192.0.2.0/24", "192.0.2.100-192.0.2.149", "192.0.2.200-192.0.2.249")
	var mu sync.Mutex
	seen := map[netip.Addr]string{}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			r := wants(sub, fmt.Sprintf("52:54:00:00:01:%02x", i), "")
			offer, err := s.OfferLease(ctx, r)
			if err != nil {
				t.Error(i, err)
				return
			}
			r.Want = offer.IP
			if _, err := s.BindLease(ctx, r, time.Hour); err != nil {
				t.Error(i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if who := seen[offer.IP]; who != "" {
				t.Errorf("%s for %s and %s", offer.IP, who, r.Client)
			}
			seen[offer.IP] = r.Client
		})
	}
	wg.Wait()
	if _, err := s.OfferLease(ctx, wants(sub, "52:54:00:00:02:00", "")); !errors.Is(err, ErrNoAddress) {
		t.Errorf("the 101st of 100: %v", err)
	}
	if all, err := s.PeekLeases(ctx); err != nil || len(all) != 100 {
		t.Errorf("%d leases, %v", len(all), err)
	}
}

func TestLongestFreeFirst(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	sub := testSubnet(t, s, "192.0.2.0/24", "192.0.2.10-192.0.2.12")
	for i := range 3 {
		a := fmt.Sprintf("192.0.2.1%d", i)
		if _, err := s.BindLease(ctx, wants(sub, fmt.Sprintf("52:54:00:00:00:0%d", i), a), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{1, 2, 0} { // released in this order
		if err := s.ReleaseLease(ctx, sub.ID, fmt.Sprintf("mac:52:54:00:00:00:0%d", n), ip(fmt.Sprintf("192.0.2.1%d", n))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Millisecond)
	}
	for i, want := range []string{"192.0.2.11", "192.0.2.12", "192.0.2.10"} {
		got, err := s.OfferLease(ctx, wants(sub, fmt.Sprintf("52:54:00:00:09:0%d", i), ""))
		if err != nil || got.IP != ip(want) {
			t.Errorf("offer %d: %s, %v, want %s", i, got.IP, err, want)
		}
	}
}

func TestPins(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	sub := testSubnet(t, s, "192.0.2.0/24", "192.0.2.10-192.0.2.13")
	const mac = "52:54:00:00:00:01"
	if err := s.PinMAC(ctx, mac); !errors.Is(err, ErrNotFound) {
		t.Errorf("pin without a lease: %v", err)
	}
	bind := func(mac, a string) error {
		_, err := s.BindLease(ctx, wants(sub, mac, a), time.Hour)
		return err
	}
	if err := bind(mac, "192.0.2.10"); err != nil {
		t.Fatal(err)
	}
	if err := s.PinMAC(ctx, "52:54:00:00:00:01"); err != nil {
		t.Fatal(err)
	}
	if err := s.PinIP(ctx, ip("192.0.2.11")); err != nil { // nobody's
		t.Fatal(err)
	}
	if n, err := s.RemoveLeaseByMAC(ctx, mac); err != nil || n != 1 {
		t.Error(n, err)
	}
	for i := range 2 { // the other two of the pool
		other := fmt.Sprintf("52:54:00:00:00:1%d", i)
		got, err := s.OfferLease(ctx, wants(sub, other, "192.0.2.10"))
		if err != nil || got.IP == ip("192.0.2.10") || got.IP == ip("192.0.2.11") {
			t.Errorf("pinned address for another: %s, %v", got.IP, err)
		}
		if err := bind(other, got.IP.String()); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.OfferLease(ctx, wants(sub, "52:54:00:00:00:20", "")); !errors.Is(err, ErrNoAddress) {
		t.Errorf("a pinned address is given: %v", err)
	}
	if got, err := s.OfferLease(ctx, wants(sub, mac, "")); err != nil || got.IP != ip("192.0.2.10") {
		t.Errorf("the pinned client gets %s, %v", got.IP, err)
	}
	if n, err := s.UnpinIP(ctx, ip("192.0.2.11")); err != nil || n != 1 {
		t.Error(n, err)
	}
	if got, err := s.OfferLease(ctx, wants(sub, "52:54:00:00:00:20", "")); err != nil || got.IP != ip("192.0.2.11") {
		t.Errorf("after unpin: %s, %v", got.IP, err)
	}
	// A reservation outside the pools, and one that moves a client.
	if _, err := s.Reserve(ctx, Reservation{IP: ip("192.0.2.200"), MAC: "52-54-00-00-00-01", Hostname: "web1"}); err != nil {
		t.Fatal(err)
	}
	if err := bind(mac, "192.0.2.10"); !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound) {
		t.Errorf("the client keeps its former address: %v", err)
	}
	got, err := s.OfferLease(ctx, wants(sub, mac, "192.0.2.10"))
	if err != nil || got.IP != ip("192.0.2.200") || got.ReservedName != "web1" {
		t.Errorf("reserved: %+v, %v", got, err)
	}
	if _, err := s.Reserve(ctx, Reservation{IP: ip("198.51.100.1"), MAC: mac}); !errors.Is(err, ErrNotFound) {
		t.Errorf("reservation in no subnet: %v", err)
	}
	for a, want := range map[string]bool{"192.0.2.10": true, "192.0.2.14": false, "198.51.100.1": false} {
		if in, err := s.IPInRange(ctx, ip(a)); err != nil || in != want {
			t.Errorf("IPInRange(%s) is %v, %v", a, in, err)
		}
	}
}

// Offers to clients that never come back do not keep others out for long, and
// their number is bounded by the pool.
func TestStarvation(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	sub := testSubnet(t, s, "10.0.0.0/16", "10.0.1.0-10.0.1.39")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := s.OfferLease(ctx, wants(sub, fmt.Sprintf("02:00:00:00:00:%02x", i), "")); err != nil && !errors.Is(err, ErrNoAddress) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all, err := s.ListLeases(ctx, sub.ID, "", netip.Addr{}, MaxPage)
	if err != nil || len(all) != 40 {
		t.Errorf("%d rows, %v", len(all), err)
	}
	err = s.update(ctx, func(t *tx) error { // some seconds later
		_, err := t.Exec(`UPDATE leases SET expires = expires - 4000`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.OfferLease(ctx, wants(sub, "52:54:00:00:00:01", "")); err != nil {
		t.Errorf("an honest client: %v", err)
	}
}

func TestSubnetIsChecked(t *testing.T) {
	ranges := func(texts ...string) (l []Range) {
		for _, text := range texts {
			r, err := ParseRange(text)
			if err != nil {
				t.Fatal(err)
			}
			l = append(l, r)
		}
		return l
	}
	good := netip.MustParsePrefix("192.0.2.0/24")
	for name, sub := range map[string]Subnet{
		"no network":          {},
		"host bits":           {CIDR: netip.MustParsePrefix("192.0.2.1/24")},
		"too small":           {CIDR: netip.MustParsePrefix("192.0.2.0/31")},
		"too large":           {CIDR: netip.MustParsePrefix("0.0.0.0/0")},
		"pool elsewhere":      {CIDR: good, Pools: ranges("198.51.100.1-198.51.100.2")},
		"pool half elsewhere": {CIDR: good, Pools: ranges("192.0.2.1-192.0.3.2")},
		"overlapping pools":   {CIDR: good, Pools: ranges("192.0.2.1-192.0.2.9", "192.0.2.9-192.0.2.12")},
		"huge pool":           {CIDR: netip.MustParsePrefix("10.0.0.0/8"), Pools: ranges("10.0.0.1-10.1.0.3")},
		"gateway elsewhere":   {CIDR: good, Gateway: ip("198.51.100.1")},
		"short lease":         {CIDR: good, LeaseSeconds: 1},
		"overflowing lease":   {CIDR: good, LeaseSeconds: 1 << 62},
		"domain":              {CIDR: good, Domain: "a b"},
		"boot file":           {CIDR: good, BootFiles: map[string]string{"efi64": "a b"}},
		"architecture":        {CIDR: good, BootFiles: map[string]string{"z80": "a"}},
		"IPv6 name server":    {CIDR: good, DNS: []netip.Addr{ip("2001:db8::1")}},
	} {
		if err := sub.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	s := newStore(t)
	sub := testSubnet(t, s, "192.0.2.0/24", "192.0.2.0-192.0.2.255")
	sub.Gateway, sub.Exclude = ip("192.0.2.1"), ranges("192.0.2.10-192.0.2.20")
	if got, err := s.SetSubnet(t.Context(), sub); err != nil || got.pool().size() != 256-2-1-11 {
		t.Errorf("pool of %d, %v", got.pool().size(), err)
	}
	if _, err := s.AddSubnet(t.Context(), Subnet{CIDR: netip.MustParsePrefix("192.0.2.128/25")}); !errors.Is(err, ErrConflict) {
		t.Errorf("overlapping subnet: %v", err)
	}
	if got, err := s.Subnet(context.Background(), "192.0.2.0/24"); err != nil || got.Gateway != sub.Gateway {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.RemoveSubnet(t.Context(), sub.ID[:8], false); err != nil {
		t.Error(err)
	}
}

func TestPoolOfIPv6(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	sub := testSubnet(t, s, "2001:db8::/64", "2001:db8::1000-2001:db8::ffff:ffff")
	for i := range 50 {
		r := LeaseRequest{Subnet: sub, Client: fmt.Sprintf("duid:00%02x/1", i), ID: fmt.Sprintf("00%02x", i)}
		offer, err := s.OfferLease(ctx, r)
		if err != nil || !sub.Gives(offer.IP) {
			t.Fatal(offer, err)
		}
	}
	if n := (pool{{ip("2001:db8::"), ip("2001:db8:0:1::")}}).size(); n < 1<<62 {
		t.Error("size of a range beyond 64 bits:", n)
	}
}
