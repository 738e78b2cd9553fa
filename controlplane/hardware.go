package controlplane

import (
	"context"

	"github.com/teeth-metal/teeth/controlplane/poller"
	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/power/ipmi"
	"github.com/teeth-metal/teeth/controlplane/power/jobs"
	"github.com/teeth-metal/teeth/controlplane/power/redfish"
	"github.com/teeth-metal/teeth/controlplane/sku"
)

// HardwareConfig says what lies outside the ramdisk: BMCs, power, sensors, SNMP.
type HardwareConfig struct{}

// hardware is what serves it.
type hardware struct {
	power   *power.Service
	pollers *poller.Service
	skus    *sku.Service
}

// openHardware wires it, before the engine runs.
func (s *server) openHardware() {
	s.hardware.power = power.New(power.Config{
		Store: s.store, Sealer: s.sealer, Log: s.Log,
		Protocols: map[string]power.Protocol{
			power.IPMI:    {Open: ipmi.Open, Check: ipmi.Check},
			power.Redfish: {Open: redfish.Open, Check: redfish.Check},
		},
	})
	s.hardware.pollers = poller.New(poller.Config{Store: s.store, Sealer: s.sealer, BMCs: s.hardware.power, Log: s.Log})
	s.hardware.skus = sku.New(sku.Config{Store: s.store, Engine: s.engine, Log: s.Log})
	for _, j := range jobs.All(s.hardware.power, s.store) {
		s.engine.Register(j)
	}
}

// startHardware starts what serves it. A part that ends with an error ends the server.
func (s *server) startHardware(ctx context.Context, start func(part func() error)) error {
	start(func() error { return s.hardware.pollers.Run(ctx) })
	start(func() error { return s.hardware.skus.Run(ctx) })
	return nil
}
