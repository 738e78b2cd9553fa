package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestCatalogs(t *testing.T) {
	s := newStore(t)
	a, b := connect(t, s, "52:54:00:00:00:01"), connect(t, s, "52:54:00:00:00:02")
	save := func(chassis, source, data string) {
		t.Helper()
		if err := s.SaveCatalogs(t.Context(), chassis, []Catalog{{Source: source, Format: CatalogJSON, Data: json.RawMessage(data), Task: "task"}}); err != nil {
			t.Fatal(err)
		}
	}
	save(a.ID, "lshw", `{"a":1}`)
	save(a.ID, "lshw", `{"ü":"\u0000"}`) // a NUL, which PostgreSQL has in no text but escaped
	save(a.ID, "dmi", `"x"`)
	save(b.ID, "lshw", `{}`)
	list, err := s.Catalogs(t.Context(), a.ID)
	if err != nil || len(list) != 2 || list[0].Source != "dmi" || list[1].Size != int64(len(`{"ü":"\u0000"}`)) || list[1].Data != nil || time.Since(list[1].Created) > time.Minute {
		t.Errorf("%+v %v", list, err)
	}
	if c, err := s.Catalog(t.Context(), a.ID, "lshw"); err != nil || string(c.Data) != `{"ü":"\u0000"}` || c.Size != list[1].Size {
		t.Errorf("%+v %v", c, err)
	}
	if _, err := s.Catalog(t.Context(), b.ID, "dmi"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	var many []Catalog
	for i := range maxCatalogs {
		many = append(many, Catalog{Source: fmt.Sprint(i), Format: CatalogRaw, Data: json.RawMessage(`""`)})
	}
	if err := s.SaveCatalogs(t.Context(), a.ID, many); !errors.Is(err, ErrConflict) {
		t.Errorf("catalogs of %d sources: %v", maxCatalogs+2, err)
	}
	if list, err := s.Catalogs(t.Context(), a.ID); err != nil || len(list) != 2 {
		t.Errorf("a part of what is refused was kept: %d, %v", len(list), err)
	}
	save(b.ID, "large", `"`+strings.Repeat("x", 5<<20)+`"`)
	if err := s.Forget(t.Context(), a.ID, "test", true); err != nil {
		t.Error(err)
	}
	if list, err := s.Catalogs(t.Context(), a.ID); err != nil || len(list) != 0 {
		t.Errorf("of a forgotten chassis: %v %v", list, err)
	}
}

// An address opens something only while its lease is good, and for one chassis.
func TestChassisLeasing(t *testing.T) {
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	r, err := ParseRange("10.0.0.5-10.0.0.50")
	if err != nil {
		t.Fatal(err)
	}
	sub, err := s.AddSubnet(t.Context(), Subnet{CIDR: netip.MustParsePrefix("10.0.0.0/24"), Pools: []Range{r}})
	if err != nil {
		t.Fatal(err)
	}
	ip := netip.MustParseAddr("10.0.0.7")
	in := LeaseRequest{Subnet: sub, Client: "mac:52:54:00:00:00:01", MAC: "52:54:00:00:00:01", Want: ip}
	is := func(when, want string) {
		t.Helper()
		id, err := s.ChassisLeasing(t.Context(), netip.MustParseAddr("::ffff:10.0.0.7"))
		if id != want && want != "" || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %q %v", when, id, err)
		}
	}
	is("without a lease", "")
	if _, err := s.OfferLease(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	is("offered", "")
	if _, err := s.BindLease(t.Context(), in, time.Second); err != nil {
		t.Fatal(err)
	}
	is("bound", c.ID)
	time.Sleep(1100 * time.Millisecond)
	is("over", "")
	if _, err := s.BindLease(t.Context(), in, time.Hour); err != nil {
		t.Fatal(err)
	}
	is("renewed", c.ID)
	if err := s.ReleaseLease(t.Context(), sub.ID, in.Client, ip); err != nil {
		t.Fatal(err)
	}
	is("released", "")
}
