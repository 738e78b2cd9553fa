// Package watchdog arms the hardware watchdog of a chassis and feeds it while
// the program is healthy, so that a chassis whose agent hangs resets itself.
//
// It speaks the Linux watchdog API (Documentation/watchdog/watchdog-api.rst).
package watchdog

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Dog is an armed watchdog.
type Dog struct {
	mu      sync.Mutex
	dev     device
	path    string
	name    string
	timeout time.Duration
	magic   bool
}

// device is what Dog needs of /dev/watchdogN.
type device interface {
	setTimeout(seconds int) (int, error)
	keepAlive() error
	info() (identity string, options uint32, err error)
	Write([]byte) (int, error)
	Close() error
}

// Open arms the watchdog at path, /dev/watchdog0 for the first one, with the
// timeout rounded up to whole seconds. Drivers may choose another; Timeout
// tells. Without such hardware the error wraps fs.ErrNotExist.
func Open(path string, timeout time.Duration) (*Dog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	return arm(file{f}, path, timeout)
}

func arm(dev device, path string, timeout time.Duration) (*Dog, error) {
	d := &Dog{dev: dev, path: path, timeout: timeout}
	name, options, err := dev.info()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watchdog %s: identify: %w", path, err), d.stop())
	}
	d.name = name
	d.magic = options&unix.WDIOF_MAGICCLOSE != 0
	if options&unix.WDIOF_SETTIMEOUT != 0 {
		secs, err := dev.setTimeout(int(math.Ceil(timeout.Seconds())))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("watchdog %s (%s): set timeout of %s: %w", path, name, timeout, err), d.stop())
		}
		d.timeout = time.Duration(secs) * time.Second
	}
	if d.timeout <= 0 {
		return nil, errors.Join(fmt.Errorf("watchdog %s (%s): driver reports a timeout of %s", path, name, d.timeout), d.stop())
	}
	if err := d.Feed(); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

// Name is the hardware's name for itself.
func (d *Dog) Name() string { return d.name }

// Timeout is how long the hardware waits for Feed before it resets the machine.
func (d *Dog) Timeout() time.Duration { return d.timeout }

// Feed restarts the timeout.
func (d *Dog) Feed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dev == nil {
		return nil
	}
	if err := d.dev.keepAlive(); err != nil {
		return fmt.Errorf("watchdog %s: %w", d.path, err)
	}
	return nil
}

// Run feeds the watchdog four times per timeout as long as healthy says true,
// until ctx is done. It calls changed whenever health or feeding turn from
// good to bad or back; neither function may be nil. When ctx ends the watchdog
// stays armed: that is what Disarm is for.
func (d *Dog) Run(ctx context.Context, healthy func() bool, changed func(error)) {
	tick := time.NewTicker(d.timeout / 4)
	defer tick.Stop()
	good := true
	for {
		var err error
		if !healthy() {
			err = fmt.Errorf("watchdog %s: the agent is not healthy, reset in at most %s", d.path, d.timeout)
		} else {
			err = d.Feed()
		}
		if ok := err == nil; ok != good {
			good = ok
			changed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Disarm stops the watchdog for good. A driver that cannot be stopped (built
// or loaded with nowayout) is an error: whoever takes over has to feed it.
func (d *Dog) Disarm() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dev == nil {
		return nil
	}
	if !d.magic {
		return fmt.Errorf("watchdog %s (%s) cannot be stopped: it resets the machine %s from now unless it is fed", d.path, d.name, d.timeout)
	}
	return d.stopLocked()
}

func (d *Dog) stop() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stopLocked()
}

// stopLocked writes the magic character that tells a wanted close from the
// close of a program that died, and closes.
func (d *Dog) stopLocked() error {
	_, werr := d.dev.Write([]byte("V"))
	cerr := d.dev.Close()
	d.dev = nil
	if err := errors.Join(werr, cerr); err != nil {
		return fmt.Errorf("watchdog %s: stop: %w", d.path, err)
	}
	return nil
}

// file is the real device.
type file struct{ *os.File }

func (f file) setTimeout(seconds int) (int, error) {
	// The ioctl hands back what was set; the wrapper loses it, hence the
	// second call.
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, seconds); err != nil {
		return 0, err
	}
	return unix.IoctlGetInt(int(f.Fd()), unix.WDIOC_GETTIMEOUT)
}

func (f file) keepAlive() error { return unix.IoctlWatchdogKeepalive(int(f.Fd())) }

func (f file) info() (string, uint32, error) {
	i, err := unix.IoctlGetWatchdogInfo(int(f.Fd()))
	if err != nil {
		return "", 0, err
	}
	return strings.ToValidUTF8(unix.ByteSliceToString(i.Identity[:]), ""), i.Options, nil
}
