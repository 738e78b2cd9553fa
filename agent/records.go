package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/agent/boot/conlog"
	"github.com/teeth-metal/teeth/agent/minion"
	"github.com/teeth-metal/teeth/agent/minion/command"
	"github.com/teeth-metal/teeth/agent/minion/kmsg"
	"github.com/teeth-metal/teeth/agent/minion/spool"
	"github.com/teeth-metal/teeth/agent/minion/telemetry"
	"github.com/teeth-metal/teeth/agent/session"
	wire "github.com/teeth-metal/teeth/wire/minion"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Services that records of a chassis are of, beside the names of its apps.
const (
	serviceAgent  = "agent"
	serviceKernel = "kernel"
	serviceTask   = "task"
)

// drainLimit is how long the kernel's log is waited for before the agent leaves.
const drainLimit = time.Second

// records delivers what this chassis has to say to a StreamServer: the agent's log,
// the kernel's, that of tasks and of apps, and telemetry. They are kept in memory, for
// no disk may be used, and go over the session when no StreamServer can be reached.
// Its methods return at once but for flush, and may be called on nil, which keeps none.
type records struct {
	client  *minion.Client
	kernel  *kmsg.Reader
	log     *slog.Logger
	machine *boot.Machine
	secrets []string // not to leave the chassis
	tasks   taskLines
	aimed   atomic.Bool // there is a target
	session atomic.Pointer[session.Session]
	over    atomic.Bool // the session may be used: the control plane keeps records, of this name

	mu      sync.Mutex
	pending []past // lines of the boot, until they can be put in order
	merged  bool
}

// past is a line that was written before anybody took it.
type past struct {
	at            time.Duration // since the kernel started
	service, text string
}

// openRecords makes what takes records, from the first line of the boot on.
func (a *Agent) openRecords() (*records, error) {
	m := a.machine
	r := &records{log: m.Log, machine: m, secrets: secretsOf(m.Options)}
	memory, err := spool.Open(spool.Options{Log: m.Log})
	if err != nil {
		return nil, err
	}
	runner, err := command.New(command.Config{Internal: a.internalCommands(), Log: m.Log})
	if err != nil {
		return nil, err
	}
	r.client, err = minion.New(minion.Options{
		Spool: memory, Log: m.Log, Session: r.overSession,
		Orders: func(ctx context.Context, o wire.Order, from minion.Peer, answer func(wire.Result)) {
			runner.Run(ctx, o, command.Peer{Address: from.Address, Trusted: from.Trusted, Streams: from.Streams}, answer)
		},
	})
	if err != nil {
		return nil, err
	}
	r.kernel = kmsg.NewReader("/dev/kmsg", m.Log, r.kernelLine)
	return r, nil
}

// internalCommands are what a StreamServer may ask of the agent itself.
func (a *Agent) internalCommands() map[string]command.Func {
	return map[string]command.Func{
		"version": command.Version(a.version),
		"upgrade": a.upgradeRamdisk,
		"status": func(ctx context.Context, _ []string) (string, error) {
			s, err := a.status(ctx, json.RawMessage("{}"))
			if err != nil {
				return "", err
			}
			return command.JSON(s)
		},
	}
}

// run takes and delivers records; sources end with ctx, the delivery with working.
func (r *records) run(ctx, working context.Context) {
	boot.Go("records", func() { _ = r.client.Run(working) }) // ends with working, and for no other reason
	boot.Go("kernel log", func() { r.kernel.Run(working) })
	boot.Go("records of the boot", func() {
		draining, cancel := context.WithTimeout(ctx, drainLimit)
		defer cancel()
		r.kernel.Drain(draining)
		r.machine.Tap(r.agentLine)
		r.merge()
	})
	measure, err := telemetry.New(telemetry.Config{Builtin: telemetry.Defaults(), Log: r.log, Send: func(label string, values ...string) {
		if err := r.client.Telemetry(label, values...); err != nil {
			r.log.Warn("a measurement is not sent", "err", err)
		}
	}})
	if err != nil {
		r.log.Error("no telemetry", "err", err)
	} else {
		boot.Go("telemetry", func() { _ = measure.Run(ctx) }) // the same
	}
	r.aim(nil)
}

// welcomed takes the control plane's word on where records go.
func (r *records) welcomed(res teeth.HandshakeResult) {
	if r == nil {
		return
	}
	r.aim(res.Minion)
}

