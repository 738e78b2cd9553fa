package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/hwinfo/qc"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// ErrInvalid is wrapped by errors about what was asked for.
var ErrInvalid = errors.New("invalid request")

// Kinds of run.
const (
	KindDecommission = "decommission"
	KindProvision    = "provision"
)

// Decommission says how a chassis is emptied and checked.
type Decommission struct {
	// Disks to erase, each by serial number, WWN or kernel name as the inventory
	// has them. Empty: all of the inventory.
	Disks    []string             `json:"disks,omitempty"`
	Method   string               `json:"method,omitempty"` // auto (default), zeroout, overwrite
	Verify   string               `json:"verify,omitempty"` // full (default), sample
	Firmware []teeth.FirmwareItem `json:"firmware,omitempty"`
	Spec     json.RawMessage      `json:"spec,omitempty"` // of package hwinfo/qc
	// Steps are what is done, in this order: "erase", "firmware", "qc". Empty: all
	// three, in that order.
	Steps []string `json:"steps,omitempty"`
}

// disk is what is needed of a disk in an agent's inventory.
type disk struct {
	Name      string `json:"name"`
	Path      string `json:"path"`
	Serial    string `json:"serial"`
	WWN       string `json:"wwn"`
	Size      int64  `json:"size"`
	Model     string `json:"model"`
	Transport string `json:"transport"`
	ReadOnly  bool   `json:"read_only"`
	Removable bool   `json:"removable"`
}

func (d disk) identity() teeth.Disk { return teeth.Disk{Serial: d.Serial, WWN: d.WWN, Size: d.Size} }

func (d disk) is(name string) bool {
	return name != "" && (strings.EqualFold(name, d.Serial) || strings.EqualFold(name, d.WWN) || name == d.Name || name == d.Path)
}

func disks(c store.Chassis) ([]disk, error) {
	var inventory struct {
		Disks []disk `json:"disks"`
	}
	if len(c.Inventory) == 0 {
		return nil, fmt.Errorf("chassis %s has never been inspected, so its disks are not known: boot it into the ramdisk first: %w", c.ID, store.ErrConflict)
	}
	if err := json.Unmarshal(c.Inventory, &inventory); err != nil {
		return nil, fmt.Errorf("inventory of chassis %s: %w", c.ID, err)
	}
	return inventory.Disks, nil
}

// Decommission creates a run of the steps asked for. The disks are written into
// the command by their identity as it was inspected: if the chassis has others by
// then, the agent refuses.
func (e *Engine) Decommission(ctx context.Context, c store.Chassis, o Decommission) (store.Run, error) {
	if o.Method != "" && !slices.Contains([]string{"auto", "zeroout", "overwrite"}, o.Method) {
		return store.Run{}, fmt.Errorf("%w: method %.20q: want auto, zeroout or overwrite", ErrInvalid, o.Method)
	}
	if o.Verify != "" && !slices.Contains([]string{"full", "sample"}, o.Verify) {
		return store.Run{}, fmt.Errorf("%w: verify %.20q: want full or sample", ErrInvalid, o.Verify)
	}
	if len(o.Spec) > 0 {
		if _, err := qc.Parse(o.Spec); err != nil {
			return store.Run{}, fmt.Errorf("%w: spec: %w", ErrInvalid, err)
		}
	}
	if len(o.Steps) == 0 {
		o.Steps = []string{"erase", "firmware", "qc"}
	}
	var chosen []teeth.Disk
	if slices.Contains(o.Steps, "erase") {
		present, err := disks(c)
		if err != nil {
			return store.Run{}, err
		}
		if chosen, err = choose(present, o.Disks); err != nil {
			return store.Run{}, err
		}
	} else if len(o.Disks) > 0 {
		return store.Run{}, fmt.Errorf("%w: disks are named, but erase is not among the steps", ErrInvalid)
	}
	steps := map[string]store.Step{
		"erase": {Method: teeth.MethodDiskErase, Params: func(id string) (any, error) {
			return teeth.DiskEraseParams{TaskID: id, Disks: chosen, Method: o.Method, Verify: o.Verify}, nil
		}},
		"firmware": {Method: teeth.MethodFirmwareSecure, Params: func(id string) (any, error) {
			return teeth.FirmwareSecureParams{TaskID: id, Firmware: o.Firmware}, nil
		}},
		"qc": {Method: teeth.MethodQC, Params: func(id string) (any, error) {
			return teeth.QCParams{TaskID: id, Spec: o.Spec}, nil
		}},
	}
	var plan []store.Step
	for _, name := range o.Steps {
		step, ok := steps[name]
		if !ok {
			return store.Run{}, fmt.Errorf("%w: step %.20q: want erase, firmware and qc, each at most once", ErrInvalid, name)
		}
		delete(steps, name)
		plan = append(plan, step)
	}
	return e.create(ctx, c, KindDecommission, plan)
}

// choose returns the identities of the disks that want names, or of all.
func choose(present []disk, want []string) ([]teeth.Disk, error) {
	if len(present) == 0 {
		return nil, fmt.Errorf("the inventory lists no disks, so there is nothing to erase: inspect the chassis again: %w", store.ErrConflict)
	}
	var chosen []teeth.Disk
	if len(want) == 0 {
		for _, d := range present {
			chosen = append(chosen, d.identity())
		}
		return chosen, nil
	}
	taken := map[string]bool{}
	for _, name := range want {
		var found []disk
		for _, d := range present {
			if d.is(name) {
				found = append(found, d)
			}
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("%w: %d disks are called %.80q; the inventory has %s", ErrInvalid, len(found), name, listing(present))
		}
		if taken[found[0].Path] {
			return nil, fmt.Errorf("%w: disk %.80q is named twice", ErrInvalid, name)
		}
		taken[found[0].Path] = true
		chosen = append(chosen, found[0].identity())
	}
	return chosen, nil
}

func listing(present []disk) string {
	var names []string
	for i, d := range present {
		if i == 64 {
			names = append(names, fmt.Sprintf("and %d more", len(present)-i))
			break
		}
		names = append(names, fmt.Sprintf("%.32q (serial %.64q)", d.Name, d.Serial))
	}
	return strings.Join(names, ", ")
}

// create stores a run and has it started. A step that could never be sent is
// refused now.
func (e *Engine) create(ctx context.Context, c store.Chassis, kind string, steps []store.Step) (store.Run, error) {
	for i, s := range steps {
		params := s.Params
		steps[i].Params = func(id string) (any, error) {
			p, err := params(id)
			if err != nil {
				return nil, err
			}
			m, err := teeth.NewCommand(id, s.Method, p)
			if err == nil {
				_, err = m.Append(nil)
			}
			if errors.Is(err, teeth.ErrLineTooLong) {
				err = fmt.Errorf("%w: the command would be longer than %d KiB, the most an agent takes: send less user data or fewer files", ErrInvalid, teeth.MaxLine>>10)
			}
			return p, err
		}
	}
	run, err := e.c.Store.CreateRun(ctx, c.ID, kind, steps)
	if err == nil {
		e.Wake(c.ID)
	}
	return run, err
}
