package minion

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

const server1 = "11111111-2222-3333-4444-555555555555"

// captured returns the raw bytes that the original agent has sent, segment by segment.
func captured(t *testing.T) [][]byte {
	t.Helper()
	b, err := os.ReadFile("../../wire/minion/testdata/minion-frames.txt")
	if err != nil {
		t.Fatal(err)
	}
	var list [][]byte
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 5 && f[1] == "A->S" {
			raw, err := hex.DecodeString(f[4])
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, raw)
		}
	}
	return list
}

// TestOriginalAgent plays what an original agent sent, in its segments, and looks at
// the answers and at what is kept of it.
func TestOriginalAgent(t *testing.T) {
	var responses []wire.Result
	var mu sync.Mutex
	sink := &keep{}
	r := start(t, Config{Records: sink, Groups: []GroupConfig{{ID: "g1", Key: "k1", Services: []ServiceConfig{{Names: []string{"pg"}, To: Destination{Type: typeRecords}, Cull: true}}}}})
	r.OnResponse(func(_ context.Context, a Agent, res wire.Result) error {
		mu.Lock()
		defer mu.Unlock()
		responses = append(responses, res)
		return nil
	})
	var beats []Agent
	r.OnHeartbeat(func(a Agent) { mu.Lock(); defer mu.Unlock(); beats = append(beats, a) })
	p := dial(t, r, "g1", server1)
	segments := captured(t)
	for _, raw := range segments {
		if _, err := p.nc.Write(raw); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	first, err := wire.Parse(segments[0][2:])
	if err != nil {
		t.Fatal(err)
	}
	if a := p.next(); a.Verb != wire.Response || !reflect.DeepEqual(a.Data, wire.Texts(first.ID.String(), "accepted")) {
		t.Errorf("to authenticate: %v", a)
	}
	if a := p.next(); len(a.Data) != 2 || a.Data[1].Text != "recorded" {
		t.Errorf("to the heartbeat: %v", a)
	}
	until(t, "all telemetry", func() bool { return len(sink.all()) == 28+3 })
	var logs []string
	for _, e := range sink.all() {
		if e.Verb == wire.Log {
			logs = append(logs, e.Service+" "+e.Message)
			if e.At.Unix() != 1795253604 {
				t.Errorf("%s happened at %v", e.ID, e.At)
			}
		} else if (e.Service != "mem_used_kb" && e.Service != "load_avg") || len(e.Values) != 1 {
			t.Errorf("telemetry %+v", e)
		}
		if e.Group != "g1" || e.Server != server1 {
			t.Errorf("%+v", e)
		}
	}
	if want := []string{"pg hello log 1", "pg Previous message repeated 1 times.", "pg hello log 2"}; !slices.Equal(logs, want) {
		t.Errorf("logs %q, want %q", logs, want)
	}
	until(t, "the response", func() bool { mu.Lock(); defer mu.Unlock(); return len(responses) == 1 })
	if got := responses[0]; got.Order.String() != "d618be3b-feea-4612-be38-e6e583c89699" || len(got.Stdout) != 1 || !strings.Contains(got.Stdout[0], `"agent":"0.2.0"`) || got.State != "" {
		t.Errorf("response %+v", got)
	}
	if len(beats) != 1 || beats[0].Server != server1 || beats[0].Acknowledges {
		t.Errorf("heartbeats %+v", beats)
	}
}

func TestUnauthenticated(t *testing.T) {
	sink := &keep{}
	r := start(t, Config{Records: sink})
	key := ChassisKey(secret, chassis1)
	for name, f := range map[string]wire.Frame{
		"log":         wire.LogLine(wire.ID{1}, ChassisGroup, chassis1, "agent", "hello"),
		"telemetry":   wire.Measurement(wire.ID{1}, ChassisGroup, chassis1, "load", "1"),
		"heartbeat":   wire.Request(wire.ID{1}, ChassisGroup, chassis1, wire.Heartbeat),
		"acknowledge": wire.Request(wire.ID{1}, ChassisGroup, chassis1, wire.Acknowledge),
		"no key":      wire.Request(wire.ID{1}, ChassisGroup, chassis1, wire.Authenticate),
		"query":       {Verb: wire.Query, ID: wire.ID{1}},
	} {
		t.Run(name, func(t *testing.T) {
			p := dial(t, r, ChassisGroup, chassis1)
			p.send(f)
			p.gone()
			if r.logins("protocol") == 0 {
				t.Error("not counted")
			}
		})
	}
	if n := len(sink.all()); n != 0 {
		t.Errorf("%d records were kept", n)
	}
	login(t, r, ChassisGroup, chassis1, key)
}

func (r *running) logins(result string) float64 { return count(r.meter.logins.WithLabelValues(result)) }

func TestWrongKey(t *testing.T) {
	var mu sync.Mutex
	known := map[string]bool{chassis1: true, "forgotten": false}
	r := start(t, Config{Records: &keep{}, Recheck: 20 * time.Millisecond, Groups: []GroupConfig{{ID: "g1", Key: "k1"}, {ID: "g2", Key: "k2"}},
		Chassis: func(_ context.Context, id string) (bool, bool, error) {
			mu.Lock()
			defer mu.Unlock()
			approved, ok := known[id]
			return ok, approved, nil
		}})
	for name, c := range map[string]struct{ group, server, key string }{
		"wrong":               {ChassisGroup, chassis1, "00"},
		"empty":               {ChassisGroup, chassis1, ""},
		"of another":          {ChassisGroup, chassis1, ChassisKey(secret, server1)},
		"unknown chassis":     {ChassisGroup, server1, ChassisKey(secret, server1)},
		"not approved":        {ChassisGroup, "forgotten", ChassisKey(secret, "forgotten")},
		"unknown group":       {"g9", server1, "k1"},
		"group's, empty":      {"g1", server1, ""},
		"another group's":     {"g1", server1, "k2"},
		"the key and more":    {"g1", server1, "k1 "},
		"a group's chassis":   {"g1", chassis1, "k1"},
		"chassis, upper case": {"g1", strings.ToUpper(chassis1), "k1"},
		"chassis, old form":   {"g1", strings.Replace(chassis1, "-", "", 1), "k1"}, // whose records would be the chassis'
		"no server id":        {"g1", "", "k1"},
		"server id with tab":  {"g1", "a\tb", "k1"},
		"server id too long":  {"g1", strings.Repeat("s", 256), "k1"},
	} {
		t.Run(name, func(t *testing.T) {
			p := dial(t, r, c.group, c.server)
			f := wire.Request(p.ids.Next(), c.group, c.server, wire.Authenticate, c.key)
			if answer := p.ask(f); answer != wire.Denied {
				t.Errorf("%s", answer)
			}
			p.gone()
		})
	}
	// A plain text for the key is what old agents send; ids of chassis in any case.
	p := dial(t, r, "g1", server1)
	if answer := p.ask(wire.Frame{Verb: wire.Command, ID: p.ids.Next(), Data: wire.Texts("g1", server1, wire.Authenticate, "k1")}); answer != wire.Accepted {
		t.Error(answer)
	}
	login(t, r, ChassisGroup, strings.ToUpper(chassis1), ChassisKey(secret, chassis1)).alive()
	if a, ok := r.Connected(chassis1); !ok || a.Group != ChassisGroup {
		t.Error("not connected under its id")
	}
	other := dial(t, r, "g2", server1)
	if answer := other.ask(wire.Request(other.ids.Next(), "g2", server1, wire.Authenticate, "k2")); answer != wire.Denied {
		t.Errorf("an id that another group's agent has: %s", answer)
	}
	if log := r.log.String(); strings.Contains(log, "k2 ") || strings.Contains(log, ChassisKey(secret, server1)) {
		t.Error("a key is in the log")
	}
	// What may no more is ended, whatever it says or not.
	q := login(t, r, ChassisGroup, chassis1, ChassisKey(secret, chassis1))
	mu.Lock()
	known[chassis1] = false
	mu.Unlock()
	q.gone()
}

// TestForeignFrames: who has authenticated as one may not write as another.
func TestForeignFrames(t *testing.T) {
	sink := &keep{}
	r := start(t, Config{Records: sink, Groups: []GroupConfig{{ID: "g1", Key: "k1", Services: []ServiceConfig{{Default: true, To: Destination{Type: typeRecords}}}}}})
	for name, c := range map[string]struct{ group, server string }{
		"another server": {"g1", chassis1}, "another group": {ChassisGroup, server1}, "empty": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := login(t, r, "g1", server1, "k1")
			p.send(wire.LogLine(p.ids.Next(), c.group, c.server, "pg", "forged"))
			p.gone()
		})
	}
	if len(sink.all()) != 0 {
		t.Errorf("kept: %v", sink.messages())
	}
}

