package redfish

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stmcginnis/gofish/schemas"

	"github.com/teeth-metal/teeth/controlplane/power"
)

// Events reads the log service that stands for the SEL: the one of that name or
// kind, of the system or else of its manager; without one, the system's first.
func (s *session) Events(ctx context.Context, after string, limit int) (power.EventLog, error) {
	const what = "read event log"
	if limit <= 0 || limit > power.MaxEvents {
		limit = power.MaxEvents
	}
	log := power.EventLog{Events: []power.Event{}}
	sys, err := s.in(ctx)
	if err != nil {
		return log, s.explain(ctx, what, err)
	}
	service, err := eventService(sys)
	if err != nil {
		return log, s.explain(ctx, what, err)
	}
	entries, err := service.Entries()
	if err != nil {
		return log, s.explain(ctx, what, err)
	}
	for _, e := range entries {
		log.Events = append(log.Events, event(e))
	}
	log.Total = len(log.Events)
	// Services return them in an order of their choice.
	slices.SortStableFunc(log.Events, func(a, b power.Event) int {
		if a.Time != nil && b.Time != nil && !a.Time.Equal(*b.Time) {
			return a.Time.Compare(*b.Time)
		}
		x, errX := strconv.ParseInt(a.ID, 10, 64)
		y, errY := strconv.ParseInt(b.ID, 10, 64)
		if errX == nil && errY == nil {
			return int(max(min(x-y, 1), -1))
		}
		return strings.Compare(a.ID, b.ID)
	})
	if n := len(log.Events); n > 0 {
		log.Added = log.Events[n-1].Time
	}
	if i := slices.IndexFunc(log.Events, func(e power.Event) bool { return e.ID == after }); after != "" && i >= 0 {
		log.Events = log.Events[i+1:]
	}
	if n := len(log.Events); n > limit {
		log.Events, log.Truncated = log.Events[n-limit:], true
	}
	return log, nil
}

func eventService(sys *schemas.ComputerSystem) (*schemas.LogService, error) {
	ofSystem, err := sys.LogServices()
	if err != nil {
		return nil, err
	}
	all := ofSystem
	if managers, err := sys.ManagedBy(); err == nil { // old services have no such link
		for _, m := range managers {
			more, err := m.LogServices()
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
		}
	}
	for _, is := range []func(*schemas.LogService) bool{
		func(l *schemas.LogService) bool { return l.LogEntryType == schemas.SELLogEntryTypes },
		func(l *schemas.LogService) bool { return strings.EqualFold(l.ID, "SEL") },
		func(l *schemas.LogService) bool { return slices.Contains(ofSystem, l) },
	} {
		if i := slices.IndexFunc(all, is); i >= 0 {
			return all[i], nil
		}
	}
	return nil, fmt.Errorf("it has no event log: %w", power.ErrUnsupported)
}

func event(e *schemas.LogEntry) power.Event {
	out := power.Event{
		ID: clean(e.ID), Severity: power.Information, SensorType: clean(string(e.SensorType)),
		Message: clean(e.Message), Deasserted: strings.EqualFold(string(e.EntryCode), "Deassert"),
	}
	switch e.Severity {
	case schemas.WarningEventSeverity:
		out.Severity = power.Warning
	case schemas.CriticalEventSeverity:
		out.Severity = power.Critical
	}
	if e.SensorNumber != nil {
		out.Sensor = fmt.Sprintf("%#02x", *e.SensorNumber)
	}
	if out.Message == "" {
		out.Message = clean(e.MessageID)
	}
	for _, text := range []string{e.EventTimestamp, e.Created} {
		if t, err := time.Parse(time.RFC3339, text); err == nil {
			t = t.UTC()
			out.Time = &t
			break
		}
	}
	return out
}

// Sensors reads the sensors of the chassis that the system is in: as resources of
// their own, or where a service has none, from the older Thermal and Power.
func (s *session) Sensors(ctx context.Context) ([]power.Sensor, error) {
	const what = "read sensors"
	sys, err := s.in(ctx)
	if err != nil {
		return nil, s.explain(ctx, what, err)
	}
	boxes, err := sys.Chassis()
	if err != nil {
		return nil, s.explain(ctx, what, err)
	}
	list := []power.Sensor{}
	for _, box := range boxes {
		found, err := box.Sensors()
		if err != nil {
			return nil, s.explain(ctx, what, err)
		}
		for _, f := range found {
			list = append(list, power.Sensor{
				Name: clean(f.Name), Number: clean(f.ID), Type: clean(string(f.ReadingType)), Value: f.Reading,
				Unit: unit(f.ReadingUnits), Status: status(f.Status, f.Reading != nil),
			})
		}
		if len(found) == 0 {
			old, err := older(box)
			if err != nil {
				return nil, s.explain(ctx, what, err)
			}
			list = append(list, old...)
		}
	}
	// The library reads them side by side and returns them as they come.
	slices.SortStableFunc(list, func(a, b power.Sensor) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Number, b.Number))
	})
	return list[:min(len(list), power.MaxSensors)], nil
}

