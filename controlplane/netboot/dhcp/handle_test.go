package dhcp

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/controlplane/netboot/bootfile"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const pin = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

var (
	mac1  = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	mac2  = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}
	local = arrival{iface: "eth9", port: 67, prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}
)

func server(t testing.TB, subnets ...store.Subnet) *Server {
	t.Helper()
	db, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if subnets == nil {
		subnets = []store.Subnet{
			{CIDR: netip.MustParsePrefix("192.0.2.0/24"), Pools: pools(t, "192.0.2.100-192.0.2.109"), LeaseSeconds: 3600,
				Gateway: netip.MustParseAddr("192.0.2.254"), DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")},
				NTP: []netip.Addr{netip.MustParseAddr("192.0.2.123")}, Domain: "example.com"},
			{CIDR: netip.MustParsePrefix("198.51.100.0/24"), Pools: pools(t, "198.51.100.100-198.51.100.109"),
				NextServer: netip.MustParseAddr("192.0.2.9"), BootFiles: map[string]string{"arm64": "special.efi"}},
		}
	}
	for _, sub := range subnets {
		if _, err := db.AddSubnet(t.Context(), sub); err != nil {
			t.Fatal(err)
		}
	}
	has := []string{"undionly.kpxe", "ipxe.efi"}
	return &Server{
		Config: Config{
			Store: db, Files: bootfile.Files{Has: func(n string) bool { return slices.Contains(has, n) }},
			BootPort: "8082", TFTP: true, AgentsPort: "8081", CAPin: pin,
			Token: func(_ context.Context, uuid, mac string) (string, error) { return "token-for-" + mac + uuid, nil },
			Log:   slog.New(slog.NewTextHandler(io.Discard, nil)),
		},
		quiet: rate.NewLimiter(rate.Inf, 1),
	}
}

func pools(t testing.TB, texts ...string) (list []store.Range) {
	for _, text := range texts {
		r, err := store.ParseRange(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	return list
}

// message makes a client's message, by way of its bytes.
func message(t testing.TB, mac net.HardwareAddr, kind dhcpv4.MessageType, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(kind),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionRouter, dhcpv4.OptionNTPServers)}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = dhcpv4.FromBytes(m.ToBytes()); err != nil {
		t.Fatal(err)
	}
	return m
}

func option(c dhcpv4.OptionCode, v string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(c, []byte(v)))
}

func requested(a netip.Addr) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice()))
}

func serverID(a string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(a)))
}

func ask(t testing.TB, s *Server, in arrival, m *dhcpv4.DHCPv4, want dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	t.Helper()
	reply := s.handle(t.Context(), m, in)
	if got := typeOf(reply); got != want {
		t.Fatalf("%s is answered with %s, want %s:\n%s", m.MessageType(), got, want, m.Summary())
	}
	return reply
}

func typeOf(m *dhcpv4.DHCPv4) dhcpv4.MessageType {
	if m == nil {
		return dhcpv4.MessageTypeNone
	}
	return m.MessageType()
}

// bind takes a client through DISCOVER and REQUEST.
func bind(t testing.TB, s *Server, in arrival, mac net.HardwareAddr, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	offer := ask(t, s, in, message(t, mac, dhcpv4.MessageTypeDiscover, more...), dhcpv4.MessageTypeOffer)
	return ask(t, s, in, message(t, mac, dhcpv4.MessageTypeRequest, append(more,
		requested(addr(offer.YourIPAddr)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())))...), dhcpv4.MessageTypeAck)
}

