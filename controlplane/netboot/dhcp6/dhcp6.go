// Package dhcp6 is the control plane's DHCPv6 server (RFC 8415): it tells chassis what
// to boot (RFC 5970, UEFI HTTP boot), and gives addresses in IPv6 subnets that have
// pools, directly or through relay agents.
//
// Where no subnet is defined, addresses are another's business: by router
// advertisement or by another server. There it answers only those that ask for a
// boot file: an Information-request, and a Solicit with an Advertise that has no
// address, which UEFI firmware joins with that of the other server.
package dhcp6

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/controlplane/netboot/bootfile"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// Config of a server.
type Config struct {
	Store      *store.Store
	Interfaces []string

	Files        bootfile.Files
	BootPort     string // of our HTTP server
	AdvertiseURL string // base URL of it as chassis see it; "": our address and BootPort
	TFTP         bool   // our TFTP server runs
	Log          *slog.Logger
}

const (
	perSecond    = 300 // messages of an interface
	burst        = 2000
	queued       = 512
	workers      = 4
	answerTime   = 5 * time.Second
	addressesFor = 5 * time.Second // how long the addresses of an interface are taken for known
)

// allServers is where clients and relay agents on the link send (RFC 8415, section 7.1).
var allServers = net.ParseIP("ff02::1:2")

// Server is a DHCPv6 server.
type Server struct {
	Config
	quiet *rate.Limiter // of complaints about what strangers send
}

// New checks the configuration.
func New(c Config) (*Server, error) {
	for _, name := range c.Interfaces {
		if _, err := net.InterfaceByName(name); err != nil {
			return nil, fmt.Errorf("DHCPv6 on %s: %w", name, err)
		}
	}
	return &Server{Config: c, quiet: rate.NewLimiter(rate.Every(10*time.Second), 5)}, nil
}

// arrival is how a message came.
type arrival struct {
	iface    string
	duid     dhcpv6.DUID    // ours on this interface
	prefixes []netip.Prefix // of the interface, those of link-local addresses apart
}

type listener struct {
	conn *ipv6.PacketConn
	ifi  *net.Interface
	in   arrival
	at   time.Time // of in.prefixes
}

// Serve answers until ctx ends. It returns an error if it cannot listen.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for _, name := range s.Interfaces {
		l, err := listen(ctx, name)
		if err != nil {
			return err
		}
		s.Log.Info("DHCPv6 server is up", "interface", name)
		s.start(ctx, &all, l)
	}
	<-ctx.Done()
	return nil
}

func listen(ctx context.Context, name string) (*listener, error) {
	fail := func(err error) (*listener, error) { return nil, fmt.Errorf("DHCPv6 on %s: %w", name, err) }
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return fail(err)
	}
	if len(ifi.HardwareAddr) != 6 {
		return fail(errors.New("it is not Ethernet, so there is no server identifier"))
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		e := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name)
		})
		return errors.Join(e, err)
	}}
	c, err := lc.ListenPacket(ctx, "udp6", fmt.Sprintf("[::]:%d", dhcpv6.DefaultServerPort))
	if err != nil {
		return fail(err)
	}
	p := ipv6.NewPacketConn(c)
	if err := p.JoinGroup(ifi, &net.UDPAddr{IP: allServers}); err != nil {
		c.Close()
		return fail(err)
	}
	return &listener{conn: p, ifi: ifi, in: arrival{iface: name,
		duid: &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: ifi.HardwareAddr}}}, nil
}

func (s *Server) start(ctx context.Context, all *sync.WaitGroup, l *listener) {
	type job struct {
		m    dhcpv6.DHCPv6
		in   arrival
		from net.Addr
	}
	jobs := make(chan job, queued)
	stop := context.AfterFunc(ctx, func() { l.conn.Close() })
	all.Go(func() {
		defer stop()
		defer close(jobs)
		limit := rate.NewLimiter(perSecond, burst)
		buf := make([]byte, 8192)
		for {
			n, _, from, err := l.conn.ReadFrom(buf)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				err = l.look()
			}
			if err != nil {
				s.Log.Error("DHCPv6: cannot receive", "interface", l.in.iface, "error", err)
				select { // the interface may come back
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
				continue
			}
			if !limit.Allow() {
				s.complain("DHCPv6: message dropped: too many", "interface", l.in.iface)
				continue
			}
			m, err := dhcpv6.FromBytes(buf[:n])
			if err != nil {
				continue
			}
			select {
			case jobs <- job{m, l.in, from}:
			default:
				s.complain("DHCPv6: message dropped: too many wait", "interface", l.in.iface)
			}
		}
	})
	for range workers {
		all.Go(func() {
			for j := range jobs {
				s.answer(ctx, l, j.m, j.in, j.from)
			}
		})
	}
}

func (s *Server) answer(ctx context.Context, l *listener, m dhcpv6.DHCPv6, in arrival, from net.Addr) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	reply := s.handle(ctx, m, in)
	if reply == nil {
		return
	}
	if _, err := l.conn.WriteTo(reply.ToBytes(), nil, from); err != nil && !errors.Is(err, net.ErrClosed) {
		s.Log.Error("DHCPv6: cannot answer", "interface", in.iface, "to", from, "error", err)
	}
}

// look reads the addresses of the interface now and then.
func (l *listener) look() error {
	if time.Since(l.at) < addressesFor {
		return nil
	}
	addrs, err := l.ifi.Addrs()
	if err != nil {
		return fmt.Errorf("interface %s: %w", l.in.iface, err)
	}
	var list []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() && !p.Addr().Is4In6() && !p.Addr().IsLinkLocalUnicast() {
			list = append(list, p)
		}
	}
	l.in.prefixes, l.at = list, time.Now()
	return nil
}

// complain logs what strangers can cause, as often as is useful.
func (s *Server) complain(msg string, args ...any) {
	if s.quiet.Allow() {
		s.Log.Warn(msg, args...)
	}
}
