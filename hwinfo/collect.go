package hwinfo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/teeth-metal/teeth/blockdev"
)

// Options of Collect.
type Options struct {
	// Root is where proc, sys and dev lie; "" is "/". With another root no driver
	// is asked by ioctl, since it would answer for this machine.
	Root string
}

// Collect takes the inventory. A part that cannot be read becomes a warning in
// it; the error is for a root that holds no machine at all, or the context's.
func Collect(ctx context.Context, opt Options) (*Inventory, error) {
	c := collector{root: opt.Root, live: opt.Root == "" || opt.Root == "/"}
	if c.root == "" {
		c.root = "/"
	}
	if _, err := os.Stat(c.path("sys/class")); err != nil {
		return nil, fmt.Errorf("inventory: is sysfs mounted? %w", err)
	}
	for _, part := range []func(context.Context){
		c.dmi, c.smbios, c.cpus, c.memory, c.disks, c.nics, c.bmc, c.tpm,
	} {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("inventory: %w", err)
		}
		part(ctx)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	c.firmware()
	return &c.inv, nil
}

// collector fills inv.
type collector struct {
	root string
	live bool // root is this machine
	inv  Inventory
}

func (c *collector) path(elem ...string) string {
	return filepath.Join(append([]string{c.root}, elem...)...)
}

// warn notes what could not be read, unless it is just not there.
func (c *collector) warn(what string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.inv.Warnings = append(c.inv.Warnings, fmt.Sprintf("%s: %v", what, err))
	}
}

func (c *collector) disks(context.Context) {
	disks, err := blockdev.Sysfs{Root: c.root}.List()
	c.warn("disks", err)
	c.inv.Disks = disks
	if disks == nil {
		c.inv.Disks = []blockdev.Info{}
	}
}

func (c *collector) tpm(context.Context) {
	dir := c.path("sys/class/tpm/tpm0")
	if _, err := os.Stat(dir); err != nil {
		c.warn("TPM", err)
		return
	}
	c.inv.TPM.Present = true
	switch major := attr(filepath.Join(dir, "tpm_version_major")); major {
	case "2":
		c.inv.TPM.Version = "2.0"
	case "1":
		c.inv.TPM.Version = "1.2"
	case "": // before Linux 5.6; only a TPM 1.2 has this file
		if attr(filepath.Join(dir, "device/caps")) != "" || attr(filepath.Join(dir, "caps")) != "" {
			c.inv.TPM.Version = "1.2"
		}
	}
}

// firmware gathers the versions that the other parts found.
func (c *collector) firmware() {
	list := []Firmware{}
	add := func(f Firmware) {
		if f.Version != "" {
			list = append(list, f)
		}
	}
	inv := &c.inv
	add(Firmware{Component: ComponentBIOS, Model: join(inv.BIOS.Vendor, inv.System.Product), Version: inv.BIOS.Version})
	if inv.BMC.Firmware != "" {
		add(Firmware{
			Component: ComponentBMC, Model: fmt.Sprintf("%d:%d", inv.BMC.Manufacturer, inv.BMC.Product),
			Version: inv.BMC.Firmware, Path: "/dev/ipmi0",
		})
	}
	for _, d := range inv.Disks {
		component := ComponentDisk
		if d.Transport == blockdev.NVMe || d.Transport == blockdev.NVMeoF {
			component = ComponentNVMe
		}
		add(Firmware{Component: component, Model: join(d.Vendor, d.Model), Version: d.Firmware, Path: d.Path})
	}
	for _, n := range inv.NICs {
		id := ""
		if n.VendorID != "" {
			id = n.VendorID + ":" + n.DeviceID
		}
		add(Firmware{Component: ComponentNIC, Model: join(n.Driver, id), Version: n.Firmware, Path: n.Name})
	}
	inv.Firmware = list
}

func join(a, b string) string { return strings.TrimSpace(a + " " + b) }

// maxAttr bounds one file of sysfs, whose attributes are at most a page.
const maxAttr = 4096

// attr returns what a file of sysfs says, or "".
func attr(path string) string {
	b, err := readBounded(path, maxAttr)
	if err != nil {
		return ""
	}
	return blockdev.Printable(string(b))
}

// readBounded reads a file, and fails when it is longer than limit.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: longer than %d bytes", path, limit)
	}
	return b, nil
}
