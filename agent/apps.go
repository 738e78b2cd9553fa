package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/agent/backbone"
	"github.com/teeth-metal/teeth/agent/backbone/broker"
	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/agent/session"
	"github.com/teeth-metal/teeth/app"
	"github.com/teeth-metal/teeth/hwinfo"
	wire "github.com/teeth-metal/teeth/wire/backbone"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	// All in memory: no disk may be written to that nobody has asked for.
	appsRoot  = "/run/teeth/apps"
	appsState = "/run/teeth/backbone"

	appsStop   = 10 * time.Second // for apps to end before the chassis leaves
	lookAround = 30 * time.Second // for the inventory that a status shows
)

// apps keeps the apps of this chassis, beside its tasks. Its methods may be called on
// nil, which keeps none.
type apps struct {
	host    *app.Host
	way     *way
	log     *slog.Logger
	session atomic.Pointer[session.Session] // nil until there is one
	stop    context.CancelFunc
	ended   chan struct{} // the slave has
	closing sync.Once
}

// openApps makes the chassis ready for apps. Nothing is kept before run.
func (a *Agent) openApps(ctx context.Context) (*apps, error) {
	p := &apps{ended: make(chan struct{})}
	p.log = slog.New(shipping{next: a.machine.Log.Handler(), send: func(message string, fields map[string]any) {
		if s := p.session.Load(); s != nil {
			s.Log(message, fields)
		}
	}})
	memory, err := memoryTotal()
	if err != nil {
		return nil, err
	}
	p.host, err = app.Open(ctx, app.Options{
		Root: appsRoot, Memory: memory / 4, MaxCache: memory / 16, Logger: p.log,
		Log: func(name, line string) {
			if !a.records.app(name, line) {
				p.log.Info(line, "app", name)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	p.way = newWay(p.log)
	if opt := a.machine.Options.Backbone; opt.URL != "" {
		c := broker.Config{URL: opt.URL, Dialect: opt.Dialect, HostID: a.hostID(), MAC: a.documentID(macs("/sys")), Log: p.log}
		if err := p.way.fix(ctx, c, opt.CASHA256); err != nil {
			p.log.Error("the Backbone master of the kernel command line is not asked", "err", err)
		}
	}
	return p, nil
}

// hostID is under which id masters know this chassis.
func (a *Agent) hostID() string {
	if a.machine.Identity.UUID != "" {
		return a.machine.Identity.UUID
	}
	return strings.ToUpper(a.machine.MAC)
}

// documentID is under which id the document's masters know this chassis: the address
// of its first NIC by name.
func (a *Agent) documentID(macs []string) string {
	for _, mac := range macs {
		if strings.Trim(mac, "0:") != "" {
			return strings.ToUpper(mac)
		}
	}
	return strings.ToUpper(a.machine.MAC)
}

// run keeps apps until ctx ends, or until end.
func (p *apps) run(ctx context.Context, a *Agent) {
	ctx, p.stop = context.WithCancel(ctx)
	boot.Go("apps", func() {
		defer close(p.ended)
		slave, err := backbone.New(backbone.Config{
			Apps: p.host, Transports: []backbone.Transport{p.way}, Dir: appsState, Log: p.log, Heartbeat: a.machine.Options.Backbone.Heartbeat,
			Version: a.version, Info: a.hostInfo(ctx), OS: "teeth_" + strings.TrimPrefix(a.version, "teeth-agent/"),
			Variables: func() wire.Variables { return a.variables(p.way.host()) },
		})
		if err != nil {
			p.log.Error("no apps are kept", "err", err)
			return
		}
		_ = slave.Run(ctx) // ends with ctx, and for no other reason
	})
}

// variables are what stands for the templates in URLs of packages: the original's
// master serves them itself, as the host that the slave reaches the broker at.
func (a *Agent) variables(host string) wire.Variables {
	if servers := a.machine.Servers(); host == "" && len(servers) > 0 {
		host, _, _ = net.SplitHostPort(servers[0])
	}
	return wire.Variables{Host: host, Protocol: "http", Port: "9080"}
}

// end stops all apps, for good: the chassis leaves.
func (p *apps) end() {
	if p != nil {
		p.closing.Do(p.close)
	}
}

func (p *apps) close() {
	ctx, cancel := context.WithTimeout(context.Background(), appsStop)
	defer cancel()
	p.stop()
	select {
	case <-p.ended:
	case <-ctx.Done():
		p.log.Warn("an app's work does not end, leaving all the same")
	}
	closed := make(chan error, 1)
	boot.Go("end of apps' host", func() { closed <- p.host.Close(ctx) })
	var err error
	select {
	case err = <-closed:
	case <-time.After(appsStop + time.Second): // it waits for what cannot be stopped
		err = context.DeadlineExceeded
	}
	if err != nil {
		p.log.Warn("not every app has ended in order", "err", err)
	}
}

// keeps reports whether the control plane may say which apps there are to be.
func (p *apps) keeps() bool { return p != nil && !p.way.isFixed() }

// command carries out app_config and app_ping.
func (p *apps) command(method string, params json.RawMessage) (any, error) {
	if !p.keeps() {
		return nil, errors.New("this chassis keeps no apps for the control plane: it has a Backbone master on its kernel command line, or cannot run any")
	}
	e := wire.NewPing()
	if method == teeth.MethodAppConfig {
		var c teeth.AppParams
		if err := teeth.DecodeParams(method, params, &c, "data"); err != nil {
			return nil, err
		}
		// The reply says at once what the status would: nothing is changed by this.
		if _, err := wire.ParseApps(c.Data); err != nil {
			return nil, err
		}
		e = wire.Envelope{Opcode: wire.SetConfig, Data: c.Data, Revision: c.Revision}
	}
	return struct{}{}, p.way.deliver(e)
}

// welcomed takes the answer to a handshake.
func (a *Agent) welcomed(r teeth.HandshakeResult) {
	a.opening.welcomed(r)
	a.records.welcomed(r)
	if a.apps == nil {
		return
	}
	pin, _ := a.machine.Trust()
	id := r.Chassis
	if wire.CheckHostID(id) != nil {
		id = a.hostID()
	}
	a.apps.way.welcomed(a.machine.Context(), r, id, pin, a.session.Call)
}

// hostInfo is what a status says of this host.
func (a *Agent) hostInfo(ctx context.Context) wire.Info {
	info := wire.Info{OSFamily: "Linux", OSInfo: "Teeth " + strings.TrimPrefix(a.version, "teeth-agent/")}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		info.Arch = unix.ByteSliceToString(u.Machine[:])
	}
	if info.Hostname, _ = os.Hostname(); slices.Contains([]string{"", "(none)", "localhost"}, info.Hostname) {
		info.Hostname = "teeth-" + strings.ToLower(strings.ReplaceAll(a.machine.MAC, ":", ""))
	}
	ctx, cancel := context.WithTimeout(ctx, lookAround)
	defer cancel()
	inv, err := a.inventory(ctx)
	if err != nil {
		a.machine.Log.Warn("statuses of apps tell nothing of the processors", "err", err)
		return info
	}
	info.CPUInfo = cpuInfo(inv, info.Arch)
	return info
}

// cpuInfo is cpu_info as the original has it; nil if nothing is known.
func cpuInfo(inv *hwinfo.Inventory, arch string) json.RawMessage {
	if len(inv.CPUs) == 0 {
		return nil
	}
	first := inv.CPUs[0] // as a rule there is one model
	var sockets, cores, threads int
	for _, c := range inv.CPUs {
		sockets, cores, threads = sockets+c.Sockets, cores+c.Cores, threads+c.Threads
	}
	kind := "physical"
	if slices.Contains(first.Features, "hypervisor") {
		kind = "virtual"
	}
	b, err := json.Marshal(map[string]any{
		"cpu_sockets": sockets, "cpu_cores": cores,
		"cpu_threads": map[string]int{"total": threads, "per_core": threads / max(cores, 1)},
		"cpu_arch":    arch, "cpu_vendor": first.Vendor, "cpu_features": first.Features,
		"cpu_model":        map[string]string{"model_id": "", "model_name": first.Model},
		"virtual/physical": kind,
	})
	if err != nil {
		return nil
	}
	return b
}

func memoryTotal() (int64, error) {
	var s unix.Sysinfo_t
	if err := unix.Sysinfo(&s); err != nil {
		return 0, fmt.Errorf("size of the memory: %w", err)
	}
	return int64(s.Totalram) * int64(s.Unit), nil
}

// brokerHost returns the host of a broker's URL.
func brokerHost(raw string) string {
	u, err := amqp.ParseURI(raw)
	if err != nil {
		return ""
	}
	return u.Host
}
