package backbone

import (
	"encoding/json"
	"slices"

	"github.com/teeth-metal/teeth/internal/jsondepth"
)

// Bounds of a message.
const (
	MaxBody  = 1 << 20 // bytes
	MaxDepth = 64      // of nesting
)

// Opcodes to a slave.
const (
	Ping           = "ping"            // send a status now
	SetConfig      = "set_config"      // data: all desired apps by name; those not named are removed
	SetAgent       = "set_agent"       // data: AgentPackage
	GetSupport     = "get_support"     // upload, label beside the opcode
	SupportCommand = "support_command" // command beside the opcode
	UpdateCert     = "update_cert"
	Exit           = "exit"      // of the original's tests
	Heartbeat      = "heartbeat" // the original's own timer, accepted from the wire too
)

// Opcodes to the master.
const (
	StatusReport           = "status"  // data: Status
	Support                = "support" // status, error_message beside the opcode
	SupportCommandResponse = "support_command_response"
)

// Envelope is a message.
type Envelope struct {
	Opcode string
	Data   json.RawMessage // nil if there is none
	// Revision numbers a set_config of ours: of two the higher one is the newer. 0
	// if the sender has none, as the original.
	Revision int64
	// Extra are all other fields of the object.
	Extra map[string]json.RawMessage
}

// Parse reads a message. What it returns shares no memory with body.
func Parse(body []byte) (Envelope, error) {
	fields, err := object(body)
	if err != nil {
		return Envelope{}, err
	}
	var e Envelope
	if err := fields.take("opcode", &e.Opcode, "a text"); err != nil {
		return Envelope{}, invalidf("%w", err)
	}
	if e.Opcode == "" {
		return Envelope{}, invalidf("it has no opcode")
	}
	e.Data = fields.raw("data")
	if err := fields.take("revision", &e.Revision, "a whole number"); err != nil {
		return Envelope{}, invalidf("%s: %w", printable(e.Opcode), err)
	}
	e.Extra = fields.rest()
	return e, nil
}

// NewPing returns a ping.
func NewPing() Envelope { return Envelope{Opcode: Ping} }

// NewSetConfig returns the message that replaces a slave's whole set of apps. A
// revision of 0 is left out.
func NewSetConfig(apps map[string]App, revision int64) (Envelope, error) {
	if apps == nil {
		apps = map[string]App{} // null would be no set to the original
	}
	data, err := json.Marshal(apps)
	return Envelope{Opcode: SetConfig, Data: data, Revision: revision}, err
}

// NewStatus returns a status message.
func NewStatus(s Status) (Envelope, error) {
	data, err := json.Marshal(s)
	return Envelope{Opcode: StatusReport, Data: data}, err
}

// Append appends the message to b.
func (e Envelope) Append(b []byte) ([]byte, error) {
	fields := record{}
	fields.put("opcode", e.Opcode)
	if e.Data != nil {
		fields.put("data", e.Data)
	}
	if e.Revision != 0 {
		fields.put("revision", e.Revision)
	}
	body, err := fields.marshal(e.Extra)
	if err != nil {
		return b, invalidf("%s: %w", printable(e.Opcode), err)
	}
	if len(body) > MaxBody {
		return b, invalidf("%s: %d bytes, the most is %d", printable(e.Opcode), len(body), MaxBody)
	}
	if jsondepth.Exceeds(body, MaxDepth) {
		return b, invalidf("%s: nested deeper than %d", printable(e.Opcode), MaxDepth)
	}
	return append(slices.Grow(b, len(body)), body...), nil
}

// AgentPackage is the data of set_agent.
type AgentPackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	URL     string `json:"url"`
}
