package boot

import (
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Identity is what the machine's firmware says it is, from SMBIOS types 1 and
// 2. Fields are empty where the maker left them so, or left a placeholder.
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
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(sysfs, "class/dmi/id", name))
		if err != nil || len(b) > 4096 {
			return ""
		}
		return meaningful(strings.TrimSpace(strings.ToValidUTF8(string(b), "")))
	}
	id := Identity{
		Vendor:  read("sys_vendor"),
		Product: read("product_name"),
		Serial:  read("product_serial"),
		UUID:    strings.ToLower(read("product_uuid")),
	}
	if !realUUID(id.UUID) {
		id.UUID = ""
	}
	return id
}

// placeholders are what boards leave the factory with when nobody fills the
// field in; two chassis with the same "serial" must not be taken for one.
var placeholders = []string{
	"to be filled by o.e.m.", "to be filled by oem", "default string", "system serial number",
	"not specified", "not applicable", "none", "n/a", "unknown", "empty", "oem", "0", "0123456789",
	"123456789", "1234567890", "system product name", "system manufacturer",
}

func meaningful(s string) string {
	l := strings.ToLower(s)
	for _, p := range placeholders {
		if l == p {
			return ""
		}
	}
	return s
}

// realUUID refuses what is no UUID and those of one repeated byte, which
// SMBIOS itself calls "not set" (00 and FF) and some makers extend.
func realUUID(s string) bool {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 || len(s) != 36 {
		return false
	}
	for _, c := range b {
		if c != b[0] {
			return true
		}
	}
	return false
}
