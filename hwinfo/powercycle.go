package hwinfo

import (
	"context"
	"fmt"
)

// IPMI 2.0, section 28.3: Chassis Control.
const (
	netFnChassis      = 0x00
	cmdChassisControl = 0x02
	controlPowerCycle = 0x02
)

// PowerCycle has this machine's own BMC turn it off and on again, through the
// kernel's IPMI device, "/dev/ipmi0" if device is "". The power goes at once or
// after a second: the caller has written everything back before.
func PowerCycle(ctx context.Context, device string) error {
	if device == "" {
		device = "/dev/ipmi0"
	}
	d, err := openIPMI(device)
	if err != nil {
		return fmt.Errorf("power cycle: %w", err)
	}
	defer d.close()
	if _, err := d.ask(ctx, netFnChassis, cmdChassisControl, controlPowerCycle); err != nil {
		return fmt.Errorf("power cycle: %w", err)
	}
	return nil
}
