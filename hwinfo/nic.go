package hwinfo

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Types of /sys/class/net/*/type, from linux/if_arp.h.
const (
	arphrdEther      = "1"
	arphrdInfiniband = "32"
)

var pciAddress = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// nics lists the interfaces that a device stands behind, which leaves out lo,
// bridges, bonds, VLANs, tunnels and the like.
func (c *collector) nics(context.Context) {
	c.inv.NICs = []NIC{}
	entries, err := os.ReadDir(c.path("sys/class/net")) // sorted by name
	if err != nil {
		c.warn("network interfaces", err)
		return
	}
	var ask *ethtool
	if c.live {
		if ask, err = newEthtool(); err != nil {
			c.warn("network drivers", err)
		} else {
			defer ask.close()
		}
	}
	for _, e := range entries {
		dir := c.path("sys/class/net", e.Name())
		device, err := filepath.EvalSymlinks(filepath.Join(dir, "device"))
		if err != nil {
			continue
		}
		if t := attr(filepath.Join(dir, "type")); t != arphrdEther && t != arphrdInfiniband {
			continue
		}
		n := NIC{
			Name:    e.Name(),
			Carrier: attr(filepath.Join(dir, "carrier")) == "1",
			MAC:     strings.ToLower(attr(filepath.Join(dir, "address"))),
		}
		// Without a link the kernel answers with an error, -1 or, for some drivers,
		// the largest number there is.
		if s, err := strconv.Atoi(attr(filepath.Join(dir, "speed"))); err == nil && s > 0 && s < 1<<31-1 {
			n.SpeedMbps = s
		}
		if driver, err := filepath.EvalSymlinks(filepath.Join(device, "driver")); err == nil {
			n.Driver = filepath.Base(driver)
		}
		n.PCIAddress, n.VendorID, n.DeviceID = pciIdentity(device, c.root)
		if ask != nil {
			ask.complete(&n)
		}
		n.MaxSpeedMbps = max(n.MaxSpeedMbps, n.SpeedMbps)
		c.inv.NICs = append(c.inv.NICs, n)
	}
}

// pciIdentity finds the nearest PCI function at or above a device: a virtio or
// USB interface has it some levels up.
func pciIdentity(device, root string) (address, vendor, id string) {
	for dir := device; len(dir) > len(root); dir = filepath.Dir(dir) {
		if pciAddress.MatchString(filepath.Base(dir)) {
			return filepath.Base(dir), hexID(attr(filepath.Join(dir, "vendor"))), hexID(attr(filepath.Join(dir, "device")))
		}
	}
	return "", "", ""
}

// hexID turns sysfs's "0x8086" into "8086".
func hexID(s string) string { return strings.TrimPrefix(strings.ToLower(s), "0x") }
