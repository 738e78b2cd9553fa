package dhcp

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/teeth-metal/teeth/controlplane/netboot/bootfile"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/internal/need"
	"github.com/teeth-metal/teeth/lab/netns"
	"github.com/teeth-metal/teeth/lab/netns/netnstest"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// These tests run the server in a network namespace, against clients, a relay agent
// and a foreign server that nobody here wrote.

// process is what the server's process is told.
type process struct {
	DB                string
	Interfaces, Proxy []string
	Probe             bool
}

func TestMain(m *testing.M) { netnstest.Main(m, serveProcess) }

func serveProcess(ctx context.Context, text string) error {
	var p process
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	db, err := store.Open(ctx, p.DB)
	if err != nil {
		return err
	}
	defer db.Close()
	s, err := New(Config{
		Store: db, Interfaces: p.Interfaces, Proxy: p.Proxy, Probe: p.Probe, TFTP: true,
		Files:    bootfile.Files{Has: func(n string) bool { return slices.Contains([]string{"undionly.kpxe", "ipxe.efi"}, n) }},
		BootPort: "8082", AgentsPort: "8081", CAPin: pin,
		Token: func(context.Context, string, string) (string, error) { return "token", nil },
		Log:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	return s.Serve(ctx)
}

type network struct {
	*netnstest.Network
	t *testing.T
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	need.Time(t, "starts DHCP clients in networks of their own")
	return &network{netnstest.New(t, "192.0.2.1/24"), t}
}

// server starts the server and returns its store, opened a second time to look into.
func (n *network) server(p process, subnets ...store.Subnet) *store.Store {
	n.t.Helper()
	p.DB = filepath.Join(n.t.TempDir(), "teeth.db")
	db, err := store.Open(n.t.Context(), p.DB)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { db.Close() })
	for _, sub := range subnets {
		if _, err := db.AddSubnet(n.t.Context(), sub); err != nil {
			n.t.Fatal(err)
		}
	}
	text, err := json.Marshal(p)
	if err != nil {
		n.t.Fatal(err)
	}
	n.Serve(string(text), "is up")
	return db
}

// script makes a hook for DHCP clients that writes its environment to a file, and
// sets the address as they ask for it.
func (n *network) script() (script, out string) {
	n.t.Helper()
	dir := n.t.TempDir()
	script, out = filepath.Join(dir, "hook"), filepath.Join(dir, "env")
	text := "#!/bin/sh\necho \"event=$1$reason\" >>" + out + "\nenv >>" + out + `
case "$1$reason" in
deconfig|PREINIT) ip link set "$interface" up ;;
bound|BOUND|REBOOT) ip addr replace "${ip:-$new_ip_address}/24" dev "$interface" ;;
esac
`
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		n.t.Fatal(err)
	}
	return script, out
}

func (n *network) environment(name string) string {
	n.t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		n.t.Fatal("the client got no answer: ", err)
	}
	return string(b)
}

func (n *network) expect(env string, want ...string) {
	n.t.Helper()
	for _, w := range want {
		if !strings.Contains(env, w+"\n") {
			n.t.Errorf("the client was not told %q:\n%s", w, env)
		}
	}
}

func testNetwork(t *testing.T) store.Subnet {
	return store.Subnet{CIDR: netip.MustParsePrefix("192.0.2.0/24"), Pools: pools(t, "192.0.2.100-192.0.2.199"), LeaseSeconds: 3600,
		Gateway: netip.MustParseAddr("192.0.2.254"), DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, Domain: "example.com"}
}

func TestUdhcpc(t *testing.T) {
	need.Program(t, "udhcpc", "udhcpc")
	n := newNetwork(t)
	db := n.server(process{Interfaces: []string{netns.Bridge}}, testNetwork(t))
	c := n.Client(n.Net, "c0")
	script, out := n.script()
	n.Run(c, "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-s", script, "-x", "hostname:Web-1")
	n.expect(n.environment(out), "event=bound", "router=192.0.2.254", "dns=192.0.2.53", "domain=example.com", "subnet=255.255.255.0", "lease=3600", "serverid=192.0.2.1")
	all, err := db.PeekLeases(t.Context())
	if err != nil || len(all) != 1 || all[0].Hostname != "web-1" {
		t.Fatalf("leases: %+v, %v", all, err)
	}
	// As the firmware of a UEFI machine, and with the broadcast flag.
	for name, args := range map[string][]string{
		"unicast":   {"-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007", "-O", "bootfile", "-O", "tftp"},
		"broadcast": {"-B", "-V", "PXEClient:Arch:00007:UNDI:003016", "-x", "0x5d:0007", "-O", "bootfile", "-O", "tftp"},
	} {
		os.Remove(out)
		n.Run(c, "udhcpc", append([]string{"-i", "eth0", "-f", "-q", "-n", "-s", script}, args...)...)
		n.expect(n.environment(out), "bootfile=ipxe.efi", "siaddr=192.0.2.1", "ip="+all[0].IP.String())
		t.Log(name, "done")
	}
}

