package boot

import (
	"log/slog"

	"github.com/teeth-metal/teeth/hwinfo"
)

// Identity is what the machine's firmware says it is. Fields are empty where it
// says nothing of use.
type Identity struct {
	Vendor  string
	Product string
	Serial  string
	UUID    string // lower case, 8-4-4-4-12
}

// LogValue implements slog.LogValuer.
func (i Identity) LogValue() slog.Value {
	return slog.GroupValue(slog.String("vendor", i.Vendor), slog.String("product", i.Product),
		slog.String("serial", i.Serial), slog.String("uuid", i.UUID))
}

// ReadIdentity reads class/dmi/id below sysfs. A machine without SMBIOS has an
// empty one.
func ReadIdentity(sysfs string) Identity {
	s := hwinfo.ReadSystem(sysfs)
	return Identity{Vendor: s.Manufacturer, Product: s.Product, Serial: s.Serial, UUID: s.UUID}
}
