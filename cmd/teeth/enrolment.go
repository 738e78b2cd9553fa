package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
)

func chassisApprove(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "approve CHASSIS...",
		Short: "Let chassis work that were discovered or rejected",
		Long:  "Compare serial number and MAC address with what was delivered before you approve.\n" + chassisHelp,
		Args:  args(cobra.MinimumNArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, refs []string) error {
			for _, ref := range refs {
				ch, err := c.Approve(cmd.Context(), ref)
				if err != nil {
					return err
				}
				if err := conn.print(cmd.OutOrStdout(), ch, func(w *tabwriter.Writer) { fmt.Fprintf(w, "%s\tapproved\n", ch.ID) }); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

func chassisReject(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "reject CHASSIS",
		Short: "Refuse a chassis until it is approved, and end its session",
		Long: `Refuse a chassis until it is approved, and end its session. Its certificate and its
tokens are worth nothing any more. What its agent has begun goes on until it is
rebooted.
` + chassisHelp,
		Args: args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			ch, err := c.Reject(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), ch, func(w *tabwriter.Writer) { fmt.Fprintf(w, "%s\trejected\n", ch.ID) })
		}),
	}
}

func chassisForget(conn *connection) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "forget CHASSIS",
		Short: "Delete a chassis with its tasks and its log",
		Long:  "Delete a chassis with its tasks and its log. If it comes back, it is discovered anew.\n" + chassisHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			return c.Forget(cmd.Context(), a[0], force)
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "even while it is connected or has work to finish")
	return cmd
}

func enrolmentCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "enrolment",
		Short: "List, add and remove rules that approve chassis",
		RunE:  needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(
		&cobra.Command{
			Use:   "list",
			Short: "List the rules",
			Args:  args(cobra.NoArgs),
			RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
				rules, err := c.ListRules(cmd.Context())
				if err != nil {
					return err
				}
				return printRules(&conn, cmd.OutOrStdout(), rules, rules...)
			}),
		},
		&cobra.Command{
			Use:   "add RULE",
			Short: "Add a rule: " + ruleForms,
			Long: "Add a rule, which approves connected chassis that wait for it and those that come.\nRULE is " + ruleForms +
				".\nWhat is approved by mac, subnet or all can be claimed by any machine on the boot network.",
			Example: "  teeth enrolment add serial=CN77*\n  teeth enrolment add subnet=10.20.0.0/16",
			Args:    args(cobra.ExactArgs(1)),
			RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
				kind, value, _ := strings.Cut(a[0], "=")
				rule, err := c.AddRule(cmd.Context(), kind, value)
				if err != nil {
					return err
				}
				return printRules(&conn, cmd.OutOrStdout(), rule, rule)
			}),
		},
		&cobra.Command{
			Use:   "remove ID",
			Short: "Remove a rule; what it has approved stays approved",
			Args:  args(cobra.ExactArgs(1)),
			RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
				return c.RemoveRule(cmd.Context(), a[0])
			}),
		},
	)
	return cmd
}

// printRules prints v, which holds rules, or a table of them.
func printRules(conn *connection, w io.Writer, v any, rules ...client.Rule) error {
	return conn.print(w, v, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "ID\tRULE\tBY\tAGE")
		for _, r := range rules {
			text := r.Kind
			if r.Value != "" {
				text += "=" + r.Value
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.ID, text, r.By, age(r.Created))
		}
	})
}
