package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/teeth-metal/teeth/lab/netns"
)

const emulator = "qemu-system-x86_64"

// Debian's package ovmf, and the file of a chassis's own variables.
const (
	uefiCode      = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	uefiFactory   = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	uefiVariables = "uefi-variables.fd"
)

// ErrNotRunning is wrapped by errors of chassis whose power is off.
var ErrNotRunning = errors.New("chassis is not running")

// Chassis is a virtual machine that was started, by this process or another.
type Chassis struct {
	Spec Spec
	pid  int
	done chan struct{} // closed when a QEMU that this process started has exited; nil otherwise
}

// Start makes the disks that do not exist yet and powers the chassis on. QEMU
// outlives the calling process: use PowerOff, or Attach from another one.
func Start(ctx context.Context, spec Spec) (*Chassis, error) {
	spec, err := spec.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(spec.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("chassis %s: %w", spec.Name, err)
	}
	if old, err := Attach(spec.Dir); err == nil && old.Running() {
		return nil, fmt.Errorf("chassis %s: already runs as process %d; power it off first", spec.Name, old.pid)
	}
	for i, d := range spec.Disks {
		if err := makeDisk(spec.DiskPath(i), d.Size); err != nil {
			return nil, fmt.Errorf("chassis %s: %w", spec.Name, err)
		}
	}
	if spec.Firmware == UEFI {
		if err := makeVariables(filepath.Join(spec.Dir, uefiVariables)); err != nil {
			return nil, fmt.Errorf("chassis %s: %w", spec.Name, err)
		}
	}
	for _, stale := range []string{"console.sock", "qmp.sock", "pid"} {
		if err := os.Remove(filepath.Join(spec.Dir, stale)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("chassis %s: %w", spec.Name, err)
		}
	}
	log, err := os.OpenFile(filepath.Join(spec.Dir, "qemu.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("chassis %s: %w", spec.Name, err)
	}
	defer log.Close()
	// Not CommandContext: the machine must outlive the caller's context. Socket
	// and disk names are relative, as a socket's path may be only 107 bytes long.
	cmd := exec.Command(emulator, spec.arguments()...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = spec.Dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := spec.start(ctx, cmd); err != nil {
		return nil, fmt.Errorf("chassis %s: start QEMU: %w", spec.Name, err)
	}
	c := &Chassis{Spec: spec, pid: cmd.Process.Pid, done: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(c.done)
	}()
	if err := c.save(); err != nil {
		c.PowerCut()
		return nil, err
	}
	if err := c.waitReady(ctx); err != nil {
		c.PowerCut()
		return nil, fmt.Errorf("chassis %s: %w; QEMU says: %s", spec.Name, err, tail(filepath.Join(spec.Dir, "qemu.log"), 5))
	}
	return c, nil
}

// start runs QEMU where its network is.
func (s Spec) start(ctx context.Context, cmd *exec.Cmd) error {
	if s.Network == "" {
		return cmd.Start()
	}
	n, err := netns.Open(ctx, s.Network)
	if err == nil {
		err = n.Tap(ctx, s.tap())
	}
	if err != nil {
		return err
	}
	return n.Do(cmd.Start)
}

// makeVariables gives a chassis the variables of a UEFI firmware that was never
// started, unless it has some.
func makeVariables(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := os.ReadFile(uefiFactory)
	if err != nil {
		return fmt.Errorf("UEFI needs Debian's package ovmf: %w", err)
	}
	return os.WriteFile(path, b, 0o644)
}

// makeDisk creates a sparse file of the given size, or checks the one there is.
func makeDisk(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() != 0 && st.Size() != size {
		return fmt.Errorf("disk %s: holds %d bytes, asked for %d; remove it or ask for its size", path, st.Size(), size)
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Close()
}

func (c *Chassis) save() error {
	b, err := json.MarshalIndent(c.Spec, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(c.Spec.Dir, "spec.json"), b, 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(c.Spec.Dir, "pid"), fmt.Appendln(nil, c.pid), 0o644)
	}
	if err != nil {
		return fmt.Errorf("chassis %s: %w", c.Spec.Name, err)
	}
	return nil
}

// waitReady waits until QEMU answers on its monitor.
func (c *Chassis) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		if err := c.Monitor(ctx, "query-status", nil, nil); err == nil {
			return nil
		}
		select {
		case <-c.done:
			return ErrNotRunning
		case <-ctx.Done():
			return fmt.Errorf("QEMU does not answer: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Attach finds the chassis that was started in dir, whether it still runs or not.
func Attach(dir string) (*Chassis, error) {
	b, err := os.ReadFile(filepath.Join(dir, "spec.json"))
	if err != nil {
		return nil, fmt.Errorf("chassis in %s: %w", dir, err)
	}
	c := &Chassis{}
	if err := json.Unmarshal(b, &c.Spec); err != nil {
		return nil, fmt.Errorf("chassis in %s: %w", dir, err)
	}
	if c.Spec.Dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("chassis in %s: %w", dir, err)
	}
	b, err = os.ReadFile(filepath.Join(dir, "pid"))
	if err == nil {
		c.pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("chassis in %s: %w", dir, err)
	}
	return c, nil
}

// Running reports whether QEMU runs. The process must be a QEMU in the
// chassis's own folder, since process ids are used again.
func (c *Chassis) Running() bool {
	if c.done != nil {
		select {
		case <-c.done:
			return false
		default:
			return true
		}
	}
	if c.pid <= 0 {
		return false
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", c.pid))
	if err != nil {
		return false
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.pid))
	dir, dirErr := filepath.EvalSymlinks(c.Spec.Dir)
	return err == nil && dirErr == nil && cwd == dir && strings.Contains(filepath.Base(exe), "qemu")
}

// PowerCut takes the power away at once, as a pulled plug does, and returns
// when the machine is gone. It is not an error when it was off.
func (c *Chassis) PowerCut() error {
	if !c.Running() {
		return nil
	}
	if err := syscall.Kill(c.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("chassis %s: %w", c.Spec.Name, err)
	}
	for range 500 {
		if !c.Running() {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("chassis %s: QEMU process %d does not end", c.Spec.Name, c.pid)
}

// Reset presses the reset button.
func (c *Chassis) Reset(ctx context.Context) error { return c.Monitor(ctx, "system_reset", nil, nil) }

// CtrlAltDel presses these keys on the chassis's keyboard.
func (c *Chassis) CtrlAltDel(ctx context.Context) error {
	key := func(code string) map[string]string { return map[string]string{"type": "qcode", "data": code} }
	return c.Monitor(ctx, "send-key", map[string]any{"keys": []any{key("ctrl"), key("alt"), key("delete")}}, nil)
}

// SerialLog returns the path of everything the serial console ever printed.
func (c *Chassis) SerialLog() string { return filepath.Join(c.Spec.Dir, "serial.log") }

// SerialTail returns the last n lines of the serial console.
func (c *Chassis) SerialTail(n int) string { return tail(c.SerialLog(), n) }

func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(strings.ReplaceAll(string(b), "\r", ""), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// ExpectSerial waits until the serial console prints text, after byte offset
// from of the log, and returns the offset behind it.
func (c *Chassis) ExpectSerial(ctx context.Context, from int64, text string) (int64, error) {
	for {
		b, err := os.ReadFile(c.SerialLog())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("chassis %s: %w", c.Spec.Name, err)
		}
		if int64(len(b)) > from {
			if i := strings.Index(string(b[from:]), text); i >= 0 {
				return from + int64(i+len(text)), nil
			}
		}
		if !c.Running() {
			return 0, fmt.Errorf("chassis %s: waiting for %q: %w", c.Spec.Name, text, ErrNotRunning)
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("chassis %s: waiting for %q on the serial console: %w", c.Spec.Name, text, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
