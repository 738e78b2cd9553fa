// Package command carries out what a Minion server tells an agent to do: programs
// (type "external"), and what the agent itself can do (type "internal").
//
// A program is started from its list of arguments, without a shell unless the
// server asks for one and the policy lets it. It has an environment of its own, a
// process group of its own, a time limit and an output limit. Its output is sent on
// in pieces that fit a frame; a server that is slow to take them slows the program
// down, and memory stays bounded.
//
// What may be run is a matter of policy: see Policy. Everything that was asked for
// is written to the log, carried out or refused. A command's id is carried out once.
package command

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/wire/minion"
)

// Defaults and bounds.
const (
	DefaultTimeout = 5 * time.Minute
	MaxTimeout     = 24 * time.Hour
	DefaultLimit   = 1 << 20  // bytes of output that are sent
	MaxLimit       = 64 << 20 // the most that a server can ask for
	DefaultAtOnce  = 8        // programs at once; as many more wait for their turn, eight times over

	maxArgs     = 4096 // of one command
	maxEnv      = 64
	defaultRoom = 7000
)

// command is what an order asks for.
type command struct {
	id   string
	kind string // minion.External or Internal
	argv []string

	timeout time.Duration
	limit   int64    // bytes of output to send
	shell   bool     // argv, joined by blanks, is a line for the shell
	env     []string // NAME=VALUE, beside the few that every program has
}

// parse reads an order and bounds what it asks for. What could be read is returned
// with an error, too.
func parse(o minion.Order) (command, error) {
	c := command{id: o.ID.String(), kind: o.Kind, argv: o.Argv, timeout: DefaultTimeout, limit: DefaultLimit}
	switch {
	case c.kind != minion.External && c.kind != minion.Internal:
		return c, fmt.Errorf("type of command %.40q: want external or internal", c.kind)
	case len(c.argv) == 0 || c.argv[0] == "":
		return c, errors.New("the command names no program")
	case len(c.argv) > maxArgs:
		return c, fmt.Errorf("%d arguments; at most %d are taken", len(c.argv), maxArgs)
	}
	for _, a := range c.argv {
		if strings.IndexByte(a, 0) >= 0 {
			return c, errors.New("an argument holds a NUL, which no program can be given")
		}
	}
	for _, option := range o.Options {
		if err := c.option(option); err != nil {
			return c, err
		}
	}
	return c, nil
}

// option reads one of the options that our own server may send.
func (c *command) option(s string) error {
	name, value, _ := strings.Cut(s, "=")
	switch name {
	case "timeout": // seconds
		n, err := strconv.ParseFloat(value, 64)
		if err != nil || !(n > 0 && n <= MaxTimeout.Seconds()) {
			return fmt.Errorf("option %.80q: want seconds, up to %.0f", s, MaxTimeout.Seconds())
		}
		c.timeout = max(time.Duration(n*float64(time.Second)), time.Millisecond)
	case "limit":
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < 1 || n > MaxLimit {
			return fmt.Errorf("option %.80q: want bytes, up to %d", s, MaxLimit)
		}
		c.limit = n
	case "shell":
		b, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("option %.80q: want 0 or 1", s)
		}
		c.shell = b
	case "env":
		variable, _, ok := strings.Cut(value, "=")
		if !ok || variable == "" || strings.IndexByte(value, 0) >= 0 {
			return fmt.Errorf("option %.80q: want env=NAME=VALUE", s)
		}
		if len(c.env) >= maxEnv {
			return fmt.Errorf("more than %d environment variables", maxEnv)
		}
		c.env = append(c.env, value)
	default: // to run it as if that had not been said could be worse than not at all
		return fmt.Errorf("option %.80q is not known to this agent", s)
	}
	return nil
}

// Peer is whose command it is.
type Peer struct {
	Address string // for the log
	// Trusted says that the server has proved itself: TLS, with its CA pinned.
	Trusted bool
	// Streams says that the server takes more than one answer to a command, with exit
	// code and state (minion.Acknowledging). One that does not, an original, gets one
	// answer with what fits in it.
	Streams bool
	// Room is how many bytes of text an answer may carry; 0 is 7000.
	Room int
}
