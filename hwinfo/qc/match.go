package qc

import (
	"fmt"
	"strings"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/hwinfo"
)

func (w Disk) fits(d blockdev.Info) bool {
	return d.Size >= w.MinSize &&
		(w.MaxSize == 0 || d.Size <= w.MaxSize) &&
		contains(d.Vendor+" "+d.Model, w.Model) &&
		(w.Transport == "" || w.Transport == d.Transport) &&
		(w.Rotational == nil || *w.Rotational == d.Rotational)
}

func (w Disk) String() string {
	parts := []string{"disk"}
	if w.Transport != "" {
		parts = []string{string(w.Transport) + " disk"}
	}
	if w.Model != "" {
		parts = append(parts, "model "+w.Model)
	}
	if w.Rotational != nil {
		parts = append(parts, map[bool]string{true: "rotating", false: "not rotating"}[*w.Rotational])
	}
	switch {
	case w.MinSize != 0 && w.MinSize == w.MaxSize:
		parts = append(parts, "of "+decimalBytes(w.MinSize))
	default:
		if w.MinSize != 0 {
			parts = append(parts, "at least "+decimalBytes(w.MinSize))
		}
		if w.MaxSize != 0 {
			parts = append(parts, "at most "+decimalBytes(w.MaxSize))
		}
	}
	return strings.Join(parts, ", ")
}

func describeDisk(d blockdev.Info) string {
	kind := string(d.Transport)
	if d.Rotational {
		kind += ", rotating"
	}
	return strings.Join(strings.Fields(fmt.Sprintf("%s %s %s (%s, %s)", d.Name, d.Vendor, d.Model, kind, decimalBytes(d.Size))), " ")
}

func (w NIC) fits(n hwinfo.NIC) bool {
	return n.MaxSpeedMbps >= w.MinSpeedMbps &&
		(w.Driver == "" || strings.EqualFold(w.Driver, n.Driver)) &&
		(n.Carrier || !w.Carrier)
}

func (w NIC) String() string {
	parts := []string{"interface"}
	if w.Driver != "" {
		parts = append(parts, "driver "+w.Driver)
	}
	if w.MinSpeedMbps != 0 {
		parts = append(parts, fmt.Sprintf("at least %d Mbit/s", w.MinSpeedMbps))
	}
	if w.Carrier {
		parts = append(parts, "with a link")
	}
	return strings.Join(parts, ", ")
}

func describeNIC(n hwinfo.NIC) string {
	speed := "speed unknown"
	if n.MaxSpeedMbps != 0 {
		speed = fmt.Sprintf("%d Mbit/s", n.MaxSpeedMbps)
	}
	link := "no link"
	if n.Carrier {
		link = "link"
	}
	return fmt.Sprintf("%s (%s, %s, %s)", n.Name, orUnknown(n.Driver), speed, link)
}

// share gives things to entries that demand counts of them, each thing to one
// entry at most, so that as many demands as possible are met: a maximum matching
// by augmenting paths. It returns how many each entry got, and which things are
// left over.
func share(counts []int, things int, fits func(entry, thing int) bool) (met, rest []int) {
	owner := make([]int, things) // entry + 1
	met = make([]int, len(counts))
	var find func(entry int, seen []bool) bool
	find = func(entry int, seen []bool) bool {
		for t := range things {
			if seen[t] || !fits(entry, t) {
				continue
			}
			seen[t] = true
			// Free, or its owner can have another instead.
			if owner[t] == 0 || find(owner[t]-1, seen) {
				owner[t] = entry + 1
				return true
			}
		}
		return false
	}
	for e, n := range counts {
		for met[e] < n && find(e, make([]bool, things)) {
			met[e]++
		}
	}
	for t, o := range owner {
		if o == 0 {
			rest = append(rest, t)
		}
	}
	return met, rest
}

// decimalBytes writes a size as disks are sold, exactly and for people.
func decimalBytes(n int64) string {
	return bytesIn(n, 1000, []string{"kB", "MB", "GB", "TB", "PB", "EB"})
}

// binaryBytes writes a size as memory is sold.
func binaryBytes(n int64) string {
	return bytesIn(n, 1024, []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"})
}

func bytesIn(n int64, base float64, units []string) string {
	v, unit := float64(n), ""
	for _, u := range units {
		if v < base {
			break
		}
		v, unit = v/base, u
	}
	if unit == "" {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f %s (%d bytes)", v, unit, n)
}
