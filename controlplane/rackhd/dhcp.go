package rackhd

import (
	"context"
	"errors"
	"net/netip"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/rackhd"
)

// lease is an entry of the lease table, with the names that RackHD's DHCP service
// had.
type lease struct {
	IP       string `json:"ip"`
	MAC      string `json:"mac"`
	Hostname string `json:"hostname,omitempty"`
	State    string `json:"state"`
	Pinned   bool   `json:"pinned"`
	Start    string `json:"start"`
	Expires  string `json:"expires"`
}

func (s *Service) dhcpMethods() []method {
	ip := func(key string, do func(context.Context, netip.Addr) (any, error)) method {
		return method{"methods." + key, rackhd.TypeIPAddress, func(ctx context.Context, c call) (any, error) {
			var in rackhd.IPAddress
			if err := c.decode(&in); err != nil {
				return nil, err
			}
			a, err := in.Addr()
			if err != nil {
				return nil, err
			}
			return do(ctx, a)
		}}
	}
	mac := func(key string, do func(context.Context, string) (any, error)) method {
		return method{"methods." + key, rackhd.TypeMACAddress, func(ctx context.Context, c call) (any, error) {
			var in rackhd.MACAddress
			if err := c.decode(&in); err != nil {
				return nil, err
			}
			if err := in.Check(); err != nil {
				return nil, err
			}
			return do(ctx, in.Value)
		}}
	}
	// done answers what changes something: with the address it was done for.
	done := func(value string, err error) (any, error) { return rackhd.Result{Value: value}, err }
	db := s.c.Store
	return []method{
		ip("lookupIpLease", func(ctx context.Context, a netip.Addr) (any, error) {
			l, err := db.LookupLease(ctx, a)
			if errors.Is(err, store.ErrNotFound) || err == nil && l.MAC == "" {
				return rackhd.Result{Value: map[string]any{}}, nil
			}
			return rackhd.MACAddress{Value: l.MAC}, err
		}),
		ip("ipInRange", func(ctx context.Context, a netip.Addr) (any, error) {
			in, err := db.IPInRange(ctx, a)
			return rackhd.Result{Value: in}, err
		}),
		{key: "methods.peekLeaseTable", handle: func(ctx context.Context, _ call) (any, error) {
			all, err := db.PeekLeases(ctx)
			list := make([]lease, len(all))
			for i, l := range all {
				list[i] = lease{l.IP.String(), l.MAC, l.Hostname, l.State, l.Pinned, rackhd.Timestamp(l.Since), rackhd.Timestamp(l.Expires)}
			}
			return rackhd.Result{Value: list}, err
		}},
		mac("removeLease", func(ctx context.Context, m string) (any, error) {
			n, err := db.RemoveLeaseByMAC(ctx, m)
			return rackhd.Result{Value: n > 0}, err
		}),
		ip("removeLeaseByIp", func(ctx context.Context, a netip.Addr) (any, error) {
			n, err := db.RemoveLeaseByIP(ctx, a)
			return rackhd.Result{Value: n > 0}, err
		}),
		mac("pinMac", func(ctx context.Context, m string) (any, error) { return done(m, db.PinMAC(ctx, m)) }),
		mac("unpinMac", func(ctx context.Context, m string) (any, error) {
			n, err := db.UnpinMAC(ctx, m)
			return rackhd.Result{Value: n > 0}, err
		}),
		ip("pinIp", func(ctx context.Context, a netip.Addr) (any, error) { return done(a.String(), db.PinIP(ctx, a)) }),
		ip("unpinIp", func(ctx context.Context, a netip.Addr) (any, error) {
			n, err := db.UnpinIP(ctx, a)
			return rackhd.Result{Value: n > 0}, err
		}),
	}
}
