package host

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/teeth-metal/teeth/agent/minion/repl"
	"github.com/teeth-metal/teeth/agent/upgrade"
)

const usage = `Usage: teeth-agent [-r | -t | -u | -v] [--config FILE]

The agent of Teeth on an installed system: it sends logs and measurements to a
StreamServer and carries out its commands.

  -r             run (the default)
  -t             test: connect and authenticate with the configuration; exit 1 on failure
  -u, --upgrade  upgrade to the newest version, and run it
  -v             say which version this is
  --config FILE  configuration (default $CONFIG, or ` + DefaultConfig + `)
  --force        with -u: install a version that is signed, even if it is older

As process 1 it is the agent of a ramdisk, and takes no options but the kernel's
command line.
`

// Exit codes.
const (
	done   = 0
	failed = 1
	wrong  = 2 // usage, or a configuration that makes no sense
)

// Main is the program, with its arguments after its name. It returns the exit code.
func Main(version string, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	return Run(ctx, version, args, os.Stdout, os.Stderr)
}

// Run is Main with its streams, until ctx ends.
func Run(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("teeth-agent", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { fmt.Fprint(stderr, usage) }
	path := os.Getenv("CONFIG")
	if path == "" {
		path = DefaultConfig
	}
	f.StringVar(&path, "config", path, "")
	runs := f.Bool("r", false, "")
	tests := f.Bool("t", false, "")
	upgrades := f.Bool("u", false, "")
	f.BoolVar(upgrades, "upgrade", false, "")
	says := f.Bool("v", false, "")
	force := f.Bool("force", false, "")
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return done
	case err != nil:
		return wrong
	case f.NArg() > 0, count(*runs, *tests, *upgrades, *says) > 1, *force && !*upgrades:
		fmt.Fprint(stderr, usage)
		return wrong
	case *says:
		fmt.Fprintln(stdout, strings.TrimPrefix(version, "teeth-agent/"))
		return done
	}
	c, err := Load(path)
	if err != nil {
		fmt.Fprintln(stderr, "teeth-agent:", err)
		return wrong
	}
	for _, u := range c.Unknown {
		fmt.Fprintln(stderr, "teeth-agent: configuration:", u, "(left out)")
	}
	switch {
	case *tests:
		err = test(ctx, c)
	case *upgrades:
		err = upgradeNow(ctx, version, path, c, *force, stderr)
	default:
		err = serve(ctx, version, path, c, stderr)
	}
	if err != nil {
		fmt.Fprintln(stderr, "teeth-agent:", err)
		return failed
	}
	return done
}

func count(all ...bool) (n int) {
	for _, b := range all {
		if b {
			n++
		}
	}
	return n
}

// test connects and authenticates, with the first StreamServer that can be reached.
func test(ctx context.Context, c Config) error {
	target, err := c.target()
	if err != nil {
		return err
	}
	var errs []error
	for _, address := range target.Addresses {
		err := repl.Run(ctx, repl.Config{
			Address: address, Group: target.Group, Server: target.Server, Key: target.Key, TLS: target.TLS,
			Original: true, Out: io.Discard, Line: func() (string, error) { return "", io.EOF },
		})
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("StreamServer %s: %w", address, err))
	}
	return errors.Join(errs...)
}

// serve runs the agent, and what is to run after it.
func serve(ctx context.Context, version, path string, c Config, stderr io.Writer) error {
	h := newHost(version, path, c, stderr)
	err := h.run(ctx)
	var next *replacement
	if !errors.As(err, &next) {
		return err
	}
	return next.start(path)
}

// upgradeNow is -u.
func upgradeNow(ctx context.Context, version, path string, c Config, force bool, stderr io.Writer) error {
	h := newHost(version, path, c, stderr)
	u, err := h.upgrader()
	if err != nil {
		return err
	}
	r, err := u.Upgrade(ctx, force)
	switch {
	case errors.Is(err, upgrade.ErrNotNewer):
		fmt.Fprintln(stderr, "teeth-agent:", err)
	case err != nil:
		return err
	default:
		fmt.Fprintln(stderr, "teeth-agent: upgraded to", r.Version)
	}
	if h.inUse() {
		fmt.Fprintln(stderr, "teeth-agent: another agent runs with this configuration: restart it (systemctl restart teeth-agent)")
		return nil
	}
	return (&replacement{program: u.Link()}).start(path)
}

// replacement ends an agent: that program is to go on in its place.
type replacement struct{ program string }

func (r *replacement) Error() string { return "replaced by " + r.program }

// start makes this process one of the program. It returns only if that fails.
func (r *replacement) start(config string) error {
	err := syscall.Exec(r.program, []string{r.program, "-r", "--config", config}, os.Environ())
	return fmt.Errorf("start %s: %w", r.program, err)
}

// flushTime is how long the end of the agent waits for a StreamServer. What it does
// not get stays in the spool.
const flushTime = 5 * time.Second
