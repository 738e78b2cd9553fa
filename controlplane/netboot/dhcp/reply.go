package dhcp

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/teeth-metal/teeth/controlplane/netboot/bootfile"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// ipxeNoProxy is iPXE's option "no-pxedhcp": it need not wait for the offers of proxies.
var ipxeNoProxy = []byte{176, 1, 1}

// pxeDirect is option 43 for PXE firmware: discovery control, bit 3 (PXE 2.1, section
// 2.2.3): load the boot file named here and look for no other server.
var pxeDirect = []byte{6, 1, 8, 255}

// reply is an OFFER or ACK with all that the client is to know. Without an address
// it answers an INFORM.
func (s *Server) reply(ctx context.Context, r request, t dhcpv4.MessageType, g *store.Granted) *dhcpv4.DHCPv4 {
	sub := r.subnet
	reply, err := dhcpv4.NewReplyFromRequest(r.DHCPv4,
		dhcpv4.WithMessageType(t),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(r.self.AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptSubnetMask(net.CIDRMask(sub.CIDR.Bits(), 32))))
	if err != nil {
		s.Log.Error("DHCP: cannot make an answer", "error", err)
		return nil
	}
	reply.ClientIPAddr = net.IPv4zero
	if t == dhcpv4.MessageTypeAck {
		reply.ClientIPAddr = r.ClientIPAddr // RFC 2131, table 3
	}
	if g != nil {
		reply.YourIPAddr = g.IP.AsSlice()
		during := s.leaseTime(r)
		reply.UpdateOption(dhcpv4.OptIPAddressLeaseTime(during))
		reply.UpdateOption(dhcpv4.OptRenewTimeValue(during / 2))
		reply.UpdateOption(dhcpv4.OptRebindingTimeValue((during * 7 / 8).Truncate(time.Second)))
		if g.ReservedName != "" {
			reply.UpdateOption(dhcpv4.OptHostName(g.ReservedName))
		}
	}
	if sub.Gateway.IsValid() {
		reply.UpdateOption(dhcpv4.OptRouter(sub.Gateway.AsSlice()))
	}
	if len(sub.DNS) > 0 {
		reply.UpdateOption(dhcpv4.OptDNS(ips(sub.DNS)...))
	}
	if sub.Domain != "" {
		reply.UpdateOption(dhcpv4.OptDomainName(sub.Domain))
	}
	if len(sub.NTP) > 0 {
		reply.UpdateOption(dhcpv4.OptNTPServers(ips(sub.NTP)...))
	}
	if sub.MTU > 0 && r.IsOptionRequested(dhcpv4.OptionInterfaceMTU) {
		reply.UpdateOption(dhcpv4.Option{Code: dhcpv4.OptionInterfaceMTU, Value: dhcpv4.Uint16(sub.MTU)})
	}
	switch {
	case r.pxe:
		s.boot(r, reply)
		if r.boot.IPXE {
			reply.UpdateOption(dhcpv4.OptGeneric(optionIPXE, ipxeNoProxy))
		}
	case r.agent:
		reply.ServerIPAddr = r.host.AsSlice()
		s.tellAgent(ctx, r, reply, t)
	}
	s.fit(r, reply)
	return reply
}

func ips(list []netip.Addr) []net.IP {
	out := make([]net.IP, len(list))
	for i, a := range list {
		out[i] = a.AsSlice()
	}
	return out
}

// boot names the boot file. It reports whether there is one.
func (s *Server) boot(r request, reply *dhcpv4.DHCPv4) bool {
	server := bootfile.At(r.host, s.BootPort, s.AdvertiseURL)
	file, http := "", r.boot.IsHTTP()
	if r.boot.IPXE {
		file = server.Script()
	} else {
		name, arch := s.Files.Name(r.boot, r.subnet.BootFiles)
		switch {
		case name == "":
			s.complain("DHCP: no boot file for this kind of machine: install Debian's package ipxe, or name one with `teeth subnet add --boot-file`", "arch", arch, "mac", r.mac)
			return false
		case http:
			file = server.URL(name, true)
		case !s.TFTP && r.subnet.BootFiles[arch] == "":
			s.complain("DHCP: a machine can load its boot file by TFTP only, which is off: start the server with --tftp", "arch", arch, "mac", r.mac)
			return false
		default:
			file = name
		}
		if reply.MessageType() == dhcpv4.MessageTypeAck {
			s.Log.Info("chassis asks for a boot file", "mac", r.mac, "uuid", r.uuid, "arch", arch, "file", file)
		}
	}
	reply.ServerIPAddr = r.host.AsSlice()
	// The header has the room of 127 characters. Some firmware reads only that,
	// some only the option.
	if len(file) < 128 {
		reply.BootFileName = file
	}
	reply.UpdateOption(dhcpv4.OptBootFileName(file))
	if http && !r.boot.IPXE {
		reply.UpdateOption(dhcpv4.OptClassIdentifier(classHTTP)) // else UEFI takes no notice of the URL
	} else {
		reply.UpdateOption(dhcpv4.OptTFTPServerName(r.host.String()))
	}
	if b := r.Options.Get(dhcpv4.OptionClientMachineIdentifier); len(b) > 0 && len(b) <= 17 {
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, b))
	}
	return true
}

// tellAgent puts the control plane's address, its pin and, with an ACK to one that
// has just come up, a one-time token into option 43.
func (s *Server) tellAgent(ctx context.Context, r request, reply *dhcpv4.DHCPv4, t dhcpv4.MessageType) {
	v := teeth.VendorOptions{Servers: []string{net.JoinHostPort(r.host.String(), s.AgentsPort)}, CASHA256: s.CAPin}
	renews := addr(r.ClientIPAddr).IsValid()
	if t == dhcpv4.MessageTypeAck && !renews && s.Token != nil {
		token, err := s.Token(ctx, r.uuid, r.mac)
		if err != nil {
			s.Log.Error("DHCP: no token for a chassis; it needs another way to be admitted", "mac", r.mac, "error", err)
		}
		v.Token = token
	}
	b, err := v.Marshal()
	if err != nil {
		s.Log.Error("DHCP: cannot tell an agent of the control plane", "error", err)
		return
	}
	reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, b))
}

// fit leaves out what the client can do without until the message is not longer
// than it takes: 576 bytes with the headers of IP and UDP, unless it says more.
func (s *Server) fit(r request, reply *dhcpv4.DHCPv4) {
	longest := 576
	if b := r.Options.Get(dhcpv4.OptionMaximumDHCPMessageSize); len(b) == 2 {
		longest = min(max(longest, int(b[0])<<8|int(b[1])), 1500)
	}
	for _, o := range []dhcpv4.OptionCode{
		dhcpv4.OptionTFTPServerName, dhcpv4.OptionNTPServers, dhcpv4.OptionDomainName, dhcpv4.OptionClientMachineIdentifier, dhcpv4.OptionDomainNameServer,
	} {
		if len(reply.ToBytes())+ipHeader+udpHeader <= longest {
			return
		}
		reply.Options.Del(o)
	}
}
