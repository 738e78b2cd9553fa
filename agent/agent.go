// Package agent is what a chassis does for the control plane: it says what it
// is, and turns commands into work on its disks and, in the end, into the
// installed system's kernel.
//
// It holds the policy only: which disk, in which order, and when to stop. The
// work itself is done by the libraries, which know nothing of commands.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/agent/session"
	"github.com/teeth-metal/teeth/agent/task"
	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/hwinfo"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// windUp is how long cancelled tasks get to end at a shutdown, so that time is
// left to tell the control plane before the machine reboots without asking.
const windUp = 12 * time.Second

// Agent serves one booted machine.
type Agent struct {
	machine *boot.Machine
	version string
	bootID  string
	log     *slog.Logger // consoles and, through the session, the control plane
	tasks   *task.Manager
	session *session.Session
	known   contents
	opening opening // of the tasks API; see commands.go
	apps    *apps   // nil: none are kept
	records *records

	// What tests replace.
	disks     func() ([]blockdev.Info, error) // those that may be worked on
	inventory func(context.Context) (*hwinfo.Inventory, error)
	cacheDir  string // of images when no disk may be used
	leave     func(taskID, how string)
	restart   func(reason string)         // does not return
	cycle     func(context.Context) error // turns the machine off and on; an error: it did not
}

func newAgent(machine *boot.Machine, version string) *Agent {
	a := &Agent{
		machine:   machine,
		version:   version,
		log:       machine.Log,
		disks:     blockdev.Sysfs{}.List,
		inventory: inventory,
		cacheDir:  memoryCache,
		restart:   machine.Reboot,
	}
	a.cycle = func(ctx context.Context) error { return powerCycle(ctx, machine) }
	a.leave = func(taskID, how string) {
		boot.Go("leave", func() { a.depart(machine.Context(), taskID, how, realExit(machine)) })
	}
	return a
}

// Run serves machine until its context ends; version is that of the software.
func Run(machine *boot.Machine, version string) {
	ctx := machine.Context()
	a := newAgent(machine, version)
	var err error
	if a.bootID, err = readLine("/proc/sys/kernel/random/boot_id"); err != nil {
		machine.Log.Warn("no boot id from the kernel, making one", "err", err)
		a.bootID = teeth.NewID()
	}
	// The work outlives ctx a little, so that cancelled tasks can say so.
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	a.tasks = task.NewManager(ctx, a.report, machine.Log)
	if a.records, err = a.openRecords(); err != nil {
		machine.Log.Error("no records are kept", "err", err)
	} else {
		a.records.run(ctx, working)
	}
	boot.Go("commands", func() {
		if err := a.commands(ctx); err != nil {
			machine.Log.Error("no commands are run", "err", err)
		}
	})
	if a.apps, err = a.openApps(ctx); err != nil {
		machine.Log.Error("no apps are kept", "err", err)
	} else {
		a.apps.run(ctx, a)
	}
	if a.session, err = a.waitForSession(ctx, machine.Servers); err != nil {
		a.apps.end()
		return // told to shut down
	}
	a.records.attach(a.session)
	if a.apps != nil {
		a.apps.session.Store(a.session)
	}
	a.log = slog.New(shipping{next: machine.Log.Handler(), send: a.session.Log})
	machine.SetHealth(a.healthy)
	boot.OnLastWords(func(ctx context.Context, text string) {
		a.session.Log("last words: "+text, map[string]any{"level": "ERROR"})
		_ = a.flush(ctx) // nobody is left to tell
	})
	ended := make(chan struct{})
	boot.Go("session", func() {
		defer close(ended)
		_ = a.session.Run(working) // ends with working, and for no other reason
	})

	<-ctx.Done()
	a.log.Warn("shutting down", "cause", context.Cause(ctx))
	idle := make(chan struct{})
	boot.Go("wind up", func() {
		a.tasks.Wait()
		close(idle)
	})
	quiet := make(chan struct{})
	boot.Go("end of apps", func() {
		a.apps.end()
		close(quiet)
	})
	select {
	case <-idle:
	case <-time.After(windUp):
		a.log.Error("a task does not end, shutting down without it")
	}
	<-quiet // soon: it has a limit of its own
	flushing, cancel := context.WithTimeout(working, flushLimit)
	defer cancel()
	if err := a.flush(flushing); err != nil {
		machine.Log.Warn("the control plane was not told everything", "err", err)
	}
	stop()
	<-ended
}

func (a *Agent) handshake() teeth.Handshake {
	_, token := a.machine.Trust()
	return teeth.Handshake{
		ID:      a.machine.MAC,
		Version: a.version,
		UUID:    a.machine.Identity.UUID,
		Serial:  a.machine.Identity.Serial,
		MACs:    macs("/sys"),
		BootID:  a.bootID,
		Token:   token,
		Apps:    a.apps.keeps(),
		Records: a.records != nil,
	}
}

// Handle implements session.Handler.
func (a *Agent) Handle(ctx context.Context, method string, params json.RawMessage) (any, error) {
	type prepare func(json.RawMessage) (id string, disruptive bool, run task.Func, err error)
	work := map[string]prepare{
		teeth.MethodDiskErase:      a.diskErase,
		teeth.MethodFirmwareSecure: a.firmwareSecure,
		teeth.MethodQC:             a.qualityControl,
		teeth.MethodCacheImages:    a.cacheImages,
		teeth.MethodPrepareImage:   a.prepareImage,
		teeth.MethodRunImage:       a.runImage,
		teeth.MethodReboot:         a.reboot,
	}
	if p, ok := work[method]; ok {
		id, disruptive, run, err := p(params)
		if err == nil {
			a.records.taskStarted(id, method)
			err = a.tasks.Start(id, method, disruptive, run)
		}
		if err != nil {
			a.log.Warn("command refused", "method", method, "err", err)
			return nil, err
		}
		a.log.Info("task accepted", "task", id, "method", method)
		return struct{}{}, nil
	}
	switch method {
	case teeth.MethodAppConfig, teeth.MethodAppPing:
		return a.apps.command(method, params)
	case teeth.MethodStatus:
		return a.status(ctx, params)
	case teeth.MethodTaskCancel:
		var p teeth.TaskParams
		if err := teeth.DecodeParams(method, params, &p, "task_id"); err != nil {
			return nil, err
		}
		if err := a.tasks.Cancel(p.TaskID); err != nil {
			return nil, err
		}
		return struct{}{}, nil
	}
	return nil, session.ErrUnknownMethod
}

// report tells the control plane how a task goes.
func (a *Agent) report(s teeth.TaskStatus) {
	a.records.task(s)
	a.session.Report(s)
}

// flush waits until the control plane has what was reported and said.
func (a *Agent) flush(ctx context.Context) error {
	delivered := make(chan error, 1)
	boot.Go("flush records", func() { delivered <- a.records.flush(ctx) })
	err := a.session.Flush(ctx)
	return errors.Join(err, <-delivered)
}

// healthy reports whether the tasks can still be asked: one that holds its lock
// for ever would make a machine that looks alive and is not.
func (a *Agent) healthy() bool {
	answered := make(chan struct{})
	boot.Go("health", func() {
		a.tasks.Snapshot()
		close(answered)
	})
	select {
	case <-answered:
		return true
	case <-time.After(5 * time.Second):
		return false
	}
}

var errNoImageInfo = errors.New("the command does not say where to fetch this image; send it in \"images\" or \"image\" with urls and hashes")
