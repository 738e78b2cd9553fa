package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/agent/minion/repl"
	"github.com/teeth-metal/teeth/agent/session"
)

func minionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "minion",
		Short: "Speak Minion's protocol by hand",
		RunE:  needSubcommand,
	}
	cmd.AddCommand(minionRepl())
	return cmd
}

const minionPort = "6766"

func minionRepl() *cobra.Command {
	var c repl.Config
	var key, pin string
	var insecure bool
	cmd := &cobra.Command{
		Use:   "repl",
		Short: "Connect to a StreamServer as an agent would, and send and receive frames by hand",
		Long: `Connect to a StreamServer as an agent would, and send and receive frames by hand.
On a terminal lines can be edited, and those of earlier conversations are at hand
with the arrow keys; otherwise they are read from standard input.

  VERB::D1::D2...       send a frame, after group and server id: L::SERVICE::MESSAGE,
                        T::LABEL::VALUE, C::heartbeat, R::COMMAND-ID::[OUTPUT]::[ERRORS]
  raw::VERB::D1...      send a frame without group and server id
  N times { LINE }      send it N times
  tail::SERVICE::PATH   follow a file and send its lines; untail::PATH stops it
  debug                 show every frame both ways, in hex and decoded, or stop that
  help, exit

[a,b] is a list of texts; \:: is two colons. Keys are masked. Without a terminal the
exit code is 1 if a line was not understood, or a request not answered within 5 s.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case c.Address == "" || c.Group == "" || c.Server == "":
				return usagef("--host, --group and --server-id are needed")
			case (c.Key == "") == (key == ""):
				return usagef("give one of --key and --key-file")
			case (pin == "") == !insecure:
				return usagef("give one of --ca-sha256, the pin that teeth serve prints, and --insecure, for plain TCP")
			}
			if _, _, err := net.SplitHostPort(c.Address); err != nil {
				c.Address = net.JoinHostPort(c.Address, minionPort)
			}
			var err error
			if key != "" {
				if c.Key, err = readSecret(os.Stdin, key); err != nil {
					return usageError{err}
				}
			}
			if !insecure {
				if c.TLS, err = session.TLSConfig(pin); err != nil {
					return usageError{err}
				}
			}
			line, out, restore, err := repl.Typed(os.Stdin, cmd.OutOrStdout(), replHistory())
			if err != nil {
				return err
			}
			c.Line, c.Out = line, out
			return errors.Join(repl.Run(cmd.Context(), c), restore())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Address, "host", "", "StreamServer, HOST[:PORT] (default port "+minionPort+")")
	f.StringVarP(&c.Group, "group", "g", "", "group id")
	f.StringVarP(&c.Server, "server-id", "s", "", "id of the server that is spoken for")
	f.StringVarP(&c.Key, "key", "k", "", "the group's key (others on this machine can see it here)")
	f.StringVar(&key, "key-file", "", "file with the key")
	f.StringVar(&pin, "ca-sha256", "", "pin of the StreamServer's CA")
	f.BoolVar(&insecure, "insecure", false, "plain TCP, for an original StreamServer")
	f.BoolVar(&c.Original, "original", false, "do not ask for acknowledgements")
	f.BoolVar(&c.Debug, "debug", false, "show every frame both ways, in hex and decoded")
	return cmd
}

// replHistory is where typed lines are kept; "" if there is no place for it.
func replHistory() string {
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(home, ".local", "state")
	}
	dir = filepath.Join(dir, "teeth")
	if os.MkdirAll(dir, 0o700) != nil {
		return ""
	}
	return filepath.Join(dir, "minion-history")
}
