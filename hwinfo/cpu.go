package hwinfo

import (
	"context"
	"log/slog"

	"github.com/jaypipes/ghw"

	"github.com/teeth-metal/teeth/blockdev"
)

// ghwOptions keep ghw from running programs and from logging by itself.
func (c *collector) ghwOptions() []any {
	return []any{ghw.WithChroot(c.root), ghw.WithDisableTools(), ghw.WithLogger(slog.New(slog.DiscardHandler))}
}

func (c *collector) cpus(context.Context) {
	c.inv.CPUs = []CPU{}
	info, err := ghw.CPU(c.ghwOptions()...)
	if err != nil {
		c.warn("processors", err)
		return
	}
	byModel := map[[2]string]int{}
	for _, p := range info.Processors {
		vendor, model := blockdev.Printable(p.Vendor), blockdev.Printable(p.Model)
		i, ok := byModel[[2]string{vendor, model}]
		if !ok {
			i = len(c.inv.CPUs)
			byModel[[2]string{vendor, model}] = i
			c.inv.CPUs = append(c.inv.CPUs, CPU{Vendor: vendor, Model: model, Features: p.Capabilities})
		}
		cpu := &c.inv.CPUs[i]
		cpu.Sockets++
		cpu.Cores += int(p.TotalCores)
		cpu.Threads += int(p.TotalHardwareThreads)
	}
	if len(info.Processors) == 0 {
		c.inv.Warnings = append(c.inv.Warnings, "processors: none found in /sys/devices/system/cpu and /proc/cpuinfo")
	}
}

// memory runs after smbios, which found the modules.
func (c *collector) memory(context.Context) {
	for _, d := range c.inv.Memory.DIMMs {
		c.inv.Memory.TotalBytes += d.SizeBytes
	}
	info, err := ghw.Memory(c.ghwOptions()...)
	if err != nil {
		c.warn("memory", err)
		return
	}
	c.inv.Memory.UsableBytes = info.TotalUsableBytes
	if c.inv.Memory.TotalBytes < info.TotalUsableBytes { // no table of modules, or not all are in it
		c.inv.Memory.TotalBytes = max(info.TotalPhysicalBytes, info.TotalUsableBytes)
	}
}
