package controlplane

import (
	"context"
	"errors"
	"fmt"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/rackhd"
	"github.com/teeth-metal/teeth/controlplane/snmp"
)

// reach is what messages on the bus reach outside the ramdisk: what operators have
// defined, and nothing else.
type reach struct{ *hardware }

var _ rackhd.Hardware = reach{}

// maxRows bounds what one message makes a device say.
const maxRows = 1000

func (r reach) IPMI(ctx context.Context, command, chassis string) (any, error) {
	switch command {
	case "power":
		state, err := r.power.State(ctx, chassis)
		return map[string]any{"power": state == power.On, "state": state}, err
	case "sel":
		return r.power.Events(ctx, chassis, "", maxRows)
	case "sdr":
		return r.power.Sensors(ctx, chassis)
	}
	return nil, fmt.Errorf("%w: IPMI command %.40q", errors.ErrUnsupported, command)
}

func (r reach) SNMP(ctx context.Context, q rackhd.SNMPQuery) (any, error) {
	device, err := r.pollers.DeviceOf(ctx, q.Chassis, q.Host)
	if err != nil {
		return nil, err
	}
	if !q.Walk {
		return snmp.Get(ctx, device, q.OIDs)
	}
	var all []snmp.Row
	for _, root := range q.OIDs {
		rows, _, err := snmp.Walk(ctx, device, root, maxRows-len(all))
		if err != nil {
			return nil, err
		}
		if all = append(all, rows...); len(all) >= maxRows {
			break
		}
	}
	return all, nil
}

func (r reach) PollerResult(ctx context.Context, poller string) (any, error) {
	return r.pollers.LastResult(ctx, poller)
}