// aim makes a target of the kernel command line and, where that says nothing, of what
// the control plane offers.
func (r *records) aim(offered *teeth.MinionServer) {
	given := r.machine.Options.Minion
	if offered == nil && (len(given.Servers) == 0 || given.Key == "") {
		r.over.Store(false)
		return
	}
	t := minion.Target{Addresses: given.Servers, Group: given.Group, Server: given.ID, Key: given.Key}
	insecure := given.Insecure
	own := minion.Target{Group: "chassis", Server: strings.ToLower(cmp.Or(r.machine.Identity.UUID, r.machine.MAC))}
	if offered != nil {
		own = minion.Target{Addresses: offered.Addresses, Group: offered.Group, Server: offered.ID, Key: offered.Key}
	}
	if len(t.Addresses) == 0 {
		t.Addresses, insecure = own.Addresses, offered.Insecure
	}
	t.Group, t.Server, t.Key = cmp.Or(t.Group, own.Group), cmp.Or(t.Server, own.Server), cmp.Or(t.Key, own.Key)
	if !insecure && len(t.Addresses) > 0 {
		pin, _ := r.machine.Trust()
		var err error
		if t.TLS, err = session.TLSConfig(pin); err != nil {
			r.log.Error("records go to no StreamServer: teeth.ca_sha256 must say which to trust, or teeth.minion_insecure=1 that none is", "err", err)
			t.Addresses = nil
		}
	}
	// What goes over the session must be of the chassis' own name.
	r.over.Store(offered != nil && t.Group == offered.Group && t.Server == offered.ID)
	if err := r.client.SetTarget(t); err != nil {
		r.log.Error("records go nowhere", "err", err)
		return
	}
	r.aimed.Store(true)
}

// overSession implements minion.Options.Session.
func (r *records) overSession(ctx context.Context, frames []byte) error {
	s := r.session.Load()
	if s == nil || !r.over.Load() || !s.Connected() {
		return minion.ErrNoSession
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	_, err := s.Call(ctx, teeth.MethodRecords, teeth.RecordsParams{Frames: frames})
	if errors.Is(err, session.ErrLost) {
		return minion.ErrNoSession
	}
	return err
}

// keeps reports whether records are delivered anywhere, or will be.
func (r *records) keeps() bool { return r != nil && r.aimed.Load() }

// flush waits until everything that was said is delivered, that of the kernel
// included.
func (r *records) flush(ctx context.Context) error {
	if !r.keeps() {
		return nil // and could not be
	}
	draining, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	r.kernel.Drain(draining)
	return r.client.Flush(ctx)
}

// app takes a line that an app has written, unless records go nowhere.
func (r *records) app(name, line string) bool {
	if !r.keeps() {
		return false
	}
	r.client.Log(name, line)
	return true
}

// attach says which session may be used.
func (r *records) attach(s *session.Session) {
	if r != nil {
		r.session.Store(s)
	}
}

// agentLine takes a line of the agent's log. It is called with the log's lock held.
func (r *records) agentLine(l conlog.Line) {
	text := l.Level.String() + " " + l.Text
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.merged {
		r.pending = append(r.pending, past{l.At, serviceAgent, text})
		return
	}
	r.client.Log(serviceAgent, text)
}

// kernelLine takes a message of the kernel's log. Ours come from agentLine.
func (r *records) kernelLine(l kmsg.Line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l.Lost > 0 {
		r.kernelPast(past{l.At, serviceKernel, fmt.Sprintf("%d messages of the kernel were overwritten before they could be read", l.Lost)})
	}
	if l.Facility != 0 && strings.HasPrefix(l.Text, "teeth: ") {
		return
	}
	text := fmt.Sprintf("[%12.6f] %s", l.At.Seconds(), hide(l.Text, r.secrets))
	r.kernelPast(past{l.At, serviceKernel, text})
}

// kernelPast delivers a line under the time it was written at. r.mu is held.
func (r *records) kernelPast(p past) {
	if !r.merged {
		r.pending = append(r.pending, p)
		return
	}
	r.client.LogAt(bootTime().Add(p.at), p.service, p.text)
}

// merge delivers what was written before anybody took it, in the order of its times.
func (r *records) merge() {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortStableFunc(r.pending, func(a, b past) int { return cmp.Compare(a.at, b.at) })
	began := bootTime()
	for _, p := range r.pending {
		r.client.LogAt(began.Add(p.at), p.service, p.text)
	}
	r.pending, r.merged = nil, true
}

// bootTime is when the kernel started, by the clock as it is now.
func bootTime() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Now()
	}
	return time.Now().Add(-time.Duration(up.Nano()))
}
