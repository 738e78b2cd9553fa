// Package controlplane is `teeth serve`: one process that needs no other
// service. It accepts agents (gateway), gives them their tasks (workflow), serves
// what they boot and install (netboot, images), and answers operators (api),
// with its state in one directory (store, pki).
package controlplane

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/controlplane/api"
	"github.com/teeth-metal/teeth/controlplane/backbone"
	"github.com/teeth-metal/teeth/controlplane/gateway"
	"github.com/teeth-metal/teeth/controlplane/health"
	"github.com/teeth-metal/teeth/controlplane/images"
	"github.com/teeth-metal/teeth/controlplane/metrics"
	"github.com/teeth-metal/teeth/controlplane/minion/release"
	"github.com/teeth-metal/teeth/controlplane/netboot"
	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/rackhd"
	"github.com/teeth-metal/teeth/controlplane/rackhd/node"
	"github.com/teeth-metal/teeth/controlplane/seal"
	"github.com/teeth-metal/teeth/controlplane/settings"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/systemd"
	"github.com/teeth-metal/teeth/controlplane/workflow"
)

// Serve runs a control plane until ctx ends, which is no error. It may be killed
// at any moment: what it has acknowledged is on disk.
func Serve(ctx context.Context, c Config) (err error) {
	for address, otherwise := range map[*string]string{&c.Agents: DefaultAgents, &c.API: DefaultAPI, &c.Boot: DefaultBoot} {
		if *address == "" {
			*address = otherwise
		}
	}
	if err := c.check(); err != nil {
		return err
	}
	c.Log = c.Messages.log(c.Log)
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	unlock, err := lock(c.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	db, err := openStore(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	s := &server{Config: c, store: db}
	defer func() { err = errors.Join(err, s.closeMinion()) }()
	if err := s.open(ctx); err != nil {
		return err
	}
	return s.run(ctx)
}

// lock keeps a second server out of the data directory.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("data directory %s is in use by another control plane: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

type server struct {
	Config
	store     *store.Store
	images    *images.Library
	authority *pki.Authority
	operator  string
	engine    *workflow.Engine
	gateway   *gateway.Gateway
	health    *health.Checks // what /readyz answers; parts add theirs
	metrics   *metrics.Metrics
	settings  *settings.Live // what operators change while it runs

	bootPort, agentsPort, metricsAddress string
	boot                                 http.Handler // what the boot listeners serve

	enrol    string
	secrets  string       // the estate's key: of capabilities, and of what sealer seals
	sealer   *seal.Sealer // for what the store must be able to read again
	hardware hardware
	apps     *backbone.Master
	minion   streamServer
}

// open reads or makes what is kept in the data directory, and wires the parts.
func (s *server) open(ctx context.Context) (err error) {
	s.health = &health.Checks{Log: s.Log}
	s.health.Add("database", s.store.Ping)
	s.metrics = metrics.New(s.Version)
	if err := s.openSettings(ctx); err != nil {
		return err
	}
	if err := s.openSecrets(ctx); err != nil {
		return err
	}
	s.images, err = images.Open(ctx, images.Config{
		Dir: filepath.Join(s.DataDir, "images"), Store: s.store, MaxSize: s.MaxImageSize, AllowLoopback: s.fetchLoopback,
		Key: s.secrets, Log: s.Log,
	})
	if err != nil {
		return err
	}
	s.engine = workflow.New(workflow.Config{
		Store: s.store,
		Session: func(chassis string) (workflow.Session, bool) {
			session, ok := s.gateway.Session(chassis)
			return session, ok
		},
		BootURL: s.bootURL, ImageKey: s.secrets,
		Log: s.Log,
	})
	slaves, err := s.Backbone.slaves()
	if err != nil {
		return err
	}
	if err := s.openMinion(ctx); err != nil {
		return err
	}
	s.gateway = gateway.New(gateway.Config{Backbone: slaves, AppStatus: s.appStatus,
		Minion: s.minionOf, Records: chassisRecords{s.minion.Server},
		Store: s.store, Handler: s.engine, Token: s.enrol, Authority: s.authority,
		NodeCapability: func(chassis, bootID string) string { return node.Capability(s.secrets, chassis, bootID) },
		AutoApprove:    s.Enrolment.AutoApprove, Version: s.Version, Log: s.Log})
	s.engine.Register(rackhd.CommandsJob())
	s.openHardware()
	return s.openBackbone()
}

// names are what a browser or curl may call this server by.
func (s *server) names() []string {
	names := append([]string{"localhost", "127.0.0.1", "::1"}, s.Names...)
	if h, err := os.Hostname(); err == nil {
		names = append(names, h)
	}
	for _, address := range []string{s.Agents, s.API} {
		if host, _, err := net.SplitHostPort(address); err == nil && host != "" {
			names = append(names, host)
		}
	}
	return names
}

func (s *server) bootURL(c store.Chassis) (string, error) {
	if s.AdvertiseURL != "" {
		return strings.TrimSuffix(s.AdvertiseURL, "/"), nil
	}
	if c.Endpoint == "" {
		return "", fmt.Errorf("chassis %s has never said how it reaches this server: give the server its advertised URL: %w", c.ID, store.ErrConflict)
	}
	return "http://" + net.JoinHostPort(c.Endpoint, s.bootPort), nil
}

// run listens everywhere, then serves until outer ends or a part fails. When outer
// ends, operators' requests end first, then the parts that they may need.
func (s *server) run(outer context.Context) error {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(outer))
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel(nil)
	info := Info{CASHA256: s.authority.Pin(), ClientFile: ClientFile(s.DataDir)}
	listeners := map[string]net.Listener{}
	for _, l := range []struct {
		address string
		actual  *string
	}{{s.Agents, &info.Agents}, {s.API, &info.API}, {s.Boot, &info.Boot}, {s.InsecureAgents, &info.InsecureAgents}, {s.Minion.Address, &info.Minion}, {s.Minion.Insecure, &info.InsecureMinion}} {
		if l.address == "" {
			continue
		}
		listener, err := listen(ctx, l.address)
		if err != nil {
			return err
		}
		defer listener.Close()
		*l.actual = listener.Addr().String()
		listeners[*l.actual] = listener
	}
	_, s.bootPort, _ = net.SplitHostPort(info.Boot)
	_, s.agentsPort, _ = net.SplitHostPort(info.Agents)
	s.minion.address, s.minion.insecure = info.Minion, info.InsecureMinion
	nodes := node.Handler(node.Config{
		Store: s.store, Commands: rackhd.Commands{Store: s.store, Finish: s.engine.FinishTask}, Key: s.secrets,
		Tokenless: func() bool { return s.settings.Values().TokenlessNodes }, Log: s.Log,
	})
	boot, err := netboot.Handler(netboot.Config{
		Store: s.store, Image: s.images.File, BootDir: s.BootDir, IPXEDirs: s.Network.IPXEDirs, Log: s.Log,
		AgentsPort: s.agentsPort, CAPin: info.CASHA256, Token: s.enrol, KernelArgs: s.KernelArgs, MoreArgs: func() string { return s.settings.Values().KernelArgs },
		BootToken: s.store.IssueBootToken, CapabilityKey: s.secrets, Nodes: nodes, Observe: s.metrics.Requests("boot"),
		Versions: release.Handler(s.minion.records, s.Log),
	})
	if err != nil {
		return err
	}
	s.boot = boot
	requests, endRequests := context.WithCancel(ctx)
	defer context.AfterFunc(outer, endRequests)()
	defer endRequests()
	operators := api.Handler(requests, api.Config{
		Store: s.store, Gateway: s.gateway, Engine: s.engine, Images: s.images,
		Power: s.hardware.power, Pollers: s.hardware.pollers, SKUs: s.hardware.skus, Apps: s.apps, Records: s.minion.records, Settings: s.settings,
		Token: s.operator, Version: s.Version, Log: s.Log,
		Health: s.health, Metrics: s.metrics.Handler(), Observe: s.metrics.Requests("api"), Limits: s.Operations.limits(),
		Backup: s.backup, AgentConfig: s.agentConfig,
	})
	if err := s.writeClientFile(info); err != nil {
		return err
	}
	tlsConfig := s.authority.ServerConfig()
	start := func(part func() error) {
		parts.Go(func() {
			if err := part(); err != nil {
				cancel(err)
			}
		})
	}
	if err := s.startEstate(ctx, start, info.Boot); err != nil {
		return err
	}
	if err := s.startMinion(ctx, start, listeners); err != nil {
		return err
	}
	start(func() error { return s.engine.Run(ctx) })
	start(func() error {
		return s.gateway.Serve(ctx, listeners[info.Agents], s.authority.AgentConfig(ctx, s.secrets))
	})
	if info.InsecureAgents != "" {
		s.Log.Warn("agents may connect without TLS and token", "address", info.InsecureAgents)
		start(func() error { return s.gateway.Serve(ctx, listeners[info.InsecureAgents], nil) })
	}
	start(func() error { return netboot.Serve(ctx, listeners[info.Boot], boot, s.Log) })
	answered := make(chan struct{})
	start(func() error {
		defer close(answered)
		return api.Serve(requests, tls.NewListener(listeners[info.API], tlsConfig), operators, s.Log)
	})
	for _, more := range []func(context.Context, func(func() error)) error{
		s.startEnrolment, s.startNetwork, s.startHardware, s.startMessages, s.startOperations, s.startBackbone,
	} {
		if err := more(ctx, start); err != nil {
			return err
		}
	}
	s.Log.Info("control plane is up", "agents", info.Agents, "api", info.API, "boot", info.Boot, "minion", info.Minion, "ca_sha256", info.CASHA256)
	info.Metrics = s.metricsAddress
	if s.Ready != nil {
		s.Ready(info)
	}
	s.tellManager(systemd.Ready)
	select {
	case <-outer.Done():
		s.tellManager(systemd.Stopping)
		s.Log.Info("control plane is stopping")
		<-answered
		cancel(nil)
	case <-ctx.Done():
	}
	parts.Wait()
	if outer.Err() != nil { // its cause is what ended it, a signal perhaps, and no failure
		return nil
	}
	return context.Cause(ctx)
}

// peerTimeout is how long a peer may leave data unacknowledged. The kernel ends
// the connection then, wherever in a transfer it is.
const peerTimeout = 2 * time.Minute

func listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		// Accepted connections inherit it.
		if e := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerTimeout.Milliseconds()))
		}); e != nil {
			return e
		}
		return err
	}}
	lc.SetMultipathTCP(false) // older kernels refuse the option on its sockets
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}
