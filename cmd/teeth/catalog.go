package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

func catalogCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "catalog",
		Short: "Show what commands on chassis have told of them",
		Long: `Catalogs are outputs of the commands of Graph.ShellCommands that were to be kept:

  teeth graph run Graph.ShellCommands CHASSIS --wait \
      --option 'commands=[{"command":"lsblk -J","catalog":{"source":"lsblk","format":"json"}}]'

The newest of each source is kept.`,
		RunE: needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(catalogList(&conn), catalogShow(&conn))
	return cmd
}

func catalogList(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "list CHASSIS",
		Short: "List the catalogs of a chassis",
		Long:  chassisHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			all, err := c.ListCatalogs(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), all, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "SOURCE\tFORMAT\tBYTES\tTASK\tCREATED")
				for _, k := range all {
					fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", live.Printable(k.Source), k.Format, k.Size, k.Task, k.Created.Format("2006-01-02 15:04:05Z07:00"))
				}
			})
		}),
	}
}

func catalogShow(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "show CHASSIS SOURCE",
		Short: "Print a catalog as the command wrote it",
		Long: chassisHelp + `

Control characters are left out. With -o json it is printed whole, together with when
and by which task it was reported.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			k, err := c.Catalog(cmd.Context(), a[0], a[1])
			if err != nil {
				return err
			}
			if conn.output == "json" {
				return conn.print(cmd.OutOrStdout(), k, nil)
			}
			text := string(k.Data)
			if k.Format == "raw" {
				if err := json.Unmarshal(k.Data, &text); err != nil {
					return fmt.Errorf("catalog %s: %w", a[1], err)
				}
			}
			_, err = io.WriteString(cmd.OutOrStdout(), strings.TrimSuffix(terminal(text), "\n")+"\n")
			return err
		}),
	}
}

// terminal leaves out of a text what would change how a terminal works.
func terminal(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f) {
			return r
		}
		return -1
	}, s)
}
