package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/agent/boot/clock"
	"github.com/teeth-metal/teeth/agent/boot/conlog"
	"github.com/teeth-metal/teeth/agent/boot/lastwords"
	"github.com/teeth-metal/teeth/agent/boot/modules"
	"github.com/teeth-metal/teeth/agent/boot/network"
	"github.com/teeth-metal/teeth/agent/boot/reaper"
	"github.com/teeth-metal/teeth/agent/boot/watchdog"
	"github.com/teeth-metal/teeth/initramfs/sentinel"
)

const (
	driverQuiet = 100 * time.Millisecond // no device has appeared for so long
	driverLimit = 30 * time.Second
	diskQuiet   = time.Second // usb-storage waits as long before it looks for disks
	diskLimit   = 15 * time.Second
	clockTime   = 5 * time.Second
	clockRetry  = time.Minute
	clockKeep   = time.Hour

	watchdogPath = "/dev/watchdog0"
)

// extras are modules that no device asks for and that our work needs: file
// systems with the character sets that vfat mounts with, the checksum that
// ext4 looks up by name, and the device node of a BMC.
var extras = []string{
	"crc32c_generic", "nls_cp437", "nls_ascii", "vfat", "ext4", "isofs",
	"efivarfs", "ipmi_devintf",
}

func (m *Machine) console(context.Context) error {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	cmdline := string(b)
	m.Options, _ = ParseOptions(cmdline) // its error is the options phase's
	m.level.Set(m.Options.LogLevel)
	kmsg, kerr := conlog.OpenKmsg("/dev", "/proc")
	tty, terr := conlog.OpenConsoles("/dev", "/sys", m.Options.Consoles)
	m.out = conlog.NewOutput(kmsg, tty)
	m.Log = slog.New(conlog.NewHandler(m.out, &m.level))
	var qerr error
	if !asksForKernelLog(cmdline) {
		qerr = conlog.QuietKernel("/proc")
	}
	lastwords.Set(lastwords.Plan{Print: m.print, Delay: m.Options.Panic, End: restart})
	// Where the Go runtime itself gives up nothing of ours runs: the kernel
	// has to reboot a machine whose PID 1 is gone.
	perr := kernelPanicReboots("/proc/sys/kernel/panic")
	rerr := restrictKernelLog("/proc/sys/kernel/dmesg_restrict")
	for _, p := range m.Phases { // those before there was a log
		m.Log.Info("phase done", "phase", p.Name, "took", p.Duration.Round(time.Millisecond))
	}
	return errors.Join(kerr, terr, qerr, perr, rerr)
}

// asksForKernelLog reports whether the operator chose what the kernel prints.
func asksForKernelLog(cmdline string) bool {
	for key := range words(cmdline) {
		switch key {
		case "loglevel", "debug", "ignore_loglevel", "quiet":
			return true
		}
	}
	return false
}

func kernelPanicReboots(path string) error {
	b, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(b)) == "0" {
		err = os.WriteFile(path, fmt.Appendf(nil, "%d\n", int(defaultPanicDelay.Seconds())), 0)
	}
	if err != nil {
		return fmt.Errorf("reboot after a kernel panic: %w", err)
	}
	return nil
}

// restrictKernelLog leaves the kernel's log to programs with CAP_SYSLOG: it begins with the
// command line, whose secrets are none of the apps' business.
func restrictKernelLog(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		_, err = f.WriteString("1\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("keep the kernel's log from apps: %w", err)
	}
	return nil
}

func (m *Machine) options(context.Context) error {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	m.kernel = unix.ByteSliceToString(uts.Release[:])
	_, err = ParseOptions(string(b))
	m.Log.Info("teeth-agent", "kernel", m.kernel, "options", m.Options)
	if m.Options.Rescue != "" {
		m.Log.Warn("teeth.rescue is kept but this agent has no rescue server yet")
	}
	if m.Options.Insecure {
		m.Log.Warn("teeth.insecure: the control plane is talked to in the clear, for tests only")
	}
	return err
}

func (m *Machine) sentinel(context.Context) error {
	c, err := sentinel.Check("/")
	if err == nil {
		m.Log.Info("image is complete", "entries", c.Entries, "bytes", c.Bytes)
	}
	return err
}

// duties starts what PID 1 owes the rest of the system.
func (m *Machine) duties(context.Context) error {
	m.handleSignals()
	Go("reaper", func() {
		// Orphans are reaped to the end, shutdown included.
		err := reaper.Run(context.Background(), func(pid int) { m.Log.Debug("orphan reaped", "pid", pid) })
		if err != nil {
			m.Log.Error("orphans will pile up", "err", err)
		}
	})
	return os.Setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
}

