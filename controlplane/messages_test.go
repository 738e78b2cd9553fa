package controlplane

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/controlplane/poller"
	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/power/bmctest"
	"github.com/teeth-metal/teeth/controlplane/power/ipmi"
	"github.com/teeth-metal/teeth/controlplane/rackhd"
	"github.com/teeth-metal/teeth/controlplane/seal"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
	wire "github.com/teeth-metal/teeth/wire/rackhd"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// TestServeOnBus runs a whole control plane on a broker, with a chassis of the
// native protocol on one side and a program of RackHD's conventions on the other.
func TestServeOnBus(t *testing.T) {
	broker := rabbitmqtest.Start(t)
	peer, err := bus.NewAMQP(bus.Config{URLs: []string{broker.URL()}, Exchanges: wire.Exchanges(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	var mu sync.Mutex
	heard := map[string]string{}
	for _, exchange := range []string{wire.Events, wire.Task, wire.Logging} {
		if err := peer.Subscribe(t.Context(), bus.Subscription{Exchange: exchange, Keys: []string{"#"}, Handle: func(_ context.Context, m bus.Message) *bus.Message {
			mu.Lock()
			defer mu.Unlock()
			heard[m.Key] += string(m.Body) + "\n"
			return nil
		}}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := peer.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	ask := func(exchange, key string, body, value any) string {
		t.Helper()
		_, b, err := wire.Encode(body)
		if err != nil {
			t.Fatal(err)
		}
		a, err := peer.Request(ctx, bus.Message{Exchange: exchange, Key: key, Type: wire.TypeObject, ContentType: wire.ContentType, Body: b})
		if err != nil {
			t.Fatal(err)
		}
		if err := wire.Decode(a.ContentType, a.Body, &wire.Result{Value: value}); err != nil {
			t.Fatalf("%s: %v", a.Body, err)
		}
		return a.Type
	}
	s := start(t, t.TempDir(), func(c *Config) { c.Messages.AMQP = []string{broker.URL()} })
	a := connect(t, s, "boot1")
	c := s.chassis("ready")
	node := wire.NodeID(c.ID)
	hear := func(key, text string) {
		t.Helper()
		eventually(t, key+" with "+text, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Contains(heard[key], text)
		})
	}
	hear("node.discovered.information."+node+"."+node, c.ID)
	hear("node.accessible.information."+node+"."+node, c.ID)
	hear("info", "control plane is up")

	eventually(t, "the server answers on the bus", func() bool { // as it may yet connect
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		var ready bool
		for _, key := range []string{wire.Configuration, wire.TaskGraphRunner} {
			method := map[string]string{wire.Configuration: "methods.get", wire.TaskGraphRunner: "methods.getActiveTaskGraphs"}[key]
			_, err := peer.Request(short, bus.Message{Exchange: key, Key: method, Type: wire.TypeObject, ContentType: wire.ContentType, Body: []byte("{}")})
			ready = err == nil
		}
		return ready
	})

	// A graph that a program of RackHD's starts, and the chassis' agent does.
	var g struct{ InstanceID, Node string }
	if typ := ask(wire.TaskGraphRunner, "methods.runTaskGraph", map[string]any{
		"name": "Graph.Decommission", "target": node, "options": map[string]any{"defaults": map[string]any{"verify": "sample"}},
	}, &g); typ != wire.TypeResult || g.Node != node {
		t.Fatalf("%s %+v", typ, g)
	}
	var p teeth.DiskEraseParams
	a.accept(teeth.MethodDiskErase, &p)
	if p.Verify != "sample" || len(p.Disks) == 0 {
		t.Errorf("%+v", p)
	}
	a.report(teeth.TaskStatus{TaskID: p.TaskID, State: teeth.Failed, Msg: "a disk is stuck"})
	hear("graph.started."+g.InstanceID, `"status":"running"`)
	hear("task.finished."+p.TaskID, `"error":"a disk is stuck"`)
	hear("graph.finished."+g.InstanceID, `"status":"failed"`)

	// That a task is to stop is told while its agent has not stopped.
	ask(wire.TaskGraphRunner, "methods.runTaskGraph", map[string]any{"name": "Graph.Decommission", "target": node}, &g)
	a.accept(teeth.MethodDiskErase, &p)
	var ended string
	if ask(wire.TaskGraphRunner, "methods.cancelTaskGraph", map[string]any{"graphId": g.InstanceID}, &ended); ended != g.InstanceID {
		t.Errorf("cancelled %q", ended)
	}
	a.accept(teeth.MethodTaskCancel, &teeth.TaskParams{})
	hear("cancel."+p.TaskID, p.TaskID)
	hear("methods.cancel."+p.TaskID, p.TaskID)
	mu.Lock()
	if early := heard["task.finished."+p.TaskID]; early != "" {
		t.Errorf("before its agent has stopped: %s", early)
	}
	mu.Unlock()
	a.report(teeth.TaskStatus{TaskID: p.TaskID, State: teeth.Failed, Msg: "stopped"})
	hear("task.finished."+p.TaskID, `"state":"cancelled"`)
	hear("graph.finished."+g.InstanceID, `"status":"cancelled"`)

	// A setting takes effect at once.
	var args string
	if typ := ask(wire.Configuration, "methods.set", map[string]any{"key": "boot.kernel_args", "value": "console=ttyS7"}, &args); typ != wire.TypeResult {
		t.Fatal(typ, args)
	}
	resp, err := http.Get("http://" + s.info.Boot + "/boot/ipxe?mac=02-00-00-00-00-99&uuid=5f0b6a3e-7c1d-4c52-9a51-0d6a2f9c1e99")
	if err != nil {
		t.Fatal(err)
	}
	script, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.Contains(string(script), "console=ttyS7") {
		t.Errorf("boot script: %s, %v", script, err)
	}
	hear("http.response."+node, "/boot/ipxe") // the chassis has this address, too
	hear("notice", "a setting was changed from the bus")
}

// TestReach runs a message's IPMI commands on a BMC: the openipmi project's
// simulator.
func TestReach(t *testing.T) {
	sim := bmctest.StartSim(t)
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	c, err := db.Connect(t.Context(), store.Session{ID: "s", Handshake: teeth.Handshake{ID: "52:54:00:00:00:01", BootID: "b1"}})
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(strings.Repeat("0123456789", 4))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	h := &hardware{power: power.New(power.Config{Store: db, Sealer: sealer, Log: log, Protocols: map[string]power.Protocol{power.IPMI: {Open: ipmi.Open, Check: ipmi.Check}}})}
	h.pollers = poller.New(poller.Config{Store: db, Sealer: sealer, BMCs: h.power, Log: log})
	r := reach{h}
	if _, err := r.IPMI(t.Context(), "power", c.ID); err == nil {
		t.Error("a BMC that is not defined answers")
	}
	if _, _, err := h.power.SetBMC(t.Context(), store.BMC{Chassis: c.ID, Protocol: sim.Target.Protocol, Address: sim.Target.Address, Username: sim.Target.Username}, sim.Target.Password, true); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{"power": `{"power":false,"state":"off"}`, "sel": `"events":`, "sdr": `"CPU Temp"`} {
		got, err := r.IPMI(t.Context(), command, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(got)
		if err != nil || !strings.Contains(string(b), want) || strings.Contains(string(b), sim.Target.Password) {
			t.Errorf("%s: %s %v", command, b, err)
		}
	}
	if _, err := r.IPMI(t.Context(), "raw", c.ID); err == nil {
		t.Error("an unknown command is run")
	}
	if _, err := r.SNMP(t.Context(), rackhd.SNMPQuery{Host: "192.0.2.1", OIDs: []string{"1.3.6.1.2.1.1.1.0"}}); err == nil || !strings.Contains(err.Error(), "no poller is defined") {
		t.Errorf("a device that nobody has defined: %v", err)
	}
	if _, err := r.PollerResult(t.Context(), "nothing"); err == nil {
		t.Error("a poller that nobody has defined has a result")
	}
}
