package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

func commandCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "command",
		Short: "Run commands on chassis, and show what has come of them",
		RunE:  needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(commandRun(&conn), commandList(&conn), commandShow(&conn), commandCancel(&conn))
	return cmd
}

func commandRun(conn *connection) *cobra.Command {
	var in client.NewCommand
	var wait bool
	var timeout, expire time.Duration
	var env []string
	cmd := &cobra.Command{
		Use:   "run CHASSIS... -- PROGRAM [ARGUMENT...]",
		Short: "Run a program on chassis, without a shell unless asked for",
		Long: chassisHelp + `
The command waits for chassis that are away, and is sent to each once. With --wait its
output is written as it comes, standard output and errors to where they belong; of
several chassis each line begins with the chassis. The exit code is 1 if it has failed
anywhere. What agents allow is a matter of their policy.`,
		Example: `  teeth command run web1 --wait -- nvme list -o json
  teeth command run --all --wait --timeout 1m --shell -- 'dmesg | grep -c error'
  teeth command run web1 --internal --wait -- status`,
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			dash := cmd.ArgsLenAtDash()
			if dash < 0 || dash == len(a) {
				return usagef("no program given; usage: %s", cmd.UseLine())
			}
			in.Chassis, in.Argv = a[:dash], a[dash:]
			if len(in.Chassis)+len(in.Servers) == 0 && !in.All {
				return usagef("name chassis, or --all; usage: %s", cmd.UseLine())
			}
			if timeout < 0 || expire < 0 || expire > 0 && expire < time.Second {
				return usagef("--timeout and --expire: want a time as 90s or 5m")
			}
			in.Timeout, in.Expires, in.Env = timeout.Seconds(), int64(expire/time.Second), nil
			for _, e := range env {
				name, value, ok := strings.Cut(e, "=")
				if !ok || name == "" {
					return usagef("--env %q: write NAME=VALUE", e)
				}
				if in.Env == nil {
					in.Env = map[string]string{}
				}
				in.Env[name] = value
			}
			issued, err := c.RunCommand(cmd.Context(), in)
			if err != nil {
				return err
			}
			if !wait {
				return conn.print(cmd.OutOrStdout(), issued, func(w *tabwriter.Writer) {
					fmt.Fprintf(w, "command %s\t%s\n", issued.ID, statesText(issued.States))
				})
			}
			return waitForCommand(cmd, conn, c, issued)
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&in.All, "all", false, "on all chassis that are approved")
	f.BoolVar(&wait, "wait", false, "wait until it has ended everywhere, and write its output")
	f.BoolVar(&in.Shell, "shell", false, "hand the arguments, joined by blanks, to a shell on the chassis")
	f.BoolVar(&in.Internal, "internal", false, "not a program but a function of the agent's own: status, version, ...")
	f.DurationVar(&timeout, "timeout", 0, "how long it may run (default 5m)")
	f.DurationVar(&expire, "expire", 0, "how long it waits for a chassis that is away (default: as long as records are kept)")
	f.Int64Var(&in.Output, "max-output", 0, "bytes of output that a chassis sends (default 1 MiB); 16 MiB are kept")
	f.StringArrayVar(&env, "env", nil, "NAME=VALUE for the program's environment (repeatable)")
	f.StringSliceVar(&in.Servers, "server", nil, "on this agent of another group than the chassis', by its id (repeatable)")
	return cmd
}

// waitForCommand writes what a command's runs write until all have ended. The error
// says where it has failed.
func waitForCommand(cmd *cobra.Command, conn *connection, c *client.Client, issued client.Command) error {
	ctx := cmd.Context()
	ended := map[string]client.Run{}
	note := func(r client.Run) error {
		if r.Final() {
			ended[r.ID] = r
		}
		return nil
	}
	total := 0
	for _, n := range issued.States {
		total += n
	}
	several := total > 1
	names := map[string]string{}
	if several && conn.output != "json" {
		var err error
		if names, err = chassisNames(ctx, c); err != nil {
			return err
		}
	}
	stdout, stderr := screen(cmd.OutOrStdout()), screen(cmd.ErrOrStderr())
	lines := map[string]*prefixer{}
	write := func(o client.Output) error {
		w := stdout
		if o.Stream == "stderr" {
			w = stderr
		}
		if several {
			if lines[o.Run+o.Stream] == nil {
				lines[o.Run+o.Stream] = &prefixer{w: w, prefix: nameOf(names, o.Server) + ": "}
			}
			w = lines[o.Run+o.Stream]
		}
		_, err := io.WriteString(w, o.Text)
		return err
	}
	if conn.output == "json" {
		write = nil
	}
	if err := c.FollowCommand(ctx, issued.ID, write, note); err != nil {
		return err
	}
	for _, p := range lines {
		if err := p.end(); err != nil {
			return err
		}
	}
	for _, r := range ended {
		notKept(cmd.ErrOrStderr(), nameOf(names, r.Server), r)
	}
	if conn.output == "json" {
		var runs []client.Run
		for id := range ended {
			r, err := c.Run(ctx, issued.ID, id)
			if err != nil {
				return err
			}
			runs = append(runs, r)
		}
		if err := conn.print(cmd.OutOrStdout(), runs, nil); err != nil {
			return err
		}
	}
	return outcome(ended, names, several)
}