// entropy waits until the kernel's random numbers are good. Only a blocking
// read makes the kernel gather entropy by itself; without one a machine with
// neither RDRAND nor virtio-rng would wait for ever, at the latest in DHCP.
func (m *Machine) entropy(context.Context) error {
	var b [1]byte
	for {
		_, err := unix.Getrandom(b[:], 0)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (m *Machine) moduleIndex(context.Context) error {
	ix, err := modules.Open(filepath.Join("/lib/modules", m.kernel))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("this image has no modules for kernel %s: only built-in drivers work: %w", m.kernel, err)
	}
	if err != nil {
		return err
	}
	m.loader = &modules.Loader{Index: ix, Params: m.Options.Params, Denied: m.Options.Denied,
		Loaded: func(module string, took time.Duration) {
			m.loaded.Add(1)
			m.Log.Debug("module", "name", module, "took", took.Round(time.Millisecond))
		}}
	return nil
}

func (m *Machine) modules(ctx context.Context) error {
	if m.loader == nil {
		return nil // said by the phase before
	}
	m.plugger = &modules.Plugger{Loader: m.loader, Failed: func(err error) { m.Log.Warn("driver not loaded", "err", err) }}
	err := m.plugger.Start(m.ctx)
	if !m.plugger.Settle(ctx, driverQuiet, driverLimit) {
		err = errors.Join(err, fmt.Errorf("drivers are still being loaded after %s", driverLimit))
	}
	err = errors.Join(err, m.loadModules(ctx, extras...)) // last: nothing waits for these
	m.Log.Info("drivers loaded", "modules", m.loaded.Load(), "of", m.loader.Index.Len())
	return err
}

func (m *Machine) identity(context.Context) error {
	m.Identity = ReadIdentity("/sys")
	m.Log.Info("machine", "identity", m.Identity)
	return nil
}

func (m *Machine) watchdog(ctx context.Context) error {
	if m.Options.Watchdog == 0 {
		m.Log.Info("watchdog is off by teeth.watchdog")
		return nil
	}
	dog, err := watchdog.Open(watchdogPath, m.Options.Watchdog)
	if _, serr := os.Stat("/dev/ipmi0"); errors.Is(err, fs.ErrNotExist) && serr == nil {
		// A BMC has a watchdog, which no device announces.
		if err := m.loadModules(ctx, "ipmi_watchdog"); err != nil {
			return err
		}
		dog, err = watchdog.Open(watchdogPath, m.Options.Watchdog)
	}
	if errors.Is(err, fs.ErrNotExist) {
		m.Log.Info("no hardware watchdog")
		return nil
	}
	if err != nil {
		return err
	}
	m.dog = dog
	m.Log.Info("watchdog armed", "hardware", dog.Name(), "timeout", dog.Timeout())
	Go("watchdog", func() {
		// Fed to the very end: what hangs after that is reset.
		dog.Run(context.Background(), m.healthy, func(err error) {
			if err != nil {
				m.Log.Error("watchdog is not fed", "err", err)
			} else {
				m.Log.Warn("watchdog is fed again")
			}
		})
	})
	return nil
}

func (m *Machine) network(ctx context.Context) error {
	if m.Options.VLAN != 0 {
		if err := m.loadModules(ctx, "8021q"); err != nil {
			return err
		}
	}
	m.net = network.New(network.Config{
		Static: m.Options.Static, VLAN: m.Options.VLAN, BootMAC: m.Options.BootMAC,
	}, m.Log.With("in", "network"))
	if err := m.net.Up(ctx); err != nil {
		return err
	}
	s := m.net.State()
	m.NIC, m.MAC = s.NIC, s.MAC.String()
	Go("network", func() { _ = m.net.Keep(m.ctx) }) // ends with ctx only, and logs for itself
	name := "teeth-" + strings.ReplaceAll(m.MAC, ":", "")
	if s.Lease != nil && s.Lease.Hostname != "" {
		name = s.Lease.Hostname
	}
	if err := unix.Sethostname([]byte(name[:min(len(name), 64)])); err != nil {
		m.Log.Warn("host name not set", "name", name, "err", err)
	}
	return nil
}

// clock sets the clock once and then keeps it, so that a chassis that waits
// for weeks still accepts certificates.
func (m *Machine) clock(ctx context.Context) error {
	servers := func() []string {
		out := m.Options.NTP
		if l := m.Network().Lease; len(out) == 0 && l != nil {
			for _, a := range l.NTP {
				out = append(out, a.String())
			}
		}
		return out
	}
	if len(servers()) == 0 {
		m.Log.Info("clock not set: neither teeth.ntp nor DHCP names an NTP server", "time", time.Now().UTC().Format(time.DateTime))
		return nil
	}
	sync := func(ctx context.Context) error {
		r, err := clock.Sync(ctx, servers(), clockTime)
		if err == nil {
			m.Log.Info("clock", "server", r.Server, "offset", r.Offset, "delay", r.Delay, "set", r.Set)
		}
		return err
	}
	err := sync(ctx)
	Go("clock", func() {
		last := err
		for {
			wait := clockKeep
			if last != nil {
				wait = clockRetry
			}
			select {
			case <-m.ctx.Done():
				return
			case <-time.After(wait):
			}
			if last = sync(m.ctx); last != nil {
				m.Log.Debug("clock", "err", last)
			}
		}
	})
	return err
}

// disks waits for those that take longer than the network did.
func (m *Machine) disks(ctx context.Context) error {
	var err error
	if m.plugger != nil && !m.plugger.Settle(ctx, diskQuiet, diskLimit) {
		err = fmt.Errorf("devices still come and go after %s", diskLimit)
	}
	m.Log.Info("disks", "names", strings.Join(diskNames("/sys"), " "))
	return err
}

// diskNames lists the block devices that have a device behind them, which
// leaves loop, ram and device-mapper out.
func diskNames(sysfs string) []string {
	paths, _ := filepath.Glob(filepath.Join(sysfs, "block/*/device"))
	var out []string
	for _, p := range paths {
		out = append(out, filepath.Base(filepath.Dir(p)))
	}
	return out
}
