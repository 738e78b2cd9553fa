package poller

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/snmp"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/internal/pattern"
)

// ErrInvalid is wrapped by errors of what was asked for.
var ErrInvalid = errors.New("invalid")

// Rule makes alerts of what a poller reads. What it looks at depends on the
// poller's kind; fields of other kinds are refused. All of its conditions must hold.
//
// An alert of a power, sdr or snmp rule is cleared when its conditions hold no
// more; values must be back by Hysteresis. One of a sel rule is raised by each new
// event and cleared by the event that says the same is over, or by an operator.
type Rule struct {
	Name     string `json:"name"`
	Severity string `json:"severity,omitempty"` // information, warning (default) or critical
	// Samples is how many polls in a row must agree before an alert is raised, or
	// cleared. Default 1. Not of sel.
	Samples int `json:"samples,omitempty"`

	// Of power: on, off or unknown; or any change.
	State   string `json:"state,omitempty"`
	Changed bool   `json:"changed,omitempty"`

	// Of sel: regular expressions (RE2, anywhere in the text, case as written).
	Message    string `json:"message,omitempty"`
	SensorType string `json:"sensor_type,omitempty"`
	// MinSeverity is the least severity that the BMC gives the event.
	MinSeverity string `json:"min_severity,omitempty"`

	// Of sdr: which sensors, by name, and how bad: warning (or worse), critical, or
	// absent.
	Sensor string `json:"sensor,omitempty"`
	Status string `json:"status,omitempty"`

	// Of snmp: the object, or all under it.
	OID       string  `json:"oid,omitempty"`
	Equals    *string `json:"equals,omitempty"`
	NotEquals *string `json:"not_equals,omitempty"`
	Matches   string  `json:"matches,omitempty"` // regular expression

	// Of sdr and snmp.
	Above      *float64 `json:"above,omitempty"`
	Below      *float64 `json:"below,omitempty"`
	Hysteresis float64  `json:"hysteresis,omitempty"`
}

const (
	maxRules   = 50
	maxName    = 64
	maxPattern = 500
	maxSamples = 100
)

// Unreachable is the name of the rule that every poller has: what it reads does
// not answer, several times in a row.
const Unreachable = "unreachable"

var severities = []string{power.Information, power.Warning, power.Critical}

// rule is a Rule with what is compiled of it.
type rule struct {
	Rule
	message, sensorType, sensor, matches *pattern.Pattern
}

// compile checks the rules of a poller of that kind.
func compile(kind string, rules []Rule) ([]rule, error) {
	if len(rules) > maxRules {
		return nil, fmt.Errorf("%d rules: a poller has at most %d: %w", len(rules), maxRules, ErrInvalid)
	}
	var list []rule
	for i, r := range rules {
		c, err := r.compile(kind)
		if err != nil {
			return nil, fmt.Errorf("rule %d (%.64q): %w: %w", i+1, r.Name, err, ErrInvalid)
		}
		if slices.ContainsFunc(list, func(o rule) bool { return o.Name == r.Name }) {
			return nil, fmt.Errorf("rule %d: there are two of the name %.64q: %w", i+1, r.Name, ErrInvalid)
		}
		list = append(list, c)
	}
	return list, nil
}