func older(box *schemas.Chassis) ([]power.Sensor, error) {
	var list []power.Sensor
	thermal, err := box.Thermal()
	if err != nil {
		return nil, err
	}
	if thermal != nil {
		for _, t := range thermal.Temperatures {
			list = append(list, power.Sensor{
				Name: clean(t.Name), Number: clean(t.MemberID), Type: "Temperature", Value: t.ReadingCelsius, Unit: "degrees C",
				Status: status(t.Status, t.ReadingCelsius != nil),
			})
		}
		for _, f := range thermal.Fans {
			sensor := power.Sensor{Name: clean(f.Name), Number: clean(f.MemberID), Type: "Fan", Status: status(f.Status, f.Reading != nil)}
			if sensor.Name == "" {
				//lint:ignore SA1019 older services have nothing else
				sensor.Name = clean(f.FanName)
			}
			if f.Reading != nil {
				v := float64(*f.Reading)
				sensor.Value, sensor.Unit = &v, unit(string(f.ReadingUnits))
			}
			list = append(list, sensor)
		}
	}
	supply, err := box.Power()
	if err != nil || supply == nil {
		return list, err
	}
	for _, v := range supply.Voltages {
		sensor := power.Sensor{Name: clean(v.Name), Number: clean(v.MemberID), Type: "Voltage", Status: status(v.Status, v.ReadingVolts != nil)}
		if v.ReadingVolts != nil {
			volts := float64(*v.ReadingVolts)
			sensor.Value, sensor.Unit = &volts, "Volts"
		}
		list = append(list, sensor)
	}
	return list, nil
}

// unit writes the units that both protocols know alike.
func unit(u string) string {
	switch u {
	case "Cel":
		return "degrees C"
	case "{rev}/min", "RPM":
		return "RPM"
	case "V":
		return "Volts"
	case "W":
		return "Watts"
	case "A":
		return "Amps"
	case "%", "Percent":
		return "percent"
	}
	return clean(u)
}

func status(s schemas.Status, hasReading bool) string {
	switch {
	case s.State != "" && s.State != schemas.EnabledState, !hasReading:
		return power.StatusAbsent
	case s.Health == schemas.CriticalHealth:
		return power.StatusCritical
	case s.Health == schemas.WarningHealth:
		return power.StatusWarning
	}
	return power.StatusOK
}

// Info tells what the BMC is and where the serial console of the system is.
func (s *session) Info(ctx context.Context) (power.Info, error) {
	const what = "get information"
	info := power.Info{Protocol: power.Redfish, Address: s.address, Version: clean(s.api.Service.RedfishVersion)}
	sys, err := s.in(ctx)
	if err != nil {
		return info, s.explain(ctx, what, err)
	}
	info.State = stateOf(sys.PowerState)
	info.Manufacturer, info.Model = clean(sys.Manufacturer), clean(sys.Model)
	managers, err := sys.ManagedBy()
	if err != nil {
		return info, s.explain(ctx, what, err)
	}
	if len(managers) > 0 {
		info.Firmware = clean(managers[0].FirmwareVersion)
		//lint:ignore SA1019 older services say it of the manager
		console := managers[0].SerialConsole
		if console.ServiceEnabled && slices.Contains(console.ConnectTypesSupported, schemas.IPMISerialConnectTypesSupported) {
			info.Console = s.console("sol", true, 623)
		}
	}
	host := sys.SerialConsole // newer services say it of the system
	for _, c := range []struct {
		name     string
		protocol schemas.SerialConsoleProtocol
		port     uint
	}{{"ssh", host.SSH, 22}, {"sol", host.IPMI, 623}, {"telnet", host.Telnet, 23}} {
		if !c.protocol.ServiceEnabled {
			continue
		}
		if c.protocol.Port != nil && *c.protocol.Port < 1<<16 {
			c.port = *c.protocol.Port
		}
		info.Console = s.console(c.name, true, c.port)
		break
	}
	return info, nil
}

func (s *session) console(protocol string, enabled bool, port uint) *power.Console {
	u, err := endpoint(s.address)
	if err != nil {
		return nil
	}
	p := strconv.FormatUint(uint64(port), 10)
	c := &power.Console{Enabled: enabled, Protocol: protocol, Address: net.JoinHostPort(u.Hostname(), p)}
	switch protocol {
	case "ssh":
		c.Command = fmt.Sprintf("ssh -p %s %s@%s", p, s.user, u.Hostname())
	case "sol":
		c.Command = fmt.Sprintf("ipmitool -I lanplus -H %s -p %s -U %s -a -L OPERATOR sol activate", u.Hostname(), p, s.user)
	}
	return c
}

// clean makes one line of a text that a device gave.
func clean(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s))
}
