package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/hwinfo/qc"
)

func specCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "spec",
		Short: "Add, list, show and remove the specs that quality control compares with",
		RunE:  needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(
		specAdd(&conn),
		list(&conn, "List specs", (*client.Client).ListSpecs, specRows),
		specShow(&conn),
		conn.act("remove SPEC", "Remove a spec; tasks that were given it have a copy", (*client.Client).RemoveSpec),
	)
	return cmd
}

func specAdd(conn *connection) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "add FILE",
		Short: "Add a spec, in JSON, or replace the one of its name",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			b, err := readSpec(a[0])
			if err != nil {
				return usageError{err}
			}
			if name == "" {
				base := filepath.Base(a[0])
				name = strings.TrimSuffix(base, filepath.Ext(base))
			}
			c, err := conn.dial()
			if err != nil {
				return err
			}
			sp, err := c.PutSpec(cmd.Context(), name, b)
			if err != nil {
				return err
			}
			sp.Spec = nil
			return conn.print(cmd.OutOrStdout(), sp, func(w *tabwriter.Writer) { specRows(w, []client.Spec{sp}) })
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name (default: the file's without its ending)")
	return cmd
}

// readSpec reads and checks a spec.
func readSpec(path string) (json.RawMessage, error) {
	const longest = 1 << 20
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, longest+1))
	if err != nil {
		return nil, err
	}
	if len(b) > longest {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, longest)
	}
	if _, err := qc.Parse(b); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

func specRows(w *tabwriter.Writer, all []client.Spec) {
	fmt.Fprintln(w, "NAME\tUPDATED")
	for _, sp := range all {
		fmt.Fprintf(w, "%s\t%s\n", sp.Name, sp.Updated.Local().Format(time.RFC3339))
	}
}

func specShow(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "show SPEC",
		Short: "Print a spec as teeth spec add takes it",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			sp, err := c.Spec(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), sp, func(w *tabwriter.Writer) { fmt.Fprintln(w, string(sp.Spec)) })
		}),
	}
}
