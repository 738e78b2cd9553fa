// Package bootfile decides what a machine that boots over the network is told to
// load: iPXE for its firmware, by architecture and by what it can fetch with, and
// the boot script for iPXE.
//
// The architectures are the numbers of RFC 4578 (as IANA keeps them), the same in
// DHCP option 93 and DHCPv6 option 61.
package bootfile

import (
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/insomniacslk/dhcp/iana"
)

// Client is what a machine says of itself when it asks for a boot file.
type Client struct {
	Arch iana.Arch
	HTTP bool // UEFI HTTP boot: vendor class HTTPClient
	IPXE bool // it runs iPXE already
}

// Names of the architectures in store.Subnet.BootFiles, for TFTP. HTTP clients have
// "-http" after it.
var names = map[iana.Arch]string{
	iana.INTEL_X86PC: "bios", iana.INTEL_X86PC_HTTP: "bios",
	iana.EFI_IA32: "efi32", iana.EFI_X86_HTTP: "efi32",
	// Some firmware for x86-64 says "EFI BC", which RFC 4578 had as number 9 by an erratum.
	iana.EFI_X86_64: "efi64", iana.EFI_BC: "efi64", iana.EFI_X86_64_HTTP: "efi64", iana.EFI_BC_HTTP: "efi64",
	iana.EFI_ARM32: "arm32", iana.EFI_ARM32_HTTP: "arm32",
	iana.EFI_ARM64: "arm64", iana.EFI_ARM64_HTTP: "arm64",
}

// usual are the files for each architecture, the first that there is. Those of
// Debian's package ipxe come first.
var usual = map[string][]string{
	"bios":  {"undionly.kpxe", "ipxe.pxe"},
	"efi32": {"ipxe-i386.efi", "snponly-i386.efi"},
	// The one that keeps to the firmware's driver: ipxe.efi, which takes the card with
	// one of its own, was seen to hang where a chassis goes back to its firmware to
	// boot its disk (OVMF 2022.11, virtio).
	"efi64": {"snponly.efi", "ipxe.efi"},
	"arm32": {"ipxe-arm32.efi", "snp-arm32.efi"},
	"arm64": {"ipxe-arm64.efi", "snp-arm64.efi"},
}

// unified is the appliance as one EFI program. It stands in where there is no iPXE:
// it knows no boot script, so that a chassis with an installed system gets it too.
var unified = map[string]string{"efi64": "teeth-amd64.efi", "arm64": "teeth-arm64.efi"}

// Files says what there is to boot.
type Files struct {
	// Has reports whether our TFTP and HTTP servers have a file.
	Has func(name string) bool
}

// Name returns the file for a client that does not run iPXE, and the client's
// architecture as operators write it. other is store.Subnet.BootFiles. "" means
// that there is none.
func (f Files) Name(c Client, other map[string]string) (file, arch string) {
	base, ok := names[c.Arch]
	if !ok {
		return "", c.Arch.String()
	}
	arch = base
	if c.HTTP || isHTTP(c.Arch) {
		arch += "-http"
	}
	if name := other[arch]; name != "" {
		return name, arch
	}
	for _, name := range usual[base] {
		if f.Has(name) {
			return name, arch
		}
	}
	if name := unified[base]; name != "" && f.Has(name) {
		return name, arch
	}
	return "", arch
}

// IsHTTP reports whether the firmware fetches by HTTP.
func (c Client) IsHTTP() bool { return c.HTTP || isHTTP(c.Arch) }

func isHTTP(a iana.Arch) bool {
	switch a {
	case iana.EFI_X86_HTTP, iana.EFI_X86_64_HTTP, iana.EFI_BC_HTTP, iana.EFI_ARM32_HTTP, iana.EFI_ARM64_HTTP, iana.INTEL_X86PC_HTTP:
		return true
	}
	return false
}

// Server is where the files are, as clients reach it.
type Server struct {
	Base string     // base URL of the HTTP server, without a slash at its end
	TFTP netip.Addr // zero: there is no TFTP
}

// At returns the server at an address, with HTTP on port. A base URL that the
// operator gave stands instead.
func At(addr netip.Addr, port, advertised string) Server {
	s := Server{Base: strings.TrimSuffix(advertised, "/"), TFTP: addr}
	if s.Base == "" {
		s.Base = "http://" + net.JoinHostPort(addr.String(), port)
	}
	return s
}

// Script returns the URL of the boot script.
func (s Server) Script() string { return s.Base + "/boot/ipxe" }

// URL returns where a file is for a client that fetches by HTTP, or by TFTP in IPv6,
// which has no other place for the server's address. A name that is a URL stays.
func (s Server) URL(file string, http bool) string {
	switch {
	case strings.Contains(file, "://"):
		return file
	case http:
		return s.Base + "/boot/" + (&url.URL{Path: file}).EscapedPath()
	}
	host := s.TFTP.String()
	if s.TFTP.Is6() {
		host = "[" + host + "]"
	}
	return "tftp://" + host + "/" + (&url.URL{Path: file}).EscapedPath()
}