func (r Rule) compile(kind string) (rule, error) {
	c := rule{Rule: r}
	if r.Name == "" || len(r.Name) > maxName || r.Name == Unreachable || !printable(r.Name) {
		return c, fmt.Errorf("a rule has a name of 1 to %d bytes that can be printed, and not %q", maxName, Unreachable)
	}
	if c.Severity == "" {
		c.Severity = power.Warning
	}
	if !slices.Contains(severities, c.Severity) {
		return c, fmt.Errorf("severity %.20q: write one of %v", r.Severity, severities)
	}
	if r.Samples < 0 || r.Samples > maxSamples || kind == SEL && r.Samples != 0 {
		return c, fmt.Errorf("samples %d: write 1 to %d; a rule of events has none", r.Samples, maxSamples)
	}
	c.Samples = max(1, r.Samples)
	if err := r.belongs(kind); err != nil {
		return c, err
	}
	for _, p := range []struct {
		text string
		to   **pattern.Pattern
		what string
	}{{r.Message, &c.message, "message"}, {r.SensorType, &c.sensorType, "sensor_type"}, {r.Sensor, &c.sensor, "sensor"}, {r.Matches, &c.matches, "matches"}} {
		if p.text == "" {
			continue
		}
		var err error
		if *p.to, err = pattern.Compile(p.text, maxPattern); err != nil {
			return c, fmt.Errorf("%s: %w", p.what, err)
		}
	}
	if r.Hysteresis < 0 || r.Hysteresis > 0 && r.Above == nil && r.Below == nil {
		return c, errors.New("hysteresis is not negative, and goes with above or below")
	}
	return c, r.conditions(kind)
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// conditions checks that a rule says something, and something that can be.
func (r Rule) conditions(kind string) error {
	switch kind {
	case Power:
		if (r.State == "") == !r.Changed {
			return errors.New("write either state or changed")
		}
		if r.State != "" && !slices.Contains([]string{string(power.On), string(power.Off), string(power.Unknown)}, r.State) {
			return fmt.Errorf("state %.20q: write on, off or unknown", r.State)
		}
	case SEL:
		if r.Message == "" && r.SensorType == "" && r.MinSeverity == "" {
			return errors.New("write message, sensor_type or min_severity")
		}
		if r.MinSeverity != "" && !slices.Contains(severities, r.MinSeverity) {
			return fmt.Errorf("min_severity %.20q: write one of %v", r.MinSeverity, severities)
		}
	case SDR:
		if r.Above == nil && r.Below == nil && r.Status == "" {
			return errors.New("write above, below or status")
		}
		if !slices.Contains([]string{"", power.StatusWarning, power.StatusCritical, power.StatusAbsent}, r.Status) {
			return fmt.Errorf("status %.20q: write warning, critical or absent", r.Status)
		}
	case SNMP:
		if err := snmp.CheckOID(r.OID); err != nil {
			return err
		}
		if r.Above == nil && r.Below == nil && r.Equals == nil && r.NotEquals == nil && r.Matches == "" {
			return errors.New("write above, below, equals, not_equals or matches")
		}
	}
	return nil
}

// belongs refuses fields of other kinds, which would never be looked at.
func (r Rule) belongs(kind string) error {
	of := map[string][]string{
		"state": {Power}, "changed": {Power}, "message": {SEL}, "sensor_type": {SEL}, "min_severity": {SEL}, "sensor": {SDR}, "status": {SDR},
		"oid": {SNMP}, "equals": {SNMP}, "not_equals": {SNMP}, "matches": {SNMP},
		"above": {SDR, SNMP}, "below": {SDR, SNMP}, "hysteresis": {SDR, SNMP},
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err // not a number
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	for name := range fields {
		if kinds, ok := of[name]; ok && !slices.Contains(kinds, kind) {
			return fmt.Errorf("%s is of pollers of kind %s", name, strings.Join(kinds, " and "))
		}
	}
	return nil
}

// finding is what a rule says of an item at one poll.
type finding struct {
	item, value, message string
	met                  bool // its conditions hold
	event                bool // it is no state: it has happened, once
	over                 bool // an event that says that another is over
	data                 map[string]any
}

// number is a value that can be compared.
func numeric(v any) (float64, bool) {
	switch x := v.(type) {
	case float64:
		return x, true
	case int64:
		return float64(x), true
	case string:
		f, err := strconv.ParseFloat(strings.TrimSpace(x), 64)
		return f, err == nil
	}
	return 0, false
}

// beyond reports whether a value is out of the rule's bounds; active, that it was.
func (r rule) beyond(v float64, active bool) (bool, string) {
	margin := 0.0
	if active {
		margin = r.Hysteresis
	}
	if r.Above != nil && v > *r.Above-margin {
		return true, fmt.Sprintf("above %v", *r.Above)
	}
	if r.Below != nil && v < *r.Below+margin {
		return true, fmt.Sprintf("below %v", *r.Below)
	}
	return false, ""
}

func (r rule) onSensor(s power.Sensor, active bool) (finding, bool) {
	if r.sensor != nil && !r.sensor.Match(s.Name) {
		return finding{}, false
	}
	f := finding{item: s.Name, met: true, value: s.Status}
	if s.Name == "" {
		f.item = s.Number
	}
	why := s.Status
	if s.Value != nil {
		f.value = strings.TrimSpace(strconv.FormatFloat(*s.Value, 'g', 6, 64) + " " + s.Unit)
	}
	switch r.Status {
	case power.StatusWarning:
		f.met = s.Status == power.StatusWarning || s.Status == power.StatusCritical
	case power.StatusCritical, power.StatusAbsent:
		f.met = s.Status == r.Status
	}
	if r.Above != nil || r.Below != nil {
		if s.Value == nil || s.Status == power.StatusAbsent {
			return finding{}, false // which says nothing about its value
		}
		out, where := r.beyond(*s.Value, active)
		f.met, why = f.met && out, where
	}
	f.message = fmt.Sprintf("sensor %s reads %s: %s", f.item, f.value, why)
	if !f.met {
		f.message = fmt.Sprintf("sensor %s reads %s", f.item, f.value)
	}
	return f, true
}

func (r rule) onRow(row snmp.Row, active bool) (finding, bool) {
	oid := strings.TrimPrefix(r.OID, ".")
	if row.OID != oid && !strings.HasPrefix(row.OID, oid+".") || row.Value == nil {
		return finding{}, false
	}
	text := fmt.Sprint(row.Value)
	f := finding{item: row.OID, value: text, met: true}
	if r.Equals != nil {
		f.met = f.met && text == *r.Equals
	}
	if r.NotEquals != nil {
		f.met = f.met && text != *r.NotEquals
	}
	if r.matches != nil {
		f.met = f.met && r.matches.Match(text)
	}
	why := ""
	if r.Above != nil || r.Below != nil {
		v, ok := numeric(row.Value)
		if !ok {
			return finding{}, false
		}
		out, where := r.beyond(v, active)
		f.met, why = f.met && out, ": "+where
	}
	f.message = fmt.Sprintf("object %s is %.200s%s", row.OID, text, why)
	return f, true
}

func (r rule) onEvent(e power.Event) (finding, bool) {
	if r.message != nil && !r.message.Match(e.Message) || r.sensorType != nil && !r.sensorType.Match(e.SensorType) {
		return finding{}, false
	}
	// The event that something is over is not as bad as that something.
	if !e.Deasserted && slices.Index(severities, e.Severity) < slices.Index(severities, r.MinSeverity) {
		return finding{}, false
	}
	what := strings.TrimSpace(e.SensorType + " " + e.Sensor)
	return finding{
		item: fmt.Sprintf("%s: %s", what, e.Message), value: e.ID, met: true, event: true, over: e.Deasserted,
		message: fmt.Sprintf("event %s of %s: %s", e.ID, what, e.Message),
		data:    map[string]any{"event": e},
	}, true
}

// alert is the alert of a finding.
func (r rule) alert(f finding) store.Alert {
	return store.Alert{Rule: r.Name, Item: cut(f.item, maxItem), Severity: r.Severity, Message: cut(f.message, 1000), Value: cut(f.value, 500), Data: f.data}
}

const maxItem = 300

func cut(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "") }