func TestLeaseAndOptions(t *testing.T) {
	s := server(t)
	ack := bind(t, s, local, mac1, option(dhcpv4.OptionHostName, "Web-1.EXAMPLE.com\n"), option(dhcpv4.OptionClientIdentifier, "\x01RTAAAA"))
	ip := addr(ack.YourIPAddr)
	if !netip.MustParsePrefix("192.0.2.0/24").Contains(ip) || ack.IPAddressLeaseTime(0) != time.Hour ||
		!ack.ServerIdentifier().Equal(net.IPv4(192, 0, 2, 1)) || !ack.Router()[0].Equal(net.IPv4(192, 0, 2, 254)) ||
		ack.DomainName() != "example.com" || !ack.NTPServers()[0].Equal(net.IPv4(192, 0, 2, 123)) ||
		string(ack.Options.Get(dhcpv4.OptionClientIdentifier)) != "\x01RTAAAA" { // RFC 6842
		t.Errorf("ACK:\n%s", ack.Summary())
	}
	if ack.BootFileName != "" || ack.Options.Has(dhcpv4.OptionVendorSpecificInformation) {
		t.Errorf("a client that does not ask for it is told what to boot:\n%s", ack.Summary())
	}
	l, err := s.Store.LookupLease(t.Context(), ip)
	if err != nil || l.Hostname != "web-1" || l.MAC != mac1.String() {
		t.Errorf("lease: %+v, %v", l, err)
	}
	// Another client identifier, as the next stage of the same boot sends it.
	if again := bind(t, s, local, mac1, option(dhcpv4.OptionClientIdentifier, "\x00abcdef")); addr(again.YourIPAddr) != ip {
		t.Errorf("the same machine has %s, then %s", ip, again.YourIPAddr)
	}
	if other := bind(t, s, local, mac2); addr(other.YourIPAddr) == ip {
		t.Error("one address for two clients")
	}
}

// RFC 2131, section 4.3.2.
func TestRequests(t *testing.T) {
	s := server(t)
	mine := addr(bind(t, s, local, mac1).YourIPAddr)
	elsewhere := netip.MustParseAddr("198.51.100.100")
	unicast := local
	unicast.unicast = netip.MustParseAddr("192.0.2.1")
	has := func(a netip.Addr) dhcpv4.Modifier { return dhcpv4.WithClientIP(a.AsSlice()) }
	const none, ack, nak = dhcpv4.MessageTypeNone, dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak
	for name, c := range map[string]struct {
		in   arrival
		mac  net.HardwareAddr
		mods []dhcpv4.Modifier
		want dhcpv4.MessageType
	}{
		"INIT-REBOOT":                            {local, mac1, []dhcpv4.Modifier{requested(mine)}, ack},
		"INIT-REBOOT, another's address":         {local, mac2, []dhcpv4.Modifier{requested(mine)}, nak},
		"INIT-REBOOT on another network":         {local, mac2, []dhcpv4.Modifier{requested(elsewhere)}, nak},
		"INIT-REBOOT, outside of our pools":      {local, mac2, []dhcpv4.Modifier{requested(netip.MustParseAddr("192.0.2.50"))}, none},
		"INIT-REBOOT, our own address":           {local, mac2, []dhcpv4.Modifier{requested(netip.MustParseAddr("192.0.2.1"))}, none},
		"renewal":                                {unicast, mac1, []dhcpv4.Modifier{has(mine)}, ack},
		"renewal of another's address":           {unicast, mac2, []dhcpv4.Modifier{has(mine)}, nak},
		"rebinding":                              {local, mac1, []dhcpv4.Modifier{has(mine)}, ack},
		"rebinding after a move":                 {local, mac2, []dhcpv4.Modifier{has(elsewhere)}, nak},
		"rebinding, another server's":            {local, mac2, []dhcpv4.Modifier{has(netip.MustParseAddr("192.0.2.50"))}, none},
		"selecting another server":               {local, mac2, []dhcpv4.Modifier{requested(mine), serverID("192.0.2.77")}, none},
		"selecting us, an address we never gave": {local, mac2, []dhcpv4.Modifier{requested(netip.MustParseAddr("192.0.2.50")), serverID("192.0.2.1")}, nak},
		"no address at all":                      {local, mac2, nil, none},
		"interface without a subnet":             {arrival{iface: "eth8", prefixes: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}}, mac2, []dhcpv4.Modifier{requested(mine)}, none},
		"interface without an address":           {arrival{iface: "eth8"}, mac2, []dhcpv4.Modifier{requested(mine)}, none},
		"group address as client":                {local, net.HardwareAddr{1, 0, 0, 0, 0, 1}, []dhcpv4.Modifier{requested(mine)}, none},
	} {
		t.Run(name, func(t *testing.T) {
			ask(t, s, c.in, message(t, c.mac, dhcpv4.MessageTypeRequest, c.mods...), c.want)
		})
	}
	t.Run("INFORM", func(t *testing.T) {
		m := ask(t, s, local, message(t, mac2, dhcpv4.MessageTypeInform, has(netip.MustParseAddr("192.0.2.50"))), ack)
		if addr(m.YourIPAddr).IsValid() || m.Options.Has(dhcpv4.OptionIPAddressLeaseTime) {
			t.Errorf("an INFORM is answered with a lease:\n%s", m.Summary())
		}
		ask(t, s, local, message(t, mac2, dhcpv4.MessageTypeInform, has(elsewhere)), none)
	})
	t.Run("RELEASE and DECLINE", func(t *testing.T) {
		ask(t, s, unicast, message(t, mac2, dhcpv4.MessageTypeRelease, has(mine)), none)
		if _, err := s.Store.LookupLease(t.Context(), mine); err != nil {
			t.Errorf("another client's RELEASE: %v", err)
		}
		ask(t, s, unicast, message(t, mac1, dhcpv4.MessageTypeRelease, has(mine)), none)
		if _, err := s.Store.LookupLease(t.Context(), mine); err == nil {
			t.Error("a released lease is in use")
		}
		again := addr(bind(t, s, local, mac1).YourIPAddr)
		ask(t, s, local, message(t, mac1, dhcpv4.MessageTypeDecline, requested(again), serverID("192.0.2.1")), none)
		if next := addr(bind(t, s, local, mac1).YourIPAddr); next == again {
			t.Error("a declined address is given again")
		}
	})
}

