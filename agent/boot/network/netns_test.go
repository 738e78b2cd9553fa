package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const insideVar = "TEETH_TEST_NETNS"

// inside runs the calling test again in a process with a network namespace of
// its own, and returns true in that process. Root may make one; anybody else
// needs user namespaces, which some systems refuse.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideVar) != "" {
		return true
	}
	t.Parallel() // the time goes into waiting
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig is of the thread
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) && os.Getuid() != 0 {
		t.Skipf("needs root or user namespaces: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// far is the other network namespace, where the servers are.
type far struct {
	calls chan func()
}

// newFar makes pairs of virtual Ethernet: c0 here and s0 there, c1 and s1, ….
func newFar(t *testing.T, pairs int) *far {
	t.Helper()
	f := &far{calls: make(chan func())}
	ready := make(chan error)
	var ns int
	go func() {
		runtime.LockOSThread() // never unlocked: the thread and its namespace end here
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		ready <- err
		for c := range f.calls {
			c()
		}
	}()
	must(t, <-ready)
	t.Cleanup(func() { close(f.calls); unix.Close(ns) })
	for i := range pairs {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = fmt.Sprintf("c%d", i)
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("s%d", i)}))
		peer, err := netlink.LinkByName(fmt.Sprintf("s%d", i))
		must(t, err)
		must(t, netlink.LinkSetNsFd(peer, ns))
	}
	return f
}

// do runs f in the other namespace.
func (f *far) do(t *testing.T, fn func() error) {
	t.Helper()
	done := make(chan error)
	f.calls <- func() { done <- fn() }
	must(t, <-done)
}

// server is a DHCP server in the other namespace.
type server struct {
	mu    sync.Mutex
	offer string // address it gives
	extra []dhcpv4.Modifier
	delay time.Duration
	nak   bool
	first []dhcpv4.Modifier // if set, a reply with these goes before each
	bcast bool              // replies by broadcast, whatever was asked for
	seen  []string          // messages and where they came from
}

func (s *server) set(fn func()) { s.mu.Lock(); defer s.mu.Unlock(); fn() }

func (s *server) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.seen, "\n")
}

// serve starts a server on iface with the address own.
func (f *far) serve(t *testing.T, s *server, iface string, vlan int, own string) {
	t.Helper()
	var srv *server4.Server
	f.do(t, func() error {
		l, err := netlink.LinkByName(iface)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		if vlan != 0 {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.ParentIndex = "v", l.Attrs().Index
			v := &netlink.Vlan{LinkAttrs: attrs, VlanId: vlan}
			if err := netlink.LinkAdd(v); err != nil {
				return err
			}
			l, iface = v, "v"
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
		}
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(own))}); err != nil {
			return err
		}
		self := netip.MustParsePrefix(own).Addr()
		srv, err = server4.NewServer(iface, &net.UDPAddr{Port: 67}, func(c net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4) {
			s.handle(c, peer, m, self)
		})
		return err
	})
	go func() { _ = srv.Serve() }() // ends when it is closed
	t.Cleanup(func() { srv.Close() })
}