// ISC's client has its own ideas: it renews, reboots into its lease, and releases.
func TestDhclient(t *testing.T) {
	need.Program(t, "dhclient", "isc-dhcp-client")
	n := newNetwork(t)
	db := n.server(process{Interfaces: []string{netns.Bridge}, Probe: true}, testNetwork(t))
	c := n.Client(n.Net, "c0")
	script, out := n.script()
	dir := t.TempDir()
	args := []string{"-4", "-1", "-v", "-sf", script, "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "-cf", "/dev/null", "eth0"}
	n.Run(c, "dhclient", args...)
	n.expect(n.environment(out), "reason=BOUND", "new_routers=192.0.2.254", "new_dhcp_server_identifier=192.0.2.1", "new_dhcp_lease_time=3600")
	first, err := db.PeekLeases(t.Context())
	if err != nil || len(first) != 1 {
		t.Fatalf("leases: %+v, %v", first, err)
	}
	n.Run(c, "dhclient", append([]string{"-x"}, args...)...) // ends, and gives nothing back
	os.Remove(out)
	n.Run(c, "dhclient", args...) // INIT-REBOOT
	n.expect(n.environment(out), "reason=REBOOT", "new_ip_address="+first[0].IP.String())
	n.Run(c, "dhclient", append([]string{"-r"}, args...)...)
	for i := 0; ; i++ {
		all, err := db.PeekLeases(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 0 {
			break
		}
		if i == 50 {
			t.Fatalf("not released: %+v", all)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestRelayedByDnsmasq(t *testing.T) {
	need.Program(t, "udhcpc", "udhcpc")
	need.Program(t, "dnsmasq", "dnsmasq-base")
	n := newNetwork(t)
	r, err := n.Behind(t.Context(), netip.MustParsePrefix("198.51.100.1/24"), netip.MustParseAddr("192.0.2.250"))
	if err != nil {
		t.Fatal(err)
	}
	far := store.Subnet{CIDR: netip.MustParsePrefix("198.51.100.0/24"), Pools: pools(t, "198.51.100.50-198.51.100.59"), Gateway: netip.MustParseAddr("198.51.100.1")}
	db := n.server(process{Interfaces: []string{netns.Bridge}}, testNetwork(t), far)
	n.background(r, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-", "--pid-file=",
		"--dhcp-relay=198.51.100.1,192.0.2.1", "--user=root")
	c := n.Client(r, "c0")
	script, out := n.script()
	n.Run(c, "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "10", "-T", "1", "-s", script)
	n.expect(n.environment(out), "event=bound", "router=198.51.100.1", "serverid=192.0.2.1")
	all, err := db.PeekLeases(t.Context())
	if err != nil || len(all) != 1 || !far.CIDR.Contains(all[0].IP) {
		t.Fatalf("leases: %+v, %v", all, err)
	}
}

// background runs a program until the test ends.
func (n *network) background(in *netns.Net, program string, args ...string) {
	n.t.Helper()
	cmd := in.Command(context.Background(), program, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if n.t.Failed() {
			n.t.Logf("%s:\n%s", program, out.String())
		}
	})
}

// dnsmasq gives the addresses, and we say what to boot.
func TestProxyBesideDnsmasq(t *testing.T) {
	need.Program(t, "udhcpc", "udhcpc")
	need.Program(t, "dnsmasq", "dnsmasq-base")
	n := newNetwork(t)
	db := n.server(process{Proxy: []string{netns.Bridge}})
	d := n.Client(n.Net, "d0")
	n.Run(nil, "ip", "-n", d.Name, "addr", "add", "192.0.2.2/24", "dev", "eth0")
	n.background(d, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--log-facility=-", "--pid-file=", "--user=root",
		"--interface=eth0", "--dhcp-range=192.0.2.10,192.0.2.20", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"))
	c := n.Client(n.Net, "c0")
	script, out := n.script()
	n.Run(c, "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "10", "-T", "1", "-s", script)
	n.expect(n.environment(out), "serverid=192.0.2.2")

	class := option(dhcpv4.OptionClassIdentifier, "PXEClient:Arch:00000:UNDI:002001")
	mac := n.hardware(c)
	var offers []*dhcpv4.DHCPv4
	n.exchange(c, 68, netip.MustParseAddrPort("255.255.255.255:67"), message(t, mac, dhcpv4.MessageTypeDiscover, class, dhcpv4.WithBroadcast(true)), func(m *dhcpv4.DHCPv4) bool {
		offers = append(offers, m)
		return len(offers) == 2
	})
	var foreign, ours *dhcpv4.DHCPv4
	for _, o := range offers {
		if addr(o.YourIPAddr).IsValid() {
			foreign = o
		} else {
			ours = o
		}
	}
	if foreign == nil || ours == nil {
		t.Fatalf("offers: %v", offers)
	}
	if foreign.BootFileName != "" || ours.BootFileName != "undionly.kpxe" || ours.ClassIdentifier() != "PXEClient" || !ours.ServerIPAddr.Equal(net.IPv4(192, 0, 2, 1)) {
		t.Errorf("foreign offer:\n%s\nours:\n%s", foreign.Summary(), ours.Summary())
	}
	// Port 4011, from an address that is the client's by now.
	request := message(t, mac, dhcpv4.MessageTypeRequest, class, dhcpv4.WithClientIP(foreign.YourIPAddr))
	n.exchange(c, 4011, netip.MustParseAddrPort("192.0.2.1:4011"), request, func(m *dhcpv4.DHCPv4) bool {
		if m.MessageType() != dhcpv4.MessageTypeAck || m.BootFileName != "undionly.kpxe" {
			t.Errorf("answer:\n%s", m.Summary())
		}
		return true
	})
	if all, err := db.ListLeases(t.Context(), "", "", netip.Addr{}, 10); err != nil || len(all) != 0 {
		t.Errorf("the proxy gave leases: %v, %v", all, err)
	}
}

func (n *network) hardware(c *netns.Net) (mac net.HardwareAddr) {
	n.t.Helper()
	err := c.Do(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err == nil {
			mac = ifi.HardwareAddr
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return mac
}

// exchange sends m from a port of a client and reads answers until one is enough.
func (n *network) exchange(c *netns.Net, port int, to netip.AddrPort, m *dhcpv4.DHCPv4, enough func(*dhcpv4.DHCPv4) bool) {
	n.t.Helper()
	var l *listener
	if err := c.Do(func() (err error) { l, err = listen(n.t.Context(), "eth0", port, true); return err }); err != nil {
		n.t.Fatal(err)
	}
	defer l.close()
	if _, err := l.udp.WriteTo(m.ToBytes(), nil, net.UDPAddrFromAddrPort(to)); err != nil {
		n.t.Fatal(err)
	}
	l.udp.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 4096)
	for {
		size, _, _, err := l.udp.ReadFrom(buf)
		if err != nil {
			n.t.Fatal("no answer: ", err)
		}
		reply, err := dhcpv4.FromBytes(buf[:size])
		if err == nil && reply.TransactionID == m.TransactionID && enough(reply) {
			return
		}
	}
}

// A host that has an address of the pool without a lease is found by probing.
func TestProbeFindsAHost(t *testing.T) {
	need.Program(t, "udhcpc", "udhcpc")
	n := newNetwork(t)
	sub := testNetwork(t)
	sub.Pools = pools(t, "192.0.2.100-192.0.2.101")
	db := n.server(process{Interfaces: []string{netns.Bridge}, Probe: true}, sub)
	h := n.Client(n.Net, "h0")
	n.Run(nil, "ip", "-n", h.Name, "addr", "add", "192.0.2.100/24", "dev", "eth0")
	c := n.Client(n.Net, "c0")
	script, out := n.script()
	n.Run(c, "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "10", "-T", "1", "-r", "192.0.2.100", "-s", script)
	n.expect(n.environment(out), "ip=192.0.2.101")
	all, err := db.ListLeases(t.Context(), "", "", netip.Addr{}, 10)
	if err != nil || len(all) != 2 || all[0].State != "declined" {
		t.Errorf("leases: %+v, %v", all, err)
	}
}

// What the agent is told arrives: it asks as udhcpc here, with its vendor class.
func TestVendorOptionArrives(t *testing.T) {
	n := newNetwork(t)
	n.server(process{Interfaces: []string{netns.Bridge}}, testNetwork(t))
	c := n.Client(n.Net, "c0")
	class := option(dhcpv4.OptionClassIdentifier, teeth.VendorClass)
	mac := n.hardware(c)
	n.exchange(c, 68, netip.MustParseAddrPort("255.255.255.255:67"),
		message(t, mac, dhcpv4.MessageTypeRequest, class, requested(netip.MustParseAddr("192.0.2.150")), dhcpv4.WithBroadcast(true)),
		func(m *dhcpv4.DHCPv4) bool {
			v := teeth.ParseVendorOptions(m.Options.Get(dhcpv4.OptionVendorSpecificInformation))
			if v.Token != "token" || v.CASHA256 != pin || !slices.Equal(v.Servers, []string{"192.0.2.1:8081"}) {
				t.Errorf("option 43: %+v\n%s", v, m.Summary())
			}
			return true
		})
}
