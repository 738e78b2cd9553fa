package main

import (
	"encoding/json"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

func skuCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "sku",
		Short: "Tell kinds of machine apart by rules over their inventory",
		RunE:  needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(
		skuSet(&conn),
		list(&conn, "List SKUs", (*client.Client).ListSKUs, skuRows),
		showJSON(&conn, "show SKU", "Show a SKU with its rules, as JSON; SKU is a name or id", (*client.Client).SKU),
		skuChassis(&conn),
		conn.act("remove SKU", "Remove a SKU", (*client.Client).RemoveSKU),
	)
	return cmd
}

func skuSet(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "set FILE",
		Short: "Define a SKU, in the place of the one with that name",
		Long: `FILE holds a JSON object:
  {"name": "compute-large",
   "rules": [{"path": "system.manufacturer", "contains": "Dell"},
             {"path": "memory.total_bytes", "min": 500000000000},
             {"path": "disks.*.transport", "equals": "nvme"}],
   "graph": "Graph.Decommission", "options": {}}
Paths are those of teeth chassis show -o json, under inventory; * is any element.
Conditions: equals, in, notIn, contains, notContains, greaterThan, lessThan, min, max,
regex, notRegex. All rules must hold. Of several SKUs that match a chassis the one with
most rules is taken, of equals the first by name. The graph is run once for each chassis
that gets the SKU, and only for approved ones.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			b, err := os.ReadFile(a[0])
			if err != nil {
				return usageError{err}
			}
			if !json.Valid(b) {
				return usagef("%s: not JSON", a[0])
			}
			k, err := c.PutSKU(cmd.Context(), b)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), k, func(w *tabwriter.Writer) { skuRows(w, []client.SKU{k}) })
		}),
	}
}

func skuRows(w *tabwriter.Writer, all []client.SKU) {
	fmt.Fprintln(w, "ID\tNAME\tRULES\tGRAPH")
	for _, k := range all {
		var rules []any
		json.Unmarshal(k.Rules, &rules)
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", short(k.ID), k.Name, len(rules), k.Graph)
	}
}

func skuChassis(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "chassis SKU",
		Short: "List the chassis that have a SKU, and what has become of its graph",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			all, err := c.SKUChassis(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), all, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "CHASSIS\tASSIGNED\tGRAPH\tERROR")
				for _, x := range all {
					assigned := "-"
					if x.Assigned != nil {
						assigned = age(*x.Assigned) + " ago"
					}
					fmt.Fprintf(w, "%s\t%s\t%s %s\t%s\n", x.Chassis, assigned, x.Step, short(x.Graph), live.Printable(x.Error))
				}
			})
		}),
	}
}