func (s *server) handle(c net.PacketConn, peer net.Addr, m *dhcpv4.DHCPv4, self netip.Addr) {
	s.mu.Lock()
	s.seen = append(s.seen, fmt.Sprintf("%s ciaddr %s from %s secs %d", m.MessageType(), m.ClientIPAddr, peer, m.NumSeconds))
	kind, delay := dhcpv4.MessageTypeAck, s.delay
	if m.MessageType() == dhcpv4.MessageTypeDiscover {
		kind = dhcpv4.MessageTypeOffer
	} else if s.nak {
		kind = dhcpv4.MessageTypeNak
	}
	with := append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithYourIP(net.ParseIP(s.offer)),
		dhcpv4.WithServerIP(self.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(self.AsSlice())),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithRouter(self.AsSlice()),
		dhcpv4.WithDNS(net.IPv4(192, 0, 2, 53)),
		option(51, "\x00\x00\x00\x0a"), option(58, "\x00\x00\x00\x05"), option(59, "\x00\x00\x00\x08"),
	}, s.extra...)
	replies := [][]dhcpv4.Modifier{with}
	if s.first != nil {
		replies = [][]dhcpv4.Modifier{slices.Concat(with, s.first), with}
	}
	if s.bcast {
		peer = &net.UDPAddr{IP: net.IPv4bcast, Port: 68}
	}
	s.mu.Unlock()
	time.Sleep(delay)
	for _, mods := range replies {
		if r, err := dhcpv4.NewReplyFromRequest(m, mods...); err == nil {
			_, _ = c.WriteTo(r.ToBytes(), peer)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// manager looks after the links named c…, which stand for hardware.
func manager(t *testing.T, cfg Config) *Manager {
	t.Helper()
	m := New(cfg, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	m.resolv = filepath.Join(t.TempDir(), "resolv.conf")
	m.list = func() ([]nic, error) {
		return listNICs(func(l netlink.Link) bool { return l.Type() == "veth" && l.Attrs().Name[0] == 'c' })
	}
	return m
}

func macOf(t *testing.T, name string) net.HardwareAddr {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l.Attrs().HardwareAddr
}

func isUp(t *testing.T, name string) bool {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l.Attrs().Flags&net.FlagUp != 0
}

// kernel tells addresses and routes of a link as the kernel has them.
func kernel(t *testing.T, name string) (addrs []string, routes string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	as, err := netlink.AddrList(l, netlink.FAMILY_V4)
	must(t, err)
	for _, a := range as {
		addrs = append(addrs, a.IPNet.String())
	}
	rs, err := netlink.RouteList(l, netlink.FAMILY_V4)
	must(t, err)
	for _, r := range rs {
		routes += fmt.Sprintf("%s via %s;", r.Dst, r.Gw)
	}
	return addrs, routes
}

// TestDHCP takes one machine with two NICs, one of them on a network without a
// server, through a lease, its renewal, its loss and the next lease.
func TestDHCP(t *testing.T) {
	if !inside(t) {
		return
	}
	f := newFar(t, 2)
	s := &server{offer: "10.77.0.50", extra: []dhcpv4.Modifier{
		option(121, "\x18\xc0\x00\x02\x0a\x4d\x00\x63"+"\x00\x0a\x4d\x00\x01"), option(26, "\x05\x78"), option(12, "node-7"),
	}}
	f.serve(t, s, "s0", 0, "10.77.0.1/24")
	f.do(t, func() error { l, err := netlink.LinkByName("s1"); return errors.Join(err, netlink.LinkSetUp(l)) })

	m := manager(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	must(t, m.Up(ctx))
	st := m.State()
	if st.NIC != "c0" || st.Addr.String() != "10.77.0.50/24" || st.MAC.String() != macOf(t, "c0").String() || st.Lease.Hostname != "node-7" {
		t.Errorf("state %+v", st)
	}
	if got := st.Lease.ControlPlane("8081"); len(got) != 1 || got[0] != "10.77.0.1:8081" {
		t.Errorf("control plane %q", got)
	}
	addrs, routes := kernel(t, "c0")
	if len(addrs) != 1 || addrs[0] != "10.77.0.50/24" {
		t.Errorf("addresses %q", addrs)
	}
	for _, r := range []string{"0.0.0.0/0 via 10.77.0.1;", "192.0.2.0/24 via 10.77.0.99;"} {
		if !strings.Contains(routes, r) {
			t.Errorf("no %s in %s", r, routes)
		}
	}
	if b, _ := os.ReadFile(m.resolv); string(b) != "nameserver 192.0.2.53\n" {
		t.Errorf("resolv.conf %q", b)
	}
	if l, _ := netlink.LinkByName("c0"); l.Attrs().MTU != 1400 {
		t.Errorf("MTU %d", l.Attrs().MTU)
	}
	if !isUp(t, "c0") || isUp(t, "c1") {
		t.Error("the NIC without a lease stays up, or the other does not")
	}

	done := make(chan error)
	go func() { done <- m.Keep(ctx) }()
	wait := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(40 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: server saw\n%s", what, s.log())
			}
		}
	}
	const unicast = "REQUEST ciaddr 10.77.0.50 from 10.77.0.50:68"
	wait("no renewal by unicast", func() bool { return strings.Contains(s.log(), unicast) })
	if strings.Count(s.log(), "DISCOVER") > 2 {
		t.Errorf("discovered more than once:\n%s", s.log())
	}
	// The server takes the address back and gives another.
	s.set(func() { s.nak, s.offer = true, "10.77.0.51" })
	wait("the lease is not dropped", func() bool { return m.State().NIC == "" || m.State().Addr.String() == "10.77.0.51/24" })
	s.set(func() { s.nak = false })
	wait("no second lease", func() bool { return m.State().Addr.String() == "10.77.0.51/24" })
	if addrs, _ := kernel(t, "c0"); len(addrs) != 1 || addrs[0] != "10.77.0.51/24" {
		t.Errorf("addresses %q", addrs)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Keep: %v", err)
	}
}

// A lease that cannot be renewed by unicast is rebound by broadcast, here with
// another server.
func TestRebind(t *testing.T) {
	if !inside(t) {
		return
	}
	newServer := &server{offer: "10.77.0.50"}
	f := newFar(t, 1)
	f.serve(t, newServer, "s0", 0, "10.77.0.2/24")
	m := manager(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	must(t, m.Up(ctx))
	// A lease at T2 that came from a server which is gone.
	old := m.bound.lease
	gone := *old
	gone.Server = addr("10.77.0.1")
	_, got, err := m.bound.nic.renew(ctx, m.bound.ack, &gone, true)
	must(t, err)
	if got.Server != addr("10.77.0.2") || got.Addr != old.Addr {
		t.Errorf("lease %+v", got)
	}
	if !strings.Contains(newServer.log(), "REQUEST ciaddr 10.77.0.50 from 10.77.0.50:68") {
		t.Errorf("server saw\n%s", newServer.log())
	}
	// Some servers answer by broadcast.
	newServer.set(func() { newServer.bcast = true })
	_, _, err = m.bound.nic.renew(ctx, m.bound.ack, old, true)
	must(t, err)
	// Not for us to hear while renewing: the answer of another server.
	try, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	other := *old
	other.Server = addr("10.77.0.2")
	newServer.set(func() { newServer.extra = []dhcpv4.Modifier{option(54, "\x0a\x4d\x00\x09")} })
	if _, _, err = m.bound.nic.renew(try, m.bound.ack, &other, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("renewed by another server: %v", err)
	}
}

// The NIC that firmware booted from wins, though the other one answers first.
func TestBootNICWins(t *testing.T) {
	if !inside(t) {
		return
	}
	f := newFar(t, 2)
	f.serve(t, &server{offer: "10.77.0.50"}, "s0", 0, "10.77.0.1/24")
	f.serve(t, &server{offer: "10.78.0.50", delay: 500 * time.Millisecond}, "s1", 0, "10.78.0.1/24")
	m := manager(t, Config{BootMAC: macOf(t, "c1")})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	must(t, m.Up(ctx))
	if st := m.State(); st.NIC != "c1" || isUp(t, "c0") {
		t.Errorf("state %+v, c0 up %t", st, isUp(t, "c0"))
	}
}

// An offer that is of no use does not win, and does not stop a good one.
func TestUselessOffer(t *testing.T) {
	if !inside(t) {
		return
	}
	f := newFar(t, 2)
	f.serve(t, &server{offer: "10.77.0.50", extra: []dhcpv4.Modifier{option(1, "\x00\xff\x00\xff")}}, "s0", 0, "10.77.0.1/24")
	f.serve(t, &server{offer: "10.78.0.50", delay: 300 * time.Millisecond}, "s1", 0, "10.78.0.1/24")
	m := manager(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	must(t, m.Up(ctx))
	if st := m.State(); st.NIC != "c1" {
		t.Errorf("state %+v", st)
	}
}

// Of two offers on one NIC the first need not be the better.
func TestSecondOffer(t *testing.T) {
	if !inside(t) {
		return
	}
	f := newFar(t, 1)
	s := &server{offer: "10.77.0.50", first: []dhcpv4.Modifier{option(1, "\x00\xff\x00\xff")}}
	f.serve(t, s, "s0", 0, "10.77.0.1/24")
	m := manager(t, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	n, err := m.list()
	must(t, err)
	must(t, n[0].up())
	must(t, n[0].carrier(ctx))
	_, lease, err := n[0].discover(ctx, time.Now())
	must(t, err)
	if lease.Addr.String() != "10.77.0.50/24" || strings.Count(s.log(), "DISCOVER") > 2 {
		t.Errorf("lease %+v, server saw\n%s", lease, s.log())
	}
	s.set(func() { s.first, s.extra = nil, s.first })
	try, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if _, lease, err := n[0].discover(try, time.Now()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("useless offer: %+v, %v", lease, err)
	}
}

// A server that offers and then refuses is asked again, but with pauses.
func TestRefusedOffer(t *testing.T) {
	if !inside(t) {
		return
	}
	f := newFar(t, 1)
	s := &server{offer: "10.77.0.50", nak: true}
	f.serve(t, s, "s0", 0, "10.77.0.1/24")
	m := manager(t, Config{})
	time.AfterFunc(5*time.Second, func() { s.set(func() { s.nak = false }) })
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	must(t, m.Up(ctx))
	if n := strings.Count(s.log(), "REQUEST"); n < 2 || n > 6 {
		t.Errorf("%d requests:\n%s", n, s.log())
	}
	// Relays must hear for how long we have been asking, and that a REQUEST
	// belongs to a DISCOVER.
	secs, late := "", false
	for line := range strings.Lines(s.log()) {
		kind, _, _ := strings.Cut(line, " ")
		_, now, _ := strings.Cut(strings.TrimSpace(line), " secs ")
		if kind == "REQUEST" && now != secs {
			t.Errorf("REQUEST of other seconds than the DISCOVER:\n%s", s.log())
		}
		secs, late = now, late || now != "0"
	}
	if !late {
		t.Errorf("no seconds are counted:\n%s", s.log())
	}
}

func TestVLAN(t *testing.T) {
	if !inside(t) {
		return
	}
	f := newFar(t, 2)
	probe := netlink.NewLinkAttrs()
	probe.Name, probe.ParentIndex = "probe", 1
	if err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: probe, VlanId: 1}); errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no VLANs (8021q)")
	}
	f.serve(t, &server{offer: "10.77.0.50"}, "s0", 100, "10.77.0.1/24")
	f.do(t, func() error { l, err := netlink.LinkByName("s1"); return errors.Join(err, netlink.LinkSetUp(l)) })
	m := manager(t, Config{VLAN: 100})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	must(t, m.Up(ctx))
	st := m.State()
	if st.NIC != "c0.100" || st.MAC.String() != macOf(t, "c0").String() {
		t.Errorf("state %+v", st)
	}
	if _, err := netlink.LinkByName("c1.100"); err == nil {
		t.Error("the VLAN interface of the other NIC is left")
	}
}

func TestStatic(t *testing.T) {
	if !inside(t) {
		return
	}
	f := newFar(t, 2)
	f.do(t, func() error {
		for _, n := range []string{"s0", "s1"} {
			l, err := netlink.LinkByName(n)
			if err := errors.Join(err, netlink.LinkSetUp(l)); err != nil {
				return err
			}
		}
		return nil
	})
	// The gateway is outside of the prefix, as routed data centres have it.
	st, err := ParseStatic("192.0.2.10/32,10.0.0.1,192.0.2.53")
	must(t, err)
	m := manager(t, Config{Static: st, BootMAC: macOf(t, "c1")})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	must(t, m.Up(ctx))
	addrs, routes := kernel(t, "c1")
	if len(addrs) != 1 || addrs[0] != "192.0.2.10/32" || !strings.Contains(routes, "0.0.0.0/0 via 10.0.0.1;") || isUp(t, "c0") {
		t.Errorf("addresses %q, routes %s, c0 up %t", addrs, routes, isUp(t, "c0"))
	}
	if b, _ := os.ReadFile(m.resolv); string(b) != "nameserver 192.0.2.53\n" {
		t.Errorf("resolv.conf %q", b)
	}
}

// Without any server, and without any NIC, Up goes on until it is cancelled
// and then says what was missing.
func TestNoServer(t *testing.T) {
	if !inside(t) {
		return
	}
	for pairs, want := range []error{errNoNIC, errNoAnswer} {
		newFar(t, pairs)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		began := time.Now()
		err := manager(t, Config{}).Up(ctx)
		cancel()
		if !errors.Is(err, want) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 20*time.Second {
			t.Errorf("%d NICs: %v after %s, want %v", pairs, err, time.Since(began), want)
		}
	}
}
