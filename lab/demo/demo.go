// Package demo shows the main job, live, on a virtual chassis: first from
// power-on, with a former tenant's data on the disks, to a running Debian that
// has read its config drive and called back; then, run again, back to disks that
// hold nothing.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/teeth-metal/teeth/controlplane"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
	"github.com/teeth-metal/teeth/initramfs"
	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/lab/estate"
	"github.com/teeth-metal/teeth/lab/netns"
	"github.com/teeth-metal/teeth/lab/osimage"
)

// Options of a demo.
type Options struct {
	Out    string    // folder of everything that is made
	Binary string    // the teeth program, for its control plane
	Output io.Writer // what people read
	Log    *slog.Logger

	// Network is what the chassis boots in: "netns", a network of its own with
	// our DHCP, TFTP and HTTP, which needs root; "user", QEMU's; or "", the first
	// if this process may make it.
	Network string
}

// address is that of the control plane in a network of its own, from RFC 5737.
var address = netip.MustParsePrefix("192.0.2.1/24")

const (
	imageName = "debian-12"
	hostname  = "first-light"
)

// demo is one run of it.
type demo struct {
	Options
	view    *live.View
	network *netns.Net // nil: QEMU's user network
	control *estate.ControlPlane
	chassis *lab.Chassis
	spec    lab.Spec
	began   time.Time
	phases  []phase
}

type phase struct {
	name string
	took time.Duration
}

// Run does what comes next: it provisions the chassis, or decommissions it when
// it is in service. An error comes with the end of the serial log.
func Run(ctx context.Context, o Options) error {
	d := &demo{Options: o, view: live.New(o.Output), began: time.Now()}
	d.spec = lab.Spec{
		Name: "demo", Dir: filepath.Join(o.Out, "demo", "chassis"), Memory: 512 << 20,
		Disks: []lab.Disk{{Bus: "nvme", Size: 8 << 30}, {Bus: "virtio", Size: 4 << 30}},
	}
	err := d.run(ctx)
	d.table()
	if err != nil && d.chassis != nil {
		fmt.Fprintf(o.Output, "\nThe serial console ends with:\n%s\n", d.chassis.SerialTail(40))
	}
	if d.chassis != nil {
		err = errors.Join(err, d.chassis.PowerCut())
	}
	if d.control != nil {
		d.control.Stop()
	}
	if d.network != nil {
		err = errors.Join(err, d.network.Close())
	}
	return err
}

func (d *demo) run(ctx context.Context) error {
	err := d.phase("build appliance image", func() error {
		m, err := initramfs.Build(ctx, initramfs.Options{OutDir: d.Out, Log: d.Log})
		if err == nil {
			d.view.Say("  %s: %d bytes, sha256 %s", m.Image.Name, m.Image.Size, m.Image.SHA256)
		}
		return err
	})
	if err != nil {
		return err
	}
	var image *osimage.Image
	err = d.phase("build Debian image", func() (err error) {
		image, err = osimage.Build(ctx, filepath.Join(d.Out, "debian-12.raw.zst"), d.Log)
		return err
	})
	if err != nil {
		return err
	}
	if err := d.phase("start network and control plane", func() error { return d.start(ctx) }); err != nil {
		return err
	}
	d.view.Say("  log in %s; to look at it: teeth --client %s chassis list", d.control.LogFile(),
		controlplane.ClientFile(filepath.Join(d.control.Dir, "data")))
	inService, err := d.inService(ctx)
	if err != nil {
		return err
	}
	if inService {
		return d.decommission(ctx)
	}
	return d.provision(ctx, image)
}

// start starts the control plane where the chassis will be.
func (d *demo) start(ctx context.Context) error {
	why := netns.Available()
	switch {
	case d.Network == "netns" && why != nil:
		return fmt.Errorf("network of its own: %w", why)
	case d.Network != "" && d.Network != "netns" && d.Network != "user":
		return fmt.Errorf("network %q: choose netns or user", d.Network)
	}
	o := estate.Options{Binary: d.Binary, Dir: filepath.Join(d.Out, "demo", "control"), BootDir: d.Out}
	var err error
	if d.Network == "user" || why != nil {
		if d.Network == "" {
			d.view.Say("  in QEMU's user network, whose DHCP is not ours: %v", why)
		}
	} else {
		if d.network, err = netns.Temporary(ctx, address); err != nil {
			return err
		}
		o.Network = d.network
		o.Flags = []string{"--dhcp", netns.Bridge, "--dhcp-range", "192.0.2.100-192.0.2.199", "--tftp", ":69"}
		d.spec.Network = d.network.Name
		d.view.Say("  in network namespace %s: DHCP, TFTP and HTTP are ours", d.network.Name)
	}
	if d.control, err = estate.Start(ctx, o); err != nil {
		return err
	}
	if d.network == nil {
		d.spec.BootURL = d.control.BootURL()
	}
	return nil
}

