package qc

import (
	"fmt"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/blockdev"
	"github.com/teeth-metal/teeth/hwinfo"
	"github.com/teeth-metal/teeth/hwinfo/firmware"
)

// Difference is one thing about a machine that is not as it should be.
type Difference struct {
	Field string `json:"field"` // where in the spec, e.g. "disks[0]"
	Want  string `json:"want"`
	Got   string `json:"got"`
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: want %s, got %s", d.Field, d.Want, d.Got)
}

// Compare returns every difference between a machine and a spec, in the order of
// the spec's fields; none means that the machine is as it should be.
func Compare(inv *hwinfo.Inventory, spec *Spec) []Difference {
	c := comparison{}
	if s := spec.System; s != nil {
		c.text("system.manufacturer", s.Manufacturer, inv.System.Manufacturer)
		c.text("system.product", s.Product, inv.System.Product)
		c.text("system.sku", s.SKU, inv.System.SKU)
	}
	if spec.CPU != nil {
		c.cpu(spec.CPU, inv.CPUs)
	}
	if spec.Memory != nil {
		c.memory(spec.Memory, inv.Memory)
	}
	c.disks(spec.Disks, inv.Disks, spec.Exact)
	c.nics(spec.NICs, inv.NICs, spec.Exact)
	for _, f := range firmware.Check(inv, spec.Firmware) {
		if f.State == firmware.Current {
			continue
		}
		got := "none that tells its version"
		if f.State == firmware.Old {
			got = strings.Join(strings.Fields(f.Found.Version+" in "+f.Found.Model+" "+f.Found.Path), " ")
		}
		c.add("firmware."+f.Wanted.Component, f.Wanted.String(), got)
	}
	if t := spec.TPM; t != nil {
		c.present("tpm", t.Present, inv.TPM.Present)
		if t.Present && inv.TPM.Present && t.Version != "" && t.Version != inv.TPM.Version {
			c.add("tpm.version", t.Version, orUnknown(inv.TPM.Version))
		}
	}
	if b := spec.BMC; b != nil {
		c.present("bmc", b.Present, inv.BMC.Present)
	}
	return c.list
}

// comparison gathers differences.
type comparison struct{ list []Difference }

func (c *comparison) add(field, want, got string) {
	c.list = append(c.list, Difference{field, want, got})
}

// contains reports whether got has want in it, without regard to case or to how
// much white space there is.
func contains(got, want string) bool {
	squeeze := func(s string) string { return strings.ToLower(strings.Join(strings.Fields(s), " ")) }
	return strings.Contains(squeeze(got), squeeze(want))
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func (c *comparison) text(field, want, got string) {
	if !contains(got, want) {
		c.add(field, want, orUnknown(got))
	}
}

func (c *comparison) atLeast(field string, want, got int) {
	if got < want {
		c.add(field, fmt.Sprintf("at least %d", want), fmt.Sprint(got))
	}
}

func (c *comparison) present(field string, want, got bool) {
	words := map[bool]string{true: "present", false: "absent"}
	if want != got {
		c.add(field, words[want], words[got])
	}
}

func (c *comparison) cpu(want *CPU, cpus []hwinfo.CPU) {
	var all hwinfo.CPU // those of the right model
	var others []string
	for _, cpu := range cpus {
		if !contains(cpu.Model, want.Model) {
			others = append(others, orUnknown(cpu.Model))
			continue
		}
		all.Sockets += cpu.Sockets
		all.Cores += cpu.Cores
		all.Threads += cpu.Threads
		for _, f := range want.Features {
			if !slices.Contains(cpu.Features, f) {
				c.add("cpu.features", f, "not in "+orUnknown(cpu.Model))
			}
		}
	}
	if all.Sockets == 0 {
		c.add("cpu.model", orUnknown(want.Model), orUnknown(strings.Join(others, ", ")))
	}
	c.atLeast("cpu.min_sockets", want.MinSockets, all.Sockets)
	c.atLeast("cpu.min_cores", want.MinCores, all.Cores)
	c.atLeast("cpu.min_threads", want.MinThreads, all.Threads)
}

func (c *comparison) memory(want *Memory, m hwinfo.Memory) {
	if m.TotalBytes < want.MinBytes {
		c.add("memory.min_bytes", "at least "+binaryBytes(want.MinBytes), binaryBytes(m.TotalBytes))
	}
	if want.DIMMs != 0 && want.DIMMs != len(m.DIMMs) {
		c.add("memory.dimms", fmt.Sprint(want.DIMMs), fmt.Sprint(len(m.DIMMs)))
	}
	for _, d := range m.DIMMs {
		if want.DIMMBytes != 0 && want.DIMMBytes != d.SizeBytes {
			c.add("memory.dimm_bytes", binaryBytes(want.DIMMBytes), binaryBytes(d.SizeBytes)+" in "+orUnknown(d.Locator))
		}
		if want.DIMMType != "" && !strings.EqualFold(want.DIMMType, d.Type) {
			c.add("memory.dimm_type", want.DIMMType, orUnknown(d.Type)+" in "+orUnknown(d.Locator))
		}
	}
	if len(m.DIMMs) == 0 && want.DIMMs == 0 && (want.DIMMBytes != 0 || want.DIMMType != "") {
		c.add("memory.dimms", "known modules", "none")
	}
}

func (c *comparison) disks(want []Disk, got []blockdev.Info, exact bool) {
	counts := make([]int, len(want))
	for i, w := range want {
		counts[i] = count(w.Count)
	}
	met, rest := share(counts, len(got), func(w, g int) bool { return want[w].fits(got[g]) })
	describe := func(g int) string { return describeDisk(got[g]) }
	c.unmet("disks", counts, met, rest, func(w int) string { return want[w].String() }, describe)
	if exact && len(want) > 0 {
		for _, g := range rest {
			c.add("disks", "no other disk", describe(g))
		}
	}
}

func (c *comparison) nics(want []NIC, got []hwinfo.NIC, exact bool) {
	counts := make([]int, len(want))
	for i, w := range want {
		counts[i] = count(w.Count)
	}
	met, rest := share(counts, len(got), func(w, g int) bool { return want[w].fits(got[g]) })
	describe := func(g int) string { return describeNIC(got[g]) }
	c.unmet("nics", counts, met, rest, func(w int) string { return want[w].String() }, describe)
	if exact && len(want) > 0 {
		for _, g := range rest {
			c.add("nics", "no other interface", describe(g))
		}
	}
}

// unmet adds a difference for every entry that fewer were found for than it
// demands, with what else there is that might have been meant.
func (c *comparison) unmet(field string, counts, met, rest []int, want, got func(int) string) {
	var others []string
	for _, g := range rest {
		others = append(others, got(g))
	}
	for w, n := range counts {
		if met[w] == n {
			continue
		}
		is := fmt.Sprint(met[w])
		if len(others) > 0 {
			is += "; not as wanted: " + strings.Join(others, ", ")
		}
		c.add(fmt.Sprintf("%s[%d]", field, w), fmt.Sprintf("%d × %s", n, want(w)), is)
	}
}
