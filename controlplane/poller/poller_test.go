package poller

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/power/bmctest"
	"github.com/teeth-metal/teeth/controlplane/power/ipmi"
	"github.com/teeth-metal/teeth/controlplane/seal"
	"github.com/teeth-metal/teeth/controlplane/snmp"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

func at(f float64) *float64 { return &f }
func is(s string) *string   { return &s }

func TestRulesAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		kind string
		rule Rule
		want string // part of the error, "" for none
	}{
		"power":           {Power, Rule{Name: "a", State: "off"}, ""},
		"changed":         {Power, Rule{Name: "a", Changed: true}, ""},
		"both":            {Power, Rule{Name: "a", State: "off", Changed: true}, "either"},
		"nothing":         {Power, Rule{Name: "a"}, "either"},
		"no such state":   {Power, Rule{Name: "a", State: "of"}, "on, off"},
		"no name":         {Power, Rule{State: "off"}, "name"},
		"reserved":        {Power, Rule{Name: Unreachable, State: "off"}, "name"},
		"severity":        {Power, Rule{Name: "a", State: "off", Severity: "bad"}, "severity"},
		"of another kind": {Power, Rule{Name: "a", State: "off", Above: at(1)}, "sdr and snmp"},
		"sel":             {SEL, Rule{Name: "a", Message: "fail", MinSeverity: "warning"}, ""},
		"bad pattern":     {SEL, Rule{Name: "a", Message: "(("}, "missing"},
		"costly pattern":  {SEL, Rule{Name: "a", Message: strings.Repeat("(.*){999}", 20)}, "repeat less"},
		"long pattern":    {SEL, Rule{Name: "a", Message: strings.Repeat("x", 501)}, "longer"},
		"samples of sel":  {SEL, Rule{Name: "a", Message: "x", Samples: 2}, "samples"},
		"sdr":             {SDR, Rule{Name: "a", Sensor: "^CPU", Above: at(90), Hysteresis: 5}, ""},
		"sdr of nothing":  {SDR, Rule{Name: "a", Sensor: "^CPU"}, "above, below or status"},
		"hysteresis":      {SDR, Rule{Name: "a", Status: "critical", Hysteresis: 5}, "hysteresis"},
		"snmp":            {SNMP, Rule{Name: "a", OID: "1.3.6.1", NotEquals: is("1")}, ""},
		"snmp oid":        {SNMP, Rule{Name: "a", OID: "ifSpeed", Equals: is("1")}, "object identifier"},
	} {
		_, err := compile(c.kind, []Rule{c.rule})
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := compile(Power, []Rule{{Name: "a", State: "on"}, {Name: "a", State: "off"}}); !errors.Is(err, ErrInvalid) {
		t.Errorf("two of one name: %v", err)
	}
}

// run feeds readings to rules and returns what each raised ("+") and cleared ("-").
func run(t *testing.T, kind string, rules []Rule, readings ...reading) []string {
	t.Helper()
	compiled, err := compile(kind, rules)
	if err != nil {
		t.Fatal(err)
	}
	var steps []string
	var state json.RawMessage
	for _, r := range readings {
		m := recall(state)
		raise, clear, err := evaluate(t.Context(), kind, compiled, r, &m)
		if err != nil {
			t.Fatal(err)
		}
		m.Power = r.power
		state = m.store()
		step := ""
		for _, a := range raise {
			step += "+" + a.Rule + "/" + a.Item + " "
		}
		for _, a := range clear {
			step += "-" + a.Rule + "/" + a.Item + " "
		}
		steps = append(steps, strings.TrimSpace(step))
	}
	return steps
}

func temperature(values ...float64) []reading {
	var list []reading
	for _, v := range values {
		list = append(list, reading{sensors: []power.Sensor{{Name: "CPU", Value: &v, Status: power.StatusOK}, {Name: "Fan", Value: at(900), Status: power.StatusOK}}})
	}
	return list
}

func rows(values ...any) []reading {
	var list []reading
	for _, v := range values {
		list = append(list, reading{rows: []snmp.Row{{OID: "1.3.6.1.4", Type: "x", Value: v}, {OID: "1.3.6.10.1", Value: int64(99)}}})
	}
	return list
}

