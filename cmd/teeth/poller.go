package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

func snmpCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "snmp",
		Short: "Read objects of PDUs, switches and other SNMP devices",
		RunE:  needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(
		snmpRead(&conn, "get", "Read objects", func(q *client.SNMPQuery, oids []string) { q.Get = oids }),
		snmpRead(&conn, "walk", "Read all objects under others", func(q *client.SNMPQuery, oids []string) { q.Walk = oids }))
	return cmd
}

// deviceFlags are how an SNMP device is reached. Secrets come from files.
type deviceFlags struct {
	client.SNMPQuery
	community, auth, priv string
}

func (d *deviceFlags) add(f *pflag.FlagSet) {
	f.StringVar(&d.Version, "snmp-version", "2c", "2c or 3")
	f.StringVar(&d.community, "community-file", "", "file with the community, of version 2c")
	f.StringVar(&d.User, "user", "", "user, of version 3")
	f.StringVar(&d.AuthProtocol, "auth-protocol", "", "SHA, SHA224, SHA256, SHA384, SHA512 or MD5")
	f.StringVar(&d.auth, "auth-password-file", "", "file with the password of authentication")
	f.StringVar(&d.PrivProtocol, "priv-protocol", "", "AES, AES192, AES256 or DES")
	f.StringVar(&d.priv, "priv-password-file", "", "file with the password of privacy")
	f.IntVar(&d.MaxRows, "max-rows", 0, "read at most so many objects (default 1000)")
}

func (d *deviceFlags) read() (client.SNMPQuery, error) {
	q := d.SNMPQuery
	for _, s := range []struct {
		file string
		to   *string
	}{{d.community, &q.Community}, {d.auth, &q.AuthPassword}, {d.priv, &q.PrivPassword}} {
		if s.file == "" {
			continue
		}
		var err error
		if *s.to, err = readSecret(os.Stdin, s.file); err != nil {
			return q, usageError{err}
		}
	}
	return q, nil
}

func snmpRead(conn *connection, name, about string, set func(*client.SNMPQuery, []string)) *cobra.Command {
	var d deviceFlags
	cmd := &cobra.Command{
		Use:   name + " HOST[:PORT] OID...",
		Short: about + " of an SNMP device, as the control plane sees it",
		Args:  args(cobra.MinimumNArgs(2)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			q, err := d.read()
			if err != nil {
				return err
			}
			q.Address = a[0]
			set(&q, a[1:])
			rows, more, err := c.QuerySNMP(cmd.Context(), q)
			if err != nil {
				return err
			}
			if more {
				fmt.Fprintln(cmd.ErrOrStderr(), "teeth: there is more than was read; see --max-rows")
			}
			return conn.print(cmd.OutOrStdout(), rows, func(w *tabwriter.Writer) {
				for _, r := range rows {
					fmt.Fprintf(w, "%s\t%s\t%s\n", r.OID, r.Type, live.Printable(textOf(r.Value)))
				}
			})
		}),
	}
	d.add(cmd.Flags())
	return cmd
}

