package controlplane

import "context"

// HardwareConfig says what lies outside the ramdisk: BMCs, power, sensors, SNMP.
type HardwareConfig struct{}

// startHardware starts what serves it. A part that ends with an error ends the server.
func (s *server) startHardware(ctx context.Context, start func(part func() error)) error {
	return nil
}
