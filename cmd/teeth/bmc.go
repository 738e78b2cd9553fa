package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

func bmcCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "bmc",
		Short: "Note, show and forget the management controllers of chassis",
		RunE:  needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(
		bmcSet(&conn),
		bmcShow(&conn),
		list(&conn, "List the BMCs that are noted", (*client.Client).ListBMCs, bmcRows),
		conn.act("remove CHASSIS", "Forget the BMC of a chassis", (*client.Client).RemoveBMC),
	)
	return cmd
}

func bmcSet(conn *connection) *cobra.Command {
	var in client.NewBMC
	var passwordFile string
	cmd := &cobra.Command{
		Use:   "set CHASSIS --address HOST --user NAME --password-file FILE",
		Short: "Note the BMC of a chassis, after trying whether it lets the user in",
		Long: chassisHelp + `

The password is read from a file, or with "-" from standard input, and is encrypted
in the store. With IPMI, users have at most 16 bytes, passwords 20, and the user needs
privilege level operator. Redfish wants a certificate that this server trusts, or its
SHA-256 as --cert-sha256 (openssl x509 -fingerprint -sha256).`,
		Args: args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			if in.Address == "" || in.Username == "" || passwordFile == "" {
				return usagef("--address, --user and --password-file are needed")
			}
			var err error
			if in.Password, err = readSecret(cmd.InOrStdin(), passwordFile); err != nil {
				return usageError{err}
			}
			b, err := c.SetBMC(cmd.Context(), a[0], in)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), b, func(w *tabwriter.Writer) { bmcRows(w, []client.BMC{b}) })
		}),
	}
	f := cmd.Flags()
	f.StringVar(&in.Protocol, "protocol", "redfish", "redfish or ipmi")
	f.StringVar(&in.Address, "address", "", "HOST or HOST:PORT of the BMC")
	f.StringVar(&in.Username, "user", "", "user of the BMC")
	f.StringVar(&passwordFile, "password-file", "", `file with the user's password; "-": standard input`)
	f.StringVar(&in.CertSHA256, "cert-sha256", "", "SHA-256 of the BMC's TLS certificate, hexadecimal (Redfish)")
	f.BoolVar(&in.Insecure, "insecure", false, "take any TLS certificate (Redfish)")
	f.StringVar(&in.System, "system", "", "Id of the system, for a BMC that has several (Redfish)")
	f.BoolVar(&in.NoProbe, "no-probe", false, "do not try it first")
	return cmd
}

// maxSecret bounds a file with a password.
const maxSecret = 4096

// readSecret reads the first line of a file, or with "-" of in.
func readSecret(in io.Reader, name string) (string, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	line, err := bufio.NewReader(io.LimitReader(in, maxSecret)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("password: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", fmt.Errorf("%s: its first line is to be the password, and is empty", name)
	}
	return line, nil
}

func bmcRows(w *tabwriter.Writer, all []client.BMC) {
	fmt.Fprintln(w, "CHASSIS\tPROTOCOL\tADDRESS\tUSER\tCERTIFICATE")
	for _, b := range all {
		certificate := "trusted authority"
		switch {
		case b.Protocol != "redfish":
			certificate = "-"
		case b.CertSHA256 != "":
			certificate = short(b.CertSHA256)
		case b.Insecure:
			certificate = "any"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", short(b.Chassis), b.Protocol, b.Address, b.Username, certificate)
	}
}

func bmcShow(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "show CHASSIS",
		Short: "Ask the BMC of a chassis what it is, and where the serial console is",
		Long:  chassisHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			i, err := c.BMCInfo(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), i, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "protocol\t%s %s\naddress\t%s\npower\t%s\nfirmware\t%s\nmanufacturer\t%s\nmodel\t%s\n", i.Protocol, i.Version,
					i.Address, i.State, live.Printable(i.Firmware), live.Printable(i.Manufacturer), live.Printable(i.Model))
				if con := i.Console; con != nil {
					fmt.Fprintf(w, "console\t%s at %s, enabled: %v\n\t%s\n", con.Protocol, con.Address, con.Enabled, live.Printable(con.Command))
				}
			})
		}),
	}
}
