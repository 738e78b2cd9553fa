package store

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// expire lets all leases run out.
func expire(t *testing.T, s *Store) {
	t.Helper()
	if err := s.update(t.Context(), func(t *tx) error {
		_, err := t.Exec(`UPDATE leases SET expires = ? WHERE expires > ?`, t.now, t.now)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func bind(t *testing.T, s *Store, r LeaseRequest) {
	t.Helper()
	if _, err := s.BindLease(t.Context(), r, time.Hour); err != nil {
		t.Error(err)
	}
}

// Hosts with reservations that are off for long, more than are looked at in one go,
// do not hide the addresses that are free.
func TestReservedAddressesHideNoFreeOnes(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	sub := testSubnet(t, s, "10.0.0.0/16", "10.0.0.1-10.0.0.4")
	var wg sync.WaitGroup
	for i := range maxTries + 10 {
		wg.Go(func() {
			mac, a := fmt.Sprintf("52:54:00:00:01:%02x", i), fmt.Sprintf("10.0.9.%d", i)
			if _, err := s.Reserve(ctx, Reservation{IP: ip(a), MAC: mac}); err != nil {
				t.Error(err)
			}
			bind(t, s, wants(sub, mac, a))
		})
	}
	wg.Wait()
	expire(t, s)
	time.Sleep(3 * time.Millisecond)
	for i := range 4 {
		bind(t, s, wants(sub, fmt.Sprintf("52:54:00:00:02:%02x", i), fmt.Sprintf("10.0.0.%d", i+1)))
	}
	if _, err := s.OfferLease(ctx, wants(sub, "52:54:00:00:03:00", "")); !errors.Is(err, ErrNoAddress) {
		t.Errorf("with all in use: %v", err)
	}
	expire(t, s)
	if g, err := s.OfferLease(ctx, wants(sub, "52:54:00:00:03:00", "")); err != nil || !sub.Gives(g.IP) {
		t.Errorf("with four free: %s, %v", g.IP, err)
	}
}

// One client that declines whatever it is given keeps others out for a minute.
func TestDeclinedAddressesComeBack(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	sub := testSubnet(t, s, "192.0.2.0/24", "192.0.2.10-192.0.2.13")
	hostile, honest := wants(sub, "02:00:00:00:00:01", ""), wants(sub, "52:54:00:00:00:01", "")
	for range 4 {
		g, err := s.OfferLease(ctx, hostile)
		if err == nil {
			err = s.DeclineLease(ctx, sub.ID, hostile.Client, g.IP)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.OfferLease(ctx, honest); !errors.Is(err, ErrNoAddress) {
		t.Errorf("at once: %v", err)
	}
	if err := s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`UPDATE leases SET since = since - ?, expires = expires - ?`, declineAgain.Milliseconds(), declineAgain.Milliseconds())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	g, err := s.OfferLease(ctx, honest)
	if err != nil {
		t.Fatalf("a minute later: %v", err)
	}
	honest.Want = g.IP
	bind(t, s, honest)
}

// A pool of IPv6 is as good as without end. The table is not.
func TestLeasesOfLargePoolsAreBounded(t *testing.T) {
	defer func(n int) { maxLeases = n }(maxLeases)
	maxLeases = 20
	s, ctx := newStore(t), t.Context()
	sub := testSubnet(t, s, "2001:db8::/64", "2001:db8::1000-2001:db8::ffff:ffff")
	client := func(i int) LeaseRequest {
		return LeaseRequest{Subnet: sub, Client: fmt.Sprintf("duid:00%02x/1", i), ID: fmt.Sprintf("00%02x", i)}
	}
	for i := range maxLeases {
		r := client(i)
		g, err := s.OfferLease(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		r.Want = g.IP
		bind(t, s, r)
	}
	if _, err := s.OfferLease(ctx, client(100)); !errors.Is(err, ErrNoAddress) {
		t.Errorf("one more: %v", err)
	}
	chosen := client(101)
	chosen.Want = ip("2001:db8::1:2345")
	if _, err := s.OfferLease(ctx, chosen); !errors.Is(err, ErrNoAddress) {
		t.Errorf("one more that knows what it wants: %v", err)
	}
	if _, err := s.BindLease(ctx, chosen, time.Hour); !errors.Is(err, ErrConflict) {
		t.Errorf("one more that says it had it: %v", err)
	}
	expire(t, s)
	if _, err := s.OfferLease(ctx, client(100)); err != nil {
		t.Errorf("with leases that have run out: %v", err)
	}
	var n int
	if err := s.r.QueryRowContext(ctx, `SELECT COUNT(*) FROM leases`).Scan(&n); err != nil || n > maxLeases {
		t.Errorf("%d rows, %v", n, err)
	}
}