func TestRelayAgents(t *testing.T) {
	s := server(t)
	routed := local
	routed.unicast = netip.MustParseAddr("192.0.2.1")
	giaddr := dhcpv4.WithRelay(net.IPv4(198, 51, 100, 1))
	info := dhcpv4.OptRelayAgentInfo(dhcpv4.OptGeneric(dhcpv4.AgentCircuitIDSubOption, []byte("port 7")))
	ack := bind(t, s, routed, mac1, giaddr, dhcpv4.WithOption(info))
	if !netip.MustParsePrefix("198.51.100.0/24").Contains(addr(ack.YourIPAddr)) || !ack.GatewayIPAddr.Equal(net.IPv4(198, 51, 100, 1)) ||
		string(ack.RelayAgentInfo().Get(dhcpv4.AgentCircuitIDSubOption)) != "port 7" {
		t.Errorf("ACK:\n%s", ack.Summary())
	}
	if b := ack.ToBytes(); b[bytes.LastIndex(b, []byte("port 7"))+6] != 255 {
		t.Error("option 82 is not the last") // RFC 3046, section 2.1
	}
	// It renews past the relay agent.
	renew := message(t, mac1, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(ack.YourIPAddr))
	ask(t, s, routed, renew, dhcpv4.MessageTypeAck)
	// Link selection, and a relay agent that wants to be taken for the server.
	link := dhcpv4.WithOption(dhcpv4.OptRelayAgentInfo(
		dhcpv4.OptGeneric(dhcpv4.LinkSelectionSubOption, []byte{198, 51, 100, 0}),
		dhcpv4.OptGeneric(dhcpv4.ServerIdentifierOverrideSubOption, []byte{203, 0, 113, 5})))
	got := bind(t, s, routed, mac2, dhcpv4.WithRelay(net.IPv4(203, 0, 113, 5)), link, option(dhcpv4.OptionClassIdentifier, "PXEClient:Arch:00000"))
	if !netip.MustParsePrefix("198.51.100.0/24").Contains(addr(got.YourIPAddr)) || !got.ServerIdentifier().Equal(net.IPv4(203, 0, 113, 5)) {
		t.Errorf("ACK:\n%s", got.Summary())
	}
	if !got.ServerIPAddr.Equal(net.IPv4(192, 0, 2, 9)) { // the subnet's next server
		t.Errorf("next server %s", got.ServerIPAddr)
	}
	ask(t, s, routed, message(t, mac2, dhcpv4.MessageTypeDiscover, dhcpv4.WithRelay(net.IPv4(203, 0, 113, 5))), dhcpv4.MessageTypeNone)
	if to, raw := destination(renew, got, routed); raw || to.Addr() != addr(ack.YourIPAddr) {
		t.Errorf("renewal is answered to %s", to)
	}
}

