package dhcp6

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/netboot/bootfile"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/internal/need"
	"github.com/teeth-metal/teeth/lab/netns"
	"github.com/teeth-metal/teeth/lab/netns/netnstest"
)

// The server runs in the namespace as a process of its own, which is this program.
func TestMain(m *testing.M) { netnstest.Main(m, serveProcess) }

func serveProcess(ctx context.Context, path string) error {
	db, err := store.Open(ctx, path)
	if err != nil {
		return err
	}
	defer db.Close()
	s, err := New(Config{Store: db, Interfaces: []string{netns.Bridge}, BootPort: "8082", TFTP: true,
		Files: bootfile.Files{Has: func(n string) bool { return slices.Contains([]string{"ipxe.efi"}, n) }},
		Log:   slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	return s.Serve(ctx)
}

// ISC's client gets an address, and one that has an address what to boot.
func TestDhclient(t *testing.T) {
	need.Time(t, "starts a DHCP client in a network of its own")
	need.Program(t, "dhclient", "isc-dhcp-client")
	n := netnstest.New(t, "192.0.2.1/24")
	n.Run(nil, "ip", "-n", n.Name, "addr", "add", "2001:db8::1/64", "dev", netns.Bridge, "nodad")
	path := filepath.Join(t.TempDir(), "teeth.db")
	db, err := store.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	sub, err := db.AddSubnet(t.Context(), store.Subnet{CIDR: netip.MustParsePrefix("2001:db8::/64"), DNS: []netip.Addr{netip.MustParseAddr("2001:db8::53")},
		Pools: []store.Range{{First: netip.MustParseAddr("2001:db8::1000"), Last: netip.MustParseAddr("2001:db8::1fff")}}})
	if err != nil {
		t.Fatal(err)
	}
	n.Serve(path, "is up")
	client := n.Client(n.Net, "c0")
	n.Run(client, "sysctl", "-q", "-w", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.eth0.accept_dad=0")
	for i := 0; !strings.Contains(n.Run(nil, "ip", "-n", client.Name, "-6", "addr", "show", "dev", "eth0", "scope", "link", "-tentative"), "fe80"); i++ {
		if i == 100 {
			t.Fatal("the client has no link-local address")
		}
		time.Sleep(100 * time.Millisecond)
	}
	dir := t.TempDir()
	script, env, conf := filepath.Join(dir, "hook"), filepath.Join(dir, "env"), filepath.Join(dir, "conf")
	for name, text := range map[string]string{
		script: "#!/bin/sh\nenv >>" + env + "\n",
		conf: `option dhcp6.bootfile-url code 59 = text;
option dhcp6.arch code 61 = unsigned integer 16;
send dhcp6.arch 16;
also request dhcp6.bootfile-url, dhcp6.name-servers;
`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"-6", "-1", "-v", "-D", "LL", "-sf", script, "-cf", conf, "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid")}
	out := n.Run(client, "dhclient", append(args, "eth0")...)
	all, err := db.PeekLeases(t.Context())
	if err != nil || len(all) != 1 || !sub.Gives(all[0].IP) || all[0].MAC == "" {
		t.Fatalf("leases: %+v, %v\n%s", all, err, out)
	}
	told := func(want ...string) {
		t.Helper()
		b, err := os.ReadFile(env)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(b), w+"\n") {
				t.Errorf("the client was not told %q:\n%s", w, b)
			}
		}
	}
	told("reason=BOUND6", "new_ip6_address="+all[0].IP.String(), "new_dhcp6_name_servers=2001:db8::53", "new_dhcp6_bootfile_url=http://[2001:db8::1]:8082/boot/ipxe.efi")
	n.Run(client, "dhclient", append(args, "-r", "eth0")...)
	for i := 0; ; i++ {
		if all, err = db.PeekLeases(t.Context()); err != nil {
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
	os.Remove(env)
	n.Run(client, "dhclient", append(args, "-S", "eth0")...) // Information-request
	told("new_dhcp6_bootfile_url=http://[2001:db8::1]:8082/boot/ipxe.efi")
}
