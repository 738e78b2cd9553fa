package rackhd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/controlplane/settings"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
	"github.com/teeth-metal/teeth/internal/need"
	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
	"github.com/teeth-metal/teeth/wire/rackhd"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// estate is the parts of a control plane that are on the bus, with a real store
// and a real engine.
type estate struct {
	store    *store.Store
	engine   *workflow.Engine
	settings *settings.Live
	tee      *Tee
	log      *slog.Logger
	chassis  store.Chassis
}

func newEstate(t *testing.T) *estate {
	t.Helper()
	return newEstateIn(t, t.TempDir(), t.Cleanup)
}

// newEstateIn keeps it in a folder until it is cleaned up.
func newEstateIn(t *testing.T, dir string, cleanup func(func())) *estate {
	t.Helper()
	db, err := store.Open(context.Background(), filepath.Join(dir, "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	e := &estate{store: db, tee: NewTee(slog.DiscardHandler)}
	e.log = slog.New(e.tee.Handler())
	e.engine = workflow.New(workflow.Config{
		Store: db, Log: e.log, Poll: 50 * time.Millisecond,
		Session: func(string) (workflow.Session, bool) { return nil, false },
		BootURL: func(store.Chassis) (string, error) { return "http://192.0.2.1:8082", nil },
	})
	e.engine.Register(workflow.Job{Name: "Job.Peer", Run: func(ctx context.Context, w *workflow.Work) (any, error) {
		var o struct{ Seconds float64 }
		if err := json.Unmarshal(w.Options, &o); err != nil {
			return nil, err
		}
		select {
		case <-time.After(time.Duration(o.Seconds * float64(time.Second))):
			return map[string]any{"slept": o.Seconds}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}})
	e.engine.Register(CommandsJob())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.engine.Run(ctx) }()
	cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		db.Close()
	})
	if e.settings, err = settings.Open(ctx, db, e.log, func(v settings.Values) { e.tee.Set(settings.Level(v.LogLevel), v.LogToBus) }); err != nil {
		t.Fatal(err)
	}
	if e.chassis, err = db.Connect(t.Context(), store.Session{ID: "s1", Secure: true, Address: "192.0.2.10", Endpoint: "192.0.2.1", Handshake: teeth.Handshake{
		ID: "02:00:00:00:00:0a", UUID: "5f0b6a3e-7c1d-4c52-9a51-0d6a2f9c1e77", Serial: "S1", MACs: []string{"02:00:00:00:00:0a"}, BootID: "b1", Version: "1",
	}}); err != nil {
		t.Fatal(err)
	}
	if err := db.Approve(t.Context(), e.chassis.ID, "test"); err != nil {
		t.Fatal(err)
	}
	return e
}

