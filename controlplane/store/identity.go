package store

import (
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// identity is what an agent says of the board it runs on, without what firmware
// shares between boards.
type identity struct {
	uuid   string   // of SMBIOS, lower case; "" if unset or a board maker's sample
	serial string   // of SMBIOS; "" if unset or a placeholder
	macs   []string // lower case; that of the boot NIC first
}

func identityOf(h teeth.Handshake) identity {
	id := identity{uuid: strings.ToLower(h.UUID), serial: strings.TrimSpace(h.Serial)}
	if trivialUUID(id.uuid) {
		id.uuid = ""
	}
	if trivialSerial(id.serial) {
		id.serial = ""
	}
	for _, m := range append([]string{h.ID}, h.MACs...) {
		if m = strings.ToLower(m); m != "" && !trivialMAC(m) && !slices.Contains(id.macs, m) {
			id.macs = append(id.macs, m)
		}
	}
	return id
}

// weak reports whether a MAC address is all the board is known by, which anybody
// on its network can claim.
func (i identity) weak() bool { return i.uuid == "" && i.serial == "" }

// same reports whether two descriptions are of one board:
//
//   - UUID and serial number are equal. NICs do not matter: they are replaced.
//     Two boards that both have no serial number are told apart by the UUID alone.
//   - The UUID is equal, the serial number is not, and a MAC address is shared: a
//     board whose serial number was written anew. Without a shared MAC address
//     they are two boards to which their maker gave the same UUID.
//   - Neither has a UUID, the serial numbers are equal (or both unset), and a MAC
//     address is shared.
//
// Everything else is another board. So a MAC address alone never stands for a
// board that has a UUID or a serial number.
func (i identity) same(o identity) bool {
	serial := strings.EqualFold(i.serial, o.serial)
	switch {
	case i.uuid != o.uuid:
		return false
	case i.uuid != "":
		return serial || i.sharesMAC(o)
	}
	return serial && i.sharesMAC(o)
}

func (i identity) sharesMAC(o identity) bool {
	return slices.ContainsFunc(i.macs, func(m string) bool { return slices.Contains(o.macs, m) })
}

// key is a text that differs from one board to the next, for people and as a
// guard against two records of one board.
func (i identity) key() string {
	var parts []string
	if i.uuid != "" {
		parts = append(parts, "uuid:"+i.uuid)
	}
	if i.serial != "" {
		parts = append(parts, "serial:"+strings.ToLower(i.serial))
	}
	if len(i.macs) > 0 && i.uuid == "" {
		parts = append(parts, "mac:"+i.macs[0])
	}
	return strings.Join(parts, " ")
}

// Identity is a text for the board that an agent describes: sessions of one board
// have the same one unless its boot NIC changes.
func Identity(h teeth.Handshake) string { return identityOf(h).key() }

// trivialUUID reports whether u is one that firmware shares between machines:
// unset, or the sample that board makers forget to change.
func trivialUUID(u string) bool {
	id, err := uuid.Parse(u)
	if err != nil || len(u) != 36 {
		return true
	}
	same := true
	for _, b := range id {
		same = same && b == id[0]
	}
	return same || strings.HasPrefix(u, "03000200-0400-0500-0006-") || u == "00020003-0004-0005-0006-000700080009" ||
		u == "12345678-1234-5678-90ab-cddeefaabbcc" || u == "fefefefe-fefe-fefe-fefe-fefefefefefe"
}

// trivialSerial reports whether s is what firmware says when nobody gave the board
// a serial number.
func trivialSerial(s string) bool {
	switch s = strings.ToLower(strings.TrimSpace(s)); s {
	case "", "none", "n/a", "na", "not applicable", "not available", "not specified", "unknown", "default", "default string",
		"system serial number", "chassis serial number", "base board serial number", "serial number", "to be filled by o.e.m.",
		"to be filled by o.e.m", "o.e.m.", "oem", "invalid", "empty", "xxxxxxxxxx", "123456789", "0123456789", "1234567890":
		return true
	}
	return strings.Trim(s, "0") == "" || strings.Trim(s, "f") == "" || strings.Trim(s, ".-_ x") == ""
}

func trivialMAC(m string) bool { return m == "00:00:00:00:00:00" || m == "ff:ff:ff:ff:ff:ff" }

// swappedUUID returns u with its first three fields in the other byte order.
// SMBIOS before 2.6 did not say which one they are in, and boot loaders, DHCP
// clients and the kernel do not all choose alike.
func swappedUUID(u string) string {
	id, err := uuid.Parse(u)
	if err != nil {
		return u
	}
	slices.Reverse(id[0:4])
	slices.Reverse(id[4:6])
	slices.Reverse(id[6:8])
	return id.String()
}
