package dhcp6

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/controlplane/netboot/bootfile"
	"github.com/teeth-metal/teeth/controlplane/store"
)

var (
	mac   = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	duid  = &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}
	ours  = &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}
	other = &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 8}}
	local = arrival{iface: "eth9", duid: ours, prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")}}
	iaid  = [4]byte{1, 2, 3, 4}
)

func server(t testing.TB, subnet bool) *Server {
	t.Helper()
	db, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if subnet {
		for _, sub := range []store.Subnet{
			{CIDR: netip.MustParsePrefix("2001:db8::/64"), Pools: []store.Range{{First: netip.MustParseAddr("2001:db8::1000"), Last: netip.MustParseAddr("2001:db8::1fff")}},
				DNS: []netip.Addr{netip.MustParseAddr("2001:db8::53")}, Domain: "example.com", LeaseSeconds: 3600},
			{CIDR: netip.MustParsePrefix("2001:db8:1::/64"), Pools: []store.Range{{First: netip.MustParseAddr("2001:db8:1::1000"), Last: netip.MustParseAddr("2001:db8:1::1000")}}},
		} {
			if _, err := db.AddSubnet(context.Background(), sub); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &Server{
		Config: Config{Store: db, BootPort: "8082", TFTP: true, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
			Files: bootfile.Files{Has: func(n string) bool { return slices.Contains([]string{"undionly.kpxe", "ipxe.efi"}, n) }}},
		quiet: rate.NewLimiter(rate.Inf, 1),
	}
}

// message makes a client's message, by way of its bytes.
func message(t testing.TB, kind dhcpv6.MessageType, more ...dhcpv6.Modifier) *dhcpv6.Message {
	t.Helper()
	m, err := dhcpv6.NewMessage(append([]dhcpv6.Modifier{dhcpv6.WithClientID(duid)}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType = kind
	back, err := dhcpv6.FromBytes(m.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	return back.(*dhcpv6.Message)
}

func ask(t testing.TB, s *Server, in arrival, m *dhcpv6.Message, want dhcpv6.MessageType) *dhcpv6.Message {
	t.Helper()
	reply := s.handle(t.Context(), m, in)
	if want == dhcpv6.MessageTypeNone {
		if reply != nil {
			t.Fatalf("%s is answered:\n%s", m.Type(), reply.Summary())
		}
		return nil
	}
	got, ok := reply.(*dhcpv6.Message)
	if !ok || got.Type() != want || got.TransactionID != m.TransactionID {
		t.Fatalf("%s is answered with %v, want %s", m.Type(), reply, want)
	}
	return got
}

func ia(addrs ...string) dhcpv6.Modifier {
	o := &dhcpv6.OptIANA{IaId: iaid}
	for _, a := range addrs {
		o.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a)})
	}
	return dhcpv6.WithOption(o)
}

func addressOf(m *dhcpv6.Message) netip.Addr {
	if o := m.Options.OneIANA(); o != nil {
		if a := o.Options.OneAddress(); a != nil && a.ValidLifetime > 0 {
			ip, _ := netip.AddrFromSlice(a.IPv6Addr)
			return ip
		}
	}
	return netip.Addr{}
}

func firmware(class string, arch iana.Arch) dhcpv6.Modifier {
	return func(m dhcpv6.DHCPv6) {
		m.AddOption(dhcpv6.OptClientArchType(arch))
		dhcpv6.WithRequestedOptions(dhcpv6.OptionBootfileURL, dhcpv6.OptionBootfileParam)(m)
		if class != "" {
			m.AddOption(&dhcpv6.OptVendorClass{EnterpriseNumber: intel, Data: [][]byte{[]byte(class)}})
		}
	}
}

func TestAddresses(t *testing.T) {
	s := server(t, true)
	const advertise, reply, none = dhcpv6.MessageTypeAdvertise, dhcpv6.MessageTypeReply, dhcpv6.MessageTypeNone
	sid := dhcpv6.WithServerID(ours)
	adv := ask(t, s, local, message(t, dhcpv6.MessageTypeSolicit, ia()), advertise)
	ip := addressOf(adv)
	if !netip.MustParsePrefix("2001:db8::1000/116").Contains(ip) || adv.Options.DNS()[0].String() != "2001:db8::53" {
		t.Fatalf("advertise:\n%s", adv.Summary())
	}
	if got := addressOf(ask(t, s, local, message(t, dhcpv6.MessageTypeRequest, ia(ip.String()), sid), reply)); got != ip {
		t.Errorf("requested %s, got %s", ip, got)
	}
	l, err := s.Store.LookupLease(t.Context(), ip)
	if err != nil || l.MAC != mac.String() {
		t.Errorf("lease: %+v, %v", l, err)
	}
	if got := addressOf(ask(t, s, local, message(t, dhcpv6.MessageTypeRenew, ia(ip.String()), sid), reply)); got != ip {
		t.Errorf("renewal of %s: %s", ip, got)
	}
	if got := addressOf(ask(t, s, local, message(t, dhcpv6.MessageTypeRebind, ia(ip.String())), reply)); got != ip {
		t.Errorf("rebinding of %s: %s", ip, got)
	}
	if got := addressOf(ask(t, s, local, message(t, dhcpv6.MessageTypeSolicit, ia(), dhcpv6.WithRapidCommit), reply)); got != ip {
		t.Errorf("rapid commit: %s, had %s", got, ip)
	}
	for name, c := range map[string]struct {
		m    *dhcpv6.Message
		want dhcpv6.MessageType
		code iana.StatusCode
	}{
		"confirm":                     {message(t, dhcpv6.MessageTypeConfirm, ia(ip.String())), reply, iana.StatusSuccess},
		"confirm elsewhere":           {message(t, dhcpv6.MessageTypeConfirm, ia("2001:db8:7::1")), reply, iana.StatusNotOnLink},
		"confirm of nothing":          {message(t, dhcpv6.MessageTypeConfirm, ia()), none, 0},
		"request to another server":   {message(t, dhcpv6.MessageTypeRequest, ia(ip.String()), dhcpv6.WithServerID(other)), none, 0},
		"request to no server":        {message(t, dhcpv6.MessageTypeRequest, ia(ip.String())), none, 0},
		"solicit with a server":       {message(t, dhcpv6.MessageTypeSolicit, ia(), sid), none, 0},
		"rebind of a foreign address": {message(t, dhcpv6.MessageTypeRebind, ia("2001:db8::5")), none, 0},
		"inform with an address":      {message(t, dhcpv6.MessageTypeInformationRequest, ia()), none, 0},
		"a server's message":          {message(t, dhcpv6.MessageTypeAdvertise, ia(), sid), none, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if m := ask(t, s, local, c.m, c.want); m != nil && (m.Options.Status() == nil || m.Options.Status().StatusCode != c.code) {
				t.Errorf("status: %v", m.Options.Status())
			}
		})
	}
	if m := ask(t, s, local, message(t, dhcpv6.MessageTypeRenew, ia("2001:db8::5"), sid), reply); m.Options.OneIANA().Options.Status().StatusCode != iana.StatusNoBinding {
		t.Errorf("renewal of an address that we never gave:\n%s", m.Summary())
	}
	if m := ask(t, s, local, message(t, dhcpv6.MessageTypeRebind, ia("2001:db8:7::5")), reply); m.Options.OneIANA().Options.OneAddress().ValidLifetime != 0 {
		t.Errorf("rebinding after a move:\n%s", m.Summary())
	}
	ask(t, s, local, message(t, dhcpv6.MessageTypeRelease, ia(ip.String()), sid), reply)
	if _, err := s.Store.LookupLease(t.Context(), ip); err == nil {
		t.Error("a released lease is in use")
	}
}

func TestRelayed(t *testing.T) {
	s := server(t, true)
	in := message(t, dhcpv6.MessageTypeSolicit, ia())
	near, err := dhcpv6.EncapsulateRelay(in, dhcpv6.MessageTypeRelayForward, net.ParseIP("2001:db8:1::1"), net.ParseIP("fe80::1"))
	if err != nil {
		t.Fatal(err)
	}
	near.AddOption(dhcpv6.OptInterfaceID([]byte("port 7")))
	far, err := dhcpv6.EncapsulateRelay(near, dhcpv6.MessageTypeRelayForward, net.IPv6unspecified, net.ParseIP("fe80::2"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := dhcpv6.FromBytes(far.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	reply, ok := s.handle(t.Context(), b, local).(*dhcpv6.RelayMessage)
	if !ok || reply.Type() != dhcpv6.MessageTypeRelayReply {
		t.Fatalf("answer: %v", reply)
	}
	inner, err := reply.GetInnerMessage()
	if err != nil || addressOf(inner) != netip.MustParseAddr("2001:db8:1::1000") {
		t.Errorf("answer: %v, %v", inner, err)
	}
	if back := reply.Options.RelayMessage().(*dhcpv6.RelayMessage); string(back.Options.InterfaceID()) != "port 7" {
		t.Errorf("interface id: %q", back.Options.InterfaceID())
	}
	for range maxRelays {
		if far, err = dhcpv6.EncapsulateRelay(far, dhcpv6.MessageTypeRelayForward, net.IPv6unspecified, net.ParseIP("fe80::2")); err != nil {
			t.Fatal(err)
		}
	}
	if reply := s.handle(t.Context(), far, local); reply != nil {
		t.Error("so many relay agents are answered")
	}
}

func TestBootFiles(t *testing.T) {
	with, without := server(t, true), server(t, false)
	ipxe := dhcpv6.WithUserClass([]byte("iPXE"))
	for name, c := range map[string]struct {
		more  []dhcpv6.Modifier
		url   string
		class string
	}{
		"UEFI HTTP":        {[]dhcpv6.Modifier{firmware("HTTPClient:Arch:00016:UNDI:003001", iana.EFI_X86_64_HTTP)}, "http://[2001:db8::1]:8082/boot/ipxe.efi", "HTTPClient"},
		"UEFI PXE":         {[]dhcpv6.Modifier{firmware("PXEClient:Arch:00007:UNDI:003016", iana.EFI_X86_64)}, "tftp://[2001:db8::1]/ipxe.efi", "PXEClient"},
		"iPXE":             {[]dhcpv6.Modifier{firmware("", iana.EFI_X86_64), ipxe}, "http://[2001:db8::1]:8082/boot/ipxe", ""},
		"arm64":            {[]dhcpv6.Modifier{firmware("HTTPClient", iana.EFI_ARM64_HTTP)}, "", ""},
		"installed system": {nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			check := func(m *dhcpv6.Message) {
				t.Helper()
				class := ""
				if v := m.Options.VendorClass(intel); len(v) > 0 {
					class = string(v[0])
				}
				if m.Options.BootFileURL() != c.url || class != c.class {
					t.Errorf("URL %q, class %q, want %q, %q", m.Options.BootFileURL(), class, c.url, c.class)
				}
			}
			check(ask(t, with, local, message(t, dhcpv6.MessageTypeSolicit, append(c.more, ia())...), dhcpv6.MessageTypeAdvertise))
			inform := ask(t, with, local, message(t, dhcpv6.MessageTypeInformationRequest, c.more...), dhcpv6.MessageTypeReply)
			check(inform)
			if inform.Options.OneIANA() != nil || len(inform.Options.DNS()) != 1 {
				t.Errorf("answer:\n%s", inform.Summary())
			}
			// Beside a foreign server.
			kind := [2]dhcpv6.MessageType{dhcpv6.MessageTypeAdvertise, dhcpv6.MessageTypeReply}
			if c.url == "" {
				kind = [2]dhcpv6.MessageType{}
			}
			if m := ask(t, without, local, message(t, dhcpv6.MessageTypeSolicit, append(c.more, ia())...), kind[0]); m != nil {
				if check(m); m.Options.OneIANA() != nil {
					t.Errorf("an address where there is no subnet:\n%s", m.Summary())
				}
			}
			if m := ask(t, without, local, message(t, dhcpv6.MessageTypeInformationRequest, c.more...), kind[1]); m != nil {
				check(m)
			}
			ask(t, without, local, message(t, dhcpv6.MessageTypeRequest, append(c.more, ia(), dhcpv6.WithServerID(ours))...), dhcpv6.MessageTypeNone)
		})
	}
}

func TestPoolIsEmpty(t *testing.T) {
	s := server(t, true)
	routed := arrival{iface: "eth9", duid: ours, prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::1/64")}}
	ask(t, s, routed, message(t, dhcpv6.MessageTypeSolicit, ia(), dhcpv6.WithRapidCommit), dhcpv6.MessageTypeReply)
	adv := ask(t, s, routed, message(t, dhcpv6.MessageTypeSolicit, ia(), dhcpv6.WithClientID(other)), dhcpv6.MessageTypeAdvertise)
	if adv.Options.Status() == nil || adv.Options.Status().StatusCode != iana.StatusNoAddrsAvail || addressOf(adv).IsValid() {
		t.Errorf("advertise:\n%s", adv.Summary())
	}
}

// Whatever comes, the answer is one that a client can read.
func FuzzHandle(f *testing.F) {
	s := server(f, true)
	solicit := message(f, dhcpv6.MessageTypeSolicit, ia("2001:db8::1234"), firmware("HTTPClient:Arch:00016", iana.EFI_X86_64_HTTP))
	relayed, err := dhcpv6.EncapsulateRelay(solicit, dhcpv6.MessageTypeRelayForward, net.ParseIP("2001:db8:1::1"), net.ParseIP("fe80::1"))
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range []dhcpv6.DHCPv6{solicit, relayed,
		message(f, dhcpv6.MessageTypeRequest, ia("2001:db8::1234"), dhcpv6.WithServerID(ours)),
		message(f, dhcpv6.MessageTypeDecline, ia("2001:db8::1234"), dhcpv6.WithServerID(ours)),
		message(f, dhcpv6.MessageTypeInformationRequest, firmware("", iana.EFI_X86_64), dhcpv6.WithUserClass([]byte("iPXE"))),
	} {
		f.Add(m.ToBytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv6.FromBytes(b)
		if err != nil {
			return
		}
		if reply := s.handle(context.Background(), m, local); reply != nil {
			if _, err := dhcpv6.FromBytes(reply.ToBytes()); err != nil {
				t.Fatalf("answer: %v", err)
			}
		}
	})
}
