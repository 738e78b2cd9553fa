package hwinfo

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/u-root/u-root/pkg/smbios"

	"github.com/teeth-metal/teeth/blockdev"
)

// ReadSystem reads what a machine's firmware says it is (SMBIOS type 1) from
// class/dmi/id below sysfs. Fields are empty where the maker left them so, or
// left what stands there when nobody fills the field in.
func ReadSystem(sysfs string) System {
	get := func(name string) string { return meaningful(attr(filepath.Join(sysfs, "class/dmi/id", name))) }
	return System{
		Manufacturer: get("sys_vendor"), Product: get("product_name"), Version: get("product_version"),
		Serial: get("product_serial"), UUID: uuid(get("product_uuid")), SKU: get("product_sku"),
	}
}

// dmi reads what the kernel decoded of SMBIOS types 0 to 3. Serial numbers and
// the UUID are for root only.
func (c *collector) dmi(context.Context) {
	get := func(name string) string { return meaningful(attr(c.path("sys/class/dmi/id", name))) }
	inv := &c.inv
	inv.System = ReadSystem(c.path("sys"))
	inv.Board = Board{
		Manufacturer: get("board_vendor"), Product: get("board_name"),
		Version: get("board_version"), Serial: get("board_serial"),
	}
	inv.Chassis = Chassis{
		Manufacturer: get("chassis_vendor"), Version: get("chassis_version"),
		Serial: get("chassis_serial"), AssetTag: get("chassis_asset_tag"),
	}
	inv.Chassis.Type, _ = strconv.Atoi(get("chassis_type"))
	inv.BIOS = BIOS{Vendor: get("bios_vendor"), Version: get("bios_version"), Date: get("bios_date")}
	if inv.System.Product == "" { // boards with a device tree
		inv.System.Product = meaningful(attr(c.path("sys/firmware/devicetree/base/model")))
	}
	if inv.System.Serial == "" {
		inv.System.Serial = meaningful(attr(c.path("sys/firmware/devicetree/base/serial-number")))
	}
}

// placeholders are what vendors leave in a field they did not fill, in lower
// case. Taken for real, they would make unlike machines look alike.
var placeholders = map[string]bool{
	"to be filled by o.e.m.": true, "to be filled by o.e.m": true, "to be filled by oem": true,
	"default string": true, "not specified": true, "not available": true, "not applicable": true,
	"not provided": true, "unspecified": true, "unknown": true, "undefined": true, "none": true, "null": true,
	"n/a": true, "na": true, "no asset tag": true, "no asset information": true, "asset tag": true,
	"system manufacturer": true, "system product name": true, "system version": true,
	"system serial number": true, "sku": true, "chassis serial number": true, "chassis manufacture": true,
	"base board serial number": true, "o.e.m.": true, "oem": true, "invalid": true, "empty": true,
	"0123456789": true, "123456789": true, "1234567890": true, "<out of spec>": true, "<bad index>": true,
	"no dimm": true, "[empty]": true,
}

// meaningful returns s, or "" when it is a placeholder or one character over and
// over ("00000000", "........").
func meaningful(s string) string {
	if placeholders[strings.ToLower(s)] {
		return ""
	}
	if len(s) > 1 && strings.Trim(s, s[:1]) == "" && strings.Contains("0.-xX* Ff", s[:1]) {
		return ""
	}
	return s
}

// uuid returns a SMBIOS UUID in lower case, and "" for what is none and for one
// byte over and over: DSP0134 7.2.1 calls all zeros and all ones not set, and
// some makers extend that.
func uuid(s string) string {
	s = strings.ToLower(s)
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 || len(s) != 36 || bytes.Count(b, b[:1]) == len(b) {
		return ""
	}
	return s
}

const (
	// maxSMBIOS bounds the table; real ones are a few kilobytes.
	maxSMBIOS = 1 << 20
	maxDIMMs  = 4096
)

// smbios reads what the kernel does not decode: memory modules and whether there
// is a management controller.
func (c *collector) smbios(context.Context) {
	c.inv.Memory.DIMMs = []DIMM{}
	b, err := readBounded(c.path("sys/firmware/dmi/tables/DMI"), maxSMBIOS)
	if err != nil {
		c.warn("memory modules", err)
		return
	}
	dimms, ipmi, err := parseSMBIOS(b)
	c.warn("SMBIOS", err)
	c.inv.Memory.DIMMs = append(c.inv.Memory.DIMMs, dimms...)
	c.inv.BMC.Present = ipmi
}

// parseSMBIOS returns the memory modules in the table, and whether it holds an
// IPMI device (type 38). With an error it returns what came before.
func parseSMBIOS(b []byte) (dimms []DIMM, ipmi bool, err error) {
	for len(b) > 0 {
		t, rest, err := smbios.ParseTable(b)
		if t != nil && t.Type == smbios.TableTypeEndOfTable {
			break // what follows is padding
		}
		if err != nil {
			return dimms, ipmi, err
		}
		if len(rest) >= len(b) {
			return dimms, ipmi, fmt.Errorf("a structure of type %d does not end", t.Type)
		}
		b = rest
		switch t.Type {
		case smbios.TableTypeIPMIDeviceInfo:
			ipmi = true
		case smbios.TableTypeMemoryDevice:
			md, err := smbios.NewMemoryDevice(t)
			if err != nil {
				return dimms, ipmi, fmt.Errorf("memory device: %w", err)
			}
			if d, ok := dimm(md); ok {
				dimms = append(dimms, d)
			}
			if len(dimms) > maxDIMMs {
				return nil, ipmi, fmt.Errorf("more than %d memory devices", maxDIMMs)
			}
		}
	}
	return dimms, ipmi, nil
}

// dimm converts a memory device and reports whether its slot holds one.
func dimm(md *smbios.MemoryDevice) (DIMM, bool) {
	if md.Size == 0 || md.Size == 0xffff { // empty, and unknown
		return DIMM{}, false
	}
	// From SMBIOS 3.3 on, 0xffff means that the real speed is in a field the
	// parser does not know: better none than a wrong one.
	speed := func(v uint16) int {
		if v == 0xffff {
			return 0
		}
		return int(v)
	}
	text := func(s string) string { return meaningful(blockdev.Printable(s)) }
	d := DIMM{
		Locator: text(md.DeviceLocator), Bank: text(md.BankLocator), SizeBytes: int64(md.GetSizeBytes()),
		SpeedMTs: speed(md.Speed), RunningMTs: speed(md.ConfiguredSpeed),
		Manufacturer: text(md.Manufacturer), Part: text(md.PartNumber), Serial: text(md.SerialNumber),
	}
	switch md.Type {
	case 0, 1, 2: // reserved, other, unknown
	default:
		d.Type = text(md.Type.String())
	}
	return d, d.SizeBytes > 0
}
