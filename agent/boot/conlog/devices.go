package conlog

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenConsoles opens the consoles of the machine below dev: those the kernel
// says it uses (sysfs class/tty/console/active) and those named, because the
// kernel lists only consoles whose driver was there early. Names that do not
// open are part of the error. If there are none at all, it is dev/console.
func OpenConsoles(dev, sysfs string, named []string) (map[string]io.Writer, error) {
	names := slices.Clone(named)
	if b, err := os.ReadFile(filepath.Join(sysfs, "class/tty/console/active")); err == nil {
		names = append(names, strings.Fields(string(b))...)
	}
	out := map[string]io.Writer{}
	var failed []string
	for _, n := range names {
		if out[n] != nil || n == "" {
			continue
		}
		f, err := openTTY(filepath.Join(dev, n))
		if err != nil {
			if msg := err.Error(); !slices.Contains(failed, msg) {
				failed = append(failed, msg)
			}
			continue
		}
		out[n] = f
	}
	if len(out) == 0 {
		f, err := openTTY(filepath.Join(dev, "console"))
		if err != nil {
			failed = append(failed, err.Error())
		} else {
			out["console"] = f
		}
	}
	if len(failed) > 0 {
		return out, fmt.Errorf("consoles: %s", strings.Join(failed, "; "))
	}
	return out, nil
}

// openTTY opens without waiting for a carrier and without taking the line as
// controlling terminal.
func openTTY(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
}

// OpenKmsg opens the kernel log below dev and lifts its limit of ten lines per
// five seconds and writer below proc. The error may come with a usable log.
func OpenKmsg(dev, proc string) (io.Writer, error) {
	f, err := os.OpenFile(filepath.Join(dev, "kmsg"), os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("kernel log: %w", err)
	}
	// Refused when printk.devkmsg= is on the command line: its word stands.
	if err := os.WriteFile(filepath.Join(proc, "sys/kernel/printk_devkmsg"), []byte("on\n"), 0); err != nil {
		return f, fmt.Errorf("kernel log: rate limit stays: %w", err)
	}
	return f, nil
}

// QuietKernel lets only the kernel's errors and worse reach the consoles by
// themselves, for the others stand in the kernel log.
func QuietKernel(proc string) error {
	const keepErrors = "4" // console_loglevel: messages below this number
	if err := os.WriteFile(filepath.Join(proc, "sys/kernel/printk"), []byte(keepErrors+"\n"), 0); err != nil {
		return fmt.Errorf("kernel console level: %w", err)
	}
	return nil
}
