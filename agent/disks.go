package agent

import (
	"errors"
	"fmt"
	"strings"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// minRootDevice is the least size of a disk that is chosen without hints, the
// same as ironic-python-agent's.
const minRootDevice = 4 << 30

var errUnnamed = errors.New("a disk is named by nothing: give its serial, wwn or size")

// identity is how the libraries name the disk that a command names.
func identity(d teeth.Disk) blockdev.Identity {
	return blockdev.Identity{Serial: d.Serial, WWN: d.WWN, Size: d.Size}
}

// named returns the disks that want names, in its order, or all when it names
// none. Every name must mean exactly one disk, and no disk may be named twice.
func named(disks []blockdev.Info, want []teeth.Disk) ([]blockdev.Info, error) {
	if len(want) == 0 {
		if len(disks) == 0 {
			return nil, errors.New("this chassis has no disk")
		}
		return disks, nil
	}
	var found []blockdev.Info
	var problems []error
	taken := map[string]bool{}
	for _, w := range want {
		d, err := one(disks, w)
		switch {
		case err != nil:
			problems = append(problems, err)
		case taken[d.Name]:
			problems = append(problems, fmt.Errorf("disk %s is named twice", d.Path))
		default:
			taken[d.Name] = true
			found = append(found, d)
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return found, nil
}

func one(disks []blockdev.Info, want teeth.Disk) (blockdev.Info, error) {
	id := identity(want)
	if id.IsZero() {
		return blockdev.Info{}, errUnnamed
	}
	var found []blockdev.Info
	for _, d := range disks {
		if d.Match(id) == nil {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return blockdev.Info{}, fmt.Errorf("no disk with %s; present: %s: %w", describe(id), list(disks), blockdev.ErrMismatch)
	}
	return blockdev.Info{}, fmt.Errorf("%d disks with %s (%s): name more of its identity", len(found), describe(id), list(found))
}

func describe(id blockdev.Identity) string {
	var parts []string
	if id.Serial != "" {
		parts = append(parts, fmt.Sprintf("serial %q", id.Serial))
	}
	if id.WWN != "" {
		parts = append(parts, fmt.Sprintf("WWN %q", id.WWN))
	}
	if id.Size != 0 {
		parts = append(parts, fmt.Sprintf("size %d", id.Size))
	}
	return strings.Join(parts, ", ")
}

func list(disks []blockdev.Info) string {
	if len(disks) == 0 {
		return "none"
	}
	var parts []string
	for _, d := range disks {
		parts = append(parts, fmt.Sprintf("%s (serial %q, %d bytes)", d.Path, d.Serial, d.Size))
	}
	return strings.Join(parts, ", ")
}

// rootDevice chooses the disk an image goes to: of those that match every hint
// the smallest, and of equally small ones the first by name. Without hints a
// disk must hold 4 GiB and be neither removable nor on USB.
func rootDevice(disks []blockdev.Info, hint *teeth.RootDevice) (blockdev.Info, error) {
	if hint == nil {
		hint = &teeth.RootDevice{}
	}
	unhinted := *hint == teeth.RootDevice{}
	var best *blockdev.Info
	for i, d := range disks {
		switch {
		case d.ReadOnly,
			unhinted && (d.Size < minRootDevice || d.Removable || d.Transport == blockdev.USB),
			d.Match(identity(hint.Disk)) != nil,
			hint.Model != "" && !strings.Contains(strings.ToLower(d.Model), strings.ToLower(hint.Model)),
			hint.Transport != "" && hint.Transport != string(d.Transport),
			d.Size < hint.MinSize:
			continue
		}
		if best == nil || d.Size < best.Size {
			best = &disks[i]
		}
	}
	if best == nil {
		return blockdev.Info{}, fmt.Errorf("no disk to install to matches the root device hints; present: %s", list(disks))
	}
	return *best, nil
}
