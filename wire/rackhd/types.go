package rackhd

import (
	"fmt"
	"net/netip"
	"regexp"
	"time"
)

// Result is the answer to most requests, and what many publishers wrap data in.
type Result struct {
	Value any `json:"value"`
}

// IPAddress is an IPv4 address.
type IPAddress struct {
	Value string `json:"value"`
}

// MACAddress is six pairs of hex digits with colons between them.
type MACAddress struct {
	Value string `json:"value"`
}

// ErrorEvent is the answer to a request that failed. All but Status is required.
type ErrorEvent struct {
	Name    string         `json:"name"` // of the error's class: "NotFoundError"
	Message string         `json:"message"`
	Stack   string         `json:"stack"`
	Context map[string]any `json:"context"`
	Status  int            `json:"status,omitempty"` // as of HTTP
}

// LogEvent is one line of a log.
type LogEvent struct {
	Package   string         `json:"package"` // part of the program
	Host      string         `json:"host"`
	Level     string         `json:"level"` // critical, error, warning, info, debug
	Message   string         `json:"message"`
	Context   map[string]any `json:"context"`
	Timestamp string         `json:"timestamp"`
	Caller    string         `json:"caller"`
	Subject   string         `json:"subject"`
}

// TypeName implements Typed.
func (Result) TypeName() string { return TypeResult }

// TypeName implements Typed.
func (IPAddress) TypeName() string { return TypeIPAddress }

// TypeName implements Typed.
func (MACAddress) TypeName() string { return TypeMACAddress }

// TypeName implements Typed.
func (ErrorEvent) TypeName() string { return TypeError }

// TypeName implements Typed.
func (LogEvent) TypeName() string { return TypeLog }

// NewError returns an ErrorEvent with all that is required.
func NewError(name, message string, status int) ErrorEvent {
	return ErrorEvent{Name: name, Message: message, Stack: name + ": " + message, Context: map[string]any{}, Status: status}
}

// Error makes an ErrorEvent that came as an answer an error.
func (e ErrorEvent) Error() string { return fmt.Sprintf("%.80s: %.400s", e.Name, e.Message) }

var macPattern = regexp.MustCompile(`^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$`)

// Addr returns the address; its error speaks of the JSON schema as RackHD's does.
func (a IPAddress) Addr() (netip.Addr, error) {
	ip, err := netip.ParseAddr(a.Value)
	if err != nil || !ip.Is4() {
		return netip.Addr{}, fmt.Errorf("%w: JSON Schema Violation: value %.80q is not an IPv4 address", ErrInvalid, a.Value)
	}
	return ip, nil
}

// Check reports whether the value is a MAC address.
func (a MACAddress) Check() error {
	if !macPattern.MatchString(a.Value) {
		return fmt.Errorf("%w: JSON Schema Violation: value %.80q is not a MAC address", ErrInvalid, a.Value)
	}
	return nil
}

// Timestamp writes a time as RackHD's services do: ISO 8601 in UTC with
// milliseconds.
func Timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// Severities of an external event.
const (
	Information = "information"
	Warning     = "warning"
	Critical    = "critical"
)

// EventVersion is that of the external event format.
const EventVersion = "1.0"

// ExternalEvent is an event in the format for programs outside RackHD (since
// 2017). It is of type Object.
type ExternalEvent struct {
	Version   string  `json:"version"`
	Type      string  `json:"type"` // heartbeat, node, polleralert, graph
	Action    string  `json:"action"`
	Severity  string  `json:"severity"`
	TypeID    string  `json:"typeId"`
	NodeID    *string `json:"nodeId"`
	CreatedAt string  `json:"createdAt"`
	Data      any     `json:"data"` // an object
}

// NewEvent returns an external event. Without a node, node is "".
func NewEvent(typ, action, severity, typeID, node string, at time.Time, data any) ExternalEvent {
	e := ExternalEvent{
		Version: EventVersion, Type: typ, Action: action, Severity: severity, TypeID: typeID,
		CreatedAt: Timestamp(at), Data: data,
	}
	if node != "" {
		e.NodeID = &node
	}
	return e
}

// Key returns the event's routing key.
func (e ExternalEvent) Key() string {
	key := e.Type + "." + e.Action + "." + e.Severity + "." + e.TypeID
	if e.NodeID != nil {
		key += "." + *e.NodeID
	}
	return key
}
