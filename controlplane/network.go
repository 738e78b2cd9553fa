package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/teeth-metal/teeth/controlplane/netboot"
	"github.com/teeth-metal/teeth/controlplane/netboot/bootfile"
	"github.com/teeth-metal/teeth/controlplane/netboot/dhcp"
	"github.com/teeth-metal/teeth/controlplane/netboot/dhcp6"
	"github.com/teeth-metal/teeth/controlplane/netboot/tftp"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// NetworkConfig says how chassis get addresses and what they boot: DHCP, TFTP, HTTP.
// All of it is off unless set, but for the plain HTTP of Config.Boot.
type NetworkConfig struct {
	DHCP      []string // interfaces on which addresses are given, in the subnets of the store
	DHCPRange string   // FIRST-LAST: pool of the network of the one interface in DHCP
	DHCPProxy []string // interfaces on which only boot files are named, beside another server
	DHCPProbe bool     // ask by ARP before an address is offered for the first time
	DHCP6     []string // interfaces on which DHCPv6 tells what to boot, and gives addresses in the store's IPv6 subnets

	TFTP     string   // address of the TFTP server
	BootTLS  string   // address for booting chassis, HTTPS, for firmware that has our CA enrolled
	IPXEDirs []string // where iPXE lies; nil: bootfile.DefaultIPXEDirs
}

// check reports what cannot be meant.
func (c NetworkConfig) check() error {
	if c.DHCPRange == "" {
		return nil
	}
	if len(c.DHCP) != 1 {
		return errors.New("--dhcp-range goes with one --dhcp: define several networks with `teeth subnet add`")
	}
	r, err := store.ParseRange(c.DHCPRange)
	if err == nil && !r.First.Is4() {
		err = fmt.Errorf("range %s: want IPv4 addresses; define an IPv6 pool with `teeth subnet add`", r)
	}
	return err
}

func (c NetworkConfig) dirs(bootDir string) bootfile.Dirs {
	if c.IPXEDirs == nil {
		c.IPXEDirs = bootfile.DefaultIPXEDirs
	}
	return bootfile.Dirs{Boot: bootDir, IPXE: c.IPXEDirs}
}

// startNetwork starts what serves it. A part that ends with an error ends the server.
func (s *server) startNetwork(ctx context.Context, start func(part func() error)) error {
	c := s.Network
	if err := c.check(); err != nil {
		return err
	}
	dirs := c.dirs(s.BootDir)
	files := bootfile.Files{Has: dirs.Has}
	if err := s.startTFTP(ctx, dirs, start); err != nil {
		return err
	}
	if err := s.startBootTLS(ctx, start); err != nil {
		return err
	}
	if len(c.DHCP) > 0 || len(c.DHCPProxy) > 0 {
		d, err := dhcp.New(dhcp.Config{
			Store: s.store, Interfaces: c.DHCP, Proxy: c.DHCPProxy, Files: files, BootPort: s.bootPort, AdvertiseURL: s.AdvertiseURL,
			TFTP: c.TFTP != "", AgentsPort: s.agentsPort, CAPin: s.authority.Pin(), Token: s.store.IssueBootToken,
			Probe: c.DHCPProbe, Log: s.Log, Observe: s.metrics.DHCP,
		})
		if err != nil {
			return err
		}
		if err := s.needSubnet(ctx); err != nil {
			return err
		}
		start(func() error { return d.Serve(ctx) })
	}
	if len(c.DHCP6) > 0 {
		d, err := dhcp6.New(dhcp6.Config{
			Store: s.store, Interfaces: c.DHCP6, Files: files, BootPort: s.bootPort, AdvertiseURL: s.AdvertiseURL,
			TFTP: c.TFTP != "", Log: s.Log,
		})
		if err != nil {
			return err
		}
		start(func() error { return d.Serve(ctx) })
	}
	return nil
}

