package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/hwinfo"
	"github.com/teeth-metal/teeth/wire/teeth"
)

func chassisCommand() *cobra.Command {
	var conn connection
	cmd := &cobra.Command{
		Use:   "chassis",
		Short: "List, show, watch, approve, decommission and provision chassis",
		RunE:  needSubcommand,
	}
	conn.addFlags(cmd)
	cmd.AddCommand(chassisList(&conn), chassisShow(&conn), chassisWatch(&conn),
		chassisDecommission(&conn), chassisProvision(&conn), chassisReboot(&conn),
		chassisApprove(&conn), chassisReject(&conn), chassisForget(&conn), chassisAgentConfig(&conn))
	return cmd
}

const chassisHelp = "CHASSIS is an id or the beginning of one, a name, MAC address, serial number or UUID."

func chassisList(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all chassis",
		Args:  args(cobra.NoArgs),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all, err := c.ListChassis(cmd.Context())
			if err != nil {
				return err
			}
			return conn.print(cmd.OutOrStdout(), all, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "ID\tSTATE\tSERIAL\tMAC\tADDRESS\tSEEN")
				for _, ch := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s ago\n", short(ch.ID), ch.State, ch.Serial, ch.MAC, ch.Address, age(ch.LastSeen))
				}
			})
		}),
	}
}

func chassisShow(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "show CHASSIS",
		Short: "Show a chassis, what it is made of and how it booted",
		Long:  chassisHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			ch, err := c.Chassis(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			var inv hwinfo.Inventory
			if len(ch.Inventory) > 0 {
				if err := json.Unmarshal(ch.Inventory, &inv); err != nil {
					return fmt.Errorf("inventory of %s: %w", ch.ID, err)
				}
			}
			return conn.print(cmd.OutOrStdout(), ch, func(w *tabwriter.Writer) { showChassis(w, ch, inv) })
		}),
	}
}

func showChassis(w *tabwriter.Writer, ch client.Chassis, inv hwinfo.Inventory) {
	fmt.Fprintf(w, "id\t%s\nstate\t%s\nserial\t%s\nUUID\t%s\nMAC\t%s\naddress\t%s\nagent\t%s\nseen\t%s ago\n",
		ch.ID, ch.State, ch.Serial, ch.UUID, ch.MAC, ch.Address, ch.Version, age(ch.LastSeen))
	if len(ch.Inventory) > 0 {
		fmt.Fprintf(w, "product\t%s %s\n", inv.System.Manufacturer, inv.System.Product)
		for _, cpu := range inv.CPUs {
			fmt.Fprintf(w, "CPU\t%s, %d cores, %d threads\n", cpu.Model, cpu.Cores, cpu.Threads)
		}
		fmt.Fprintf(w, "memory\t%d MiB\n", inv.Memory.TotalBytes>>20)
		for _, d := range inv.Disks {
			fmt.Fprintf(w, "disk\t%s, %s, %d MiB, %s, serial %s\n", d.Name, d.Transport, d.Size>>20, d.Model, d.Serial)
		}
		for _, n := range inv.NICs {
			fmt.Fprintf(w, "NIC\t%s, %s, %s\n", n.Name, n.MAC, n.Driver)
		}
		for _, f := range inv.Firmware {
			fmt.Fprintf(w, "firmware\t%s %s: %s\n", f.Component, f.Model, f.Version)
		}
	}
	for _, p := range ch.Phases {
		note := ""
		if p.Error != "" {
			note = ": " + p.Error
		}
		fmt.Fprintf(w, "boot phase\t%s, %.2f s%s\n", p.Name, p.Seconds, note)
	}
}

func chassisWatch(conn *connection) *cobra.Command {
	return &cobra.Command{
		Use:   "watch CHASSIS",
		Short: "Print what happens to a chassis, as it happens",
		Long:  chassisHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			ch, err := c.Chassis(cmd.Context(), a[0])
			if err != nil {
				return err
			}
			return c.Watch(cmd.Context(), client.Filter{Chassis: ch.ID}, printEvent(cmd.OutOrStdout()))
		}),
	}
}

func chassisDecommission(conn *connection) *cobra.Command {
	var in client.Decommission
	var specFile string
	var minimums []string
	var wait bool
	cmd := &cobra.Command{
		Use:   "decommission CHASSIS",
		Short: "Erase a chassis's disks, verify that, and check firmware and hardware",
		Long: chassisHelp + `
A chassis that is away is decommissioned when it next boots into the ramdisk. One that
is in service and has a BMC is taken out of it, whatever it is doing, by
teeth graph run Graph.DecommissionInService CHASSIS --wait
(--option boot.uefi=true for one that boots in UEFI mode).`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if specFile != "" && in.SpecName != "" {
				return usagef("--spec and --spec-name: give one of them")
			}
			if specFile != "" {
				b, err := os.ReadFile(specFile)
				if err != nil {
					return usageError{err}
				}
				in.Spec = b
			}
			if err := readFirmware(&in, minimums); err != nil {
				return usageError{err}
			}
			c, err := conn.dial()
			if err != nil {
				return err
			}
			run, err := c.Decommission(cmd.Context(), a[0], in)
			if err != nil {
				return err
			}
			return started(cmd, conn, c, run, wait)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&in.Disks, "disk", nil, "erase only this disk, by serial number, WWN or name (repeatable; default all)")
	f.StringVar(&in.Method, "method", "auto", "auto, zeroout or overwrite")
	f.StringVar(&in.Verify, "verify", "full", "read back: full or sample")
	f.StringSliceVar(&in.Steps, "steps", []string{"erase", "firmware", "qc"}, "what is done, in this order")
	f.StringArrayVar(&minimums, "firmware", nil, "COMPONENT[/MODEL]=VERSION: oldest version allowed of bios, bmc, nvme, disk or nic (repeatable)")
	f.StringVar(&specFile, "spec", "", "file with the spec, in JSON, that quality control compares with")
	f.StringVar(&in.SpecName, "spec-name", "", "name of a spec that teeth spec add has kept, instead of --spec")
	f.BoolVar(&wait, "wait", false, "wait until it is done, with live progress")
	return cmd
}

