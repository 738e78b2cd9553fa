package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/teeth-metal/teeth/hwinfo"
	"github.com/teeth-metal/teeth/wire/teeth"
)

func (a *Agent) status(ctx context.Context, params json.RawMessage) (any, error) {
	var p teeth.StatusParams
	if err := teeth.DecodeParams(teeth.MethodStatus, params, &p); err != nil {
		return nil, err
	}
	uptime, err := uptime()
	if err != nil {
		return nil, err
	}
	s := teeth.Status{Mode: "STANDBY", Uptime: uptime, Version: a.version, BootID: a.bootID, Tasks: a.tasks.Snapshot()}
	for _, ph := range a.machine.Phases {
		phase := teeth.Phase{Name: ph.Name, Seconds: ph.Duration.Seconds()}
		if ph.Err != nil {
			phase.Error = ph.Err.Error()
		}
		s.Phases = append(s.Phases, phase)
	}
	if p.Inventory {
		inv, err := a.inventory(ctx)
		if err != nil {
			return nil, err
		}
		if s.Inventory, err = json.Marshal(inv); err != nil {
			return nil, fmt.Errorf("inventory: %w", err)
		}
	}
	return s, nil
}

func inventory(ctx context.Context) (*hwinfo.Inventory, error) {
	inv, err := hwinfo.Collect(ctx, hwinfo.Options{})
	if err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	return inv, nil
}

// uptime returns the seconds since the kernel started.
func uptime() (float64, error) {
	line, err := readLine("/proc/uptime")
	if err != nil {
		return 0, fmt.Errorf("uptime: %w", err)
	}
	first, _, _ := strings.Cut(line, " ")
	s, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0, fmt.Errorf("uptime: %w", err)
	}
	return s, nil
}

// macs returns the addresses of all physical NICs, for the control plane to
// know a chassis by whichever it booted from.
func macs(sysfs string) []string {
	// A NIC without a device is a bridge, a VLAN or the loopback.
	nics, err := filepath.Glob(filepath.Join(sysfs, "class/net/*/device"))
	if err != nil {
		return nil // the pattern is ours and well-formed
	}
	var all []string
	for _, n := range nics {
		if mac, err := readLine(filepath.Join(filepath.Dir(n), "address")); err == nil && mac != "" {
			all = append(all, mac)
		}
	}
	return all
}

func readLine(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}
