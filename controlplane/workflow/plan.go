package workflow

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Decommission says how a chassis is emptied and checked.
type Decommission struct {
	// Disks to erase, each by serial number, WWN or kernel name as the inventory
	// has them. Empty: all of the inventory.
	Disks    []string             `json:"disks,omitempty"`
	Method   string               `json:"method,omitempty"` // auto (default), zeroout, overwrite
	Verify   string               `json:"verify,omitempty"` // full (default), sample
	Firmware []teeth.FirmwareItem `json:"firmware,omitempty"`
	Spec     json.RawMessage      `json:"spec,omitempty"`      // of package hwinfo/qc
	SpecName string               `json:"spec_name,omitempty"` // of one that is kept, instead of Spec
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

// Names of graphs that have calls of their own.
const (
	GraphDecommission = "Graph.Decommission"
	GraphProvision    = "Graph.Provision"
)

// Decommission runs Graph.Decommission, or a graph of the steps that are asked
// for, in their order.
func (e *Engine) Decommission(ctx context.Context, c store.Chassis, o Decommission, by string) (store.Graph, error) {
	r := Request{Graph: GraphDecommission, Chassis: c.ID, By: by, Options: map[string]any{}}
	library, err := builtIn.Graph(GraphDecommission)
	if err != nil {
		return store.Graph{}, err
	}
	all := []string{"erase", "firmware", "qc"}
	if len(o.Steps) > 0 && !slices.Equal(o.Steps, all) {
		inline := library
		inline.Tasks = nil
		before := ""
		for i, name := range o.Steps {
			j := slices.IndexFunc(library.Tasks, func(s definition.Step) bool { return s.Label == name })
			if j < 0 || slices.Contains(o.Steps[:i], name) {
				return store.Graph{}, invalid("step %.20q: want erase, firmware and qc, each at most once", name)
			}
			step := library.Tasks[j]
			step.WaitOn = definition.WaitOn{}
			if before != "" {
				step.WaitOn.All = map[string][]string{before: {store.Succeeded}}
			}
			before = name
			inline.Tasks = append(inline.Tasks, step)
		}
		r.Inline = &inline
	} else {
		o.Steps = all
	}
	if slices.Contains(o.Steps, "erase") {
		r.Options["erase"], err = toMap(eraseOptions{Disks: o.Disks, Method: o.Method, Verify: o.Verify})
	} else if len(o.Disks) > 0 {
		return store.Graph{}, invalid("disks are named, but erase is not among the steps")
	}
	if err == nil && slices.Contains(o.Steps, "firmware") && len(o.Firmware) > 0 {
		r.Options["firmware"], err = toMap(map[string]any{"firmware": o.Firmware})
	}
	if err == nil && slices.Contains(o.Steps, "qc") && (len(o.Spec) > 0 || o.SpecName != "") {
		options := map[string]any{}
		if len(o.Spec) > 0 {
			options["spec"] = o.Spec
		}
		if o.SpecName != "" {
			options["spec_name"] = o.SpecName
		}
		r.Options["qc"], err = toMap(options)
	}
	if err != nil {
		return store.Graph{}, err
	}
	return e.RunGraph(ctx, r)
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
			return nil, invalid("%d disks are called %.80q; the inventory has %s", len(found), name, listing(present))
		}
		if taken[found[0].Path] {
			return nil, invalid("disk %.80q is named twice", name)
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
