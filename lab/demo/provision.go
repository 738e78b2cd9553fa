package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/hwinfo/qc"
	"github.com/teeth-metal/teeth/lab"
	"github.com/teeth-metal/teeth/lab/osimage"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// sshKey is a public key whose private half nobody has.
const sshKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB7Hn2bQ0m1tB9i1q3d8q0oPZs1XKJcYQmB5hF0gN4aD demo@teeth"

// userData has the installed system prove on its console that it read all parts
// of the config drive.
const userData = `#cloud-config
runcmd:
  - [sh, -c, 'echo "PROOF host=$(hostname) keys=$(grep -c demo@teeth /home/debian/.ssh/authorized_keys) command=ran" > /dev/ttyS0']
`

// proof is what that prints.
const proof = "PROOF host=" + hostname + " keys=1 command=ran"

// provision walks the chassis from power-on to in service.
func (d *demo) provision(ctx context.Context, image *osimage.Image) error {
	err := d.phase("write a former tenant's data", d.oldData)
	if err != nil {
		return err
	}
	ch, err := d.boot(ctx, false)
	if err != nil {
		return err
	}
	if err := d.approve(ctx, ch); err != nil {
		return err
	}
	err = d.phase("inspect", func() error {
		if ch, err = d.control.Inspect(ctx, ch.ID); err != nil {
			return err
		}
		d.view.Say("  %s, serial %s, MAC %s", ch.State, ch.Serial, ch.MAC)
		return nil
	})
	if err != nil {
		return err
	}
	if err := d.addImage(ctx, image); err != nil {
		return err
	}
	err = d.phase("decommission: quality control, erase and verify, firmware", func() error {
		spec, err := json.Marshal(d.wanted())
		if err != nil {
			return err
		}
		run, err := d.control.Decommission(ctx, ch.ID, client.Decommission{Spec: spec, Steps: []string{"qc", "erase", "firmware"}})
		if err != nil {
			return err
		}
		return d.follow(ctx, run)
	})
	if err != nil {
		return err
	}
	if err := d.phase("search the disks from outside", d.searchDisks); err != nil {
		return err
	}
	serial, err := serialSize(d.chassis)
	if err != nil {
		return err
	}
	err = d.phase("Graph.Provision: cache, prepare, run", func() error {
		run, err := d.control.RunGraph(ctx, client.RunGraph{Graph: "Graph.Provision", Chassis: ch.ID, Options: map[string]map[string]any{
			"defaults": {
				"image": imageName, "hostname": hostname, "ssh_keys": []string{sshKey}, "user_data": userData,
				"root_device": teeth.RootDevice{Transport: string(blockdev.NVMe)}, "boot": "kexec",
			},
		}})
		if err != nil {
			return err
		}
		return d.follow(ctx, run)
	})
	if err != nil {
		return err
	}
	err = d.phase("kexec to Debian calling back", func() error {
		waiting, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		if _, err := d.chassis.ExpectSerial(waiting, serial, proof); err != nil {
			return err
		}
		d.view.Say("  the installed system says: %s", proof)
		_, err := d.control.WaitChassis(waiting, ch.Serial, func(ch client.Chassis) bool { return ch.State == "in_service" })
		return err
	})
	if err != nil {
		return err
	}
	d.view.Say("\nThe chassis is in service. Run the demo again to decommission it.")
	return nil
}

// wanted is the spec that the demo's chassis must meet.
func (d *demo) wanted() qc.Spec {
	var disks []qc.Disk
	for _, disk := range d.spec.Disks {
		disks = append(disks, qc.Disk{Count: 1, Transport: blockdev.Transport(disk.Bus), MinSize: disk.Size, MaxSize: disk.Size})
	}
	return qc.Spec{
		System: &qc.System{Manufacturer: "Teeth", Product: "Lab Chassis"},
		CPU:    &qc.CPU{MinThreads: 2},
		Memory: &qc.Memory{MinBytes: d.spec.Memory * 9 / 10},
		Disks:  disks,
		NICs:   []qc.NIC{{Count: 1, Driver: "virtio_net"}},
		BMC:    &qc.BMC{Present: true},
		Exact:  true,
	}
}

// addImage uploads the image unless the control plane has it.
func (d *demo) addImage(ctx context.Context, image *osimage.Image) error {
	return d.phase("add image", func() error {
		have, err := d.control.ListImages(ctx)
		if err != nil {
			return err
		}
		for _, img := range have {
			switch {
			case img.Name != imageName:
			case img.SHA256 == image.SHA256:
				return nil
			default:
				if err := d.control.RemoveImage(ctx, img.ID); err != nil {
					return err
				}
			}
		}
		f, err := os.Open(image.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = d.control.UploadImage(ctx, client.NewImage{Name: imageName, Format: "raw.zst", SHA256: image.SHA256}, f, image.Size)
		return err
	})
}

// searchDisks looks for any byte that an erasure left.
func (d *demo) searchDisks() error {
	for i, disk := range d.chassis.Spec.Disks {
		path := d.chassis.Spec.DiskPath(i)
		off, err := lab.NonZero(path)
		if err != nil {
			return err
		}
		if off >= 0 {
			return fmt.Errorf("disk %s still holds data at byte %d", disk.Serial, off)
		}
		d.view.Say("  %s: all %d bytes are zero", disk.Serial, disk.Size)
	}
	return nil
}

func serialSize(c *lab.Chassis) (int64, error) {
	st, err := os.Stat(c.SerialLog())
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}