// inService reports whether the control plane of an earlier run says so.
func (d *demo) inService(ctx context.Context) (bool, error) {
	all, err := d.control.ListChassis(ctx)
	if err != nil {
		return false, err
	}
	for _, ch := range all {
		if ch.State == "in_service" {
			return true, nil
		}
	}
	return false, nil
}

// phase times a part of the demo and says how it went.
func (d *demo) phase(name string, do func() error) error {
	d.view.Settle()
	d.view.Say("%6.1f s  %s", time.Since(d.began).Seconds(), name)
	start := time.Now()
	err := do()
	d.record(name, time.Since(start))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (d *demo) record(name string, took time.Duration) {
	d.phases = append(d.phases, phase{name, took})
}

func (d *demo) table() {
	d.view.Settle()
	w := tabwriter.NewWriter(d.Output, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\nPHASE\tSECONDS\t")
	for _, p := range d.phases {
		fmt.Fprintf(w, "%s\t%.1f\t\n", p.name, p.took.Seconds())
	}
	fmt.Fprintf(w, "all\t%.1f\t\n", time.Since(d.began).Seconds())
	w.Flush()
}

// boot powers the chassis on and waits for its agent, and if ready says so, until
// it has been looked at, which waits for its approval.
func (d *demo) boot(ctx context.Context, ready bool) (client.Chassis, error) {
	var ch client.Chassis
	err := d.phase("boot over the network", func() (err error) {
		if d.chassis, err = lab.Start(ctx, d.spec); err != nil {
			return err
		}
		d.view.Say("  serial console in %s", d.chassis.SerialLog())
		waiting, cancel := context.WithTimeout(ctx, 4*time.Minute)
		defer cancel()
		ch, err = d.control.WaitChassis(waiting, d.chassis.Spec.Serial, func(ch client.Chassis) bool {
			return ch.Connected && (ch.Inspected != nil || !ready)
		})
		return err
	})
	return ch, err
}

// approve lets the chassis work, as an operator does who knows its serial number.
func (d *demo) approve(ctx context.Context, ch client.Chassis) error {
	return d.phase("approve", func() error {
		d.view.Say("  %s: serial %s, MAC %s", ch.State, ch.Serial, ch.MAC)
		if _, err := d.control.Approve(ctx, ch.ID); err != nil {
			return err
		}
		waiting, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		_, err := d.control.WaitChassis(waiting, ch.Serial, func(ch client.Chassis) bool { return ch.Inspected != nil })
		return err
	})
}

// follow shows a run of tasks to its end and records how long each took.
func (d *demo) follow(ctx context.Context, run client.Graph) error {
	ended, err := d.control.Follow(ctx, run.ID, func(tasks []client.Task) {
		var lines []live.Task
		for _, t := range tasks {
			lines = append(lines, t.Live())
		}
		d.view.Show(lines)
	})
	d.view.Settle()
	for _, t := range ended.Tasks {
		if t.Started != nil && t.Finished != nil {
			d.record(t.Live().Title, t.Finished.Sub(*t.Started))
		}
	}
	return err
}

// oldData fills the disks as a former tenant would have left them: everything
// from the first byte to the last may hold a secret.
func (d *demo) oldData() error {
	if err := os.MkdirAll(d.spec.Dir, 0o755); err != nil {
		return err
	}
	for i, disk := range d.spec.Disks {
		if err := formerTenant(filepath.Join(d.spec.Dir, fmt.Sprintf("disk%d.raw", i)), disk.Size); err != nil {
			return fmt.Errorf("former tenant's data: %w", err)
		}
	}
	return nil
}
