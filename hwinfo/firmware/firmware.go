package firmware

import (
	"fmt"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/hwinfo"
)

// Wanted is the oldest version allowed of the firmware of one component, e.g.
// "bios" or "nic". Model narrows it to what has Model in its model, without
// regard to case.
type Wanted struct {
	Component string `json:"component"`
	Model     string `json:"model,omitempty"`
	Minimum   string `json:"minimum"`
}

// Components that an inventory knows the firmware of.
var components = []string{
	hwinfo.ComponentBIOS, hwinfo.ComponentBMC, hwinfo.ComponentNVMe, hwinfo.ComponentDisk, hwinfo.ComponentNIC,
}

const maxText = 256 // bytes of a model or version

// Validate returns an error that says what is wrong with w.
func (w Wanted) Validate() error {
	switch {
	case !slices.Contains(components, w.Component):
		return fmt.Errorf("firmware: unknown component %q, use one of %s", w.Component, strings.Join(components, ", "))
	case strings.TrimSpace(w.Minimum) == "":
		return fmt.Errorf("firmware: %s: no minimum version given", w.Component)
	case len(parse(w.Minimum)) == 0:
		return fmt.Errorf("firmware: %s: minimum version %q has neither a digit nor a letter", w.Component, w.Minimum)
	case len(w.Minimum) > maxText || len(w.Model) > maxText:
		return fmt.Errorf("firmware: %s: model or version is longer than %d bytes", w.Component, maxText)
	}
	return nil
}

func (w Wanted) String() string {
	s := w.Component
	if w.Model != "" {
		s += " " + w.Model
	}
	return s + " of at least " + w.Minimum
}

// State is the outcome of one comparison.
type State string

// The states of a Finding.
const (
	Current State = "current" // as new as wanted, or newer
	Old     State = "old"
	Absent  State = "absent" // nothing in the machine is what was wanted, or it tells no version
)

// Finding is what Check has to say about one wanted version and one piece of
// firmware, which is zero when State is Absent.
type Finding struct {
	Wanted Wanted          `json:"wanted"`
	Found  hwinfo.Firmware `json:"found,omitzero"`
	State  State           `json:"state"`
}

func (f Finding) String() string {
	switch f.State {
	case Absent:
		return fmt.Sprintf("wanted %s: there is none that tells its version", f.Wanted)
	case Old:
		return fmt.Sprintf("wanted %s: %s has %s", f.Wanted, f.where(), f.Found.Version)
	}
	return fmt.Sprintf("%s %s has %s", f.Wanted.Component, f.where(), f.Found.Version)
}

func (f Finding) where() string {
	return strings.Join(strings.Fields(f.Found.Model+" "+f.Found.Path), " ")
}

// Check compares the firmware in inv with what is wanted. Every piece that a
// Wanted is about gives a finding, in the order of the inventory; a Wanted about
// none of them gives one that is Absent.
func Check(inv *hwinfo.Inventory, wanted []Wanted) []Finding {
	var list []Finding
	for _, w := range wanted {
		before := len(list)
		for _, f := range inv.Firmware {
			if f.Component != w.Component || !strings.Contains(strings.ToLower(f.Model), strings.ToLower(w.Model)) {
				continue
			}
			state := Current
			if Compare(f.Version, w.Minimum) < 0 {
				state = Old
			}
			list = append(list, Finding{Wanted: w, Found: f, State: state})
		}
		if len(list) == before {
			list = append(list, Finding{Wanted: w, State: Absent})
		}
	}
	return list
}