func TestRules(t *testing.T) {
	for name, c := range map[string]struct {
		kind     string
		rule     Rule
		readings []reading
		want     string
	}{
		"threshold":  {SDR, Rule{Name: "hot", Sensor: "CPU", Above: at(90)}, temperature(80, 91, 95, 90, 91), ";+hot/CPU;;-hot/CPU;+hot/CPU"},
		"hysteresis": {SDR, Rule{Name: "hot", Sensor: "CPU", Above: at(90), Hysteresis: 5}, temperature(91, 89, 86, 85, 89, 91), "+hot/CPU;;;-hot/CPU;;+hot/CPU"},
		"below":      {SDR, Rule{Name: "cold", Sensor: "CPU", Below: at(5), Hysteresis: 2}, temperature(4, 6, 7), "+cold/CPU;;-cold/CPU"},
		"samples":    {SDR, Rule{Name: "hot", Sensor: "CPU", Above: at(90), Samples: 2}, temperature(91, 80, 91, 92, 80, 91, 80, 80), ";;;+hot/CPU;;;;-hot/CPU"},
		"status": {SDR, Rule{Name: "bad", Status: "warning"}, []reading{
			{sensors: []power.Sensor{{Name: "A", Status: "critical"}, {Name: "B", Status: "ok"}}},
			{sensors: []power.Sensor{{Name: "A", Status: "ok"}, {Name: "B", Status: "warning"}}}}, "+bad/A;+bad/B -bad/A"},
		"no reading says nothing": {SDR, Rule{Name: "hot", Above: at(1)}, []reading{
			{sensors: []power.Sensor{{Name: "A", Value: at(2), Status: "ok"}}}, {sensors: []power.Sensor{{Name: "A", Status: "absent"}}}}, "+hot/A;"},
		"power":   {Power, Rule{Name: "off", State: "off"}, []reading{{power: "on"}, {power: "off"}, {power: "off"}, {power: "on"}}, ";+off/power;;-off/power"},
		"changed": {Power, Rule{Name: "c", Changed: true}, []reading{{power: "off"}, {power: "off"}, {power: "on"}}, ";;+c/power: on -c/power: off"},
		"events": {SEL, Rule{Name: "psu", SensorType: "Power", MinSeverity: "warning"}, []reading{
			{events: []power.Event{{ID: "1", SensorType: "Power Supply", Sensor: "0x30", Message: "Failure", Severity: "critical"}, {ID: "2", SensorType: "Fan", Message: "x", Severity: "critical"},
				{ID: "3", SensorType: "Power Supply", Message: "Presence", Severity: "information"}}},
			{}, {events: []power.Event{{ID: "4", SensorType: "Power Supply", Sensor: "0x30", Message: "Failure", Severity: "information", Deasserted: true}}}},
			"+psu/Power Supply 0x30: Failure;;-psu/Power Supply 0x30: Failure"},
		"snmp number": {SNMP, Rule{Name: "load", OID: ".1.3.6.1", Above: at(10)}, rows(int64(5), "11", 12.5, "n/a", int64(1)), ";+load/1.3.6.1.4;;;-load/1.3.6.1.4"},
		"snmp text":   {SNMP, Rule{Name: "down", OID: "1.3.6.1.4", NotEquals: is("1")}, rows(int64(1), int64(2), nil, int64(1)), ";+down/1.3.6.1.4;;-down/1.3.6.1.4"},
		"snmp match":  {SNMP, Rule{Name: "m", OID: "1.3.6.1", Matches: "^er+or"}, rows("ok", "error 5"), ";+m/1.3.6.1.4"},
	} {
		if got := strings.Join(run(t, c.kind, []Rule{c.rule}, c.readings...), ";"); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, c.want)
		}
	}
}

// estate is a store with one chassis.
func estate(t *testing.T) (*store.Store, *seal.Sealer, store.Chassis) {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	c, err := db.Connect(t.Context(), store.Session{ID: "s", Handshake: teeth.Handshake{ID: "52:54:00:00:00:01", BootID: "b"}})
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(strings.Repeat("0123456789", 4))
	if err != nil {
		t.Fatal(err)
	}
	return db, sealer, c
}

