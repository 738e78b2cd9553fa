package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/teeth-metal/teeth/configdrive"
	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/lab"
)

// decommission takes the chassis that the run before put into service back.
func (d *demo) decommission(ctx context.Context) error {
	// What is searched for afterwards must be there now, or not finding it would
	// prove nothing.
	err := d.phase("find the tenant's data from outside", func() error {
		for _, needle := range [][]byte{[]byte(configdrive.Label), []byte(hostname), []byte("Debian GNU/Linux")} {
			found, err := d.search(needle)
			if err != nil {
				return err
			}
			if found == "" {
				return fmt.Errorf("%q is on no disk of a chassis in service", needle)
			}
			d.view.Say("  %q is on %s", needle, found)
		}
		return nil
	})
	if err != nil {
		return err
	}
	all, err := d.control.ListChassis(ctx)
	if err != nil {
		return err
	}
	if len(all) != 1 {
		return fmt.Errorf("the demo has one chassis, and the control plane knows %d", len(all))
	}
	run, err := d.control.Decommission(ctx, all[0].ID, client.Decommission{})
	if err != nil {
		return err
	}
	if _, err := d.boot(ctx, true); err != nil {
		return err
	}
	if err := d.phase("decommission: erase and verify, firmware, quality control", func() error { return d.follow(ctx, run) }); err != nil {
		return err
	}
	err = d.phase("search the disks from outside", func() error {
		if err := d.chassis.PowerCut(); err != nil {
			return err
		}
		return d.searchDisks()
	})
	if err != nil {
		return err
	}
	d.view.Say("\nThe chassis is decommissioned: neither the tenant's data nor the config drive is left.")
	return nil
}

// search returns the file of the disk that holds needle, "" if none does.
func (d *demo) search(needle []byte) (string, error) {
	files, err := filepath.Glob(filepath.Join(d.spec.Dir, "disk*.raw"))
	if err != nil || len(files) == 0 {
		return "", errors.Join(err, fmt.Errorf("no disks in %s", d.spec.Dir))
	}
	for _, f := range files {
		off, err := lab.Search(f, needle)
		if err != nil {
			return "", err
		}
		if off >= 0 {
			return filepath.Base(f), nil
		}
	}
	return "", nil
}
