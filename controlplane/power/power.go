// Package power speaks to what works while a chassis is off: its baseboard
// management controller (BMC), over IPMI v2.0 or Redfish. It turns the chassis
// on and off, chooses what it boots from, and reads its event log and sensors.
//
// A Controller is one session with one BMC; packages ipmi and redfish make them.
// Service finds the BMC of a chassis, unseals its password, and gives it one
// session at a time, as BMCs are slow and have few of them.
package power

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Errors that Controllers and Service wrap.
var (
	ErrUnreachable = errors.New("BMC does not answer")
	ErrDenied      = errors.New("BMC refuses user or password")
	ErrUnsupported = errors.New("not supported by the BMC")
	ErrInvalid     = errors.New("invalid")
)

// Protocols by which a BMC is spoken to.
const (
	IPMI    = "ipmi"    // IPMI v2.0, RMCP+ ("lanplus")
	Redfish = "redfish" // DSP0266, HTTPS
)

// State is whether the chassis has power.
type State string

// States of power.
const (
	On      State = "on"
	Off     State = "off"
	Unknown State = "unknown" // on its way, or not told
)

// Action is what can be done with the power.
type Action string

// Actions.
const (
	TurnOn   Action = "on"
	TurnOff  Action = "off"      // at once, as with the button held
	Shutdown Action = "shutdown" // asks the operating system to
	Cycle    Action = "cycle"    // off for a moment, then on; a chassis that is off is turned on
	Reset    Action = "reset"    // hardware reset, power stays
)

// Actions in the order in which a person would list them.
var Actions = []Action{TurnOn, TurnOff, Shutdown, Cycle, Reset}

// ParseAction returns the action of that name.
func ParseAction(s string) (Action, error) {
	if slices.Contains(Actions, Action(s)) {
		return Action(s), nil
	}
	return "", fmt.Errorf("power action %.40q: write one of %v: %w", s, Actions, ErrInvalid)
}

// goal is the state that the action leads to.
func (a Action) goal() State {
	if a == TurnOff || a == Shutdown {
		return Off
	}
	return On
}

// Device is what a chassis boots from.
type Device string

// Devices.
const (
	Default Device = "none" // forget an override
	PXE     Device = "pxe"
	HTTP    Device = "http" // UEFI HTTP boot; Redfish only
	Disk    Device = "disk"
	CDROM   Device = "cdrom"
	BIOS    Device = "bios" // firmware setup
)

// Devices are all of them.
var Devices = []Device{Default, PXE, HTTP, Disk, CDROM, BIOS}

// Boot is an override of the boot order.
type Boot struct {
	Device     Device `json:"device"`
	Persistent bool   `json:"persistent,omitempty"` // false: for the next boot only
	UEFI       bool   `json:"uefi,omitempty"`       // boot in UEFI mode, as HTTP always does; false: as the BMC has it by default
}

// Check says whether b can be asked for.
func (b Boot) Check() error {
	if !slices.Contains(Devices, b.Device) {
		return fmt.Errorf("boot device %.40q: write one of %v: %w", b.Device, Devices, ErrInvalid)
	}
	return nil
}

// Severities of events and sensors.
const (
	Information = "information"
	Warning     = "warning"
	Critical    = "critical"
)

// Event is an entry of the system event log (SEL).
type Event struct {
	ID         string     `json:"id"`
	Time       *time.Time `json:"time,omitempty"` // absent where the BMC did not know it
	Severity   string     `json:"severity"`       // information, warning or critical
	SensorType string     `json:"sensor_type,omitempty"`
	Sensor     string     `json:"sensor,omitempty"` // its number or name
	Message    string     `json:"message"`
	Deasserted bool       `json:"deasserted,omitempty"` // the event says that the condition is over
	Raw        string     `json:"raw,omitempty"`        // IPMI: the record, 16 bytes, hexadecimal
}

// EventLog is what the system event log holds, oldest first.
type EventLog struct {
	Total     int        `json:"total"`                // entries in the BMC
	Free      int        `json:"free_bytes,omitempty"` // IPMI
	Overflow  bool       `json:"overflow,omitempty"`   // entries were lost for want of room
	Added     *time.Time `json:"added,omitempty"`      // the newest entry
	Erased    *time.Time `json:"erased,omitempty"`     // it was last cleared
	Truncated bool       `json:"truncated,omitempty"`  // the BMC has more than was read
	Events    []Event    `json:"events"`
}

// Statuses of a sensor.
const (
	StatusOK       = "ok"
	StatusWarning  = "warning"  // non-critical threshold
	StatusCritical = "critical" // critical or non-recoverable threshold
	StatusAbsent   = "absent"   // no reading
)

// Sensor is one sensor's reading. A discrete sensor has States and no Value.
type Sensor struct {
	Name   string   `json:"name"`
	Number string   `json:"number,omitempty"`
	Type   string   `json:"type,omitempty"` // e.g. "Temperature"
	Value  *float64 `json:"value,omitempty"`
	Unit   string   `json:"unit,omitempty"` // e.g. "degrees C", "RPM"
	Status string   `json:"status"`
	States []string `json:"states,omitempty"` // that are asserted
}

// Info is what a BMC says of itself.
type Info struct {
	Protocol     string   `json:"protocol"`
	Address      string   `json:"address"`
	Version      string   `json:"version,omitempty"` // IPMI's or Redfish's
	Firmware     string   `json:"firmware,omitempty"`
	Manufacturer string   `json:"manufacturer,omitempty"`
	Model        string   `json:"model,omitempty"`
	State        State    `json:"state"`
	Console      *Console `json:"console,omitempty"` // nil: not known
}

// Console is where the serial console of a chassis can be had.
type Console struct {
	Enabled  bool   `json:"enabled"`
	Protocol string `json:"protocol,omitempty"` // "sol" (IPMI serial over LAN), "ssh", "telnet"
	Address  string `json:"address,omitempty"`  // host:port
	Command  string `json:"command,omitempty"`  // for a person to type; the password is not in it
}

// Target is a BMC and how to be admitted to it.
type Target struct {
	Protocol string
	// Address is host or host:port (ports 623 and 443 unless given); IPv6 with a
	// port in brackets.
	Address            string
	Username, Password string
	// CertSHA256 is the SHA-256 of the TLS certificate that the BMC shows, hexadecimal;
	// Redfish only. Without it the certificate must be signed by an authority this
	// system trusts, unless Insecure.
	CertSHA256 string
	Insecure   bool
	System     string // Redfish: Id of the system, for a BMC that has several
}

// Controller is a session with a BMC. It is not safe for concurrent use. Its
// errors name the BMC's address and never the password.
type Controller interface {
	State(context.Context) (State, error)
	// Set starts the action; the BMC carries it out in its own time.
	Set(context.Context, Action) error
	SetBoot(context.Context, Boot) error
	// Events returns up to limit entries after the one with that id, which are all
	// where it is "" or no longer there. The newest are kept.
	Events(ctx context.Context, after string, limit int) (EventLog, error)
	// Sensors returns the readings of at most MaxSensors sensors.
	Sensors(context.Context) ([]Sensor, error)
	Info(context.Context) (Info, error)
	// Close ends the session, for which the BMC has a place again.
	Close(context.Context) error
}

// Open starts a session.
type Open func(context.Context, Target) (Controller, error)

// Bounds of what is taken from a BMC.
const (
	MaxSensors = 1024
	MaxEvents  = 8192
)
