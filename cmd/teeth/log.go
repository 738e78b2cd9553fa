package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

const timeHelp = "an age as 90s, 15m, 1h or 2d, or a time as 2026-01-31, 2026-01-31T14:30 or 14:30"

func logCommand() *cobra.Command {
	var conn connection
	var f client.LogFilter
	var since, until string
	var follow bool
	cmd := &cobra.Command{
		Use:   "log [CHASSIS...]",
		Short: "Show, search and follow the logs of chassis",
		Long: chassisHelp + `
Without a chassis it shows the log of all. Lines are in the order in which they
arrived; a chassis that was cut off sends later what it has logged meanwhile. A line's
time is that of the chassis' clock; where it arrived more than an hour away from that,
it says when. --since and --until go by either time. Services are agent, kernel, the
names of tasks and of apps, and what a host's configuration names.

With -o json each line is an object of JSON.`,
		Example: `  teeth log web1 --follow
  teeth log web1 --since 1h --grep 'nvme\d+: .*timeout'
  teeth log --since 2d --text 'smart failed' --service kernel`,
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) (err error) {
			now := time.Now()
			if f.Since, err = parseTime(since, now); err != nil {
				return usagef("--since: %v", err)
			}
			if f.Until, err = parseTime(until, now); err != nil {
				return usagef("--until: %v", err)
			}
			if follow && until != "" {
				return usagef("--follow and --until: give one of them")
			}
			if since != "" && !cmd.Flags().Changed("lines") {
				f.Newest = 0
			}
			f.Chassis = a
			show, err := logPrinter(cmd, &conn, c, len(a) != 1 || len(f.Servers) > 0)
			if err != nil {
				return err
			}
			if follow {
				return c.FollowLogs(cmd.Context(), f, show)
			}
			return c.Logs(cmd.Context(), f, show)
		}),
	}
	conn.addFlags(cmd)
	fl := cmd.Flags()
	fl.BoolVarP(&follow, "follow", "f", false, "go on with lines as they arrive")
	fl.StringVar(&since, "since", "", timeHelp)
	fl.StringVar(&until, "until", "", timeHelp)
	fl.StringVar(&f.Regexp, "grep", "", "only lines that match this regular expression (RE2; (?i) at its beginning ignores case)")
	fl.StringVar(&f.Text, "text", "", "only lines that have all of these words, in any order and case; fast, over any time")
	fl.StringSliceVar(&f.Services, "service", nil, "only lines of this service (repeatable)")
	fl.StringSliceVar(&f.Servers, "server", nil, "of this agent of another group than the chassis', by its id (repeatable)")
	fl.IntVarP(&f.Newest, "lines", "n", 100, "only so many, the newest; 0 is all, which is the default with --since")
	return cmd
}

// parseTime reads what timeHelp says.
func parseTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 && n < 1e5 {
			return now.Add(-time.Duration(n * float64(24*time.Hour))), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02", "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02 15:04:05"} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			y, m, d := now.Date()
			return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, now.Location()), nil
		}
	}
	return time.Time{}, fmt.Errorf("%.40q: write %s", text, timeHelp)
}

// logPrinter returns what writes log lines, with the chassis' names if wanted.
func logPrinter(cmd *cobra.Command, conn *connection, c *client.Client, names bool) (func(client.LogLine) error, error) {
	out := cmd.OutOrStdout()
	if conn.output == "json" {
		e := json.NewEncoder(out)
		return func(l client.LogLine) error { return e.Encode(l) }, nil
	}
	known := map[string]string{}
	if names {
		var err error
		if known, err = chassisNames(cmd.Context(), c); err != nil {
			return nil, err
		}
	}
	return func(l client.LogLine) error {
		name := ""
		if names {
			name = nameOf(known, l.Server) + " "
		}
		came := ""
		if d := l.Received.Sub(l.Time); d > time.Hour || d < -time.Hour {
			came = " (came " + l.Received.Local().Format(time.DateTime) + ")"
		}
		_, err := fmt.Fprintf(out, "%s %s%s: %s%s\n", l.Time.Local().Format("2006-01-02 15:04:05.000"), live.Printable(name), live.Printable(l.Service), live.Printable(l.Message), came)
		return err
	}, nil
}

// chassisNames are what people call chassis, by id.
func chassisNames(ctx context.Context, c *client.Client) (map[string]string, error) {
	all, err := c.ListChassis(ctx)
	names := map[string]string{}
	for _, ch := range all {
		names[ch.ID] = ch.Name
	}
	return names, err
}

func nameOf(names map[string]string, id string) string {
	if name := names[id]; name != "" {
		return name
	}
	return short(id)
}

func telemetryCommand() *cobra.Command {
	var conn connection
	var label, since string
	var limit int
	cmd := &cobra.Command{
		Use:   "telemetry CHASSIS",
		Short: "Show what a chassis has measured: the newest of each, or since a time",
		Long:  chassisHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			at, err := parseTime(since, time.Now())
			if err != nil {
				return usagef("--since: %v", err)
			}
			if limit < 1 || limit > 1000 {
				return usagef("--limit %d: want 1 to 1000", limit)
			}
			var list []client.Measurement
			if since == "" {
				if list, err = c.Telemetry(cmd.Context(), a[0]); err == nil && label != "" {
					list = slices.DeleteFunc(list, func(m client.Measurement) bool { return m.Label != label })
				}
			} else {
				list, err = c.Measurements(cmd.Context(), a[0], label, at, limit)
			}
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), list, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "LABEL\tVALUE\tTIME")
				for _, m := range list {
					fmt.Fprintf(w, "%s\t%s\t%s\n", live.Printable(m.Label), live.Printable(measured(m.Data)), m.Time.Local().Format(time.DateTime))
				}
			})
		}),
	}
	conn.addFlags(cmd)
	cmd.Flags().StringVar(&label, "label", "", "only this measurement")
	cmd.Flags().StringVar(&since, "since", "", "all since then: "+timeHelp)
	cmd.Flags().IntVar(&limit, "limit", 1000, "at most so many, with --since")
	return cmd
}

// measured is a measurement for people: texts as they are, anything else as JSON.
func measured(data json.RawMessage) string {
	var texts []string
	if json.Unmarshal(data, &texts) == nil {
		return strings.Join(texts, " ")
	}
	return string(data)
}

// statesText is how many runs are in which state.
func statesText(states map[string]int) string {
	var parts []string
	for _, s := range slices.Sorted(maps.Keys(states)) {
		parts = append(parts, fmt.Sprintf("%d %s", states[s], s))
	}
	return strings.Join(parts, ", ")
}
