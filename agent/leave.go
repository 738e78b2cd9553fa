package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/agent/task"
	"github.com/teeth-metal/teeth/configdrive"
	"github.com/teeth-metal/teeth/kexec"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	// deliverLimit is how long the agent stays for its last report to be
	// acknowledged. After that the chassis goes into service all the same: an
	// installed system that waits for nobody is worth more than the report.
	deliverLimit = 5 * time.Minute
	flushLimit   = 5 * time.Second
)

// The ways into the installed system, the values of run_image's boot.
const (
	bootAuto   = "auto"
	bootKexec  = "kexec"
	bootReboot = "reboot"
	// powerOff is no way in, but the other way to leave.
	powerOff = teeth.ModePowerOff
)

// reboot leaves for whatever the firmware boots, or turns the chassis off.
func (a *Agent) reboot(params json.RawMessage) (string, bool, task.Func, error) {
	var p teeth.RebootParams
	if err := teeth.DecodeParams(teeth.MethodReboot, params, &p, "task_id"); err != nil {
		return "", false, nil, err
	}
	how := bootReboot
	switch p.Mode {
	case "", teeth.ModeReboot:
	case teeth.ModePowerOff:
		how = powerOff
	default:
		return "", false, nil, fmt.Errorf("mode is %q; write %s or %s", p.Mode, teeth.ModeReboot, teeth.ModePowerOff)
	}
	return p.TaskID, true, func(ctx context.Context, t *task.Task) (any, error) {
		if err := ctx.Err(); err != nil { // the last chance to cancel
			return nil, err
		}
		a.tasks.Refuse("the chassis is leaving: " + how)
		a.leave(t.ID(), how)
		return map[string]string{"mode": how}, nil
	}, nil
}

// left is the result of run_image: how the chassis goes on.
type left struct {
	Boot        string                 `json:"boot"` // "kexec" or "reboot"
	Reason      string                 `json:"reason,omitempty"`
	Target      *kexec.Target          `json:"target,omitempty"`
	ConfigDrive *configdrive.Placement `json:"configdrive,omitempty"`
}

// runImage writes the config drive and boots what is on the root device. The
// boot loader itself is in the image.
func (a *Agent) runImage(params json.RawMessage) (string, bool, task.Func, error) {
	var p teeth.RunImageParams
	if err := teeth.DecodeParams(teeth.MethodRunImage, params, &p, "task_id", "image_id"); err != nil {
		return "", false, nil, err
	}
	switch p.Boot {
	case "":
		p.Boot = bootAuto
	case bootAuto, bootKexec, bootReboot:
	default:
		return "", false, nil, fmt.Errorf("boot is %q; write auto, kexec or reboot", p.Boot)
	}
	var drive *configdrive.Drive
	if p.ConfigDrive != nil {
		var err error
		if drive, err = configdrive.Build(configdrive.Content{
			MetaData:    p.ConfigDrive.MetaData,
			NetworkData: p.ConfigDrive.NetworkData,
			VendorData:  p.ConfigDrive.VendorData,
			UserData:    []byte(p.ConfigDrive.UserData),
			Files:       p.ConfigDrive.Files,
		}); err != nil {
			return "", false, nil, err
		}
	}
	return p.TaskID, true, func(ctx context.Context, t *task.Task) (any, error) {
		disks, err := a.disks()
		if err != nil {
			return nil, err
		}
		root, err := rootDevice(disks, p.RootDevice)
		if err != nil {
			return nil, err
		}
		if err := a.known.bootable(root, p.ImageID); err != nil {
			return nil, err
		}
		l := left{Boot: bootReboot}
		if drive != nil {
			t.Step("writing the config drive to " + root.Path)
			place, err := configdrive.Place(ctx, root.Path, drive, drive.Size(), configdrive.Options{Expect: root.Identity()})
			if err != nil {
				return nil, err
			}
			l.ConfigDrive = &place
		}
		if p.Boot != bootReboot {
			t.Step("looking for a kernel on " + root.Path)
			// Images kept in memory are of no more use, and a kernel and its initrd
			// need room twice over.
			if err := os.RemoveAll(a.cacheDir); err != nil {
				a.log.Warn("image cache not removed", "err", err)
			}
			l.Target, err = a.load(ctx, root.Path)
			switch {
			case err == nil:
				l.Boot = bootKexec
			case p.Boot == bootKexec || ctx.Err() != nil:
				return nil, err
			default:
				l.Reason = err.Error()
				a.log.Warn("the installed system cannot be reached by kexec, rebooting", "disk", root.Path, "err", err)
			}
		}
		if err := ctx.Err(); err != nil { // the last chance to cancel
			return nil, errors.Join(err, kexec.Unload())
		}
		a.tasks.Refuse("the chassis is leaving for the installed system")
		a.leave(t.ID(), l.Boot)
		return l, nil
	}, nil
}

// load finds what the disk would boot and hands it to the kernel.
func (a *Agent) load(ctx context.Context, disk string) (*kexec.Target, error) {
	target, err := kexec.Find(ctx, disk, kexec.Options{LoadModule: a.machine.LoadModule})
	if err != nil {
		return nil, err
	}
	for _, s := range target.Skipped {
		a.log.Info("not booted from", "disk", disk, "what", s)
	}
	err = errors.Join(target.Load(ctx), target.Close())
	if err != nil {
		return nil, errors.Join(err, kexec.Unload())
	}
	a.log.Info("kernel loaded", "title", target.Title, "kernel", target.Kernel, "cmdline", target.Cmdline)
	return target, nil
}

// exit is the ways out of this kernel.
type exit struct {
	handOff func() error // makes the machine ready for exec
	exec    func() error // returns only when it failed
	unload  func() error // takes back what exec would start
	reboot  func(reason string)
	off     func(reason string)
}

func realExit(m *boot.Machine) exit {
	return exit{
		handOff: func() error { return m.HandOff(false) },
		exec:    func() error { return kexec.Exec(context.Background()) },
		unload:  kexec.Unload,
		reboot:  m.Reboot,
		off:     m.PowerOff,
	}
}

// depart waits until the control plane knows how the task ended, and goes. The
// end of ctx is a shutdown, which has ways of its own.
func (a *Agent) depart(ctx context.Context, taskID, how string, out exit) {
	waiting, cancel := context.WithTimeout(ctx, deliverLimit)
	defer cancel()
	err := a.tasks.WaitAcknowledged(waiting, taskID)
	if ctx.Err() != nil {
		return
	}
	// A result that could not be sent has made the task a failed one, and who is
	// told of a failure expects the chassis to be here.
	if state, serr := a.tasks.State(taskID); serr != nil || state != teeth.Complete {
		a.log.Error("not leaving: the task has failed after all", "task", taskID, "state", state, "err", errors.Join(serr, out.unload()))
		a.tasks.Refuse("")
		return
	}
	if err != nil {
		a.log.Error("leaving although the control plane does not know it", "err", err)
	}
	a.log.Info("leaving this ramdisk", "by", how)
	a.apps.end() // before what they say last is sent
	flushing, cancel := context.WithTimeout(ctx, flushLimit)
	defer cancel()
	if err := a.flush(flushing); err != nil {
		a.machine.Log.Warn("the control plane was not told everything", "err", err)
	}
	if how == powerOff {
		out.off("as the control plane wants it")
		return
	}
	if how == bootKexec && ctx.Err() == nil {
		err := out.handOff()
		if err == nil {
			err = out.exec()
		}
		a.machine.Log.Error("kexec failed, rebooting", "err", err)
	}
	out.reboot("into what the firmware boots")
}
