// Package jobs lets task graphs use the BMCs of chassis: Job.Power,
// Job.BootDevice and Job.Boot.Ramdisk.
package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
)

// Names of the jobs.
const (
	Power       = "Job.Power"
	BootDevice  = "Job.BootDevice"
	BootRamdisk = "Job.Boot.Ramdisk"
)

// All returns the jobs, for Engine.Register.
func All(s *power.Service, db *store.Store) []workflow.Job {
	return []workflow.Job{
		{Name: Power, Check: check(powerOptions), Run: func(ctx context.Context, w *workflow.Work) (any, error) { return setPower(ctx, s, w) }},
		{Name: BootDevice, Check: check(bootOptions), Run: func(ctx context.Context, w *workflow.Work) (any, error) { return setBoot(ctx, s, w) }},
		{Name: BootRamdisk, Check: check(ramdiskOptions), Run: func(ctx context.Context, w *workflow.Work) (any, error) { return bootRamdisk(ctx, s, db, w) }},
	}
}

// check has a graph with wrong options refused, and not fail when it gets to them.
func check[T any](read func(json.RawMessage) (T, error)) func(json.RawMessage) error {
	return func(options json.RawMessage) error {
		_, err := read(options)
		return err
	}
}

// decode reads a job's options strictly.
func decode(job string, options json.RawMessage, v any) error {
	if len(options) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(options))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("options of %s: %w", job, err)
	}
	return nil
}

// Bounds of the work, for tasks that have no timeout of their own. A system may
// take minutes to shut down, and a large one many more to boot.
const (
	maxPower   = 15 * time.Minute
	maxRamdisk = 45 * time.Minute
)

func progress(w *workflow.Work, step string) {
	if w.Progress != nil {
		w.Progress(0, 0, step)
	}
}

// powerOptions reads {"action": "on|off|shutdown|cycle|reset|status"}; status is no
// action. "soft" is RackHD's name for shutdown.
func powerOptions(options json.RawMessage) (power.Action, error) {
	var in struct {
		Action string `json:"action"`
	}
	if err := decode(Power, options, &in); err != nil {
		return "", err
	}
	switch in.Action {
	case "status":
		return "", nil
	case "soft":
		return power.Shutdown, nil
	}
	return power.ParseAction(in.Action)
}

// setPower carries out an action and waits until the chassis has the power that it
// leads to.
func setPower(ctx context.Context, s *power.Service, w *workflow.Work) (any, error) {
	action, err := powerOptions(w.Options)
	if err != nil {
		return nil, err
	}
	if action != "" {
		ctx, cancel := context.WithTimeout(ctx, maxPower)
		defer cancel()
		progress(w, "power "+string(action))
		if err := s.SetAndWait(ctx, w.Chassis.ID, action); err != nil {
			return nil, err
		}
	}
	state, err := s.State(ctx, w.Chassis.ID)
	if err != nil {
		return nil, err
	}
	return map[string]any{"state": state}, nil
}

func bootOptions(options json.RawMessage) (power.Boot, error) {
	var in power.Boot
	if err := decode(BootDevice, options, &in); err != nil {
		return in, err
	}
	return in, in.Check()
}

// setBoot carries out a power.Boot.
func setBoot(ctx context.Context, s *power.Service, w *workflow.Work) (any, error) {
	in, err := bootOptions(w.Options)
	if err != nil {
		return nil, err
	}
	return in, s.SetBoot(ctx, w.Chassis.ID, in)
}

// look is how often the store is asked whether the chassis has come.
const look = 2 * time.Second

// ramdisk is how a chassis is made to boot the ramdisk.
type ramdisk struct {
	Force  bool         `json:"force"` // though its agent is connected
	Device power.Device `json:"device"`
	UEFI   bool         `json:"uefi"`
}

func ramdiskOptions(options json.RawMessage) (ramdisk, error) {
	in := ramdisk{Device: power.PXE}
	if err := decode(BootRamdisk, options, &in); err != nil {
		return in, err
	}
	if in.Device != power.PXE && in.Device != power.HTTP {
		return in, fmt.Errorf("options of %s: device %.40q: write pxe or http", BootRamdisk, in.Device)
	}
	return in, nil
}

// bootRamdisk makes a chassis boot the ramdisk: over the network at its next boot
// only, which is now. One whose agent is connected is left alone, unless
// {"force": true}. {"device": "http"} is for firmware that boots over HTTP and not
// by PXE; {"uefi": true} asks for a UEFI boot.
func bootRamdisk(ctx context.Context, s *power.Service, db *store.Store, w *workflow.Work) (any, error) {
	in, err := ramdiskOptions(w.Options)
	if err != nil {
		return nil, err
	}
	before, err := db.Chassis(ctx, w.Chassis.ID)
	if err != nil {
		return nil, err
	}
	if before.Connected && !in.Force {
		return map[string]any{"boot_id": before.BootID, "already": true}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, maxRamdisk)
	defer cancel()
	progress(w, "set the next boot to the network")
	if err := s.SetBoot(ctx, w.Chassis.ID, power.Boot{Device: in.Device, UEFI: in.UEFI}); err != nil {
		return nil, err
	}
	progress(w, "turn off and on")
	if err := s.Set(ctx, w.Chassis.ID, power.Cycle); err != nil {
		return nil, err
	}
	progress(w, "wait for the agent")
	for {
		now, err := db.Chassis(ctx, w.Chassis.ID)
		if err == nil && now.Connected && now.BootID != before.BootID {
			return map[string]any{"boot_id": now.BootID}, nil
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return nil, fmt.Errorf("chassis %s was made to boot from the network and its agent has not come: %w", w.Chassis.ID, context.Cause(ctx))
		}
	}
}