func arch(a iana.Arch) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptClientArch(a)) }

func TestBootFiles(t *testing.T) {
	s := server(t)
	class := func(c string) dhcpv4.Modifier { return option(dhcpv4.OptionClassIdentifier, c) }
	routed := dhcpv4.WithRelay(net.IPv4(198, 51, 100, 1))
	for name, c := range map[string]struct {
		mods []dhcpv4.Modifier
		file string
		http bool
	}{
		"BIOS":                       {[]dhcpv4.Modifier{class("PXEClient:Arch:00000:UNDI:002001"), arch(iana.INTEL_X86PC)}, "undionly.kpxe", false},
		"BIOS without option 93":     {[]dhcpv4.Modifier{class("PXEClient:Arch:00000:UNDI:002001")}, "undionly.kpxe", false},
		"UEFI":                       {[]dhcpv4.Modifier{class("PXEClient:Arch:00007:UNDI:003016"), arch(iana.EFI_X86_64)}, "ipxe.efi", false},
		"UEFI, class only":           {[]dhcpv4.Modifier{class("PXEClient:Arch:00007:UNDI:003016")}, "ipxe.efi", false},
		"UEFI HTTP":                  {[]dhcpv4.Modifier{class("HTTPClient:Arch:00016:UNDI:003001"), arch(iana.EFI_X86_64_HTTP)}, "http://192.0.2.1:8082/boot/ipxe.efi", true},
		"arm64, no file":             {[]dhcpv4.Modifier{class("PXEClient:Arch:00011:UNDI:003000"), arch(iana.EFI_ARM64)}, "", false},
		"arm64, the subnet's file":   {[]dhcpv4.Modifier{class("PXEClient:Arch:00011:UNDI:003000"), arch(iana.EFI_ARM64), routed}, "special.efi", false},
		"iPXE, BIOS":                 {[]dhcpv4.Modifier{class("PXEClient:Arch:00000:UNDI:002001"), arch(iana.INTEL_X86PC), option(dhcpv4.OptionUserClassInformation, "iPXE")}, "http://192.0.2.1:8082/boot/ipxe", false},
		"iPXE, user class by RFC":    {[]dhcpv4.Modifier{class("PXEClient:Arch:00007:UNDI:003016"), option(dhcpv4.OptionUserClassInformation, "\x04iPXE")}, "http://192.0.2.1:8082/boot/ipxe", false},
		"iPXE by its features":       {[]dhcpv4.Modifier{class("PXEClient:Arch:00007:UNDI:003016"), option(dhcpv4.GenericOptionCode(175), "\xb1\x05\x01\x80\x86\x10\x0e")}, "http://192.0.2.1:8082/boot/ipxe", false},
		"iPXE loaded by HTTP boot":   {[]dhcpv4.Modifier{class("HTTPClient:Arch:00016"), option(dhcpv4.OptionUserClassInformation, "iPXE")}, "http://192.0.2.1:8082/boot/ipxe", false},
		"iPXE beyond a relay agent":  {[]dhcpv4.Modifier{class("PXEClient"), option(dhcpv4.OptionUserClassInformation, "iPXE"), routed}, "http://192.0.2.9:8082/boot/ipxe", false},
		"installed system, no class": {nil, "", false},
		"something we cannot boot":   {[]dhcpv4.Modifier{class("PXEClient:Arch:00031"), arch(iana.S390_BASIC)}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			m := message(t, mac1, dhcpv4.MessageTypeDiscover, c.mods...)
			offer := ask(t, s, local, m, dhcpv4.MessageTypeOffer)
			if offer.BootFileName != c.file || offer.BootFileNameOption() != c.file {
				t.Errorf("boot file %q, %q, want %q", offer.BootFileName, offer.BootFileNameOption(), c.file)
			}
			if got := offer.ClassIdentifier() == "HTTPClient"; got != c.http {
				t.Errorf("vendor class %q", offer.ClassIdentifier())
			}
			if offer.Options.Has(dhcpv4.OptionVendorSpecificInformation) {
				t.Error("option 43 for one that is not our agent")
			}
		})
	}
}

