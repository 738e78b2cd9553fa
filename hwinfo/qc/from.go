package qc

import (
	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/hwinfo"
)

// FromInventory returns the spec of machines like the one inv is of, which
// itself has no differences from it. It is exact in disks and network
// interfaces, and leaves firmware versions and links out, as those change.
func FromInventory(inv *hwinfo.Inventory) *Spec {
	s := &Spec{
		System: &System{Manufacturer: inv.System.Manufacturer, Product: inv.System.Product, SKU: inv.System.SKU},
		Memory: &Memory{MinBytes: inv.Memory.TotalBytes, DIMMs: len(inv.Memory.DIMMs)},
		TPM:    &TPM{Present: inv.TPM.Present, Version: inv.TPM.Version},
		BMC:    &BMC{Present: inv.BMC.Present},
		Exact:  true,
	}
	if *s.System == (System{}) {
		s.System = nil
	}
	if len(inv.CPUs) > 0 {
		s.CPU = &CPU{}
		for _, c := range inv.CPUs {
			s.CPU.MinSockets += c.Sockets
			s.CPU.MinCores += c.Cores
			s.CPU.MinThreads += c.Threads
		}
		if len(inv.CPUs) == 1 {
			s.CPU.Model = inv.CPUs[0].Model
		}
	}
	for i, d := range inv.Memory.DIMMs {
		if i == 0 {
			s.Memory.DIMMBytes, s.Memory.DIMMType = d.SizeBytes, d.Type
		}
		if d.SizeBytes != s.Memory.DIMMBytes {
			s.Memory.DIMMBytes = 0
		}
		if d.Type != s.Memory.DIMMType {
			s.Memory.DIMMType = ""
		}
	}
	s.Disks = group(inv.Disks, func(d blockdev.Info) Disk {
		return Disk{MinSize: d.Size, MaxSize: d.Size, Model: d.Model, Transport: d.Transport, Rotational: &d.Rotational}
	}, func(a, b Disk) bool {
		return a.MinSize == b.MinSize && a.Model == b.Model && a.Transport == b.Transport && *a.Rotational == *b.Rotational
	}, func(d *Disk) { d.Count++ })
	s.NICs = group(inv.NICs, func(n hwinfo.NIC) NIC {
		return NIC{MinSpeedMbps: n.MaxSpeedMbps, Driver: n.Driver}
	}, func(a, b NIC) bool {
		return a.MinSpeedMbps == b.MinSpeedMbps && a.Driver == b.Driver
	}, func(n *NIC) { n.Count++ })
	return s
}

// group makes one entry of things that give equal ones, counted by more, in the
// order of the first of each.
func group[T, E any](things []T, entry func(T) E, equal func(a, b E) bool, more func(*E)) []E {
	var list []E
next:
	for _, t := range things {
		e := entry(t)
		for i := range list {
			if equal(list[i], e) {
				more(&list[i])
				continue next
			}
		}
		more(&e)
		list = append(list, e)
	}
	return list
}
