package agent

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/agent/rackhd"
	"github.com/teeth-metal/teeth/agent/session"
	"github.com/teeth-metal/teeth/hwinfo"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// opening is what opens RackHD's tasks API to this chassis, as the control plane
// said it last.
type opening struct{ capability atomic.Pointer[string] }

// welcomed implements session.Config's Welcomed.
func (o *opening) welcomed(r teeth.HandshakeResult) { o.capability.Store(&r.NodeCapability) }

func (o *opening) get() string {
	if c := o.capability.Load(); c != nil {
		return *c
	}
	return ""
}

// commands runs the shell commands of a server of RackHD's tasks API, beside the
// session, until ctx ends. The kernel command line says which server; without, there
// is nothing to do.
func (a *Agent) commands(ctx context.Context) error {
	opt := a.machine.Options
	if opt.RackHD == "" {
		return nil
	}
	c := rackhd.Config{
		URL: opt.RackHD, MAC: a.machine.MAC, AnyHost: opt.AnyFiles, Capability: a.opening.get,
		Hold: a.tasks.Hold, Log: a.machine.Log,
		Leave: func(code int) { a.exit(ctx, code) },
	}
	if pin, _ := a.machine.Trust(); pin != "" {
		var err error
		if c.TLS, err = session.TLSConfig(pin); err != nil {
			return fmt.Errorf("teeth.rackhd: %w", err)
		}
	}
	n, err := rackhd.New(c)
	if err != nil {
		return fmt.Errorf("teeth.rackhd: %w", err)
	}
	if err := n.Run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("teeth.rackhd: %w", err)
	}
	return nil
}

// cycleTime is how long a BMC may take to cut the power.
const cycleTime = 20 * time.Second

// powerCycle has the BMC cut the power, once the disks are safe. It returns only if
// that does not happen.
func powerCycle(ctx context.Context, m *boot.Machine) error {
	for _, name := range []string{"ipmi_si", "ipmi_devintf"} {
		if err := m.LoadModule(ctx, name); err != nil {
			m.Log.Debug("driver of the BMC not loaded", "module", name, "err", err)
		}
	}
	if err := m.HandOff(true); err != nil {
		return err
	}
	if err := hwinfo.PowerCycle(ctx, ""); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(cycleTime):
	}
	return fmt.Errorf("the power is still on %v after the BMC took the command", cycleTime)
}

// exit ends this boot as RackHD's exit codes have it. The power cycle is the BMC's
// to do; without one a reboot is what comes nearest.
func (a *Agent) exit(ctx context.Context, code int) {
	a.tasks.Refuse("the chassis is leaving: the server of its commands has ended this boot")
	a.apps.end()
	if code == rackhd.ExitPowerCycle {
		// It cuts the power at once, so everything else comes first.
		a.machine.Log.Warn("power cycle", "by", "the server of the commands")
		if err := a.cycle(ctx); err != nil {
			a.machine.Log.Error("the BMC does not cycle the power, rebooting instead", "err", err)
		}
	}
	a.restart("as the server of the commands wants it")
}