func TestAgentIsToldOfTheControlPlane(t *testing.T) {
	s := server(t)
	is := option(dhcpv4.OptionClassIdentifier, teeth.VendorClass)
	offer := ask(t, s, local, message(t, mac1, dhcpv4.MessageTypeDiscover, is), dhcpv4.MessageTypeOffer)
	if v := teeth.ParseVendorOptions(offer.Options.Get(dhcpv4.OptionVendorSpecificInformation)); v.Token != "" || v.CASHA256 != pin {
		t.Errorf("offer: %+v", v)
	}
	ack := bind(t, s, local, mac1, is, option(dhcpv4.OptionClientMachineIdentifier, "\x00\x44\x45\x4c\x4c\x43\x00\x10\x30\x80\x52\xb4\xc0\x4f\x56\x42\x31"))
	v := teeth.ParseVendorOptions(ack.Options.Get(dhcpv4.OptionVendorSpecificInformation))
	if v.Token != "token-for-"+mac1.String()+"4c4c4544-0043-3010-8052-b4c04f564231" || !slices.Equal(v.Servers, []string{"192.0.2.1:8081"}) || v.CASHA256 != pin {
		t.Errorf("ACK: %+v", v)
	}
	renewed := ask(t, s, local, message(t, mac1, dhcpv4.MessageTypeRequest, is, dhcpv4.WithClientIP(ack.YourIPAddr)), dhcpv4.MessageTypeAck)
	if v := teeth.ParseVendorOptions(renewed.Options.Get(dhcpv4.OptionVendorSpecificInformation)); v.Token != "" {
		t.Error("a token with each renewal")
	}
}

func TestAnswerFits(t *testing.T) {
	long := bytes.Repeat([]byte("a"), 60)
	sub := store.Subnet{CIDR: netip.MustParsePrefix("192.0.2.0/24"), Pools: pools(t, "192.0.2.100-192.0.2.109"),
		Domain: string(bytes.Join([][]byte{long, long, long, long}, []byte{'.'}))}
	for i := range 8 {
		sub.DNS = append(sub.DNS, netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + i)}))
	}
	sub.NTP = sub.DNS
	s := server(t, sub)
	mods := []dhcpv4.Modifier{option(dhcpv4.OptionClassIdentifier, teeth.VendorClass)}
	if n := len(bind(t, s, local, mac1, mods...).ToBytes()); n+28 > 576 {
		t.Errorf("an answer of %d bytes for a client that takes 576", n+28)
	}
	ack := bind(t, s, local, mac1, append(mods, dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1500)))...)
	if ack.DomainName() != sub.Domain || len(ack.DNS()) != 8 {
		t.Errorf("options are left out without need:\n%s", ack.Summary())
	}
}

func TestProbedAddressInUse(t *testing.T) {
	s := server(t)
	s.Probe = true
	var asked []netip.Addr
	s.probe = func(_ context.Context, _ string, a netip.Addr) (bool, error) {
		asked = append(asked, a)
		return len(asked) == 1, nil
	}
	offer := ask(t, s, local, message(t, mac1, dhcpv4.MessageTypeDiscover), dhcpv4.MessageTypeOffer)
	if len(asked) != 2 || addr(offer.YourIPAddr) != asked[1] || asked[0] == asked[1] {
		t.Errorf("probed %s, offered %s", asked, offer.YourIPAddr)
	}
	bind(t, s, local, mac1)
	if len(asked) != 2 {
		t.Error("the client's own address was probed")
	}
}

