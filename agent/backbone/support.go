package backbone

import (
	"encoding/json"

	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// answer replies to what only the later original knows: a master that asks is told
// that it gets nothing, and where to look instead, rather than left waiting.
func (s *Slave) answer(o *outlet, m wire.Envelope) {
	if !s.questions.Allow() {
		return
	}
	s.c.Log.Warn("a request of the master is refused", "opcode", m.Opcode)
	id, _, _ := o.t.Identity()
	data := map[string]any{"host_id": id, "info": s.c.Info}
	for _, name := range []string{"upload", "label", "command"} {
		if v, ok := m.Extra[name]; ok {
			data[name] = v
		}
	}
	reply := wire.Envelope{Opcode: wire.Support}
	if m.Opcode == wire.GetSupport {
		const why = "this agent makes no support bundle: its log goes to the control plane"
		data["contents"] = ""
		reply.Extra = map[string]json.RawMessage{"status": text("error"), "error_message": text(why)}
	} else {
		const why = "this agent runs no commands of a Backbone master"
		reply.Opcode = wire.SupportCommandResponse
		data["rc"], data["out"], data["err"], data["status"], data["error_message"] = -1, "", "", "error", why
	}
	b, err := json.Marshal(data)
	if err != nil {
		s.c.Log.Error("an answer cannot be encoded", "opcode", m.Opcode, "err", err)
		return
	}
	reply.Data = b
	o.put(reply)
}

func text(s string) json.RawMessage {
	b, _ := json.Marshal(s) // texts can be encoded
	return b
}
