package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
)

// defaultData is where `teeth serve` keeps its state.
const defaultData = "/var/lib/teeth"

// connection is the flags of the commands that talk to a control plane.
type connection struct {
	file   string
	output string
}

func (c *connection) addFlags(cmd *cobra.Command) {
	file := os.Getenv("TEETH_CLIENT")
	if file == "" {
		file = filepath.Join(defaultData, "client.json")
	}
	f := cmd.PersistentFlags()
	f.StringVar(&c.file, "client", file, "file that says how to reach the control plane, written by teeth serve (or set TEETH_CLIENT)")
	f.StringVarP(&c.output, "output", "o", "table", "output: table or json")
}

func (c *connection) dial() (*client.Client, error) {
	if c.output != "table" && c.output != "json" {
		return nil, usagef("--output %q: write table or json", c.output)
	}
	conf, err := client.Load(c.file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", client.ErrUnreachable, err)
	}
	return client.New(conf)
}

// with makes run a command's function, given the client.
func (c *connection) with(run func(*cobra.Command, *client.Client, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, a []string) error {
		cl, err := c.dial()
		if err != nil {
			return err
		}
		return run(cmd, cl, a)
	}
}

// print shows v as JSON, or what rows writes as a table.
func (c *connection) print(w io.Writer, v any, rows func(*tabwriter.Writer)) error {
	if c.output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows(t)
	return t.Flush()
}

// act makes a command that has the client do something to what its argument names.
func (c *connection) act(use, about string, do func(*client.Client, context.Context, string) error) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: about,
		Args:  args(cobra.ExactArgs(1)),
		RunE: c.with(func(cmd *cobra.Command, cl *client.Client, a []string) error {
			return do(cl, cmd.Context(), a[0])
		}),
	}
	if strings.Contains(use, "CHASSIS") {
		cmd.Long = chassisHelp
	}
	return cmd
}

// list makes a command that lists all there is of something.
func list[T any](c *connection, about string, all func(*client.Client, context.Context) ([]T, error), rows func(*tabwriter.Writer, []T)) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: about,
		Args:  args(cobra.NoArgs),
		RunE: c.with(func(cmd *cobra.Command, cl *client.Client, _ []string) error {
			items, err := all(cl, cmd.Context())
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), items, func(w *tabwriter.Writer) { rows(w, items) })
		}),
	}
}

// showJSON makes a command that shows what its argument names as JSON, whatever
// --output says: it is no table.
func showJSON[T any](c *connection, use, about string, get func(*client.Client, context.Context, string) (T, error)) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: about,
		Args:  args(cobra.ExactArgs(1)),
		RunE: c.with(func(cmd *cobra.Command, cl *client.Client, a []string) error {
			v, err := get(cl, cmd.Context(), a[0])
			if err != nil {
				return err
			}
			c.output = "json"
			return c.print(cmd.OutOrStdout(), v, nil)
		}),
	}
}

func isNotFound(err error) bool    { return errors.Is(err, client.ErrNotFound) }
func isUnreachable(err error) bool { return errors.Is(err, client.ErrUnreachable) }

// short is the beginning of an id, enough to name it again.
func short(id string) string { return id[:min(len(id), 8)] }

// age is how long ago t was, in one or two figures.
func age(t time.Time) string {
	switch d := time.Since(t); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
