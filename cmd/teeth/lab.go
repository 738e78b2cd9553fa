package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/lab/demo"
	"github.com/teeth-metal/teeth/lab/netns"
)

func labCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Run virtual chassis in QEMU",
		RunE:  needSubcommand,
	}
	dir := cmd.PersistentFlags().String("dir", filepath.Join("out", "lab"), "folder that holds a folder for each chassis")
	cmd.AddCommand(labUp(dir), labDown(dir), labConsole(dir), labList(dir), labRun(), labNetwork())
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
	var disks, memory, network, firmware, netBoot string
	cmd := &cobra.Command{
		Use:   "up [NAME]",
		Short: "Power a chassis on; its disks stay from one time to the next",
		Long: `Powers a chassis on. With --network netns it is in a network of its own, made if
missing, where DHCP, TFTP and HTTP are what you run there; that takes root:

  teeth lab up --network netns --firmware uefi --netboot pxe
  ip netns exec ` + labNetworkName + ` teeth serve --dhcp br0 --dhcp-range 192.0.2.100-192.0.2.199 --tftp :69

With --network user, which needs no root, QEMU itself gives the address, names
--boot-url as what to boot, and reaches servers of this machine at ` + lab.HostAddress + `.`,
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
			spec.Firmware, spec.NetBoot = lab.Firmware(firmware), lab.NetBoot(netBoot)
			if spec.CD != "" {
				if spec.CD, err = filepath.Abs(spec.CD); err != nil {
					return err
				}
			}
			switch network {
			case "user":
			case "netns":
				if cmd.Flags().Changed("boot-url") {
					return usagef("--boot-url is for --network user; in a network of its own, DHCP names what to boot")
				}
				spec.BootURL, spec.Network = "", labNetworkName
				if err := openNetwork(cmd); err != nil {
					return err
				}
			default:
				return usagef("--network %q: choose netns or user", network)
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
	f.StringVar(&network, "network", "user", "netns: one of its own, which needs root; user: QEMU's")
	f.StringVar(&firmware, "firmware", "bios", "bios or uefi")
	f.StringVar(&netBoot, "netboot", "ipxe", "who boots from the network: ipxe (the network card's ROM), or of UEFI firmware pxe or http")
	f.StringVar(&spec.CD, "cd", "", "CD image in the drive")
	f.StringVar(&spec.BootURL, "boot-url", "http://"+lab.HostAddress+":8082/boot/ipxe",
		"iPXE script to boot; empty boots from disk")
	return cmd
}

// labNetworkName is the network namespace of chassis that `teeth lab up` starts.
const labNetworkName = "teeth-lab"

// openNetwork makes the lab's network unless it is there.
func openNetwork(cmd *cobra.Command) error {
	_, err := netns.Open(cmd.Context(), labNetworkName)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	n, err := netns.Create(cmd.Context(), labNetworkName, netip.MustParsePrefix("192.0.2.1/24"))
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "network namespace %s: servers in it have %s on %s\n", n.Name, n.Address, netns.Bridge)
	return nil
}

func labNetwork() *cobra.Command {
	cmd := &cobra.Command{Use: "network", Short: "The network namespace of the lab", RunE: needSubcommand}
	cmd.AddCommand(&cobra.Command{
		Use:   "remove",
		Short: "Remove it, and end all that runs in it: chassis and servers",
		Args:  args(cobra.NoArgs),
		RunE:  func(*cobra.Command, []string) error { return netns.Remove(labNetworkName) },
	})
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
	var out, network string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Show the main job, live, on a virtual chassis (make demo)",
		Long: `The first time, walks a chassis from power-on, with a former tenant's data on its
disks, to a Debian in service. The next time, decommissions it and proves from
outside that nothing is left. As root, in a network namespace, where the control
plane's DHCP, TFTP and HTTP boot it; otherwise in QEMU's user network.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			binary, err := os.Executable()
			if err != nil {
				return err
			}
			return demo.Run(cmd.Context(), demo.Options{
				Out: out, Binary: binary, Output: cmd.OutOrStdout(), Network: network,
				Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)),
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "out", "folder of everything that is made")
	cmd.Flags().StringVar(&network, "network", "", "netns: a network of its own, which needs root; user: QEMU's (default: the first if it can be)")
	return cmd
}
