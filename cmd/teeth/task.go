package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

func taskCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{Use: "task", Short: "List, show, watch and cancel tasks", RunE: needSubcommand}
	conn.addFlags(cmd)
	cmd.AddCommand(taskList(&conn), taskShow(&conn), taskWatch(&conn), taskCancel(&conn))
	return cmd
}

func taskList(conn *connection) *cobra.Command {
	var chassis string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List tasks, newest first",
		Args:  args(cobra.NoArgs),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			if chassis != "" {
				ch, err := c.Chassis(cmd.Context(), chassis)
				if err != nil {
					return err
				}
				chassis = ch.ID
			}
			tasks, err := c.ListTasks(cmd.Context(), chassis, limit)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), tasks, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "TASK\tCHASSIS\tNAME\tSTATE\tPERCENT\tCREATED\tMESSAGE")
				for _, t := range tasks {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.0f\t%s ago\t%s\n", short(t.ID), short(t.Chassis), t.Name, t.State, t.Percent, age(t.Created), live.Printable(t.Msg))
				}
			})
		}),
	}
	cmd.Flags().StringVar(&chassis, "chassis", "", "only those of this chassis")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many; 0 is all")
	return cmd
}

func taskShow(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "show TASK",
		Short: "Show a task and what it produced",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			t, err := c.Task(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), t, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "id\t%s\ngraph\t%s\nchassis\t%s\nlabel\t%s\nname\t%s\njob\t%s\nstate\t%s\npercent\t%.1f\nstep\t%s\nmessage\t%s\nresult\t%s\n",
					t.ID, t.Graph, t.Chassis, t.Label, t.Name, t.Job, t.State, t.Percent, live.Printable(t.Step), live.Printable(t.Msg), live.Printable(string(t.Result)))
			})
		}),
	}
}

func taskWatch(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "watch TASK",
		Short: "Follow a task, and those that belong to it, to the end",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			t, err := c.Task(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return started(cmd, conn, c, client.Graph{ID: t.Graph}, true)
		}),
	}
}

func taskCancel(conn *connection) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "cancel TASK",
		Short: "Cancel a task and those that need its success",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			t, err := c.CancelTask(cmd.Context(), a[0], force)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), t, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "%s\t%s\t%s\n", short(t.ID), t.Name, t.State)
			})
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, forceHelp)
	return cmd
}
