package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/agent/minion/command"
	"github.com/teeth-metal/teeth/agent/upgrade"
	"github.com/teeth-metal/teeth/kexec"
)

// stageDir is where kernel and initramfs are until they are loaded; it is in memory.
const stageDir = "/run/teeth-upgrade"

// answerTime is how long the answer to a command has to get away before the kernel is
// replaced, beside what flushing takes.
const answerTime = 2 * time.Second

// upgradeRamdisk is the internal command "upgrade URL KEY [force]": it loads the newest
// ramdisk that the version URL names and minisign's key KEY has signed, and boots it by
// kexec. It is refused while a disruptive task runs, and keeps such tasks away. The
// command comes from a server that has proved itself, which may run any command here,
// so it may say the key, too.
func (a *Agent) upgradeRamdisk(ctx context.Context, args []string) (string, error) {
	if len(args) < 2 || len(args) > 3 || len(args) == 3 && args[2] != "force" {
		return "", errors.New("want upgrade URL KEY [force]: the version URL, http://HOST:8082/api/v1/minion of teeth serve, and minisign's public key")
	}
	key, err := upgrade.ParseKey(args[1])
	if err != nil {
		return "", err
	}
	held, release, err := a.tasks.Hold("upgrade of the ramdisk")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(held, cancel)()
	cmdline, err := readLine("/proc/cmdline")
	if err != nil {
		release()
		return "", err
	}
	r, err := (&upgrade.Stager{
		URL: args[0], Key: key, Version: a.version, Dir: stageDir, Cmdline: cmdline,
		MAC: a.machine.MAC, UUID: a.machine.Identity.UUID, Log: a.log,
	}).Stage(ctx, len(args) == 3)
	if err != nil {
		release()
		return "", errors.Join(err, kexec.Unload())
	}
	boot.Go("upgrade", func() {
		defer release()
		time.Sleep(answerTime) // after which the answer is among what is flushed
		out := realExit(a.machine)
		out.handOff = func() error { return a.machine.HandOff(true) } // the new agent feeds the watchdog
		a.intoRamdisk(a.machine.Context(), r.Version, out)
	})
	return command.JSON(map[string]string{"version": r.Version, "from": a.version, "boot": bootKexec})
}

// intoRamdisk boots the ramdisk that is loaded. If that fails the chassis reboots: the
// network has the newest one, too.
func (a *Agent) intoRamdisk(ctx context.Context, version string, out exit) {
	a.tasks.Refuse("the chassis is leaving for ramdisk " + version)
	a.log.Info("leaving for another ramdisk", "version", version)
	a.apps.end() // before what they say last is sent
	flushing, cancel := context.WithTimeout(ctx, flushLimit)
	defer cancel()
	if err := a.flush(flushing); err != nil {
		a.machine.Log.Warn("the control plane was not told everything", "err", err)
	}
	if ctx.Err() != nil {
		return // a shutdown has ways of its own
	}
	err := out.handOff()
	if err == nil {
		err = out.exec()
	}
	a.machine.Log.Error("kexec failed, rebooting", "err", fmt.Errorf("ramdisk %s: %w", version, err))
	out.reboot("into what the firmware boots")
}
