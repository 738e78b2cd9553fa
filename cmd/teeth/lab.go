package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/lab/demo"
)

func labCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Run virtual chassis in QEMU",
		RunE:  needSubcommand,
	}
	dir := cmd.PersistentFlags().String("dir", filepath.Join("out", "lab"), "folder that holds a folder for each chassis")
	cmd.AddCommand(labUp(dir), labDown(dir), labConsole(dir), labList(dir), labRun())
	return cmd
}

// needSubcommand makes a command that only groups others show its help and
// fail, so that a script notices a missing word.
func needSubcommand(cmd *cobra.Command, a []string) error {
	if len(a) > 0 {
		return usagef("unknown command %q for %q; see %s --help", a[0], cmd.CommandPath(), cmd.CommandPath())
	}
	cmd.SetOut(cmd.ErrOrStderr())
	if err := cmd.Help(); err != nil {
		return err
	}
	return usagef("%s needs a command", cmd.CommandPath())
}

func labUp(dir *string) *cobra.Command {
	var spec lab.Spec
	var disks, memory string
	cmd := &cobra.Command{
		Use:   "up [NAME]",
		Short: "Power a chassis on; its disks stay from one time to the next",
		Example: `  teeth lab up --disks nvme:8G,virtio:4G --memory 512M \
      --boot-url http://` + lab.HostAddress + `:8082/boot/ipxe`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			spec.Name = nameOrDefault(a)
			spec.Dir = filepath.Join(*dir, spec.Name)
			var err error
			if spec.Disks, err = lab.ParseDisks(disks); err != nil {
				return usageError{err}
			}
			if spec.Memory, err = lab.ParseSize(memory); err != nil {
				return usageError{err}
			}
			c, err := lab.Start(cmd.Context(), spec)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is on: MAC %s, UUID %s, serial console in %s\n",
				c.Spec.Name, c.Spec.MAC, c.Spec.UUID, c.SerialLog())
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&disks, "disks", "nvme:8G,virtio:4G", "disks as BUS:SIZE, with bus nvme, virtio, sata or scsi")
	f.StringVar(&memory, "memory", "512M", "memory")
	f.IntVar(&spec.CPUs, "cpus", 2, "processors")
	f.StringVar(&spec.NIC, "nic", "virtio-net-pci", "network card, a device of QEMU such as e1000e")
	f.StringVar(&spec.BootURL, "boot-url", "http://"+lab.HostAddress+":8082/boot/ipxe",
		"iPXE script to boot; empty boots from disk")
	return cmd
}

func nameOrDefault(a []string) string {
	if len(a) > 0 {
		return a[0]
	}
	return "chassis"
}

func labDown(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down [NAME]",
		Short: "Take a chassis's power away; its disks stay",
		Args:  args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			c, err := lab.Attach(filepath.Join(*dir, nameOrDefault(a)))
			if err != nil {
				return err
			}
			return c.PowerCut()
		},
	}
}

func labList(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the chassis of the lab",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			specs, err := filepath.Glob(filepath.Join(*dir, "*", "spec.json"))
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tPOWER\tMAC\tSERIAL\tUUID")
			for _, s := range specs {
				c, err := lab.Attach(filepath.Dir(s))
				if err != nil {
					return err
				}
				power := "off"
				if c.Running() {
					power = "on"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", c.Spec.Name, power, c.Spec.MAC, c.Spec.Serial, c.Spec.UUID)
			}
			return w.Flush()
		},
	}
}

func labConsole(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "console [NAME]",
		Short: "Connect to a chassis's serial console; Ctrl-] leaves",
		Args:  args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			c, err := lab.Attach(filepath.Join(*dir, nameOrDefault(a)))
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), c.SerialTail(40))
			conn, err := c.Console(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
				state, err := term.MakeRaw(fd)
				if err != nil {
					return err
				}
				defer term.Restore(fd, state)
			}
			ended := make(chan error, 2)
			go func() { _, err := io.Copy(cmd.OutOrStdout(), conn); ended <- err }()
			go func() { ended <- typeInto(conn, cmd.InOrStdin()) }()
			select {
			case err = <-ended:
			case <-cmd.Context().Done():
			}
			return err
		},
	}
}

// typeInto copies what is typed until Ctrl-], as telnet does.
func typeInto(w io.Writer, r io.Reader) error {
	const leave = 0x1d
	buf := make([]byte, 256)
	for {
		n, err := r.Read(buf)
		for i, b := range buf[:n] {
			if b == leave {
				n, err = i, io.EOF
				break
			}
		}
		if _, werr := w.Write(buf[:n]); werr != nil {
			return werr
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func labRun() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Show the main job, live, on a virtual chassis (make demo)",
		Long: `The first time, walks a chassis from power-on, with a former tenant's data on its
disks, to a Debian in service. The next time, decommissions it and proves from
outside that nothing is left.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			binary, err := os.Executable()
			if err != nil {
				return err
			}
			return demo.Run(cmd.Context(), demo.Options{
				Out: out, Binary: binary, Output: cmd.OutOrStdout(),
				Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)),
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "out", "folder of everything that is made")
	return cmd
}
