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
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/client/live"
	"github.com/teeth-metal/teeth/initramfs"
	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/lab/estate"
	"github.com/teeth-metal/teeth/lab/osimage"
)

// Options of a demo.
type Options struct {
	Out    string    // folder of everything that is made
	Binary string    // the teeth program, for its control plane
	Output io.Writer // what people read
	Log    *slog.Logger
}

const (
	imageName = "debian-12"
	hostname  = "first-light"
)

// demo is one run of it.
type demo struct {
	Options
	view    *live.View
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
	err = d.phase("start control plane", func() (err error) {
		d.control, err = estate.Start(ctx, estate.Options{
			Binary: d.Binary, Dir: filepath.Join(d.Out, "demo", "control"), BootDir: d.Out, Flags: []string{"--auto-approve", "all"},
		})
		return err
	})
	if err != nil {
		return err
	}
	d.view.Say("  log in %s", d.control.LogFile())
	d.spec.BootURL = d.control.BootURL()
	inService, err := d.inService(ctx)
	if err != nil {
		return err
	}
	if inService {
		return d.decommission(ctx)
	}
	return d.provision(ctx, image)
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

// boot powers the chassis on and waits for its agent.
func (d *demo) boot(ctx context.Context) (client.Chassis, error) {
	var ch client.Chassis
	err := d.phase("boot over the network", func() (err error) {
		if d.chassis, err = lab.Start(ctx, d.spec); err != nil {
			return err
		}
		d.view.Say("  serial console in %s", d.chassis.SerialLog())
		waiting, cancel := context.WithTimeout(ctx, 4*time.Minute)
		defer cancel()
		ch, err = d.control.WaitChassis(waiting, d.chassis.Spec.Serial, func(ch client.Chassis) bool {
			return ch.Connected && ch.Inspected != nil
		})
		return err
	})
	return ch, err
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