func TestProxy(t *testing.T) {
	s := server(t)
	in := local
	pxe := option(dhcpv4.OptionClassIdentifier, "PXEClient:Arch:00007:UNDI:003016")
	offer := s.handleProxy(t.Context(), message(t, mac1, dhcpv4.MessageTypeDiscover, pxe), in)
	if typeOf(offer) != dhcpv4.MessageTypeOffer || addr(offer.YourIPAddr).IsValid() || offer.BootFileName != "ipxe.efi" ||
		offer.ClassIdentifier() != "PXEClient" || !bytes.Equal(offer.Options.Get(dhcpv4.OptionVendorSpecificInformation), pxeDirect) ||
		offer.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || offer.Options.Has(dhcpv4.OptionSubnetMask) {
		t.Fatalf("offer: %v", offer)
	}
	for name, m := range map[string]*dhcpv4.DHCPv4{
		"an installed system":       message(t, mac1, dhcpv4.MessageTypeDiscover),
		"our agent":                 message(t, mac1, dhcpv4.MessageTypeDiscover, option(dhcpv4.OptionClassIdentifier, teeth.VendorClass)),
		"a request to the server":   message(t, mac1, dhcpv4.MessageTypeRequest, pxe, serverID("192.0.2.77")),
		"a machine we cannot boot":  message(t, mac1, dhcpv4.MessageTypeDiscover, option(dhcpv4.OptionClassIdentifier, "PXEClient:Arch:00031")),
		"a message without a type ": message(t, mac1, dhcpv4.MessageTypeNone, pxe),
	} {
		if reply := s.handleProxy(t.Context(), m, in); reply != nil {
			t.Errorf("%s is answered:\n%s", name, reply.Summary())
		}
	}
	in.port, in.from = proxyPort, netip.MustParseAddrPort("192.0.2.150:4011")
	request := message(t, mac1, dhcpv4.MessageTypeRequest, pxe, dhcpv4.WithClientIP(net.IPv4(192, 0, 2, 150)))
	ack := s.handleProxy(t.Context(), request, in)
	if typeOf(ack) != dhcpv4.MessageTypeAck || ack.BootFileName != "ipxe.efi" {
		t.Fatalf("ACK at port 4011: %v", ack)
	}
	if to, raw := destination(request, ack, in); raw || to != in.from {
		t.Errorf("answer at port 4011 goes to %s", to)
	}
	http := message(t, mac1, dhcpv4.MessageTypeDiscover, option(dhcpv4.OptionClassIdentifier, "HTTPClient:Arch:00016:UNDI:003001"))
	if o := s.handleProxy(t.Context(), http, local); typeOf(o) != dhcpv4.MessageTypeOffer || o.ClassIdentifier() != "HTTPClient" || o.BootFileName != "http://192.0.2.1:8082/boot/ipxe.efi" {
		t.Errorf("UEFI HTTP boot: %v", o)
	}
	if all, err := s.Store.PeekLeases(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("a proxy gave leases: %v, %v", all, err)
	}
}

// RFC 2131, section 4.1.
func TestDestination(t *testing.T) {
	s := server(t)
	broadcast := netip.MustParseAddrPort("255.255.255.255:68")
	plain := message(t, mac1, dhcpv4.MessageTypeDiscover)
	flagged := message(t, mac1, dhcpv4.MessageTypeDiscover, dhcpv4.WithBroadcast(true))
	relayed := message(t, mac2, dhcpv4.MessageTypeDiscover, dhcpv4.WithRelay(net.IPv4(198, 51, 100, 1)))
	bad := message(t, mac1, dhcpv4.MessageTypeRequest, requested(netip.MustParseAddr("203.0.113.1")))
	badRelayed := message(t, mac1, dhcpv4.MessageTypeRequest, requested(netip.MustParseAddr("203.0.113.1")), dhcpv4.WithRelay(net.IPv4(198, 51, 100, 1)))
	for name, c := range map[string]struct {
		m    *dhcpv4.DHCPv4
		to   string
		raw  bool
		flag bool
	}{
		"no flag":       {plain, "", true, false},
		"flag":          {flagged, broadcast.String(), false, true},
		"relayed":       {relayed, "198.51.100.1:67", false, false},
		"NAK":           {bad, broadcast.String(), false, true},
		"NAK by relays": {badRelayed, "198.51.100.1:67", false, true},
	} {
		reply := s.handle(t.Context(), c.m, local)
		if reply == nil {
			t.Fatal(name, "not answered")
		}
		to, raw := destination(c.m, reply, local)
		if c.to == "" {
			c.to = netip.AddrPortFrom(addr(reply.YourIPAddr), 68).String()
		}
		if to.String() != c.to || raw != c.raw || reply.IsBroadcast() != c.flag {
			t.Errorf("%s: to %s, raw %v, flag %v", name, to, raw, reply.IsBroadcast())
		}
	}
}