// serve puts the estate on a bus until the test ends.
func (e *estate) serve(t *testing.T, b bus.Bus, hardware Hardware) {
	t.Helper()
	s := New(Config{Bus: b, Store: e.store, Engine: e.engine, Settings: e.settings, Hardware: hardware, Version: "1.2.3", Log: e.log,
		within: 10 * time.Second}) // a busy machine is no reason to fail
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- s.Run(ctx) }()
	go func() { done <- e.tee.Run(ctx, b) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// hands is hardware of which the test knows what it says.
type hands struct {
	chassis, poller string
}

var ipmiSays = map[string]any{
	"power": map[string]any{"power": "ON"}, "sel": []any{map[string]any{"logId": "1", "event": "Fan 1"}},
	"sdr": []any{map[string]any{"sensorId": "Temp", "value": 21.5}},
}

func (h hands) IPMI(_ context.Context, command, chassis string) (any, error) {
	if chassis != h.chassis {
		return nil, fmt.Errorf("BMC of chassis %s: %w", chassis, store.ErrNotFound)
	}
	return ipmiSays[command], nil
}

func (h hands) SNMP(_ context.Context, q SNMPQuery) (any, error) {
	if q.Host != "pdu1" || q.Walk || len(q.OIDs) != 1 {
		return nil, fmt.Errorf("%+v: %w", q, errors.New("not as it was asked"))
	}
	return map[string]any{q.OIDs[0]: "pdu1.example"}, nil
}

func (h hands) PollerResult(_ context.Context, poller string) (any, error) {
	if poller != h.poller {
		return nil, fmt.Errorf("poller %s: %w", poller, store.ErrNotFound)
	}
	return map[string]any{"at": "now", "power": "ON"}, nil
}

// TestIndependentPeer has a program in another language, of another AMQP library,
// bind and call every key over a real broker.
func TestIndependentPeer(t *testing.T) {
	python := need.PythonModule(t, "pika", "python3-pika")
	broker := rabbitmqtest.Start(t)
	e := newEstate(t)
	ctx := t.Context()
	for key, value := range map[string]string{"events.heartbeat_seconds": `1`, "log.level": `"silly"`} {
		if err := e.settings.Set(ctx, key, json.RawMessage(value), "test"); err != nil {
			t.Fatal(err)
		}
	}
	first, last := netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.20")
	sub, err := e.store.AddSubnet(ctx, store.Subnet{CIDR: netip.MustParsePrefix("192.0.2.0/24"), Pools: []store.Range{{First: first, Last: last}}})
	if err != nil {
		t.Fatal(err)
	}
	want := store.LeaseRequest{Subnet: sub, Client: "mac:02:00:00:00:00:0a", MAC: "02:00:00:00:00:0a", Want: first}
	if _, err := e.store.OfferLease(ctx, want); err != nil {
		t.Fatal(err)
	}
	if _, err := e.store.BindLease(ctx, want, time.Hour); err != nil {
		t.Fatal(err)
	}
	// What other parts of the control plane put into the store.
	node, poller := rackhd.NodeID(e.chassis.ID), uuid.NewString()
	sent := map[string]any{"file": "undionly.kpxe", "remoteAddress": "192.0.2.10", "remotePort": 2070., "size": 70000., "time": "0.120"}
	failed := map[string]any{"file": "x", "remoteAddress": "192.0.2.10", "remotePort": 2071., "size": 0., "time": "0.001", "error": "not found"}
	fetched := map[string]any{"address": "192.0.2.10", "method": "GET", "url": "/boot/ipxe", "statusCode": 200., "time": "0.002"}
	bound := map[string]any{"ip": "192.0.2.10", "mac": "02:00:00:00:00:0a", "hostname": "", "expires": "2026-11-21T12:00:00.000Z"}
	sku := map[string]any{"sku": uuid.NewString()}
	alert := map[string]any{"severity": "critical", "message": "Fan 1 failed", "pollerId": poller, "kind": "sel", "value": "0rpm", "rule": "fans"}
	notices := map[string]any{
		"tftp.success." + node: sent, "tftp.failure." + node: failed, "http.response." + node: fetched, "tftp.success.external": sent,
		"dhcp.bind.success." + node: bound, "sku.assigned." + node: sku,
		"notification." + node: map[string]any{"nodeId": node, "progress": 5.}, "notification": map[string]any{"to": "all"},
	}
	facts := map[string]any{
		"url": broker.URL(), "node": node, "chassis": e.chassis.ID, "ip": "192.0.2.10", "mac": "02:00:00:00:00:0a", "free": "192.0.2.15",
		"poller": poller, "poller_result": map[string]any{"at": "now", "power": "ON"}, "ipmi": ipmiSays,
		"snmp": map[string]any{"1.3.6.1.2.1.1.5.0": "pdu1.example"}, "notices": notices, "alert": alert,
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	facts["heartbeat"] = "heartbeat.updated.information." + host + ".teeth"
	file := filepath.Join(t.TempDir(), "facts.json")
	content, err := json.Marshal(facts)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := bus.NewAMQP(bus.Config{URLs: []string{broker.URL()}, Exchanges: rackhd.Exchanges(), Log: slog.New(e.tee.Base())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	e.serve(t, b, hands{e.chassis.ID, poller})
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := b.Ready(ready); err != nil {
		t.Fatal(err)
	}
	peer := exec.CommandContext(ctx, python, filepath.Join("testdata", "peer.py"), file)
	out := &lines{t: t}
	peer.Stdout, peer.Stderr = out, out
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // until it has bound its queue
	for _, n := range []struct {
		kind, subject, chassis string
		data                   any
	}{
		{store.NoticeTFTPSent, "", e.chassis.ID, sent}, {store.NoticeTFTPFailed, "", e.chassis.ID, failed}, {store.NoticeTFTPSent, "", "", sent},
		{store.NoticeHTTP, "", e.chassis.ID, fetched}, {store.NoticeDHCPBound, "192.0.2.10", e.chassis.ID, bound},
		{store.NoticeSKU, "", e.chassis.ID, sku}, {store.NoticeAlert, poller, e.chassis.ID, alert},
		{store.NoticeDiscovered, e.chassis.ID, e.chassis.ID, nil}, {store.NoticeConnected, e.chassis.ID, e.chassis.ID, nil},
		{store.NoticeDisconnected, e.chassis.ID, e.chassis.ID, nil}, {store.NoticeInspected, e.chassis.ID, e.chassis.ID, nil},
		{store.NoticeFromNode, "", e.chassis.ID, map[string]any{"progress": 5}}, {store.NoticeFromNode, "", "", map[string]any{"to": "all"}},
		{store.NoticeRemoved, e.chassis.ID, e.chassis.ID, nil}, {store.NoticeApproved, e.chassis.ID, e.chassis.ID, nil},
	} {
		if err := e.store.AddNotice(ctx, n.kind, n.chassis, n.subject, n.data); err != nil {
			t.Fatal(err)
		}
	}
	for level := slog.LevelDebug - 4; level <= slog.LevelError+8; level += 2 {
		e.log.Log(ctx, level, "test "+level.String(), "chassis", e.chassis.ID, "n", 1, "error", errors.New("x"))
	}
	if err := peer.Wait(); err != nil {
		t.Errorf("the peer: %v", err)
	}
	t.Logf("%d checks by the peer", out.ok)
	if out.ok < 300 {
		t.Errorf("only %d checks were made", out.ok)
	}
	if s := b.Stats(); s.Reconnects != 0 || s.Refused != 0 {
		t.Errorf("the bus had trouble: %+v", s)
	}
	if v := e.settings.Values(); v.KernelArgs != "console=ttyS1" {
		t.Errorf("set over the bus: %+v", v)
	}
}

// lines counts a peer's checks, and shows what is no success.
type lines struct {
	t    *testing.T
	ok   int
	rest string
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest += string(p)
	for {
		line, rest, found := strings.Cut(l.rest, "\n")
		if !found {
			return len(p), nil
		}
		l.rest = rest
		if strings.HasPrefix(line, "ok ") {
			l.ok++
			continue
		}
		l.t.Log(line)
	}
}