// needSubnet makes the subnet of --dhcp-range, and refuses to serve where there is
// none: a DHCP server that says nothing is hard to find the fault of.
func (s *server) needSubnet(ctx context.Context) error {
	all, err := s.store.Subnets(ctx)
	if err != nil {
		return err
	}
	if s.Network.DHCPRange == "" {
		if len(s.Network.DHCP) > 0 && len(all) == 0 {
			// Not an error: subnets are added while the server runs.
			s.Log.Warn("DHCP has no subnet yet and answers nobody: add one with `teeth subnet add`, or start the server with --dhcp-range FIRST-LAST")
		}
		return nil
	}
	r, err := store.ParseRange(s.Network.DHCPRange)
	if err != nil {
		return err
	}
	name := s.Network.DHCP[0]
	prefix, err := networkOf(name, r)
	if err != nil {
		return err
	}
	for _, sub := range all {
		if sub.CIDR == prefix {
			sub.Pools = []store.Range{r}
			_, err := s.store.SetSubnet(ctx, sub)
			return err
		}
	}
	_, err = s.store.AddSubnet(ctx, store.Subnet{CIDR: prefix, Pools: []store.Range{r}})
	return err
}

// networkOf returns the network of an interface that a range is in.
func networkOf(name string, r store.Range) (netip.Prefix, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("--dhcp %s: %w", name, err)
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("--dhcp %s: %w", name, err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Masked().Contains(r.First) && p.Masked().Contains(r.Last) {
			return p.Masked(), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("--dhcp-range %s is in no network of %s, which has %v", r, name, addrs)
}

func (s *server) startTFTP(ctx context.Context, dirs bootfile.Dirs, start func(func() error)) error {
	if s.Network.TFTP == "" {
		return nil
	}
	a, err := net.ResolveUDPAddr("udp", s.Network.TFTP)
	if err != nil {
		return fmt.Errorf("--tftp %s: %w", s.Network.TFTP, err)
	}
	conn, err := net.ListenUDP("udp", a)
	if err != nil {
		return fmt.Errorf("--tftp: %w", err)
	}
	s.Log.Info("TFTP server is up", "address", conn.LocalAddr().String())
	start(func() error {
		return tftp.Serve(ctx, conn, tftp.Config{
			Open: func(name string) (io.ReadCloser, int64, error) {
				f, info, err := dirs.Open(name)
				if err != nil {
					return nil, 0, err
				}
				return f, info.Size(), nil
			},
			Ended: s.tftpEnded,
			Log:   s.Log,
		})
	})
	return nil
}

// tftpEnded makes the notice of a transfer.
func (s *server) tftpEnded(t tftp.Transfer) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s.metrics.TFTP(t.Size, t.Err)
	kind := store.NoticeTFTPSent
	data := map[string]any{
		"file": t.File, "remoteAddress": t.Remote.Addr().String(), "remotePort": t.Remote.Port(),
		"size": t.Size, "time": fmt.Sprintf("%.3f", t.Time.Seconds()),
	}
	if t.Err != nil {
		kind, data["error"] = store.NoticeTFTPFailed, t.Err.Error()
	}
	chassis, err := s.store.ChassisAt(ctx, t.Remote.Addr())
	if err == nil {
		err = s.store.AddNotice(ctx, kind, chassis, "", data)
	}
	if err != nil {
		s.Log.Error("no notice of a TFTP transfer", "file", t.File, "error", err)
	}
}

func (s *server) startBootTLS(ctx context.Context, start func(func() error)) error {
	if s.Network.BootTLS == "" {
		return nil
	}
	l, err := listen(ctx, s.Network.BootTLS)
	if err != nil {
		return err
	}
	c := s.authority.ServerConfig()
	c.ClientAuth = tls.NoClientCert // firmware has none
	c.NextProtos = []string{"http/1.1"}
	s.Log.Info("boot server with TLS is up", "address", l.Addr().String())
	start(func() error { return netboot.Serve(ctx, tls.NewListener(l, c), s.boot, s.Log) })
	return nil
}
