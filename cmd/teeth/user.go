package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
	"github.com/teeth-metal/teeth/controlplane/pki"
)

const rolesHelp = `Roles: a viewer looks; an operator also works with chassis, graphs, images, networks
and specs; an admin also manages users and the rules by which chassis are approved,
and makes backups.`

func userCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Add, list, change and remove those who may use the control plane",
		Long: rolesHelp + `

Whoever can read client.json in the server's data directory is local-admin, who
needs no entry here.`,
		RunE: needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(
		userAdd(&conn),
		list(&conn, "List users", (*client.Client).ListUsers, userRows),
		userRole(&conn),
		conn.act("remove USER", "Remove a user and its tokens", (*client.Client).RemoveUser),
		userWhoAmI(&conn),
	)
	return cmd
}

func userAdd(conn *connection) *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "add NAME --role ROLE",
		Short: "Add a user, who then needs a token (teeth token create)",
		Long:  rolesHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			u, err := c.AddUser(cmd.Context(), a[0], role)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), u, func(w *tabwriter.Writer) { userRows(w, []client.User{u}) })
		}),
	}
	cmd.Flags().StringVar(&role, "role", "viewer", "admin, operator or viewer")
	return cmd
}

func userRows(w *tabwriter.Writer, all []client.User) {
	fmt.Fprintln(w, "NAME\tROLE\tTOKENS\tCREATED")
	for _, u := range all {
		fmt.Fprintf(w, "%s\t%s\t%d\t%s ago\n", u.Name, u.Role, u.Tokens, age(u.Created))
	}
}

func userRole(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "role USER ROLE",
		Short: "Change what a user, and every token of it, may at most",
		Long:  rolesHelp,
		Args:  args(cobra.ExactArgs(2)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			return c.SetUserRole(cmd.Context(), a[0], a[1])
		}),
	}
}

func userWhoAmI(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Show whom the control plane takes you for",
		Args:  args(cobra.NoArgs),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			who, err := c.WhoAmI(cmd.Context())
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), who, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "user\t%s\nrole\t%s\ntoken\t%s\nexpires\t%s\n", who.User, who.Role, who.Token, moment(who.Expires, "never"))
			})
		}),
	}
}

// moment shows a time, or what stands for none.
func moment(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return t.Local().Format(time.RFC3339)
}

func tokenCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{Use: "token", Short: "Create, list and revoke users' tokens", RunE: needSubcommand}
	conn.addFlags(cmd)
	cmd.AddCommand(
		tokenCreate(&conn),
		tokenList(&conn),
		conn.act("revoke ID", "Revoke a token of yours or, as an admin, any", (*client.Client).RemoveToken),
	)
	return cmd
}

func tokenCreate(conn *connection) *cobra.Command {
	var user, role, expires, file string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token and show it, this one time",
		Long: `Make a token, for yourself or, as an admin, for any user, and show its secret. The
control plane keeps only a digest of it. With --client-file the secret goes, with
the server's address and CA pin, into a file that teeth --client FILE reads.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			life, err := parseLife(expires)
			if err != nil {
				return err
			}
			c, err := conn.dial()
			if err != nil {
				return err
			}
			tok, err := c.AddToken(cmd.Context(), user, a[0], role, life)
			if err != nil {
				return err
			}
			if file == "" {
				return conn.print(cmd.OutOrStdout(), tok, func(w *tabwriter.Writer) {
					tokenRows(w, []client.Token{tok.Token})
					fmt.Fprintf(w, "\n%s\n", tok.Secret)
				})
			}
			if err := writeClientFile(conn.file, file, tok.Secret); err != nil {
				return fmt.Errorf("token %s is made, but not written: %w: revoke it and try again", tok.ID, err)
			}
			return conn.print(cmd.OutOrStdout(), tok.Token, func(w *tabwriter.Writer) { tokenRows(w, []client.Token{tok.Token}) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&user, "user", "", "whose it is (default: yours)")
	f.StringVar(&role, "role", "", "admin, operator or viewer (default: yours)")
	f.StringVar(&expires, "expires", "", "after what time it ends, as 90d, 12h or 30m (default: never)")
	f.StringVar(&file, "client-file", "", "write the secret and how to reach the server to this file, mode 0600")
	return cmd
}

// parseLife reads a duration that may be in days.
func parseLife(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	days, ok := strings.CutSuffix(text, "d")
	if n, err := strconv.Atoi(days); ok && err == nil && n > 0 && n <= 3650 {
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second {
		return 0, usagef("--expires %q: write a time of at least a second, as 90d, 12h or 30m", text)
	}
	return d, nil
}

// writeClientFile writes how to reach the server that the file at from names, with
// another secret.
func writeClientFile(from, to, secret string) error {
	conf, err := client.Load(from)
	if err != nil {
		return err
	}
	conf.Token = secret
	b, err := json.MarshalIndent(conf, "", "\t")
	if err != nil {
		return err
	}
	return pki.WriteFile(to, append(b, '\n'))
}

func tokenList(conn *connection) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List your tokens or, as an admin, everybody's",
		Args:  args(cobra.NoArgs),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all, err := c.ListTokens(cmd.Context(), user)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), all, func(w *tabwriter.Writer) { tokenRows(w, all) })
		}),
	}
	cmd.Flags().StringVar(&user, "user", "", "only of this user")
	return cmd
}

func tokenRows(w *tabwriter.Writer, all []client.Token) {
	fmt.Fprintln(w, "ID\tUSER\tNAME\tROLE\tEXPIRES\tLAST USED")
	for _, t := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, t.User, t.Name, t.Role, moment(t.Expires, "never"), moment(t.LastUsed, "never"))
	}
}

func auditCommand() *cobra.Command {
	var conn connection
	var user, chassis string
	var limit int
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show who changed what, newest first",
		Long: `Show who changed what, or was refused it, newest first. Status 0 is a request that
is not answered yet, or was cut off by the end of the server; 499 one whose client
did not wait. The newest 100000 entries are kept.`,
		Args: args(cobra.NoArgs),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all, err := c.Audit(cmd.Context(), user, chassis, limit)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), all, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "TIME\tUSER\tTOKEN\tFROM\tREQUEST\tSTATUS\tDETAIL")
				for _, e := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s %s\t%d\t%s\n", e.Time.Local().Format(time.DateTime), e.User, e.Token, e.Address,
						e.Method, live.Printable(e.Path), e.Status, live.Printable(e.Detail))
				}
			})
		}),
	}
	conn.addFlags(cmd)
	cmd.Flags().StringVar(&user, "user", "", "only of this user")
	cmd.Flags().StringVar(&chassis, "chassis", "", "only about this chassis")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many; 0 is all")
	return cmd
}
