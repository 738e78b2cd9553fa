// Package dhcp is the control plane's DHCPv4 server: it gives chassis addresses
// (RFC 2131, 2132), directly or through relay agents (RFC 3046, 3527, 5107), and
// tells them what to boot (PXE 2.1, RFC 4578, UEFI HTTP boot). As a proxy it does
// only the latter, beside the DHCP server of somebody else.
//
// A client is who its Ethernet address says, whatever client identifier it sends:
// firmware, iPXE, our agent and the installed system each send another, and all
// of them are the same chassis and shall have the same address. Reservations may
// go by either.
//
// It never answers where no subnet is: a network it was not told of is not its
// business. Whoever is on the boot network can pretend to be any chassis, as with
// every DHCP; what that opens is decided by enrolment, not here.
package dhcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/controlplane/netboot/bootfile"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// Config of a server.
type Config struct {
	Store      *store.Store
	Interfaces []string // on which addresses are given
	Proxy      []string // on which only boot files are named, beside another DHCP server

	Files        bootfile.Files
	BootPort     string // of our HTTP server
	AdvertiseURL string // base URL of it as chassis see it; "": our address and BootPort
	TFTP         bool   // our TFTP server runs

	// What our agent is told in option 43.
	AgentsPort string
	CAPin      string
	// Token makes a one-time token for a machine; nil or "" means none.
	Token func(ctx context.Context, uuid, mac string) (string, error)

	// Probe asks by ARP, before an address is offered for the first time, whether
	// some host uses it already. It costs half a second then.
	Probe bool
	Log   *slog.Logger
	// Observe is told of every message and the type of its answer, "" if there is
	// none; nil: nobody is.
	Observe func(message, answer string)
}

// Bounds that keep a flood of requests from taking the store, which agents need too.
const (
	perSecond  = 300 // messages of an interface
	burst      = 2000
	perClient  = 8   // messages of a client in a second
	queued     = 512 // messages that wait for a worker
	workers    = 8   // of an interface
	answerTime = 5 * time.Second
)

// Server is a DHCPv4 server.
type Server struct {
	Config
	quiet *rate.Limiter // of complaints about what strangers send
	probe func(ctx context.Context, iface string, a netip.Addr) (bool, error)
}

// New checks the configuration.
func New(c Config) (*Server, error) {
	for _, name := range slices.Concat(c.Interfaces, c.Proxy) {
		if _, err := net.InterfaceByName(name); err != nil {
			return nil, fmt.Errorf("DHCP on %s: %w", name, err)
		}
		if slices.Contains(c.Interfaces, name) && slices.Contains(c.Proxy, name) {
			return nil, fmt.Errorf("DHCP on %s: it is to be a server and a proxy there: choose one", name)
		}
	}
	return &Server{Config: c, quiet: rate.NewLimiter(rate.Every(10*time.Second), 5), probe: arpProbe}, nil
}

// Serve answers until ctx ends. It returns an error if it cannot listen.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for _, name := range s.Interfaces {
		l, err := listen(ctx, name, dhcpv4.ServerPort, false)
		if err != nil {
			return err
		}
		s.Log.Info("DHCP server is up", "interface", name)
		s.start(ctx, &all, l, s.handle)
	}
	for _, name := range s.Proxy {
		for _, port := range []int{dhcpv4.ServerPort, proxyPort} {
			l, err := listen(ctx, name, port, true)
			if err != nil {
				return err
			}
			s.start(ctx, &all, l, s.handleProxy)
		}
		s.Log.Info("proxy DHCP server is up", "interface", name)
	}
	<-ctx.Done()
	return nil
}

// handler answers a message, or not: nil.
type handler func(context.Context, *dhcpv4.DHCPv4, arrival) *dhcpv4.DHCPv4

// arrival is how a message came.
type arrival struct {
	iface    string
	port     int            // at which it was received
	from     netip.AddrPort // its sender
	unicast  netip.Addr     // our address that it was sent to; zero: broadcast
	prefixes []netip.Prefix // of the interface, IPv4
}

// start reads and answers on l, which it closes when ctx ends.
func (s *Server) start(ctx context.Context, all *sync.WaitGroup, l *listener, h handler) {
	type job struct {
		m  *dhcpv4.DHCPv4
		in arrival
	}
	jobs := make(chan job, queued)
	stop := context.AfterFunc(ctx, l.close)
	all.Go(func() {
		defer stop()
		defer close(jobs)
		limit := newLimits()
		buf := make([]byte, 4096)
		for {
			n, in, err := l.read(buf)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				s.Log.Error("DHCP: cannot receive", "interface", l.name, "error", err)
				select { // the interface may come back
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
				continue
			}
			m, err := dhcpv4.FromBytes(buf[:n])
			if err != nil {
				continue
			}
			if why := limit.refuse(m.ClientHWAddr.String(), time.Now()); why != "" {
				s.complain("DHCP: message dropped: "+why, "interface", l.name, "mac", m.ClientHWAddr.String())
				continue
			}
			select {
			case jobs <- job{m, in}:
			default:
				s.complain("DHCP: message dropped: too many wait", "interface", l.name)
			}
		}
	})
	for range workers {
		all.Go(func() {
			for j := range jobs {
				s.answer(ctx, l, h, j.m, j.in)
			}
		})
	}
}

func (s *Server) answer(ctx context.Context, l *listener, h handler, m *dhcpv4.DHCPv4, in arrival) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	reply := h(ctx, m, in)
	if s.Observe != nil {
		answer := ""
		if reply != nil {
			answer = reply.MessageType().String()
		}
		s.Observe(m.MessageType().String(), answer)
	}
	if reply == nil {
		return
	}
	if err := l.send(m, reply, in); err != nil && !errors.Is(err, net.ErrClosed) {
		s.Log.Error("DHCP: cannot answer", "interface", l.name, "mac", m.ClientHWAddr.String(), "error", err)
	}
}

// complain logs what strangers can cause, as often as is useful.
func (s *Server) complain(msg string, args ...any) {
	if s.quiet.Allow() {
		s.Log.Warn(msg, args...)
	}
}

// limits bound the messages of an interface and of a client.
type limits struct {
	all    *rate.Limiter
	since  time.Time
	counts map[string]int // of this second
}

func newLimits() *limits {
	return &limits{all: rate.NewLimiter(perSecond, burst), counts: map[string]int{}}
}

func (l *limits) refuse(client string, now time.Time) string {
	if now.Sub(l.since) >= time.Second {
		l.since = now
		clear(l.counts)
	}
	if l.counts[client]++; l.counts[client] > perClient {
		return "its client sends too many"
	}
	if len(l.counts) > burst { // so many that the bound of all is near
		clear(l.counts)
	}
	if !l.all.AllowN(now, 1) {
		return "too many in all"
	}
	return ""
}
