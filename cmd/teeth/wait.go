package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

// started tells of a graph that was begun, and follows it if asked to.
func started(cmd *cobra.Command, conn *connection, c *client.Client, g client.Graph, wait bool) error {
	if !wait {
		return conn.print(cmd.OutOrStdout(), g, func(w *tabwriter.Writer) {
			fmt.Fprintf(w, "graph %s\n\n", g.ID)
			taskRows(w, g.Tasks)
		})
	}
	if conn.output == "json" {
		final, err := c.Follow(cmd.Context(), g.ID, nil)
		return errors.Join(conn.print(cmd.OutOrStdout(), final, nil), err)
	}
	view := live.New(cmd.OutOrStdout())
	defer view.Settle()
	_, err := c.Follow(cmd.Context(), g.ID, func(tasks []client.Task) { view.Show(liveTasks(tasks)) })
	return err
}

func liveTasks(tasks []client.Task) []live.Task {
	all := make([]live.Task, 0, len(tasks))
	for _, t := range tasks {
		all = append(all, t.Live())
	}
	return all
}

// printEvent writes a line for each event.
func printEvent(out io.Writer) func(client.Event) error {
	return func(e client.Event) error {
		now := time.Now().Format(time.TimeOnly)
		var err error
		switch {
		case e.Task != nil:
			t := e.Task.Live()
			line := fmt.Sprintf("%s task     %s %-16s %-9s %3.0f %%", now, short(t.ID), t.Title, t.State, t.Percent)
			_, err = fmt.Fprintln(out, strings.TrimSpace(line+" "+live.Printable(t.Msg)))
		case e.Graph != nil:
			_, err = fmt.Fprintf(out, "%s graph    %s %s %s\n", now, short(e.Graph.ID), e.Graph.Name, graphState(*e.Graph))
		case e.Chassis != nil:
			_, err = fmt.Fprintf(out, "%s chassis  %s %s\n", now, short(e.Chassis.ID), e.Chassis.State)
		case e.Log != nil:
			_, err = fmt.Fprintf(out, "%s log      %s %s\n", now, short(e.Log.Chassis), live.Printable(e.Log.Message))
		}
		return err
	}
}
