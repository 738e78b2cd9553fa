package dhcp6

import (
	"bytes"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/teeth-metal/teeth/controlplane/netboot/bootfile"
)

// intel is the enterprise whose vendor class firmware uses for PXE and HTTP boot
// (UEFI, section "DHCPv6").
const intel = 343

// wantsBoot reports whether a client asks for a boot file, and says what it is.
func (r *request) wantsBoot() bool {
	return r.IsOptionRequested(dhcpv6.OptionBootfileURL) && len(r.Options.ArchTypes()) > 0
}

// boot adds the boot file's URL. It reports whether there is one.
func (s *Server) boot(r *request, reply *dhcpv6.Message) bool {
	if !r.wantsBoot() {
		return false
	}
	if !r.host.IsValid() && s.AdvertiseURL == "" {
		s.complain("DHCPv6: the interface has no IPv6 address but a link-local one, so chassis cannot be told where we are", "interface", r.in.iface)
		return false
	}
	client := bootfile.Client{Arch: r.Options.ArchTypes()[0], IPXE: r.isIPXE()}
	class := "PXEClient"
	for _, v := range r.Options.VendorClass(intel) {
		if bytes.HasPrefix(v, []byte("HTTPClient")) {
			client.HTTP = true
		}
	}
	if client.IsHTTP() {
		class = "HTTPClient"
	}
	server := bootfile.At(r.host, s.BootPort, s.AdvertiseURL)
	file := server.Script()
	if !client.IPXE {
		var other map[string]string
		if r.subnet != nil {
			other = r.subnet.BootFiles
		}
		name, arch := s.Files.Name(client, other)
		switch {
		case name == "":
			s.complain("DHCPv6: no boot file for this kind of machine: install Debian's package ipxe, or name one with `teeth subnet add --boot-file`", "arch", arch, "mac", r.mac)
			return false
		case !client.IsHTTP() && (!s.TFTP || !r.host.IsValid()) && other[arch] == "":
			s.complain("DHCPv6: a machine can load its boot file by TFTP only, which is off: start the server with --tftp", "arch", arch, "mac", r.mac)
			return false
		}
		file = server.URL(name, client.IsHTTP())
		// Without the class that it asked with, firmware takes no notice of the URL.
		reply.AddOption(&dhcpv6.OptVendorClass{EnterpriseNumber: intel, Data: [][]byte{[]byte(class)}})
		s.Log.Info("chassis asks for a boot file", "mac", r.mac, "duid", r.duid, "arch", arch, "file", file)
	}
	reply.AddOption(dhcpv6.OptBootFileURL(file))
	return true
}

func (r *request) isIPXE() bool {
	for _, c := range r.Options.UserClasses() {
		if string(c) == "iPXE" {
			return true
		}
	}
	return false
}