func TestSanitise(t *testing.T) {
	for in, want := range map[string]string{
		"web1": "web1", "WEB1.example.com": "web1", "-a-": "a", "a b\x1b[2J": "ab2j", "": "", "...": "", "äöü": "",
		string(bytes.Repeat([]byte("x"), 100)): string(bytes.Repeat([]byte("x"), 63)),
	} {
		if got := sanitise(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	l, now := newLimits(), time.Now()
	for i := range perClient {
		if why := l.refuse("a", now); why != "" {
			t.Fatal(i, why)
		}
	}
	if l.refuse("a", now) == "" {
		t.Error("a client may send without bound")
	}
	if why := l.refuse("a", now.Add(time.Second)); why != "" {
		t.Error("a second later:", why)
	}
	refused := 0
	for i := range 100_000 {
		if l.refuse(string(rune(i)), now) != "" {
			refused++
		}
	}
	if refused < 100_000-burst-perSecond-10 || len(l.counts) > burst+1 {
		t.Errorf("%d of 100000 refused, %d clients remembered", refused, len(l.counts))
	}
}

// Whatever comes, the answer is one that a client can read, and goes to no one else.
func FuzzHandle(f *testing.F) {
	s := server(f)
	s.probe = func(context.Context, string, netip.Addr) (bool, error) { return false, nil }
	for _, m := range []*dhcpv4.DHCPv4{
		message(f, mac1, dhcpv4.MessageTypeDiscover, option(dhcpv4.OptionClassIdentifier, "PXEClient:Arch:00007:UNDI:003016"), option(dhcpv4.OptionHostName, "a\xff")),
		message(f, mac1, dhcpv4.MessageTypeRequest, requested(netip.MustParseAddr("192.0.2.100")), serverID("192.0.2.1"), option(dhcpv4.OptionClassIdentifier, teeth.VendorClass)),
		message(f, mac1, dhcpv4.MessageTypeRequest, dhcpv4.WithRelay(net.IPv4(198, 51, 100, 1)), dhcpv4.WithOption(dhcpv4.OptRelayAgentInfo(dhcpv4.OptGeneric(dhcpv4.LinkSelectionSubOption, []byte{1, 2, 3})))),
		message(f, mac2, dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(net.IPv4(192, 0, 2, 5)), option(dhcpv4.OptionClientMachineIdentifier, "\x00short")),
	} {
		f.Add(m.ToBytes(), false)
		f.Add(m.ToBytes(), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, proxy bool) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		h := s.handle
		if proxy {
			h = s.handleProxy
		}
		reply := h(context.Background(), m, local)
		if reply == nil {
			return
		}
		again, err := dhcpv4.FromBytes(reply.ToBytes())
		if err != nil || again.TransactionID != m.TransactionID || again.OpCode != dhcpv4.OpcodeBootReply {
			t.Fatalf("answer: %v, %v", again, err)
		}
		if proxy && addr(again.YourIPAddr).IsValid() {
			t.Fatal("the proxy gave an address")
		}
		destination(m, reply, local)
		if l := len(reply.ToBytes()); l > 1500 {
			t.Fatalf("answer of %d bytes", l)
		}
	})
}