func TestHostileLengths(t *testing.T) {
	r := start(t, Config{Records: &keep{}, HalfFrame: 300 * time.Millisecond, Handshake: 500 * time.Millisecond})
	login := func(t *testing.T) *peer {
		return login(t, r, ChassisGroup, chassis1, ChassisKey(secret, chassis1))
	}
	for name, raw := range map[string][]byte{
		"no payload":            {0, 0},
		"one byte":              {0, 1, 0x93},
		"array of 4 G":          {0, 5, 0xdd, 0xff, 0xff, 0xff, 0xff},
		"text of 4 G":           {0, 8, 0x93, 0xa1, 'L', 0xdb, 0xff, 0xff, 0xff, 0xff},
		"claims 64 K, sends 10": append([]byte{0xff, 0xff}, make([]byte, 10)...),
		"64 K of nonsense":      append([]byte{0xff, 0xff}, bytes.Repeat([]byte{0x90}, 65535)...),
	} {
		t.Run(name, func(t *testing.T) {
			first := dial(t, r, ChassisGroup, chassis1)
			first.nc.Write(raw)
			first.gone()
			p := login(t)
			p.nc.Write(raw)
			p.gone()
		})
	}
	// The largest that is allowed is no offence.
	p := login(t)
	f := p.line("agent", "")
	f.Data[3].Text = strings.Repeat("x", wire.MaxAccepted-f.Size()-2)
	p.send(f)
	p.alive()
}

