package dhcp

import (
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/teeth-metal/teeth/controlplane/netboot/bootfile"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Vendor classes (option 60) begin so.
const (
	classPXE  = "PXEClient"  // PXE 2.1, and iPXE
	classHTTP = "HTTPClient" // UEFI 2.5, HTTP boot
)

// optionIPXE holds iPXE's own options, and is in each of its requests.
const optionIPXE = dhcpv4.GenericOptionCode(175)

// client is who asks, from a message that may say anything.
type client struct {
	key      string // store.Lease.Client
	mac      string // "" if it is not Ethernet
	id       string // client identifier, hexadecimal
	uuid     string // SMBIOS UUID (option 97), "" if it says none
	hostname string
	agent    bool // ours
	pxe      bool // asks for a boot file
	boot     bootfile.Client
}

// readClient returns false for one that cannot be told from others.
func readClient(m *dhcpv4.DHCPv4) (client, bool) {
	var c client
	if m.OpCode != dhcpv4.OpcodeBootRequest {
		return c, false
	}
	if b := m.Options.Get(dhcpv4.OptionClientIdentifier); len(b) >= 2 && len(b) <= 128 {
		c.id = hex.EncodeToString(b)
	}
	switch hw := m.ClientHWAddr; {
	case m.HWType == iana.HWTypeEthernet && len(hw) == 6 && hw[0]&1 == 0 && !slices.Equal(hw, make(net.HardwareAddr, 6)):
		c.mac = hw.String()
		c.key = "mac:" + c.mac
	case c.id != "" && len(hw) <= 16: // InfiniBand has no address that fits (RFC 4390)
		c.key = "id:" + c.id
	default:
		return c, false
	}
	c.hostname = sanitise(dhcpv4.GetString(dhcpv4.OptionHostName, m.Options))
	if b := m.Options.Get(dhcpv4.OptionClientMachineIdentifier); len(b) == 17 && b[0] == 0 { // RFC 4578, section 2.3
		c.uuid = smbiosUUID(b[1:])
	}
	class := dhcpv4.GetString(dhcpv4.OptionClassIdentifier, m.Options)
	c.agent = class == teeth.VendorClass
	c.boot.HTTP = strings.HasPrefix(class, classHTTP)
	c.boot.IPXE = isIPXE(m)
	c.pxe = c.boot.HTTP || strings.HasPrefix(class, classPXE) || c.boot.IPXE
	c.boot.Arch = architecture(m, class)
	return c, true
}

// isIPXE knows iPXE by its user class, which it sends without the lengths of RFC 3004,
// or by its own options. Feature options are sent by no other.
func isIPXE(m *dhcpv4.DHCPv4) bool {
	if string(m.Options.Get(dhcpv4.OptionUserClassInformation)) == "iPXE" || slices.Contains(m.UserClass(), "iPXE") {
		return true
	}
	return len(m.Options.Get(optionIPXE)) > 0
}

// architecture is that of option 93, else the one in the vendor class
// ("PXEClient:Arch:00007:UNDI:003016"), else that of a PC's BIOS, which is as old
// as the protocol.
func architecture(m *dhcpv4.DHCPv4, class string) iana.Arch {
	if archs := m.ClientArch(); len(archs) > 0 {
		return archs[0]
	}
	if _, rest, ok := strings.Cut(class, ":Arch:"); ok {
		number, _, _ := strings.Cut(rest, ":")
		if n, err := strconv.ParseUint(number, 10, 16); err == nil {
			return iana.Arch(n)
		}
	}
	return iana.INTEL_X86PC
}

// smbiosUUID is the UUID as dmidecode and our agent write it: the first three fields
// are little-endian in SMBIOS, and firmware copies them as they are.
func smbiosUUID(b []byte) string {
	u := uuid.UUID{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}
	copy(u[8:], b[8:])
	if u == uuid.Nil || u == uuid.Max {
		return ""
	}
	return u.String()
}

// sanitise keeps of a host name what may stand in files, logs and DNS: its first
// label, of letters, digits and inner hyphens.
func sanitise(name string) string {
	name, _, _ = strings.Cut(strings.ToLower(name), ".")
	name = strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, name)
	return strings.Trim(name[:min(len(name), 63)], "-")
}

func addr(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