// The whole way with a BMC that nobody here wrote: polls, alerts and notices.
func TestPollsOfBMC(t *testing.T) {
	tick = 20 * time.Millisecond
	sim := bmctest.StartSim(t)
	sim.SetPower(t, true)
	db, sealer, c := estate(t)
	log := slog.New(slog.DiscardHandler)
	bmcs := power.New(power.Config{Store: db, Sealer: sealer, Log: log, Protocols: map[string]power.Protocol{power.IPMI: {Open: ipmi.Open, Check: ipmi.Check}}})
	if _, _, err := bmcs.SetBMC(t.Context(), store.BMC{Chassis: c.ID, Protocol: power.IPMI, Address: sim.Target.Address, Username: sim.Target.Username}, sim.Target.Password, true); err != nil {
		t.Fatal(err)
	}
	s := New(Config{Store: db, Sealer: sealer, BMCs: bmcs, Log: log})
	sim.Command(t, "sel_add 0x20 0x02 0x00 0x94 0x35 0x65 0x20 0x00 0x04 0x08 0x30 0x6f 0x01 0xff 0xff") // before there was a poller
	ids := map[string]string{}
	for kind, rule := range map[string]Rule{
		Power: {Name: "off", State: "off", Severity: "critical"},
		SDR:   {Name: "hot", Sensor: "CPU Temp", Above: at(0x90)},
		SEL:   {Name: "psu", SensorType: "Power Supply"},
	} {
		v, err := s.Add(t.Context(), Spec{Chassis: c.ID, Kind: kind, Rules: []Rule{rule}})
		if err != nil {
			t.Fatal(err)
		}
		ids[kind] = v.ID
	}
	again := func(kind string) { // have it polled now
		t.Helper()
		p, err := db.Poller(t.Context(), ids[kind])
		if err == nil {
			_, err = db.ChangePoller(t.Context(), p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for kind := range ids {
		again(kind)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	wait := func(what string, ok func() bool) {
		t.Helper()
		for start := time.Now(); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Since(start) > 20*time.Second {
				t.Fatalf("waited in vain: %s", what)
			}
		}
	}
	open := func() []store.Alert {
		list, err := db.Alerts(t.Context(), store.AlertFilter{Chassis: c.ID}, 100)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	for kind, id := range ids {
		wait("first poll of "+kind, func() bool { _, err := s.LastResult(t.Context(), id); return err == nil })
	}
	if list := open(); len(list) != 0 {
		t.Fatalf("alerts of what was there before: %+v", list)
	}
	sim.SetPower(t, false)
	sim.Command(t, "sensor_set_value 0x20 0 1 0x95 0")
	sim.Command(t, "sel_add 0x20 0x02 0x00 0x94 0x35 0x65 0x20 0x00 0x04 0x08 0x31 0x6f 0x01 0xff 0xff")
	for kind := range ids {
		again(kind)
	}
	wait("three alerts", func() bool { return len(open()) == 3 })
	for _, a := range open() {
		if a.Rule == "psu" && a.Item != "Power Supply 0x31: Power Supply Failure detected" || a.Rule == "off" && a.Severity != "critical" {
			t.Errorf("%+v", a)
		}
	}
	last, err := s.LastResult(t.Context(), ids[SEL])
	if err != nil || strings.Count(string(last.Result), `"id"`) != 2 {
		t.Errorf("the result holds not both events: %s, %v", last.Result, err)
	}
	sim.SetPower(t, true)
	sim.Command(t, "sensor_set_value 0x20 0 1 0x20 0")
	for kind := range ids {
		again(kind)
	}
	wait("all but the event are over", func() bool { list := open(); return len(list) == 1 && list[0].Rule == "psu" })
	if a, err := db.ClearAlert(t.Context(), open()[0].ID, "jane"); err != nil || a.ClearedBy != "jane" || len(open()) != 0 {
		t.Errorf("%+v, %v", a, err)
	}
	notices, err := db.Notices(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	raised, cleared := 0, 0
	for _, n := range notices {
		if n.Kind == store.NoticeAlert {
			raised += strings.Count(string(n.Data), `"state":"raised"`)
			cleared += strings.Count(string(n.Data), `"state":"cleared"`)
		}
	}
	if raised != 3 || cleared != 3 {
		t.Errorf("%d raised, %d cleared told", raised, cleared)
	}
}

// Whatever is stored and read, rules neither panic nor find what JSON cannot carry.
func FuzzRules(f *testing.F) {
	f.Add(`[{"name":"a","sensor":"x","above":1,"hysteresis":2}]`, `{"rules":{"a\u001fx":{"raised":true}}}`, "x", 3.0)
	f.Add(`[{"name":"a","oid":"1.3","matches":"x+"}]`, `{}`, "1.3", 1e300)
	f.Add(`[{"name":"a","message":"x"}]`, `{"event":"0001"}`, "x", 0.0)
	f.Fuzz(func(t *testing.T, rules, state, text string, value float64) {
		var list []Rule
		if json.Unmarshal([]byte(rules), &list) != nil {
			return
		}
		for _, kind := range Kinds {
			compiled, err := compile(kind, list)
			if err != nil {
				continue
			}
			m := recall(json.RawMessage(state))
			raise, clear, _ := evaluate(t.Context(), kind, compiled, reading{
				power: power.State(text), events: []power.Event{{ID: text, Message: text, SensorType: text}},
				sensors: []power.Sensor{{Name: text, Value: &value, Status: text}}, rows: []snmp.Row{{OID: text, Value: text}, {OID: "1.3.1", Value: value}},
			}, &m)
			if len(raise)+len(clear) > 4*len(compiled) || !json.Valid(m.store()) {
				t.Errorf("%d raised, %d cleared by %d rules", len(raise), len(clear), len(compiled))
			}
		}
	})
}
