package backbone

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// State is how far a slave is with its apps.
type State string

// States of a status.
const (
	StateOK         State = "ok"         // the apps are as desired
	StateConverging State = "converging" // it is working on it
	StateErrors     State = "errors"     // Document: the last attempt failed
	StateRetrying   State = "retrying"   // later: the last attempt failed, there will be another
	StateFailed     State = "failed"     // later: all attempts failed; another set_config begins anew
)

// Working reports whether the slave goes on by itself towards what is desired.
func (s State) Working() bool { return s == StateConverging || s == StateRetrying || s == StateErrors }

// In returns the word that a dialect has for a state.
func (s State) In(d Dialect) State {
	switch {
	case d == Document && (s == StateRetrying || s == StateFailed):
		return StateErrors
	case d != Document && s == StateErrors:
		return StateRetrying
	}
	return s
}

// Status is the data of a status message: what a slave says of itself.
type Status struct {
	HostID    string
	State     State     // "status" on the wire
	HostAgent HostAgent // since April 2014; the later master drops a status without it
	Info      *Info
	Apps      map[string]App // as they are now
	// DesiredApps is the whole desired set as it was received, in a status that is
	// not ok; nil: absent.
	DesiredApps    map[string]App
	Timestamp      string // by the slave's clock; see ParseTime
	Extensions     map[string]Extension
	HypervisorInfo json.RawMessage // {"hypervisor_type": "kvm"}
	CertInfo       json.RawMessage
	// Extra are all other fields.
	Extra map[string]json.RawMessage
}

// HostAgent is the slave's own software.
type HostAgent struct {
	Status  string `json:"status"` // running or updating
	Version string `json:"version"`
}

// Info is what host a slave runs on.
type Info struct {
	Hostname string          `json:"hostname,omitempty"`
	OSFamily string          `json:"os_family,omitempty"` // "Linux"
	Arch     string          `json:"arch,omitempty"`      // "x86_64"
	OSInfo   string          `json:"os_info,omitempty"`   // "Debian GNU/Linux 12 bookworm"
	CPUInfo  json.RawMessage `json:"cpu_info,omitempty"`
}

// Extension is what one of a slave's probes found.
type Extension struct {
	Status string          `json:"status"` // ok, error or timed-out
	Data   json.RawMessage `json:"data,omitempty"`
}

// ParseStatus reads the data of a status message. The error says which of the fields
// that the original master wants is missing or wrong.
func ParseStatus(data json.RawMessage) (Status, error) {
	var s Status
	if err := s.UnmarshalJSON(data); err != nil {
		return Status{}, err
	}
	if err := CheckHostID(s.HostID); err != nil {
		return Status{}, fmt.Errorf("status: %w", err)
	}
	if s.State == "" {
		return Status{}, invalidf("status of host %s: it says no status", s.HostID)
	}
	return s, nil
}

// UnmarshalJSON reads a status. What must be there is checked by [ParseStatus].
func (s *Status) UnmarshalJSON(b []byte) error {
	fields, err := object(b)
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	*s = Status{}
	err = errors.Join(
		fields.take("host_id", &s.HostID, "a text"),
		fields.take("status", &s.State, "a text"),
		fields.take("host_agent", &s.HostAgent, "an object with status and version"),
		fields.take("info", &s.Info, "an object with hostname, os_info, arch and os_family"),
		fields.take("timestamp", &s.Timestamp, "a text"),
		fields.take("extensions", &s.Extensions, "an object of extensions by name"),
	)
	if err != nil {
		return invalidf("status of host %q: %w", printable(s.HostID), first(err))
	}
	for name, to := range map[string]*map[string]App{"apps": &s.Apps, "desired_apps": &s.DesiredApps} {
		raw := fields.raw(name)
		if raw == nil {
			continue
		}
		if *to, err = statusApps(raw); err != nil {
			return invalidf("status of host %q: %s: %w", printable(s.HostID), name, err)
		}
	}
	s.HypervisorInfo, s.CertInfo = fields.raw("hypervisor_info"), fields.raw("cert_info")
	s.Extra = fields.rest()
	return nil
}

// statusApps reads apps as a host has them, which need not be what [CheckApps] takes.
func statusApps(raw json.RawMessage) (map[string]App, error) {
	fields, err := object(raw)
	if err != nil {
		return nil, fmt.Errorf("want an object of apps by name, not %s", excerpt(raw))
	}
	if len(fields) > MaxApps {
		return nil, fmt.Errorf("%d apps, the most is %d", len(fields), MaxApps)
	}
	apps := make(map[string]App, len(fields))
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		var a App
		if err := a.UnmarshalJSON(fields[name]); err != nil {
			return nil, fmt.Errorf("app %s: %w", printable(name), err)
		}
		apps[name] = a
	}
	return apps, nil
}

// MarshalJSON writes a status. Apps is always there, what else is not set is not.
func (s Status) MarshalJSON() ([]byte, error) {
	fields := record{}
	fields.put("host_id", s.HostID)
	fields.put("status", s.State)
	if s.HostAgent != (HostAgent{}) {
		fields.put("host_agent", s.HostAgent)
	}
	if s.Info != nil {
		fields.put("info", s.Info)
	}
	apps := s.Apps
	if apps == nil {
		apps = map[string]App{}
	}
	fields.put("apps", apps)
	if s.DesiredApps != nil {
		fields.put("desired_apps", s.DesiredApps)
	}
	if s.Timestamp != "" {
		fields.put("timestamp", s.Timestamp)
	}
	if s.Extensions != nil {
		fields.put("extensions", s.Extensions)
	}
	if s.HypervisorInfo != nil {
		fields.put("hypervisor_info", s.HypervisorInfo)
	}
	if s.CertInfo != nil {
		fields.put("cert_info", s.CertInfo)
	}
	return fields.marshal(s.Extra)
}

const timeFormat = "2006-01-02 15:04:05.000000"

// FormatTime writes a timestamp as the original does: UTC, microseconds always there.
func FormatTime(t time.Time) string { return t.UTC().Format(timeFormat) }

// ParseTime reads a timestamp. Python leaves out microseconds that are zero, and
// other slaves may write RFC 3339.
func ParseTime(s string) (time.Time, error) {
	if len(s) > 64 {
		return time.Time{}, invalidf("timestamp %q: want one like 2015-06-09 07:05:03.000000", printable(s))
	}
	for _, format := range []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", time.RFC3339} {
		if t, err := time.Parse(format, strings.TrimSpace(s)); err == nil { // fractions are read, too
			return t.UTC(), nil
		}
	}
	return time.Time{}, invalidf("timestamp %q: want one like 2015-06-09 07:05:03.000000", printable(s))
}
