package hwinfo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
)

// Network functions, commands and LAN parameters of IPMI v2.0, appendix G and
// table 23-4.
const (
	netFnApp        uint8 = 0x06
	netFnTransport  uint8 = 0x0c
	cmdGetDeviceID  uint8 = 0x01
	cmdGetLANConfig uint8 = 0x02
	lanParamIP      byte  = 3
	lanParamMAC     byte  = 5
	lanChannel      byte  = 1 // nearly always the first LAN channel
)

// bmc asks the management controller through the kernel's IPMI driver. SMBIOS
// may have announced one that the driver did not find.
func (c *collector) bmc(ctx context.Context) {
	node := c.path("dev/ipmi0")
	if _, err := os.Stat(node); err != nil {
		if c.inv.BMC.Present && errors.Is(err, fs.ErrNotExist) {
			c.inv.Warnings = append(c.inv.Warnings, "BMC: announced by SMBIOS, but there is no "+node+"; is the module ipmi_devintf loaded?")
		} else {
			c.warn("BMC", err)
		}
		return
	}
	c.inv.BMC.Present = true
	if !c.live {
		return
	}
	c.warn("BMC", c.inv.BMC.ask(ctx, node))
}

// ask fills b with what the controller behind node says of itself.
func (b *BMC) ask(ctx context.Context, node string) error {
	dev, err := openIPMI(node)
	if err != nil {
		return err
	}
	defer dev.close()
	id, err := dev.ask(ctx, netFnApp, cmdGetDeviceID)
	if err != nil {
		return err
	}
	if err := b.decodeDeviceID(id); err != nil {
		return fmt.Errorf("%s: %w", node, err)
	}
	// A controller without LAN answers with an error: it has no address then.
	if ip, err := dev.ask(ctx, netFnTransport, cmdGetLANConfig, lanChannel, lanParamIP, 0, 0); err == nil {
		b.IP = decodeLANAddress(ip)
	}
	if mac, err := dev.ask(ctx, netFnTransport, cmdGetLANConfig, lanChannel, lanParamMAC, 0, 0); err == nil {
		b.MAC = decodeLANMAC(mac)
	}
	return nil
}

// decodeDeviceID decodes the answer to Get Device ID (IPMI v2.0, 20.1), here and
// below without the completion code.
func (b *BMC) decodeDeviceID(p []byte) error {
	if len(p) < 11 {
		return fmt.Errorf("get device id: answer of %d bytes, expected 11 or more", len(p))
	}
	// The major revision is binary, the minor one two decimal digits in BCD.
	b.Firmware = fmt.Sprintf("%d.%02x", p[2]&0x7f, p[3])
	b.IPMIVersion = fmt.Sprintf("%d.%d", p[4]&0x0f, p[4]>>4)
	b.Manufacturer = int(p[6]) | int(p[7])<<8 | int(p[8]&0x0f)<<16
	b.Product = int(binary.LittleEndian.Uint16(p[9:]))
	return nil
}

// The values of LAN parameters come after the parameter revision.

func decodeLANAddress(p []byte) string {
	if len(p) < 5 {
		return ""
	}
	ip := netip.AddrFrom4([4]byte(p[1:5]))
	if ip.IsUnspecified() {
		return ""
	}
	return ip.String()
}

func decodeLANMAC(p []byte) string {
	if len(p) < 7 || [6]byte(p[1:7]) == [6]byte{} {
		return ""
	}
	return net.HardwareAddr(p[1:7]).String()
}
