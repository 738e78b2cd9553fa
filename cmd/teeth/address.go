package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

func subnetCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "subnet",
		Short: "Say in which networks DHCP gives which addresses",
		Long: `Say in which networks teeth serve --dhcp gives which addresses, to chassis on its
own interface or behind relay agents. Changes count at once; chassis learn of them
when they renew. In a network that is not listed here nobody is answered.`,
		RunE: needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(
		subnetAdd(&conn),
		subnetSet(&conn),
		list(&conn, "List networks", (*client.Client).Subnets, subnetRows),
		subnetShow(&conn),
		subnetRemove(&conn),
	)
	return cmd
}

func subnetFlags(f *pflag.FlagSet, in *client.Subnet, during *time.Duration) {
	f.StringSliceVar(&in.Pools, "pool", nil, "FIRST-LAST: addresses to give (repeatable)")
	f.StringSliceVar(&in.Exclude, "exclude", nil, "FIRST-LAST or one address of the pools that is not given (repeatable)")
	f.StringVar(&in.Gateway, "gateway", "", "default router")
	f.StringSliceVar(&in.DNS, "dns", nil, "name server (repeatable)")
	f.StringSliceVar(&in.NTP, "ntp", nil, "time server, as an address (repeatable)")
	f.StringVar(&in.Domain, "domain", "", "domain name")
	f.DurationVar(during, "lease", 0, "how long an address is given for (default 12h)")
	f.IntVar(&in.MTU, "mtu", 0, "MTU to be told")
	f.StringVar(&in.NextServer, "next-server", "", "address of this server as chassis there reach it (default: where they asked)")
	f.StringToStringVar(&in.BootFiles, "boot-file", nil, "ARCHITECTURE=FILE|URL: boot file other than iPXE's usual; bios, efi32, efi64, arm32, arm64, or with -http (repeatable)")
}

// subnetOf puts the arguments of add and set together.
func subnetOf(in client.Subnet, network string, during time.Duration) (client.Subnet, error) {
	p, err := netip.ParsePrefix(network)
	if err != nil {
		return in, usagef("network %q: write ADDRESS/LENGTH, as in 192.0.2.0/24", network)
	}
	if during%time.Second != 0 || during < 0 {
		return in, usagef("--lease %s: write whole seconds, as in 12h or 3600s", during)
	}
	in.CIDR, in.LeaseSeconds = p.String(), int64(during/time.Second)
	return in, nil
}

func subnetAdd(conn *connection) *cobra.Command {
	var in client.Subnet
	var during time.Duration
	cmd := &cobra.Command{
		Use:   "add NETWORK --pool FIRST-LAST",
		Short: "Add a network, as in 192.0.2.0/24 or 2001:db8::/64",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			sub, err := subnetOf(in, a[0], during)
			if err != nil {
				return err
			}
			if sub, err = c.AddSubnet(cmd.Context(), sub); err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), sub, func(w *tabwriter.Writer) { subnetRows(w, []client.Subnet{sub}) })
		}),
	}
	subnetFlags(cmd.Flags(), &in, &during)
	return cmd
}

func subnetSet(conn *connection) *cobra.Command {
	var in client.Subnet
	var during time.Duration
	cmd := &cobra.Command{
		Use:   "set NETWORK",
		Short: "Replace what is said of a network; what is not given is no longer said",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			sub, err := subnetOf(in, a[0], during)
			if err != nil {
				return err
			}
			if sub, err = c.SetSubnet(cmd.Context(), sub); err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), sub, func(w *tabwriter.Writer) { subnetRows(w, []client.Subnet{sub}) })
		}),
	}
	subnetFlags(cmd.Flags(), &in, &during)
	return cmd
}

