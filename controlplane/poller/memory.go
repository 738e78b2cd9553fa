package poller

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/snmp"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// memory is what is kept from poll to poll.
type memory struct {
	Begun bool `json:"begun,omitempty"` // there has been a poll

	Power power.State `json:"power,omitempty"`

	// Of the SEL: the newest event that was seen; when the log was last cleared, in
	// Unix seconds, and how long it was, by which it is known to be another one.
	Event  string `json:"event,omitempty"`
	Erased int64  `json:"erased,omitempty"`
	Total  int    `json:"total,omitempty"`

	// Rules holds, by rule and item, what is not just "as it should be".
	Rules map[string]held `json:"rules,omitempty"`
}

type held struct {
	Raised bool `json:"raised,omitempty"`
	Count  int  `json:"count,omitempty"` // polls in a row that said otherwise
}

// maxHeld bounds the items that are remembered of one poller.
const maxHeld = 5000

func recall(b json.RawMessage) memory {
	var m memory
	if json.Unmarshal(b, &m) != nil {
		m = memory{}
	}
	if m.Rules == nil {
		m.Rules = map[string]held{}
	}
	return m
}

func (m *memory) store() json.RawMessage {
	b, err := json.Marshal(m)
	if err != nil {
		return nil
	}
	return b
}

// reading is what one poll has read.
type reading struct {
	power   power.State
	events  []power.Event
	sensors []power.Sensor
	rows    []snmp.Row
}

// evaluate asks every rule about every item, and says which alerts begin and end.
// An error is ctx's: what a device says may be chosen to cost as much as can be.
func evaluate(ctx context.Context, kind string, rules []rule, r reading, m *memory) (raise, clear []store.Alert, err error) {
	seen := map[string]bool{}
	for _, rule := range rules {
		each(ctx, kind, rule, r, m, func(f finding) {
			alert := rule.alert(f)
			if f.event {
				if f.over {
					clear = append(clear, alert)
				} else {
					raise = append(raise, alert)
				}
				return
			}
			key := key(rule.Name, alert.Item)
			if seen[key] {
				return // two sensors of one name: the first speaks
			}
			seen[key] = true
			h := m.Rules[key]
			if f.met == h.Raised {
				h.Count = 0
			} else if h.Count++; h.Count >= rule.Samples {
				h = held{Raised: f.met}
				if f.met {
					raise = append(raise, alert)
				} else {
					clear = append(clear, alert)
				}
			}
			if h == (held{}) {
				delete(m.Rules, key)
			} else if _, known := m.Rules[key]; known || len(m.Rules) < maxHeld {
				m.Rules[key] = h
			}
		})
	}
	// What is gone, a disk's sensor say, raises nothing and clears nothing; when it
	// comes back its rule goes on.
	m.Begun = true
	return raise, clear, ctx.Err()
}

func key(rule, item string) string { return rule + "\x1f" + item }

// active reports whether a rule's alert of an item is raised.
func (m *memory) active(rule, item string) bool { return m.Rules[key(rule, cut(item, maxItem))].Raised }

func each(ctx context.Context, kind string, rule rule, r reading, m *memory, found func(finding)) {
	switch kind {
	case Power:
		if rule.Changed {
			if m.Begun && m.Power != "" && r.power != m.Power {
				found(finding{item: "power: " + string(r.power), value: string(r.power), met: true, event: true,
					message: "power went from " + string(m.Power) + " to " + string(r.power)})
				found(finding{item: "power: " + string(m.Power), value: string(r.power), event: true, over: true,
					message: "power went from " + string(m.Power) + " to " + string(r.power)})
			}
			return
		}
		found(finding{item: "power", value: string(r.power), met: string(r.power) == rule.State, message: "power is " + string(r.power)})
	case SEL:
		for _, e := range r.events {
			if ctx.Err() != nil {
				return
			}
			if f, ok := rule.onEvent(e); ok {
				found(f)
			}
		}
	case SDR:
		for _, s := range r.sensors {
			if ctx.Err() != nil {
				return
			}
			name := s.Name
			if name == "" {
				name = s.Number
			}
			if f, ok := rule.onSensor(s, m.active(rule.Name, name)); ok {
				found(f)
			}
		}
	case SNMP:
		for _, row := range r.rows {
			if ctx.Err() != nil {
				return
			}
			if f, ok := rule.onRow(row, m.active(rule.Name, strings.TrimPrefix(row.OID, "."))); ok {
				found(f)
			}
		}
	}
}
