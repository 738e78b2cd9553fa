package main

import (
	"github.com/spf13/pflag"

	"github.com/teeth-metal/teeth/controlplane"
	"github.com/teeth-metal/teeth/controlplane/netboot/bootfile"
)

func networkFlags(f *pflag.FlagSet, c *controlplane.NetworkConfig) {
	f.StringSliceVar(&c.DHCP, "dhcp", nil, "network interface on which to give addresses by DHCP, in the subnets of teeth subnet (repeatable)")
	f.StringVar(&c.DHCPRange, "dhcp-range", "", "FIRST-LAST: serve the network of the one --dhcp interface with this pool")
	f.StringSliceVar(&c.DHCPProxy, "dhcp-proxy", nil, "network interface on which only to tell what to boot, beside somebody else's DHCP server (repeatable)")
	f.BoolVar(&c.DHCPProbe, "dhcp-probe", false, "ask by ARP whether an address is in use before it is offered for the first time")
	f.StringSliceVar(&c.DHCP6, "dhcp6", nil, "network interface on which to tell by DHCPv6 what to boot, and to give addresses in IPv6 subnets (repeatable)")
	f.StringVar(&c.TFTP, "tftp", "", "address of the TFTP server, which firmware loads iPXE from; usually :69")
	f.StringVar(&c.BootTLS, "boot-tls", "", "one more address for booting chassis, HTTPS, for firmware that has the control plane's CA enrolled; --name says how they call it")
	f.StringSliceVar(&c.IPXEDirs, "ipxe-dir", bootfile.DefaultIPXEDirs, "folder with iPXE's files (repeatable)")
}
