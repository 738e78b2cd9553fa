package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

const appHelp = chassisHelp + `
A host with a Backbone slave that is no chassis is named by its host id.`

func appCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "app",
		Short: "Say which apps a chassis is to have, and see how it does",
		Long: `An app is a package (rpm, deb, tar) that a chassis fetches, runs and configures, and
keeps as it is desired: vendor tools, exporters, agents. What is desired is kept by the
control plane and told to the chassis whenever it differs from what it has; chassis in
the ramdisk are told over their session, hosts with a Backbone slave over the broker of
teeth serve --backbone.

  teeth app set web-7 exporter --url http://files/exporter_1.8_amd64.deb --running --wait`,
		RunE: needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(
		list(&conn, "List hosts that have apps, or are to have some", func(c *client.Client, ctx context.Context) ([]client.AppHost, error) { return c.ListAppHosts(ctx) }, appHostRows),
		appStatus(&conn), appSet(&conn), appRemove(&conn), appApply(&conn), appForget(&conn),
		conn.act("ping CHASSIS", "Ask a host to say at once how its apps are", func(c *client.Client, ctx context.Context, host string) error {
			return c.PingAppHost(ctx, host)
		}))
	return cmd
}

func appHostRows(w *tabwriter.Writer, all []client.AppHost) {
	fmt.Fprintln(w, "HOST\tNAME\tSTATE\tRESPONDING\tAPPS\tHEARD\tBY")
	for _, h := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", hostID(h), live.Printable(h.Name), hostState(h), yesNo(h.Responding), appCount(h), ago(h.Received), dash(h.Transport))
	}
}

// hostID is short only for what can be named by its beginning.
func hostID(h client.AppHost) string {
	if h.Chassis != "" {
		return short(h.ID)
	}
	return live.Printable(h.ID)
}

func hostState(h client.AppHost) string {
	switch {
	case !h.Desired:
		return live.Printable(h.State) + ", left alone"
	case !h.Settled && h.State == "ok":
		return "ok, not as desired" // it will be told, or has just been
	}
	return live.Printable(h.State)
}

func appCount(h client.AppHost) string {
	ok := 0
	for _, a := range h.Apps {
		if a.State == "ok" {
			ok++
		}
	}
	return fmt.Sprintf("%d/%d", ok, len(h.Apps))
}

func ago(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return age(*t) + " ago"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func appStatus(conn *connection) *cobra.Command {
	var wait waiting
	cmd := &cobra.Command{
		Use:   "status CHASSIS",
		Short: "Show the apps of a host, as they are and as they are desired",
		Long:  appHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			h, err := c.AppHost(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return wait.finish(cmd, conn, c, h)
		}),
	}
	wait.add(cmd.Flags())
	return cmd
}

// waiting is the flags of commands that may wait for a host.
type waiting struct {
	wait    bool
	timeout time.Duration
}

func (w *waiting) add(f *pflag.FlagSet) {
	f.BoolVar(&w.wait, "wait", false, "wait until the apps are as desired, or the host gives up")
	f.DurationVar(&w.timeout, "timeout", 0, "wait no longer than this (default: for ever)")
}

// finish shows a host, after waiting for it if asked to.
func (w *waiting) finish(cmd *cobra.Command, conn *connection, c *client.Client, h client.AppHost) error {
	var failed error
	if w.wait {
		ctx := cmd.Context()
		if w.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, w.timeout)
			defer cancel()
		}
		said := ""
		show := func(h client.AppHost) {
			if news := appProgress(h); news != said {
				said = news
				for line := range strings.Lines(news) {
					fmt.Fprint(cmd.OutOrStdout(), time.Now().Format(time.TimeOnly), " ", line)
				}
			}
		}
		if conn.output == "json" {
			show = nil
		}
		if h, failed = c.WaitApps(ctx, h.ID, show); h.ID == "" {
			return failed
		}
	}
	if err := conn.print(cmd.OutOrStdout(), h, func(t *tabwriter.Writer) { showAppHost(t, h) }); err != nil {
		return err
	}
	return failed
}

// appProgress is a line for each app that is not as desired yet.
func appProgress(h client.AppHost) string {
	var out strings.Builder
	for _, a := range h.Apps {
		if a.State == "ok" && a.Step == "" {
			continue
		}
		fmt.Fprintf(&out, "%s: %s", live.Printable(a.Name), a.State)
		if a.Step != "" {
			fmt.Fprintf(&out, ", %s %.0f %%", live.Printable(a.Step), a.Percent)
		}
		if a.Error != "" {
			fmt.Fprintf(&out, ": %s", live.Printable(a.Error))
		}
		fmt.Fprintln(&out)
	}
	if out.Len() == 0 {
		fmt.Fprintln(&out, hostState(h))
	}
	if h.Error != "" {
		fmt.Fprintln(&out, live.Printable(h.Error))
	}
	return out.String()
}

func showAppHost(w *tabwriter.Writer, h client.AppHost) {
	fmt.Fprintf(w, "host\t%s\n", live.Printable(h.ID))
	for _, row := range [][2]string{{"name", h.Name}, {"slave", h.Host}, {"hostname", h.Hostname}} {
		if row[1] != "" && row[1] != h.ID {
			fmt.Fprintf(w, "%s\t%s\n", row[0], live.Printable(row[1]))
		}
	}
	fmt.Fprintf(w, "state\t%s\nresponding\t%s, heard %s\n", hostState(h), yesNo(h.Responding), ago(h.Received))
	if h.Reason != "" {
		fmt.Fprintf(w, "reason\t%s\n", live.Printable(h.Reason))
	}
	if h.Changed != nil {
		fmt.Fprintf(w, "desired\t%s, by %s\n", ago(h.Changed), live.Printable(h.ChangedBy))
	}
	if h.Desired {
		fmt.Fprintf(w, "told\t%s\n", ago(h.Sent))
	}
	if h.Error != "" {
		fmt.Fprintf(w, "error\t%s (attempt %d)\n", live.Printable(h.Error), h.Attempts)
	}
	if h.Agent != "" {
		fmt.Fprintf(w, "agent\t%s, by %s\n", live.Printable(h.Agent), h.Transport)
	}
	fmt.Fprintln(w, "\nAPP\tSTATE\tVERSION\tDESIRED\tRUNNING\tEXIT\tRESTARTS\tNOTE")
	for _, a := range h.Apps {
		exit, note := "-", a.Error
		if a.ExitCode != nil {
			exit = fmt.Sprint(*a.ExitCode)
		}
		if a.Step != "" {
			note = fmt.Sprintf("%s %.0f %% %s", a.Step, a.Percent, note)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", live.Printable(a.Name), a.State, dash(live.Printable(a.Version)), dash(live.Printable(a.DesiredVersion)),
			live.Printable(appRunning(a)), exit, a.Restarts, live.Printable(note))
	}
}

func appRunning(a client.App) string {
	switch {
	case a.Running != nil:
		return yesNo(*a.Running)
	case len(a.Services) > 0:
		on := 0
		for _, runs := range a.Services {
			if runs {
				on++
			}
		}
		return fmt.Sprintf("%d of %d", on, len(a.Services))
	}
	return "-"
}

func appForget(conn *connection) *cobra.Command {
	cmd := conn.act("forget CHASSIS", "Want nothing of a host any more: its apps stay as they are", func(c *client.Client, ctx context.Context, host string) error {
		return c.ForgetApps(ctx, host)
	})
	cmd.Long = appHelp + "\nTo have its apps removed from the host, apply an empty set."
	return cmd
}
