package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/teeth-metal/teeth/controlplane/client"
)

func graphRun(conn *connection) *cobra.Command {
	var pairs []string
	var file, domain string
	var wait bool
	cmd := &cobra.Command{
		Use:   "run NAME [CHASSIS]",
		Short: "Run a graph of the library on a chassis",
		Long: chassisHelp + `
An option is given as NAME=VALUE, for every task that knows it, or LABEL.NAME=VALUE,
for the task with that label. A value that is a list, an object, a number, true,
false or null in JSON is taken as that, anything else as a text; a text that looks
like one of these is put in double quotes. A value that begins with @ is the
contents of that file, as a text. "teeth graph show NAME" shows labels and options.`,
		Example: `  teeth graph run Graph.Provision web1 --option image=debian-12 --option run.hostname=web1 --wait
  teeth graph run Graph.Decommission web1 --option 'erase.disks=["S1","S2"]'`,
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			in := client.RunGraph{Graph: a[0], Domain: domain}
			if len(a) > 1 {
				in.Chassis = a[1]
			}
			var err error
			if in.Options, err = readOptions(cmd, file, pairs); err != nil {
				return usageError{err}
			}
			c, err := conn.dial()
			if err != nil {
				return err
			}
			g, err := c.RunGraph(cmd.Context(), in)
			if err != nil {
				return err
			}
			return started(cmd, conn, c, g, wait)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&pairs, "option", nil, "NAME=VALUE or LABEL.NAME=VALUE (repeatable)")
	f.StringVar(&file, "options", "", "file of options by label, JSON or YAML; \"defaults\" is for all tasks; - reads standard input")
	f.StringVar(&domain, "domain", "", "domain, for programs that speak RackHD's bus")
	f.BoolVar(&wait, "wait", false, "wait until it has ended, with live progress")
	return cmd
}

// readOptions joins options of a file with those of the command line.
func readOptions(cmd *cobra.Command, file string, pairs []string) (map[string]map[string]any, error) {
	options := map[string]map[string]any{}
	if file != "" {
		raw, err := readInput(cmd, file)
		if err != nil {
			return nil, err
		}
		if err := yaml.Unmarshal(raw, &options); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	for _, p := range pairs {
		name, text, ok := strings.Cut(p, "=")
		label, key, labelled := strings.Cut(name, ".")
		if !labelled {
			label, key = "defaults", name
		}
		if !ok || key == "" || label == "" {
			return nil, fmt.Errorf("--option %q: write NAME=VALUE or LABEL.NAME=VALUE", p)
		}
		if options[label] == nil {
			options[label] = map[string]any{}
		}
		v, err := optionValue(text)
		if err != nil {
			return nil, fmt.Errorf("--option %s: %w", name, err)
		}
		options[label][key] = v
	}
	return options, nil
}

func optionValue(text string) (any, error) {
	if name, ok := strings.CutPrefix(text, "@"); ok {
		b, err := os.ReadFile(name)
		return string(b), err
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return text, nil
	}
	if _, err := dec.Token(); err != io.EOF {
		return text, nil
	}
	return v, nil
}

func graphChange(conn *connection, verb, about string, change func(*client.Client, context.Context, string) (client.Graph, error)) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " GRAPH",
		Short: about,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			g, err := change(c, cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return printGraph(cmd, conn, g)
		}),
	}
}

func printGraph(cmd *cobra.Command, conn *connection, g client.Graph) error {
	return conn.print(cmd.OutOrStdout(), g, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "%s\t%s\t%s\n", short(g.ID), g.Name, graphState(g))
	})
}

// forceHelp is what --force of a cancel means.
const forceHelp = "end it at once and wait for nobody: only for a chassis that is gone for good, as one that is not may still be at work"

func graphCancel(conn *connection) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "cancel GRAPH",
		Short: "Cancel a graph: what is pending at once, what is being done when its doer has stopped",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			g, err := c.CancelGraph(cmd.Context(), a[0], force)
			if err != nil {
				return err
			}
			return printGraph(cmd, conn, g)
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, forceHelp)
	return cmd
}

func graphWatch(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "watch GRAPH",
		Short: "Follow a graph to its end",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			g, err := c.Graph(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return started(cmd, conn, c, g, true)
		}),
	}
}