// notKept says how much of a run's output is missing.
func notKept(w io.Writer, name string, r client.Run) {
	if r.Dropped > 0 {
		fmt.Fprintf(w, "%s: %d bytes more of output were not kept\n", live.Printable(name), r.Dropped)
	}
}

// outcome is an error that says where a command has failed.
func outcome(ended map[string]client.Run, names map[string]string, several bool) error {
	var failed []error
	for _, r := range ended {
		if r.Succeeded() {
			continue
		}
		err := errors.New(ending(r))
		if several {
			err = fmt.Errorf("%s: %w", nameOf(names, r.Server), err)
		}
		failed = append(failed, err)
	}
	if len(failed) > 10 {
		return fmt.Errorf("failed on %d of %d; the first: %w", len(failed), len(ended), failed[0])
	}
	return errors.Join(failed...)
}

// ending is how a run has ended.
func ending(r client.Run) string {
	switch r.State {
	case "done":
		if r.Exit == nil {
			return "done"
		}
		return fmt.Sprintf("exit code %d", *r.Exit)
	case "timeout":
		return "took longer than it may"
	case "refused":
		return "refused by the agent"
	case "lost":
		return "no answer came in time: the chassis may have been rebooted"
	}
	return r.State
}

// screen keeps what a chassis says from steering a terminal; to anything else it is
// written as it is.
func screen(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return harmless{w}
	}
	return w
}

type harmless struct{ w io.Writer }

func (h harmless) Write(p []byte) (int, error) {
	clean := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if r == '\r' {
			return -1
		}
		return []rune(live.Printable(string(r)))[0]
	}, string(p))
	if _, err := io.WriteString(h.w, clean); err != nil {
		return 0, err
	}
	return len(p), nil
}

// prefixer writes whole lines, each with a prefix, so that those of several chassis do
// not mix.
type prefixer struct {
	w      io.Writer
	prefix string
	rest   []byte
}

// maxPrefixed bounds a line that is waited for.
const maxPrefixed = 64 << 10

func (p *prefixer) Write(b []byte) (int, error) {
	p.rest = append(p.rest, b...)
	for {
		i := bytes.IndexByte(p.rest, '\n')
		if i < 0 {
			if len(p.rest) > maxPrefixed {
				return len(b), p.end()
			}
			return len(b), nil
		}
		if _, err := fmt.Fprintf(p.w, "%s%s\n", p.prefix, p.rest[:i]); err != nil {
			return 0, err
		}
		p.rest = p.rest[i+1:]
	}
}

// end writes the last line, which has no end.
func (p *prefixer) end() error {
	if len(p.rest) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(p.w, "%s%s\n", p.prefix, p.rest)
	p.rest = nil
	return err
}

func commandList(conn *connection) *cobra.Command {
	var chassis string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List commands, newest first",
		Args:  args(cobra.NoArgs),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			list, err := c.ListCommands(cmd.Context(), chassis, limit)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), list, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "COMMAND\tBY\tISSUED\tSTATES\tPROGRAM")
				for _, c := range list {
					fmt.Fprintf(w, "%s\t%s\t%s ago\t%s\t%s\n", c.ID, live.Printable(c.By), age(c.Created), statesText(c.States), live.Printable(strings.Join(c.Argv, " ")))
				}
			})
		}),
	}
	cmd.Flags().StringVar(&chassis, "chassis", "", "only those issued to this chassis")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many; 0 is all")
	return cmd
}

func commandShow(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "show COMMAND [CHASSIS]",
		Short: "Show what has become of a command or, of one chassis, what it has written",
		Args:  args(cobra.RangeArgs(1, 2)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			if len(a) == 2 {
				r, err := c.Run(cmd.Context(), a[0], a[1])
				if err != nil {
					return err
				}
				if conn.output == "json" {
					return conn.print(cmd.OutOrStdout(), r, nil)
				}
				_, err = io.WriteString(screen(cmd.OutOrStdout()), r.Stdout)
				_, e := io.WriteString(screen(cmd.ErrOrStderr()), r.Stderr)
				notKept(cmd.ErrOrStderr(), a[1], r)
				return errors.Join(err, e)
			}
			command, err := c.Command(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			runs, err := c.Runs(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			if conn.output == "json" {
				return conn.print(cmd.OutOrStdout(), struct {
					client.Command
					Runs []client.Run `json:"runs"`
				}{command, runs}, nil)
			}
			names, err := chassisNames(cmd.Context(), c)
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), nil, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "command\t%s\nprogram\t%s\nby\t%s\nissued\t%s\nstates\t%s\n\n", command.ID, live.Printable(strings.Join(command.Argv, " ")),
					live.Printable(command.By), command.Created.Local().Format(time.DateTime), statesText(command.States))
				fmt.Fprintln(w, "CHASSIS\tSTATE\tEXIT\tSENT\tANSWERED")
				for _, r := range runs {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", live.Printable(nameOf(names, r.Server)), r.State, number(r.Exit), when(r.Dispatched), when(r.Responded))
				}
			})
		}),
	}
}

func number(n *int) string {
	if n == nil {
		return ""
	}
	return fmt.Sprint(*n)
}

func when(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

func commandCancel(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel COMMAND",
		Short: "Cancel a command where it still waits; what was sent to a chassis goes on",
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			command, err := c.CancelCommand(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), command, func(w *tabwriter.Writer) {
				fmt.Fprintf(w, "command %s\t%s\n", command.ID, statesText(command.States))
			})
		}),
	}
}
