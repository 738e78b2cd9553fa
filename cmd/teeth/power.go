package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

func powerCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "power",
		Short: "Turn chassis on and off, choose what they boot from, read event log and sensors",
		Long: `Work with a chassis through its BMC, which teeth bmc set notes. An action is done when
the BMC has taken it; teeth power status shows when it is carried out. Graphs wait:
teeth graph run Graph.Power.Cycle CHASSIS --wait.`,
		RunE: needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(powerStatus(&conn), powerOff(&conn),
		powerAction(&conn, "on", "Turn a chassis on"),
		powerAction(&conn, "cycle", "Turn a chassis off for a moment; one that is off is turned on"),
		powerAction(&conn, "reset", "Reset a chassis, whose power stays"),
		powerBoot(&conn), powerSEL(&conn), powerSDR(&conn))
	return cmd
}

func powerStatus(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "status CHASSIS",
		Short: "Show whether a chassis has power",
		Long:  chassisHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			state, err := c.Power(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), map[string]string{"state": state}, func(w *tabwriter.Writer) { fmt.Fprintln(w, state) })
		}),
	}
}

func powerAction(conn *connection, action, about string) *cobra.Command {
	return &cobra.Command{
		Use:   action + " CHASSIS",
		Short: about,
		Long:  chassisHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			return c.SetPower(cmd.Context(), a[0], action)
		}),
	}
}

func powerOff(conn *connection) *cobra.Command {
	var soft bool
	cmd := &cobra.Command{
		Use:   "off CHASSIS",
		Short: "Turn a chassis off, at once or by its operating system",
		Long:  chassisHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			action := "off"
			if soft {
				action = "shutdown"
			}
			return c.SetPower(cmd.Context(), a[0], action)
		}),
	}
	cmd.Flags().BoolVar(&soft, "soft", false, "ask the operating system to shut down")
	return cmd
}

func powerBoot(conn *connection) *cobra.Command {
	var in client.BootDevice
	cmd := &cobra.Command{
		Use:   "boot-device CHASSIS none|pxe|http|disk|cdrom|bios",
		Short: "Choose what a chassis boots from next; none forgets the choice",
		Long:  chassisHelp,
		Args:  args(cobra.ExactArgs(2)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			in.Device = a[1]
			return c.SetBootDevice(cmd.Context(), a[0], in)
		}),
	}
	cmd.Flags().BoolVar(&in.Persistent, "persistent", false, "from now on, not just next time")
	cmd.Flags().BoolVar(&in.UEFI, "uefi", false, "boot in UEFI mode")
	return cmd
}

func powerSEL(conn *connection) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "sel CHASSIS",
		Short: "Show the system event log of a chassis",
		Long:  chassisHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			if limit < 0 {
				return usagef("--limit %d: write how many of the newest events, or 0 for all", limit)
			}
			log, err := c.EventLog(cmd.Context(), a[0], limit)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), log, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "ID\tTIME\tSEVERITY\tSENSOR\tEVENT")
				for _, e := range log.Events {
					at := "-"
					if e.Time != nil {
						at = e.Time.Local().Format(time.DateTime)
					}
					over := ""
					if e.Deasserted {
						over = " (over)"
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s%s\n", live.Printable(e.ID), at, e.Severity, live.Printable(strings.TrimSpace(e.SensorType+" "+e.Sensor)), live.Printable(e.Message), over)
				}
				if log.Overflow {
					fmt.Fprintln(w, "The log is full; events have been lost.")
				}
			})
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "the newest so many (0: all)")
	return cmd
}

func powerSDR(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:     "sdr CHASSIS",
		Aliases: []string{"sensors"},
		Short:   "Show the sensors of a chassis with their readings",
		Long:    chassisHelp,
		Args:    args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			all, err := c.Sensors(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), all, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "SENSOR\tTYPE\tREADING\tSTATUS")
				for _, s := range all {
					reading := strings.Join(s.States, ", ")
					if s.Value != nil {
						reading = fmt.Sprintf("%.6g %s", *s.Value, s.Unit)
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", live.Printable(s.Name), s.Type, live.Printable(reading), s.Status)
				}
			})
		}),
	}
}
