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
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/agent/session"
	"github.com/teeth-metal/teeth/agent/task"
	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Agent serves one booted machine.
type Agent struct {
	machine *boot.Machine
	version string
	bootID  string
	log     *slog.Logger // consoles and, through the session, the control plane
	tasks   *task.Manager
	session *session.Session

	mu   sync.Mutex
	zero map[blockdev.Identity]bool // disks proven to read as zeros, by an erase in this boot
}

// Run serves machine until its context ends; version is that of the software.
// An error is one that leaves nothing to go on with.
func Run(machine *boot.Machine, version string) error {
	ctx := machine.Context()
	a := &Agent{machine: machine, version: version, log: machine.Log, zero: map[blockdev.Identity]bool{}}
	var err error
	if a.bootID, err = readLine("/proc/sys/kernel/random/boot_id"); err != nil {
		machine.Log.Warn("no boot id: after a reboot the control plane cannot tell that tasks were lost", "err", err)
	}
	servers, err := waitForServers(ctx, machine)
	if err != nil {
		return nil // told to shut down
	}
	// The work outlives ctx a little, so that cancelled tasks can say so.
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	a.tasks = task.NewManager(ctx, func(s teeth.TaskStatus) { a.session.Report(s) }, machine.Log)
	a.session, err = session.New(session.Config{
		Endpoints: servers,
		CASHA256:  machine.Options.CASHA256,
		Insecure:  machine.Options.Insecure,
		Handshake: a.handshake,
		Handler:   a,
		Delivered: a.tasks.Acknowledge,
		Log:       machine.Log,
	})
	if err != nil {
		return fmt.Errorf("control plane %s: %w", strings.Join(servers, ","), err)
	}
	a.log = slog.New(shipping{machine.Log.Handler(), a.session.Log})
	machine.SetHealth(a.healthy)
	boot.OnLastWords(func(ctx context.Context, text string) {
		a.session.Log("last words: "+text, map[string]any{"level": "ERROR"})
		a.session.Flush(ctx)
	})
	ended := make(chan struct{})
	boot.Go("session", func() {
		defer close(ended)
		a.session.Run(working)
	})

	<-ctx.Done()
	a.log.Warn("shutting down", "cause", context.Cause(ctx))
	a.tasks.Wait()
	flushing, cancel := context.WithTimeout(working, 5*time.Second)
	defer cancel()
	if err := a.session.Flush(flushing); err != nil {
		machine.Log.Warn("the control plane was not told everything", "err", err)
	}
	stop()
	<-ended
	return nil
}

// waitForServers returns the endpoints to dial, once any are known: a renewed
// lease may bring them.
func waitForServers(ctx context.Context, machine *boot.Machine) ([]string, error) {
	for said := false; ; said = true {
		if s := machine.Servers(); len(s) > 0 {
			return s, nil
		}
		if !said {
			machine.Log.Error("no control plane is known: give teeth.server=HOST:PORT on the kernel command line, or DHCP option 43 sub-option 1")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Second):
		}
	}
}

func (a *Agent) handshake() teeth.Handshake {
	return teeth.Handshake{
		ID:      a.machine.MAC,
		Version: a.version,
		UUID:    a.machine.Identity.UUID,
		Serial:  a.machine.Identity.Serial,
		MACs:    macs("/sys"),
		BootID:  a.bootID,
		Token:   a.machine.Options.Token,
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
	}
	if p, ok := work[method]; ok {
		id, disruptive, run, err := p(params)
		if err == nil {
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

// disks returns the disks that may be worked on.
func (a *Agent) disks() ([]blockdev.Info, error) { return blockdev.Sysfs{}.List() }

// setZero records whether a disk is proven to read as zeros. Whoever writes to
// a disk says false before the first write.
func (a *Agent) setZero(d blockdev.Info, zero bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if zero {
		a.zero[d.Identity()] = true
	} else {
		delete(a.zero, d.Identity())
	}
}

func (a *Agent) isZero(d blockdev.Info) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.zero[d.Identity()]
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