func chassisProvision(conn *connection) *cobra.Command {
	var in client.Provision
	var root teeth.RootDevice
	var keys, files []string
	var userData string
	var wait bool
	cmd := &cobra.Command{
		Use:   "provision CHASSIS --image IMAGE",
		Short: "Write an OS image and a config drive to a chassis and boot it",
		Long:  chassisHelp,
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if in.Image == "" {
				return usagef("--image is missing; teeth image list shows what there is")
			}
			if root != (teeth.RootDevice{}) {
				in.RootDevice = &root
			}
			err := errors.Join(readKeys(&in, keys), readFiles(&in, files), readUserData(&in, userData))
			if err != nil {
				return usageError{err}
			}
			c, err := conn.dial()
			if err != nil {
				return err
			}
			run, err := c.Provision(cmd.Context(), a[0], in)
			if err != nil {
				return err
			}
			return started(cmd, conn, c, run, wait)
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.Image, "image", "", "image id or name")
	f.StringVar(&in.Hostname, "hostname", "", "host name of the installed system")
	f.StringSliceVar(&keys, "ssh-key", nil, "file of SSH public keys to admit (repeatable)")
	f.StringVar(&userData, "user-data", "", "file with cloud-init user data")
	f.StringSliceVar(&files, "file", nil, "PATH=FILE: put the contents of FILE at PATH in the installed system (repeatable)")
	f.StringVar(&root.Serial, "root-serial", "", "install to the disk with this serial number")
	f.StringVar(&root.WWN, "root-wwn", "", "install to the disk with this WWN")
	f.StringVar(&root.Model, "root-model", "", "install to a disk whose model contains this")
	f.StringVar(&root.Transport, "root-transport", "", "install to a disk on this bus: nvme, sata, sas, virtio, …")
	f.StringVar(&in.Boot, "boot", "auto", "auto (kexec if possible, else reboot), kexec or reboot")
	f.BoolVar(&wait, "wait", false, "wait until the installed system is set running, with live progress")
	return cmd
}

func chassisReboot(conn *connection) *cobra.Command {
	var off, wait bool
	cmd := &cobra.Command{
		Use:   "reboot CHASSIS",
		Short: "Have the chassis' agent reboot it or, with --off, turn it off",
		Long: chassisHelp + `
A chassis that is rebooted is waited for, up to 30 minutes. One whose agent does not
answer is rebooted by its BMC: teeth power.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: conn.with(func(cmd *cobra.Command, c *client.Client, a []string) error {
			graph := "Graph.Reboot"
			if off {
				graph = "Graph.Shutdown"
			}
			g, err := c.RunGraph(cmd.Context(), client.RunGraph{Graph: graph, Chassis: a[0]})
			if err != nil {
				return err
			}
			return started(cmd, conn, c, g, wait)
		}),
	}
	cmd.Flags().BoolVar(&off, "off", false, "turn it off")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it has ended, with live progress")
	return cmd
}

// readFirmware takes COMPONENT[/MODEL]=VERSION apart. A model may hold any
// character but "=".
func readFirmware(in *client.Decommission, minimums []string) error {
	for _, m := range minimums {
		what, version, ok := strings.Cut(m, "=")
		component, model, _ := strings.Cut(what, "/")
		if !ok || component == "" || version == "" {
			return fmt.Errorf("--firmware %q: write COMPONENT=VERSION or COMPONENT/MODEL=VERSION, e.g. bios=2.10.0", m)
		}
		in.Firmware = append(in.Firmware, teeth.FirmwareItem{Component: component, Model: model, Minimum: version})
	}
	return nil
}

func readKeys(in *client.Provision, names []string) error {
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				in.SSHKeys = append(in.SSHKeys, line)
			}
		}
	}
	return nil
}

func readFiles(in *client.Provision, pairs []string) error {
	for _, p := range pairs {
		path, name, ok := strings.Cut(p, "=")
		if !ok {
			return fmt.Errorf("--file %q: write PATH=FILE", p)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if in.Files == nil {
			in.Files = map[string][]byte{}
		}
		in.Files[path] = b
	}
	return nil
}

func readUserData(in *client.Provision, name string) error {
	if name == "" {
		return nil
	}
	b, err := os.ReadFile(name)
	in.UserData = string(b)
	return err
}
