package controlplane

import (
	"context"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/power/ipmi"
	"github.com/teeth-metal/teeth/controlplane/power/jobs"
	"github.com/teeth-metal/teeth/controlplane/power/redfish"
)

// HardwareConfig says what lies outside the ramdisk: BMCs, power, sensors, SNMP.
type HardwareConfig struct{}

// hardware is what serves it.
type hardware struct {
	power *power.Service
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
	for _, j := range jobs.All(s.hardware.power, s.store) {
		s.engine.Register(j)
	}
}

// startHardware starts what serves it. A part that ends with an error ends the server.
func (s *server) startHardware(ctx context.Context, start func(part func() error)) error {
	return nil
}