// textOf writes a value as a person would.
func textOf(v any) string {
	switch x := v.(type) {
	case nil:
		return "-"
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

func pollerCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "poller",
		Short: "Read power, event logs, sensors and SNMP devices again and again, and make alerts of them",
		RunE:  needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(
		pollerAdd(&conn),
		pollerList(&conn),
		showJSON(&conn, "show POLLER", "Show a poller with its rules, as JSON", (*client.Client).Poller),
		showJSON(&conn, "results POLLER", "Show the last ten results of a poller, newest first, as JSON", (*client.Client).PollerResults),
		pollerPause(&conn, "pause", true),
		pollerPause(&conn, "resume", false),
		conn.act("remove POLLER", "Remove a poller with its results and alerts", (*client.Client).RemovePoller),
	)
	return cmd
}

const ruleHelp = `
--rules names a file with a JSON list of rules, each with a name, a severity
(information, warning, critical) and what it looks for:
  power  {"name": "off", "state": "off"} or {"name": "moved", "changed": true}
  sel    {"name": "psu", "sensor_type": "Power", "message": "(?i)fail", "min_severity": "warning"}
  sdr    {"name": "hot", "sensor": "^CPU", "above": 90, "hysteresis": 5, "samples": 2}
         or {"name": "bad", "status": "critical"}
  snmp   {"name": "load", "oid": "1.3.6.1.4.1.318.1.1.12.2.3.1.1.2", "above": 160}
         or equals, not_equals, matches
Every poller also has the rule "unreachable": three failures in a row.`

func pollerAdd(conn *connection) *cobra.Command {
	var in client.PollerSpec
	var d deviceFlags
	var rules string
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "add power|sel|sdr|snmp",
		Short: "Define a poller",
		Long:  ruleHelp[1:],
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			in.Kind, in.Interval = a[0], interval.Seconds()
			if rules != "" {
				b, err := os.ReadFile(rules)
				if err != nil {
					return usageError{err}
				}
				if !json.Valid(b) {
					return usagef("%s: not JSON", rules)
				}
				in.Rules = b
			}
			if in.Kind == "snmp" {
				q, err := d.read()
				if err != nil {
					return err
				}
				in.SNMP = &q
			}
			p, err := c.AddPoller(cmd.Context(), in)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), p, func(w *tabwriter.Writer) { pollerRows(w, []client.Poller{p}) })
		}),
	}
	f := cmd.Flags()
	f.StringVar(&in.Chassis, "chassis", "", "of this chassis")
	f.StringVar(&in.Name, "name", "", "name, for people")
	f.DurationVar(&interval, "interval", time.Minute, "how often, 5s to 24h")
	f.StringVar(&rules, "rules", "", "file with rules, in JSON")
	f.StringVar(&d.Address, "address", "", "HOST[:PORT] of the SNMP device")
	f.StringSliceVar(&d.Get, "get", nil, "object to read (repeatable)")
	f.StringSliceVar(&d.Walk, "walk", nil, "read all objects under this one (repeatable)")
	d.add(f)
	return cmd
}

func pollerRows(w *tabwriter.Writer, all []client.Poller) {
	fmt.Fprintln(w, "ID\tKIND\tNAME\tCHASSIS\tEVERY\tANSWERED\tFAILURES\tERROR")
	for _, p := range all {
		answered := "-"
		if p.Answered != nil {
			answered = age(*p.Answered) + " ago"
		}
		every := (time.Duration(p.Interval * float64(time.Second))).String()
		if p.Paused {
			every = "paused"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", short(p.ID), p.Kind, live.Printable(p.Name), short(p.Chassis), every, answered, p.Failures, live.Printable(p.Error))
	}
}

func pollerList(conn *connection) *cobra.Command {
	var chassis string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List pollers, and how they do",
		Args:  args(cobra.NoArgs),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all, err := c.ListPollers(cmd.Context(), chassis)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), all, func(w *tabwriter.Writer) { pollerRows(w, all) })
		}),
	}
	cmd.Flags().StringVar(&chassis, "chassis", "", "only of this chassis")
	return cmd
}

func pollerPause(conn *connection, name string, paused bool) *cobra.Command {
	about := "Have a poller polled again"
	if paused {
		about = "Stop polling until it is resumed"
	}
	return &cobra.Command{
		Use:   name + " POLLER",
		Short: about,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			p, err := c.Poller(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			_, err = c.ChangePoller(cmd.Context(), p.ID, client.PollerSpec{Kind: p.Kind, Name: p.Name, Interval: p.Interval, Rules: p.Rules, Paused: paused})
			return err
		}),
	}
}

func alertCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "alert",
		Short: "List and clear what pollers' rules have found",
		RunE:  needSubcommand,
	}
	conn.addFlags(cmd)
	var chassis string
	var all bool
	list := &cobra.Command{
		Use:   "list",
		Short: "List open alerts, newest first",
		Args:  args(cobra.NoArgs),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			found, err := c.ListAlerts(cmd.Context(), chassis, all, 0)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), found, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "ID\tSEVERITY\tCHASSIS\tRULE\tRAISED\tCLEARED\tMESSAGE")
				for _, a := range found {
					cleared := "-"
					if a.Cleared != nil {
						cleared = age(*a.Cleared) + " ago"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s ago\t%s\t%s\n", a.ID, a.Severity, short(a.Chassis), live.Printable(a.Rule), age(a.Raised), cleared, live.Printable(a.Message))
				}
			})
		}),
	}
	list.Flags().StringVar(&chassis, "chassis", "", "only of this chassis")
	list.Flags().BoolVar(&all, "all", false, "those that are over too")
	cmd.AddCommand(list, &cobra.Command{
		Use:   "clear ALERT",
		Short: "Clear an alert, which its rule raises anew only after it was over",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			_, err := c.ClearAlert(cmd.Context(), a[0])
			return err
		}),
	})
	return cmd
}
