// Command teeth is the operator's program: the control plane, the tools that
// talk to it, the builder of the appliance image, and the virtual lab.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
)

// version is set by the Makefile.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := rootCommand().ExecuteContext(ctx)
	interrupted := ctx.Err() != nil && errors.Is(err, context.Canceled)
	stop()
	if interrupted {
		os.Exit(130) // as a shell says of a program that a signal has ended
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "teeth:", live.Printable(err.Error())) // it may quote a chassis
	}
	os.Exit(exitCode(err))
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "teeth",
		Short: "Bare-metal provisioning: erase, check, image and boot chassis over the network",
		Long: `Teeth takes a chassis from power-on to a running operating system: it boots it
over the network into a small ramdisk, erases its disks and proves it, checks
firmware and hardware, writes an OS image with a config drive, and boots it.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 control plane not reachable,
130 interrupted.`,
		Args:          cobra.ArbitraryArgs, // else cobra complains by itself, as if the work had failed
		RunE:          needSubcommand,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		serveCommand(), chassisCommand(), graphCommand(), taskCommand(), imageCommand(), subnetCommand(), leaseCommand(),
		initramfsCommand(), labCommand(), enrolmentCommand(),
		userCommand(), tokenCommand(), auditCommand(), specCommand(),
		backupCommand(), restoreCommand(), serverCommand(), settingCommand(),
		bmcCommand(), powerCommand(), snmpCommand(), pollerCommand(), alertCommand(), skuCommand(), catalogCommand(), appCommand(),
		minionCommand(), agentVersionCommand(), logCommand(), telemetryCommand(), commandCommand(),
	)
	completeNames(root)
	return root
}

// usageError marks an error in what was typed, not in what was done.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// args turns cobra's complaint about the number of arguments into a usageError.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, a []string) error {
		if err := check(cmd, a); err != nil {
			return usageError{fmt.Errorf("%w; usage: %s", err, cmd.UseLine())}
		}
		return nil
	}
}

func exitCode(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage), errors.Is(err, client.ErrInvalid):
		return 2
	case isNotFound(err):
		return 3
	case isUnreachable(err):
		return 4
	}
	return 1
}