// TestHalfFrames: a peer that sends half a frame, or a byte now and then, is closed
// after a bound; one that is silent between frames is not.
func TestHalfFrames(t *testing.T) {
	sink := &keep{}
	r := start(t, Config{Records: sink, HalfFrame: 200 * time.Millisecond})
	key := ChassisKey(secret, chassis1)
	p := login(t, r, ChassisGroup, chassis1, key)
	whole, _ := p.line("agent", "whole").Append(nil)
	half, _ := p.line("agent", "half").Append(nil)
	began := time.Now()
	if _, err := p.nc.Write(append(whole, half[:len(half)/2]...)); err != nil {
		t.Fatal(err)
	}
	p.gone()
	if took := time.Since(began); took < 150*time.Millisecond {
		t.Errorf("closed after %v", took)
	}
	if got := sink.messages(); !slices.Equal(got, []string{"whole"}) {
		t.Errorf("kept %q", got)
	}
	slow := login(t, r, ChassisGroup, chassis1, key)
	began = time.Now()
	go func() {
		for _, b := range half {
			if _, err := slow.nc.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	slow.gone()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a byte at a time kept it for %v", took)
	}
	quiet := login(t, r, ChassisGroup, chassis1, key)
	time.Sleep(300 * time.Millisecond)
	quiet.alive()
	// Half a frame, then the end: nobody spins, nothing is kept.
	cut := login(t, r, ChassisGroup, chassis1, key)
	cut.nc.Write(half[:10])
	cut.nc.(*net.TCPConn).CloseWrite()
	cut.gone()
	until(t, "connections end", func() bool { return r.peers.Open() == 1 })
}

// TestStorm: connections beyond the bounds are closed, those there go on, and the
// bounds are free again afterwards.
func TestStorm(t *testing.T) {
	r := start(t, Config{Records: &keep{}, MaxConnections: 64, MaxPerAddress: 48, MaxGreeting: 32 * 40, Handshake: 3 * time.Second})
	key := ChassisKey(secret, chassis1)
	first := login(t, r, ChassisGroup, chassis1, key)
	var all sync.WaitGroup
	for range 400 {
		all.Go(func() {
			nc, err := net.DialTimeout("tcp", r.address, patience)
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			nc.SetReadDeadline(time.Now().Add(time.Second))
			nc.Read(make([]byte, 1))
		})
	}
	first.alive()
	all.Wait()
	if n := count(r.meter.refused.WithLabelValues("too many connections without authentication from this address")); n == 0 {
		t.Error("none was refused")
	}
	first.alive()
	until(t, "connections end", func() bool { return r.peers.Open() == 1 })
	login(t, r, ChassisGroup, chassis1, key).alive()

	few := start(t, Config{Records: &keep{}, Rate: 1})
	refused := 0
	for range 20 {
		p := dial(t, few, ChassisGroup, chassis1)
		p.nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := p.r.Next(); !errors.Is(err, os.ErrDeadlineExceeded) {
			refused++
		}
		p.nc.Close()
	}
	if refused < 10 {
		t.Errorf("%d of 20 connections at once were refused, for a rate of 1", refused)
	}
}
