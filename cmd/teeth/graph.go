package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

func graphCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "graph",
		Short: "List, show, define, run, cancel, pause and resume graphs of tasks",
		Long: `A graph is tasks of which each starts when those it waits for have ended as it
wants. The library holds their definitions: those that come with the program, and
those added with "teeth graph define".`,
		RunE: needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(graphList(&conn), graphShow(&conn), graphDefine(&conn), graphRemove(&conn), graphRun(&conn),
		graphChange(&conn, "pause", "Start no more tasks of a graph; what is being done goes on", (*client.Client).PauseGraph),
		graphChange(&conn, "resume", "End a pause", (*client.Client).ResumeGraph),
		graphCancel(&conn), graphWatch(&conn))
	return cmd
}

func graphList(conn *connection) *cobra.Command {
	var active, all bool
	var chassis string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the graphs of the library or, with --active or --all, those that were run",
		Args:  args(cobra.NoArgs),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			if !active && !all && chassis == "" {
				return graphLibrary(cmd, conn, c)
			}
			if chassis != "" {
				ch, err := c.Chassis(cmd.Context(), chassis)
				if err != nil {
					return err
				}
				chassis = ch.ID
			}
			graphs, err := c.ListGraphs(cmd.Context(), chassis, active, limit)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), graphs, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "GRAPH\tCHASSIS\tNAME\tSTATE\tBY\tCREATED\tMESSAGE")
				for _, g := range graphs {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s ago\t%s\n", short(g.ID), short(g.Chassis), g.Name, graphState(g), g.By, age(g.Created), live.Printable(g.Msg))
				}
			})
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&active, "active", false, "list those that were run and are not finished")
	f.BoolVar(&all, "all", false, "list all that were run, newest first")
	f.StringVar(&chassis, "chassis", "", "list those that were run on this chassis")
	f.IntVar(&limit, "limit", 50, "at most so many that were run; 0 is all")
	return cmd
}

func graphState(g client.Graph) string {
	switch {
	case g.Final():
		return g.State
	case g.Cancel:
		return g.State + ", being cancelled"
	case g.Paused:
		return g.State + ", paused"
	}
	return g.State
}

func graphLibrary(cmd *cobra.Command, conn *connection, c *client.Client) error {
	graphs, err := c.GraphLibrary(cmd.Context())
	if err != nil {
		return err
	}
	return conn.print(cmd.OutOrStdout(), graphs, func(w *tabwriter.Writer) {
		fmt.Fprintln(w, "NAME\tTASKS\tWHAT IT DOES")
		for _, g := range graphs {
			var labels []string
			for _, s := range g.Tasks {
				labels = append(labels, s.Label)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", g.Name, strings.Join(labels, ","), live.Printable(g.Friendly))
		}
	})
}

func graphShow(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME|GRAPH",
		Short: "Show a definition, with the options its tasks know, or a graph that was run",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			if strings.HasPrefix(a[0], "Graph.") {
				return showDefinition(cmd, conn, c, a[0])
			}
			g, err := c.Graph(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), g, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "id\t%s\nname\t%s\nchassis\t%s\nstate\t%s\nby\t%s\nmessage\t%s\n\n", g.ID, g.Name, g.Chassis, graphState(g), g.By, live.Printable(g.Msg))
				taskRows(w, g.Tasks)
			})
		}),
	}
}

func taskRows(w io.Writer, tasks []client.Task) {
	fmt.Fprintln(w, "TASK\tLABEL\tNAME\tSTATE\tPERCENT\tMESSAGE")
	for _, t := range tasks {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.0f\t%s\n", short(t.ID), t.Live().Title, t.Name, t.State, t.Percent, live.Printable(t.Msg))
	}
}

func showDefinition(cmd *cobra.Command, conn *connection, c *client.Client, name string) error {
	g, err := c.GraphDefinition(cmd.Context(), name)
	if err != nil {
		return err
	}
	tasks, err := c.TaskLibrary(cmd.Context())
	if err != nil {
		return err
	}
	return conn.print(cmd.OutOrStdout(), g, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "%s\t%s\n", g.Name, live.Printable(g.Friendly))
		if g.About != "" {
			fmt.Fprintf(w, "\t%s\n", live.Printable(g.About))
		}
		fmt.Fprintln(w, "\nLABEL\tTASK\tWAITS FOR\tOPTIONS")
		for _, s := range g.Tasks {
			name, options := s.Task, ""
			if s.Definition != nil {
				name, options = s.Definition.Name, knownOptions(tasks, *s.Definition)
			} else if i := slices.IndexFunc(tasks, func(t client.TaskDefinition) bool { return t.Name == s.Task }); i >= 0 {
				options = knownOptions(tasks, tasks[i])
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Label, name, waitText(s.WaitOn), options)
		}
	})
}

// waitText is a waitOn for people.
func waitText(raw json.RawMessage) string {
	var waits map[string]any
	if json.Unmarshal(raw, &waits) != nil {
		return ""
	}
	var parts []string
	for _, label := range slices.Sorted(maps.Keys(waits)) {
		parts = append(parts, fmt.Sprintf("%s: %v", label, waits[label]))
	}
	return live.Printable(strings.Join(parts, ", "))
}

// knownOptions lists the options of a task, required ones with a star.
func knownOptions(tasks []client.TaskDefinition, t client.TaskDefinition) string {
	known := map[string]bool{}
	for range 32 { // a circle is refused by the server
		for _, key := range t.Required {
			known[key] = true
		}
		for key := range t.Options {
			if _, ok := known[key]; !ok {
				known[key] = false
			}
		}
		i := slices.IndexFunc(tasks, func(o client.TaskDefinition) bool { return o.Name == t.Base })
		if t.Base == "" || i < 0 {
			break
		}
		t = tasks[i]
	}
	var names []string
	for _, key := range slices.Sorted(maps.Keys(known)) {
		if known[key] {
			key += "*"
		}
		names = append(names, key)
	}
	return live.Printable(strings.Join(names, ","))
}

func graphDefine(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "define FILE",
		Short: "Add a definition of a graph or task, JSON or YAML, to the library; - reads standard input",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			raw, err := readInput(cmd, a[0])
			if err != nil {
				return usageError{err}
			}
			var head struct {
				Name string `yaml:"injectableName"`
			}
			if err := yaml.Unmarshal(raw, &head); err != nil {
				return usagef("%s: %v", a[0], err)
			}
			kind := ""
			switch {
			case strings.HasPrefix(head.Name, "Graph."):
				kind = "graph"
			case strings.HasPrefix(head.Name, "Task."):
				kind = "task"
			default:
				return usagef("%s: injectableName is %.80q: want Graph.… or Task.…", a[0], head.Name)
			}
			c, err := conn.dial()
			if err != nil {
				return err
			}
			if err := c.Define(cmd.Context(), kind, head.Name, raw); err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), map[string]string{"kind": kind, "name": head.Name}, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "%s %s is in the library\n", kind, head.Name)
			})
		},
	}
}

// readInput reads a file, or standard input for "-".
func readInput(cmd *cobra.Command, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(cmd.InOrStdin(), 1<<20))
	}
	return os.ReadFile(name)
}

func graphRemove(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Take a definition of a graph or task that was added out of the library",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			kind := "graph"
			if strings.HasPrefix(a[0], "Task.") {
				kind = "task"
			}
			return c.Undefine(cmd.Context(), kind, a[0])
		}),
	}
}
