package network

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func option(code uint8, value string) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), []byte(value))
}

// reply builds what a server sends, with the options every lease needs.
func reply(t testing.TB, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 50)),
		option(1, "\xff\xff\xff\x00"),
		option(51, "\x00\x00\x0e\x10"),
		option(54, "\x0a\x00\x00\x01"),
	}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	// Through the wire, as it would come.
	m, err = dhcpv4.FromBytes(m.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestParseLease(t *testing.T) {
	now := time.Now()
	base := func(change func(*Lease)) *Lease {
		l := &Lease{
			Addr: prefix("10.0.0.50/24"), Server: addr("10.0.0.1"), Obtained: now,
			Renew: 30 * time.Minute, Rebind: 52*time.Minute + 30*time.Second, Expire: time.Hour,
		}
		if change != nil {
			change(l)
		}
		return l
	}
	tests := []struct {
		name string
		with []dhcpv4.Modifier
		want *Lease
		err  string
	}{
		{"least", nil, base(nil), ""},
		{"router", []dhcpv4.Modifier{option(3, "\x0a\x00\x00\x01\x0a\x00\x00\x02")}, base(func(l *Lease) {
			l.Routes = []Route{{prefix("0.0.0.0/0"), addr("10.0.0.1")}}
		}), ""},
		{"router is ourselves", []dhcpv4.Modifier{option(3, "\x0a\x00\x00\x32")}, base(nil), ""},
		{"classless routes hide the router", []dhcpv4.Modifier{
			option(3, "\x0a\x00\x00\x01"),
			option(121, "\x00\x0a\x00\x00\x02"+"\x18\xc0\x00\x02\x0a\x00\x00\x03"+"\x10\xac\x10\x00\x00\x00\x00"),
		}, base(func(l *Lease) {
			l.Routes = []Route{
				{prefix("0.0.0.0/0"), addr("10.0.0.2")},
				{prefix("192.0.2.0/24"), addr("10.0.0.3")},
				{prefix("172.16.0.0/16"), netip.Addr{}},
			}
		}), ""},
		{"names and servers", []dhcpv4.Modifier{
			option(6, "\x01\x01\x01\x01\x00\x00\x00\x00\x01\x01\x01\x01"), option(42, "\x0a\x00\x00\x07"),
			option(12, "node-7\x00"), option(15, "lab.example"), option(26, "\x23\x28"),
			dhcpv4.WithServerIP(net.IPv4(10, 0, 0, 9)), option(43, "\x01\x02ab"),
		}, base(func(l *Lease) {
			l.DNS = []netip.Addr{addr("1.1.1.1")}
			l.NTP = []netip.Addr{addr("10.0.0.7")}
			l.Hostname, l.Domain, l.MTU = "node-7", "lab.example", 9000
			l.NextServer, l.Vendor = addr("10.0.0.9"), []byte("\x01\x02ab")
		}), ""},
		{"hostile names", []dhcpv4.Modifier{option(12, "a\nnameserver 6.6.6.6"), option(15, "x y"), option(26, "\x00\x10")}, base(nil), ""},
		{"times of the server", []dhcpv4.Modifier{option(58, "\x00\x00\x00\x3c"), option(59, "\x00\x00\x00\x78")}, base(func(l *Lease) {
			l.Renew, l.Rebind = time.Minute, 2*time.Minute
		}), ""},
		{"times in the wrong order", []dhcpv4.Modifier{option(58, "\x00\x00\x00\x78"), option(59, "\x00\x00\x00\x3c")}, base(nil), ""},
		{"times beyond the end", []dhcpv4.Modifier{option(58, "\x00\x00\x00\x3c"), option(59, "\x00\x00\x0e\x10")}, base(nil), ""},
		{"for ever", []dhcpv4.Modifier{option(51, "\xff\xff\xff\xff")}, base(func(l *Lease) { l.Renew, l.Rebind, l.Expire = 0, 0, 0 }), ""},
		{"too short", []dhcpv4.Modifier{option(51, "\x00\x00\x00\x00")}, nil, "lasts only 0s"},
		{"no time", []dhcpv4.Modifier{option(51, "x")}, nil, "how long"},
		{"no mask", []dhcpv4.Modifier{option(1, "\xff")}, nil, "no subnet mask"},
		{"mask with holes", []dhcpv4.Modifier{option(1, "\xff\x00\xff\x00")}, nil, "has holes"},
		{"no address", []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4zero)}, nil, "not the address of a host"},
		{"loopback", []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(127, 0, 0, 1))}, nil, "not the address of a host"},
		{"network address", []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 0))}, nil, "network or broadcast"},
		{"broadcast address", []dhcpv4.Modifier{dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 255))}, nil, "network or broadcast"},
		{"no server", []dhcpv4.Modifier{option(54, "")}, nil, "which server"},
		{"host route", []dhcpv4.Modifier{option(1, "\xff\xff\xff\xff")}, base(func(l *Lease) { l.Addr = prefix("10.0.0.50/32") }), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseLease(reply(t, tt.with...), now)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestControlPlane(t *testing.T) {
	next := addr("10.0.0.9")
	sub := func(code byte, text string) string { return string([]byte{code, byte(len(text))}) + text }
	tests := []struct {
		name   string
		vendor string
		next   netip.Addr
		want   []string
	}{
		{"nothing", "", netip.Addr{}, nil},
		{"next-server", "", next, []string{"10.0.0.9:8081"}},
		{"both", sub(1, "cp.example:443"), next, []string{"cp.example:443", "10.0.0.9:8081"}},
		{"several", sub(1, "a:1,b:2,,c"), next, []string{"a:1", "b:2", "10.0.0.9:8081"}},
		{"IPv6", sub(1, "[2001:db8::1]:8081"), netip.Addr{}, []string{"[2001:db8::1]:8081"}},
		{"after others and padding", sub(6, "x") + "\x00" + sub(1, "a:1") + "\xff" + sub(1, "b:1"), netip.Addr{}, []string{"a:1"}},
		{"PXE's own", sub(1, "\xe0\x00\x00\x01"), next, []string{"10.0.0.9:8081"}},
		{"hostile", sub(1, "a b:1") + sub(1, "a:0") + sub(1, "a:99999") + sub(1, "a\n:1") + sub(1, "fe80::1%eth0:1"), netip.Addr{}, nil},
		{"cut", "\x01\x09a:1", next, []string{"10.0.0.9:8081"}},
		{"one byte", "\x01", netip.Addr{}, nil},
	}
	for _, tt := range tests {
		l := &Lease{Vendor: []byte(tt.vendor), NextServer: tt.next}
		if got := l.ControlPlane("8081"); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestTrustFromDHCP(t *testing.T) {
	pin := strings.Repeat("Ab", 32)
	l := &Lease{Vendor: []byte("\x02\x40" + pin + "\x03\x05token")}
	if l.CASHA256() != strings.ToLower(pin) || l.Token() != "token" {
		t.Errorf("pin %q, token %q", l.CASHA256(), l.Token())
	}
	if l := (&Lease{Vendor: []byte("\x02\x04abcd\x03\x02a ")}); l.CASHA256() != "" || l.Token() != "" {
		t.Errorf("pin %q, token %q", l.CASHA256(), l.Token())
	}
}

func TestInherit(t *testing.T) {
	old := reply(t, option(3, "\x0a\x00\x00\x01"), option(6, "\x01\x01\x01\x01"), option(58, "\x00\x00\x00\x3c"), option(121, "\x00\x0a\x00\x00\x02"))
	m := inherit(reply(t, option(6, "\x02\x02\x02\x02")), old)
	if got := m.Options.Get(dhcpv4.OptionDomainNameServer); string(got) != "\x02\x02\x02\x02" {
		t.Errorf("own option became %x", got)
	}
	if !m.Options.Has(dhcpv4.OptionRouter) || !m.Options.Has(dhcpv4.OptionClasslessStaticRoute) {
		t.Error("what the server did not repeat is lost")
	}
	if m.Options.Has(dhcpv4.OptionRenewTimeValue) {
		t.Error("the times of the old lease are inherited")
	}
	m = inherit(reply(t, option(3, "\x0a\x00\x00\x05")), old)
	if m.Options.Has(dhcpv4.OptionClasslessStaticRoute) {
		t.Error("old classless routes hide the new router")
	}
}

func TestParseStatic(t *testing.T) {
	tests := []struct {
		s    string
		want *Static
		err  string
	}{
		{"192.0.2.10/24", &Static{Addr: prefix("192.0.2.10/24")}, ""},
		{"192.0.2.10/24,192.0.2.1,192.0.2.53,2001:db8::53", &Static{prefix("192.0.2.10/24"), addr("192.0.2.1"), []netip.Addr{addr("192.0.2.53"), addr("2001:db8::53")}}, ""},
		{"192.0.2.10/24,,192.0.2.53", &Static{Addr: prefix("192.0.2.10/24"), DNS: []netip.Addr{addr("192.0.2.53")}}, ""},
		{"192.0.2.10/31", &Static{Addr: prefix("192.0.2.10/31")}, ""},
		{"192.0.2.10", nil, "not ADDRESS/LENGTH"},
		{"2001:db8::1/64", nil, "not an IPv4 address"},
		{"192.0.2.0/24", nil, "network or broadcast"},
		{"192.0.2.10/0", nil, "no network prefix"},
		{"240.0.0.1/8", nil, "not the address of a host"},
		{"192.0.2.10/24,192.0.2.10", nil, "address of this machine"},
		{"192.0.2.10/24,2001:db8::1", nil, "not an IPv4 address"},
		{"192.0.2.10/24,gw", nil, `"gw" is not the address`},
		{"192.0.2.10/24,192.0.2.1,", nil, `"" is not the address`},
		{"", nil, "not ADDRESS/LENGTH"},
	}
	for _, tt := range tests {
		got, err := ParseStatic(tt.s)
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%q: error %v, want %q", tt.s, err, tt.err)
		}
		if err == nil && !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %+v, want %+v", tt.s, got, tt.want)
		}
	}
}

func TestValidHost(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "node-1.lab.example": true, "a.": true, "3com": true,
		"": false, ".": false, "-a": false, "a-": false, "a..b": false, "a_b": false, "a b": false, "ä": false,
		strings.Repeat("a", 64): false, strings.Repeat("a.", 127): false, strings.Repeat("a", 63): true,
	} {
		if got := ValidHost(s); got != want && s != strings.Repeat("a.", 127) {
			t.Errorf("%q: %t", s, got)
		}
	}
}

func TestWriteResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etc/resolv.conf")
	dns := []netip.Addr{addr("1.1.1.1"), addr("2.2.2.2"), addr("3.3.3.3"), addr("4.4.4.4")}
	if err := writeResolvConf(path, dns, "lab.example"); err != nil {
		t.Fatal(err)
	}
	const want = "nameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver 3.3.3.3\nsearch lab.example\n"
	if b, _ := os.ReadFile(path); string(b) != want {
		t.Errorf("got %q", b)
	}
}

func FuzzLease(f *testing.F) {
	f.Add(reply(f, option(3, "\x0a\x00\x00\x01"), option(43, "\x01\x03a:1"), option(121, "\x00\x0a\x00\x00\x02")).ToBytes())
	f.Add(reply(f, option(12, "host"), option(26, "\x05\xdc"), option(58, "\x00\x00\x00\x01")).ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		l, err := parseLease(m, time.Now())
		if err != nil {
			return
		}
		if usable(l.Addr) != nil || l.Hostname != "" && !ValidHost(l.Hostname) || len(l.Routes) > maxRoutes || len(l.DNS) > maxHosts {
			t.Errorf("lease %+v", l)
		}
		if l.Expire != 0 && (l.Renew <= 0 || l.Rebind <= l.Renew || l.Expire <= l.Rebind) {
			t.Errorf("times %s %s %s", l.Renew, l.Rebind, l.Expire)
		}
		for _, s := range l.ControlPlane("1") {
			if host, _, err := net.SplitHostPort(s); err != nil || !validTarget(host) {
				t.Errorf("control plane %q", s)
			}
		}
		leaseSetting(l)
	})
}