func subnetRows(w *tabwriter.Writer, all []client.Subnet) {
	fmt.Fprintln(w, "ID\tNETWORK\tPOOLS\tGATEWAY\tDNS\tLEASE")
	for _, s := range all {
		during := time.Duration(s.LeaseSeconds) * time.Second
		if during == 0 {
			during = 12 * time.Hour
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", short(s.ID), s.CIDR, orDash(strings.Join(s.Pools, ",")), orDash(s.Gateway), orDash(strings.Join(s.DNS, ",")), during)
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func subnetShow(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "show NETWORK",
		Short: "Show all that is said of a network",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			s, err := c.Subnet(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), s, func(w *tabwriter.Writer) {
				for _, row := range [][2]string{
					{"id", s.ID}, {"network", s.CIDR}, {"pools", strings.Join(s.Pools, ", ")}, {"excluded", strings.Join(s.Exclude, ", ")},
					{"gateway", s.Gateway}, {"dns", strings.Join(s.DNS, ", ")}, {"ntp", strings.Join(s.NTP, ", ")}, {"domain", s.Domain},
					{"next server", s.NextServer},
				} {
					fmt.Fprintf(w, "%s\t%s\n", row[0], orDash(row[1]))
				}
				for arch, file := range s.BootFiles {
					fmt.Fprintf(w, "boot file %s\t%s\n", arch, file)
				}
			})
		}),
	}
}

func subnetRemove(conn *connection) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "remove NETWORK",
		Short: "Remove a network with its reservations and leases",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			return c.RemoveSubnet(cmd.Context(), a[0], force)
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "even while addresses are in use")
	return cmd
}

func leaseCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{Use: "lease", Short: "List, pin and remove addresses that DHCP has given", RunE: needSubcommand}
	conn.addFlags(cmd)
	cmd.AddCommand(
		leaseList(&conn),
		leasePin(&conn),
		conn.act("unpin ADDRESS|MAC", "Keep an address no longer", (*client.Client).Unreserve),
		conn.act("remove ADDRESS|MAC", "Forget a lease; its client learns of it when it renews", (*client.Client).RemoveLease),
	)
	return cmd
}

func leaseList(conn *connection) *cobra.Command {
	var subnet, mac string
	var pins bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List leases, or with --pins the addresses that are kept",
		Args:  args(cobra.NoArgs),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			if pins {
				all, err := c.Reservations(cmd.Context())
				if err != nil {
					return err
				}
				return conn.print(cmd.OutOrStdout(), all, func(w *tabwriter.Writer) {
					fmt.Fprintln(w, "ADDRESS\tMAC\tCLIENT ID\tHOST NAME")
					for _, r := range all {
						fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.IP, orDash(r.MAC), orDash(r.ClientID), orDash(r.Hostname))
					}
				})
			}
			all, err := c.Leases(cmd.Context(), subnet, mac)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), all, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "ADDRESS\tSTATE\tMAC\tHOST NAME\tEXPIRES\tPINNED")
				for _, l := range all {
					pinned := "-"
					if l.Pinned {
						pinned = "yes"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", l.IP, l.State, orDash(l.MAC), orDash(live.Printable(l.Hostname)), l.Expires.Local().Format(time.DateTime), pinned)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&subnet, "subnet", "", "only of this network")
	cmd.Flags().StringVar(&mac, "mac", "", "only of this MAC address")
	cmd.Flags().BoolVar(&pins, "pins", false, "addresses that are kept, instead of leases")
	return cmd
}

func leasePin(conn *connection) *cobra.Command {
	var r client.Reservation
	cmd := &cobra.Command{
		Use:   "pin ADDRESS|MAC",
		Short: "Keep an address for a client",
		Long: `Keep an address for a client. With an IP address it is the client that has it now or,
if none has, nobody; --mac or --client-id name another. With a MAC address it is the
address that this client has now.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			if hw, err := net.ParseMAC(a[0]); err == nil {
				if r != (client.Reservation{}) {
					return usagef("with a MAC address no flag goes: write teeth lease pin ADDRESS --mac %s", hw)
				}
				return c.Reserve(cmd.Context(), client.Reservation{MAC: hw.String()})
			}
			if _, err := netip.ParseAddr(a[0]); err != nil {
				return usagef("%q is neither an IP nor a MAC address", a[0])
			}
			r.IP = a[0]
			return c.Reserve(cmd.Context(), r)
		}),
	}
	cmd.Flags().StringVar(&r.MAC, "mac", "", "for the client with this MAC address")
	cmd.Flags().StringVar(&r.ClientID, "client-id", "", "for the client with this DHCP client identifier or DUID, hexadecimal")
	cmd.Flags().StringVar(&r.Hostname, "hostname", "", "host name that the client is told")
	return cmd
}
