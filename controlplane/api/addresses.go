package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// addressRoutes are about the addresses that DHCP gives.
var addressRoutes = []route{
	{"GET /v1/subnets", (*server).listSubnets},
	{"POST /v1/subnets", (*server).addSubnet},
	{"GET /v1/subnets/{id}", (*server).getSubnet},
	{"PUT /v1/subnets/{id}", (*server).setSubnet},
	{"DELETE /v1/subnets/{id}", (*server).removeSubnet},
	{"GET /v1/leases", (*server).listLeases},
	{"DELETE /v1/leases/{ref}", (*server).removeLease},
	{"GET /v1/reservations", (*server).listReservations},
	{"POST /v1/reservations", (*server).reserve},
	{"DELETE /v1/reservations/{ref}", (*server).unreserve},
}

func (s *server) listSubnets(w http.ResponseWriter, r *http.Request) error {
	items, err := s.Store.Subnets(r.Context())
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, list[store.Subnet]{Items: items})
}

func (s *server) getSubnet(w http.ResponseWriter, r *http.Request) error {
	sub, err := s.Store.Subnet(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, sub)
}

func (s *server) readSubnet(w http.ResponseWriter, r *http.Request) (store.Subnet, error) {
	var in store.Subnet
	if err := read(w, r, &in); err != nil {
		return in, err
	}
	if err := in.Validate(); err != nil {
		return in, &refusal{http.StatusBadRequest, err.Error()}
	}
	return in, nil
}

func (s *server) addSubnet(w http.ResponseWriter, r *http.Request) error {
	in, err := s.readSubnet(w, r)
	if err != nil {
		return err
	}
	sub, err := s.Store.AddSubnet(r.Context(), in)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/subnets/"+sub.ID)
	return write(w, http.StatusCreated, sub)
}

func (s *server) setSubnet(w http.ResponseWriter, r *http.Request) error {
	in, err := s.readSubnet(w, r)
	if err != nil {
		return err
	}
	old, err := s.Store.Subnet(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if in.CIDR != old.CIDR {
		return &refusal{http.StatusBadRequest, fmt.Sprintf("the network %s cannot be changed: remove the subnet and add another", old.CIDR)}
	}
	in.ID, in.Created = old.ID, old.Created
	sub, err := s.Store.SetSubnet(r.Context(), in)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, sub)
}

func (s *server) removeSubnet(w http.ResponseWriter, r *http.Request) error {
	var force bool
	switch r.URL.Query().Get("force") {
	case "", "false":
	case "true":
		force = true
	default:
		return &refusal{http.StatusBadRequest, "force: want true or false"}
	}
	return done(w, s.Store.RemoveSubnet(r.Context(), r.PathValue("id"), force))
}

// afterAddress reads the page parameter of lists that go by address.
func afterAddress(r *http.Request) (netip.Addr, error) {
	text := r.URL.Query().Get("page")
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return a, &refusal{http.StatusBadRequest, "page: want the `next` of the page before"}
	}
	return a, nil
}

func (s *server) listLeases(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	after, err := afterAddress(r)
	if err != nil {
		return err
	}
	subnet, mac := "", ""
	if ref := r.URL.Query().Get("subnet"); ref != "" {
		sub, err := s.Store.Subnet(r.Context(), ref)
		if err != nil {
			return err
		}
		subnet = sub.ID
	}
	if text := r.URL.Query().Get("mac"); text != "" {
		hw, err := net.ParseMAC(text)
		if err != nil {
			return &refusal{http.StatusBadRequest, "mac: want six pairs of hexadecimal digits"}
		}
		mac = hw.String()
	}
	items, err := s.Store.ListLeases(r.Context(), subnet, mac, after, n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, paged(items, n, func(l store.Lease) string { return l.IP.String() }))
}

// byAddressOrMAC removes what a path names by either; both return how many there
// were.
func byAddressOrMAC(w http.ResponseWriter, r *http.Request, what string, byIP func(context.Context, netip.Addr) (int, error),
	byMAC func(context.Context, string) (int, error)) error {
	ref := r.PathValue("ref")
	var n int
	var err error
	if ip, e := netip.ParseAddr(ref); e == nil {
		n, err = byIP(r.Context(), ip)
	} else if hw, e := net.ParseMAC(ref); e == nil {
		n, err = byMAC(r.Context(), hw.String())
	} else {
		return &refusal{http.StatusBadRequest, fmt.Sprintf("%.60q is neither an IP nor a MAC address", ref)}
	}
	if err == nil && n == 0 {
		err = fmt.Errorf("%s of %s: %w", what, ref, store.ErrNotFound)
	}
	return done(w, err)
}

func (s *server) removeLease(w http.ResponseWriter, r *http.Request) error {
	return byAddressOrMAC(w, r, "lease", s.Store.RemoveLeaseByIP, s.Store.RemoveLeaseByMAC)
}

func (s *server) listReservations(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	after, err := afterAddress(r)
	if err != nil {
		return err
	}
	items, err := s.Store.ListReservations(r.Context(), after, n)
	if err != nil {
		return err
	}
	return write(w, http.StatusOK, paged(items, n, func(v store.Reservation) string { return v.IP.String() }))
}

// reserve keeps an address for a client. With one of the two only, the other is as
// the leases are now.
func (s *server) reserve(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		IP       netip.Addr `json:"ip"`
		MAC      string     `json:"mac"`
		ClientID string     `json:"client_id"`
		Hostname string     `json:"hostname"`
	}
	if err := read(w, r, &in); err != nil {
		return err
	}
	whole := in.MAC != "" || in.ClientID != ""
	var err error
	switch {
	case in.IP.IsValid() && (whole || in.Hostname != ""):
		_, err = s.Store.Reserve(r.Context(), store.Reservation{IP: in.IP, MAC: in.MAC, Client: in.ClientID, Hostname: in.Hostname})
	case in.IP.IsValid():
		err = s.Store.PinIP(r.Context(), in.IP)
	case in.MAC != "" && in.ClientID == "" && in.Hostname == "":
		hw, e := net.ParseMAC(in.MAC)
		if e != nil {
			return &refusal{http.StatusBadRequest, "mac: want six pairs of hexadecimal digits"}
		}
		err = s.Store.PinMAC(r.Context(), hw.String())
	default:
		return &refusal{http.StatusBadRequest, "want ip, or mac, or ip with mac or client_id"}
	}
	return done(w, err)
}

func (s *server) unreserve(w http.ResponseWriter, r *http.Request) error {
	return byAddressOrMAC(w, r, "reservation", s.Store.UnpinIP, s.Store.UnpinMAC)
}
