package teeth

import (
	"bytes"
	"fmt"
	"strings"
)

// VendorClass is what an agent says it is in DHCP (option 60; vendor class of
// DHCPv6), and so what the sub-options of VendorOptions are meant for.
const VendorClass = "teeth-agent"

// Sub-options of DHCP option 43, vendor-specific information (RFC 2132, section 8.4).
const (
	vendorServers = 1 // text: host:port, several with commas
	vendorPin     = 2 // text: 64 hexadecimal digits
	vendorToken   = 3 // text
)

// Bounds of what one sub-option holds.
const (
	maxVendorText  = 255
	maxVendorToken = 128
)

// VendorOptions are what DHCP tells an agent of its control plane. All of them are
// text and optional. DHCP is trusted as far as the boot network is.
type VendorOptions struct {
	Servers  []string // host:port
	CASHA256 string   // pin of the control plane's CA: 64 hexadecimal digits
	Token    string   // admits this chassis once
}

// Marshal returns the value of option 43.
func (v VendorOptions) Marshal() ([]byte, error) {
	var b []byte
	for _, o := range []struct {
		code byte
		text string
	}{{vendorServers, strings.Join(v.Servers, ",")}, {vendorPin, v.CASHA256}, {vendorToken, v.Token}} {
		if o.text == "" {
			continue
		}
		if len(o.text) > maxVendorText {
			return nil, fmt.Errorf("vendor sub-option %d has %d bytes: at most %d", o.code, len(o.text), maxVendorText)
		}
		b = append(append(b, o.code, byte(len(o.text))), o.text...)
	}
	return b, nil
}

// ParseVendorOptions reads the value of option 43. What is malformed is left
// out, and what follows a broken length with it: other vendors and PXE servers
// use the same option, with sub-options of their own. The servers are not
// checked beyond being text.
func ParseVendorOptions(b []byte) VendorOptions {
	var v VendorOptions
	for len(b) >= 2 && b[0] != 255 {
		if b[0] == 0 { // padding has no length
			b = b[1:]
			continue
		}
		code, n := b[0], int(b[1])
		if len(b) < 2+n {
			break
		}
		value := string(bytes.TrimRight(b[2:2+n], "\x00"))
		b = b[2+n:]
		if !vendorText(value) {
			continue
		}
		switch {
		case code == vendorServers:
			v.Servers = strings.Split(value, ",")
		case code == vendorPin && isPin(value):
			v.CASHA256 = strings.ToLower(value)
		case code == vendorToken && len(value) <= maxVendorToken:
			v.Token = value
		}
	}
	return v
}

// vendorText reports whether s is printable ASCII without spaces. A PXE server's
// own sub-options are numbers, and mostly are not.
func vendorText(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return s != ""
}

func isPin(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}
