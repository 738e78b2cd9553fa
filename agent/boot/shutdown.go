package boot

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/agent/boot/conlog"
)

const (
	windUp    = 20 * time.Second // for the agent to end its work after a signal
	syncLimit = 30 * time.Second // for a disk that does not answer
	flushTime = 2 * time.Second
)

// handleSignals starts the event loop: the signals that end the machine, and
// the sign of life that the watchdog wants. Without CAD_OFF the kernel would
// reboot by itself at ctrl-alt-del, with nothing written back.
func (m *Machine) handleSignals() {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		m.Log.Warn("ctrl-alt-del reboots without sync", "err", err)
	}
	sig := make(chan os.Signal, 4)
	signal.Notify(sig, unix.SIGTERM, unix.SIGINT, unix.SIGPWR)
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	Go("events", func() {
		for {
			select {
			case answer := <-m.beat:
				answer <- struct{}{}
			case s := <-sig:
				reason := reasonOf(s)
				m.Log.Warn("shutting down", "reason", reason)
				m.stop(errors.New(reason))
				Go("shutdown", func() {
					time.Sleep(windUp)
					m.Reboot(reason + ", and the agent did not end in time")
				})
			}
		}
	})
}

func reasonOf(s os.Signal) string {
	switch s {
	case unix.SIGINT:
		return "ctrl-alt-del"
	case unix.SIGPWR:
		return "power failure (SIGPWR)"
	}
	return s.String()
}

// Reboot restarts the machine: it writes everything back, unmounts what is on
// disks, and reboots. The watchdog stays armed, so that a reboot that hangs
// ends too. It does not return.
func (m *Machine) Reboot(reason string) {
	m.end("rebooting", reason)
	restart()
	select {}
}

// PowerOff is Reboot, but the machine stays off. The watchdog is disarmed: a
// BMC's would switch it on again.
func (m *Machine) PowerOff(reason string) {
	m.end("powering off", reason)
	if err := m.disarm(); err != nil {
		m.Log.Warn(err.Error())
	}
	m.flush()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	sysrq('o')
	select {}
}

// HandOff prepares the machine to be taken over by another kernel (kexec): it
// writes everything back, unmounts what is on disks and, unless keepWatchdog
// is set because the next system feeds it, disarms the watchdog. On an error
// the machine is in a state to be rebooted or used on, and should not be
// handed off.
func (m *Machine) HandOff(keepWatchdog bool) error {
	err := errors.Join(syncDisks(), unmountDisks("/proc/self/mounts"))
	if err == nil && !keepWatchdog {
		err = m.disarm()
	}
	if err != nil {
		return fmt.Errorf("hand off: %w", err)
	}
	m.Log.Info("machine is ready to be handed off", "watchdog kept", keepWatchdog)
	m.flush()
	return nil
}

// end stops the agent and makes the disks safe. Only the first caller goes on.
func (m *Machine) end(what, reason string) {
	m.ending.Lock() // never unlocked
	m.stop(errors.New(reason))
	m.Log.Warn(what, "reason", reason)
	if err := errors.Join(syncDisks(), unmountDisks("/proc/self/mounts")); err != nil {
		m.Log.Error("disks may not be clean", "err", err)
	}
	if m.dog != nil {
		_ = m.dog.Feed() // one whole timeout for the rest
	}
	m.flush()
}

func (m *Machine) disarm() error {
	if m.dog == nil {
		return nil
	}
	return m.dog.Disarm()
}

func (m *Machine) flush() {
	if m.out != nil {
		m.out.Flush(flushTime)
	}
}

// restart reboots, by the shortest way if the ordinary one is refused.
func restart() {
	_ = syncDisks() // nothing is left to tell
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	sysrq('b')
}

func sysrq(c byte) {
	_ = os.WriteFile("/proc/sysrq-trigger", []byte{c}, 0) // the last thing there is to try
}

// syncDisks writes everything back. sync(2) can hang for ever on a disk that
// does not answer.
func syncDisks() error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		unix.Sync()
	}()
	select {
	case <-done:
		return nil
	case <-time.After(syncLimit):
		return fmt.Errorf("sync did not end within %s", syncLimit)
	}
}

// unmountDisks unmounts every file system that is on a block device, last
// mounted first, and makes those that are busy read-only.
func unmountDisks(mounts string) error {
	b, err := os.ReadFile(mounts)
	if err != nil {
		return fmt.Errorf("unmount disks: %w", err)
	}
	var errs []error
	for _, target := range diskMounts(string(b)) {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		if err != nil {
			if rerr := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); rerr != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w; make it read-only: %w", target, err, rerr))
			}
		}
	}
	return errors.Join(errs...)
}

// diskMounts returns the mount points of block devices in the text of
// /proc/mounts, last mounted first.
func diskMounts(mounts string) []string {
	// fstab(5): blanks and backslashes stand as octal.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []string
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line)
		if len(f) >= 2 && strings.HasPrefix(f[0], "/dev/") {
			out = append(out, unescape.Replace(f[1]))
		}
	}
	slices.Reverse(out)
	return out
}

// print is where last words go once the consoles are open.
func (m *Machine) print(text string) {
	m.out.Line(slog.LevelError, "LAST WORDS\n"+text)
	m.out.Flush(flushTime)
	_ = syncDisks()
}

// printEverywhere is where they go before.
func printEverywhere(text string) {
	kmsg, _ := conlog.OpenKmsg("/dev", "/proc")
	tty, _ := conlog.OpenConsoles("/dev", "/sys", nil)
	out := conlog.NewOutput(kmsg, tty)
	out.Line(slog.LevelError, "LAST WORDS\n"+text)
	out.Flush(flushTime)
}
