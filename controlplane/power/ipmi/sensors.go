package ipmi

import (
	"context"
	"fmt"
	"math"
	"net"
	"strconv"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/sensor"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/teeth-metal/teeth/controlplane/power"
)

// Sensors reads the sensor data records (section 33.12) and each sensor's value
// (35.14). A sensor that the BMC cannot read now is absent, and no error.
func (s *session) Sensors(ctx context.Context) ([]power.Sensor, error) {
	list := []power.Sensor{}
	err := s.do(ctx, "read sensors", func() error {
		seen := map[uint16]bool{}
		for id := uint16(firstRecord); id != lastRecord && !seen[id] && len(seen) < 4*power.MaxSensors; {
			seen[id] = true
			sdr, err := s.c.GetSDRParsed(ctx, id)
			if err != nil {
				if _, refused := completion(err); refused && len(seen) == 1 {
					return nil // it has no record at all
				}
				return err
			}
			if known, ok := describe(sdr); ok {
				read, err := s.readSensor(ctx, known)
				if err != nil {
					return err
				}
				if list = append(list, read); len(list) == power.MaxSensors {
					return nil
				}
			}
			id = sdr.NextRecordID
		}
		return nil
	})
	return list, err
}

// describe takes from a record what is needed to read its sensor.
func describe(sdr *types.SDR) (types.Sensor, bool) {
	d := types.Sensor{HasAnalogReading: sdr.HasAnalogReading()}
	switch {
	case sdr.Full != nil:
		d.GeneratorID, d.Number, d.Name = sdr.Full.GeneratorID, uint8(sdr.Full.SensorNumber), string(sdr.Full.IDStringBytes)
		d.SensorUnit, d.SensorType, d.EventReadingType = sdr.Full.SensorUnit, sdr.Full.SensorType, sdr.Full.SensorEventReadingType
		d.Threshold.LinearizationFunc, d.Threshold.ReadingFactors = sdr.Full.LinearizationFunc, sdr.Full.ReadingFactors
	case sdr.Compact != nil:
		d.GeneratorID, d.Number, d.Name = sdr.Compact.GeneratorID, uint8(sdr.Compact.SensorNumber), string(sdr.Compact.IDStringBytes)
		d.SensorUnit, d.SensorType, d.EventReadingType = sdr.Compact.SensorUnit, sdr.Compact.SensorType, sdr.Compact.SensorEventReadingType
	default:
		return d, false
	}
	return d, true
}

func (s *session) readSensor(ctx context.Context, d types.Sensor) (power.Sensor, error) {
	out := power.Sensor{
		Name: clean(d.Name), Number: fmt.Sprintf("%#02x", d.Number), Type: d.SensorType.String(), Status: power.StatusAbsent,
	}
	owner := (&client.CommandContext{}).WithResponderAddr(uint8(d.GeneratorID.OwnerID())).WithResponderLUN(uint8(d.GeneratorID.LUN()))
	got, err := s.c.GetSensorReading(client.WithCommandContext(ctx, owner), d.Number)
	if err != nil {
		if _, refused := completion(err); refused {
			return out, nil
		}
		return out, err
	}
	if got.ReadingUnavailable || got.SensorScanningDisabled {
		return out, nil
	}
	out.Status = power.StatusOK
	if !d.IsThreshold() {
		for _, offset := range got.ActiveStates.TrueEvents() {
			name := d.EventString(offset)
			if name == "" {
				name = fmt.Sprintf("state %d", offset)
			}
			out.States = append(out.States, name)
		}
	}
	if d.HasAnalogReading {
		// A formula of hostile factors may give what JSON cannot carry.
		if v := d.ConvertReading(got.Reading); !math.IsNaN(v) && !math.IsInf(v, 0) {
			out.Value = &v
			out.Unit = d.SensorUnit.String()
		}
	}
	if d.IsThreshold() {
		out.Status = thresholdStatus(got)
	}
	return out, nil
}

func thresholdStatus(r *sensor.GetSensorReadingResponse) string {
	switch {
	case r.Above_UNR, r.Above_UCR, r.Below_LNR, r.Below_LCR:
		return power.StatusCritical
	case r.Above_UNC, r.Below_LNC:
		return power.StatusWarning
	}
	return power.StatusOK
}

// Info tells what the BMC is and where its serial over LAN is.
func (s *session) Info(ctx context.Context) (power.Info, error) {
	info := power.Info{Protocol: power.IPMI, Address: s.address}
	err := s.do(ctx, "get device id", func() error {
		id, err := s.c.GetDeviceID(ctx)
		if err != nil {
			return err
		}
		info.Version = fmt.Sprintf("%d.%d", id.MajorIPMIVersion, id.MinorIPMIVersion)
		info.Firmware = fmt.Sprintf("%d.%02x", id.MajorFirmwareRevision, id.MinorFirmwareRevision)
		info.Manufacturer = fmt.Sprintf("IANA %d", id.ManufacturerID)
		info.Model = fmt.Sprintf("product %d", id.ProductID)
		return nil
	})
	if err != nil {
		return info, err
	}
	if info.State, err = s.State(ctx); err != nil {
		return info, err
	}
	info.Console, err = s.console(ctx)
	return info, err
}

// console asks for the parameters of serial over LAN (section 26.3) of the
// channel this session uses. A BMC without it is no error.
func (s *session) console(ctx context.Context) (*power.Console, error) {
	var con *power.Console
	err := s.do(ctx, "get serial-over-LAN parameters", func() error {
		enable := &types.SOLConfigParam_SOLEnable{}
		err := s.c.GetSOLConfigParamFor(ctx, types.ChannelNumberSelf, enable)
		if err != nil {
			if _, refused := completion(err); refused {
				return nil
			}
			return err
		}
		host, port, err := hostPort(s.address)
		if err != nil {
			return err
		}
		payload := &types.SOLConfigParam_PayloadPort{}
		if err := s.c.GetSOLConfigParamFor(ctx, types.ChannelNumberSelf, payload); err == nil && payload.Port != 0 {
			port = int(payload.Port)
		} else if _, refused := completion(err); err != nil && !refused {
			return err
		}
		con = &power.Console{
			Enabled: enable.EnableSOLPayload, Protocol: "sol", Address: net.JoinHostPort(host, strconv.Itoa(port)),
			Command: fmt.Sprintf("ipmitool -I lanplus -H %s -p %d -U %s -a -L OPERATOR sol activate", host, port, s.user),
		}
		return nil
	})
	return con, err
}
