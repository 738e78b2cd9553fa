package minion

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/pki"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// TestManyConnectionsOfOneServer: the oldest gives way to the newest.
func TestManyConnectionsOfOneServer(t *testing.T) {
	r := start(t, Config{Records: &keep{}, MaxPerServer: 3})
	var peers []*peer
	for range 5 {
		peers = append(peers, login(t, r, ChassisGroup, chassis1, ChassisKey(secret, chassis1)))
	}
	peers[0].gone()
	peers[1].gone()
	for _, p := range peers[2:] {
		p.alive()
	}
	if err := r.Send(t.Context(), chassis1, wire.Order{ID: wire.ID{7}, Kind: wire.Internal, Argv: []string{"status"}}.Frame()); err != nil {
		t.Fatal(err)
	}
	if o, err := wire.OrderOf(peers[4].next()); err != nil || o.ID != (wire.ID{7}) {
		t.Errorf("%v, %v", o, err)
	}
}

// TestTestedConfiguration: what only authenticates, as teeth-agent -t, is sent no
// command, neither alone nor beside the agent: nobody would carry it out.
func TestTestedConfiguration(t *testing.T) {
	r := start(t, Config{Records: &keep{}})
	order := wire.Order{ID: wire.ID{7}, Kind: wire.Internal, Argv: []string{"status"}}.Frame()
	test := login(t, r, ChassisGroup, chassis1, ChassisKey(secret, chassis1))
	if err := r.Send(t.Context(), chassis1, order); !errors.Is(err, ErrAway) {
		t.Error(err)
	}
	test.nc.Close()
	agent := acknowledged(t, r, ChassisGroup, chassis1, ChassisKey(secret, chassis1))
	until(t, "the agent", func() bool { _, ok := r.Connected(chassis1); return ok })
	login(t, r, ChassisGroup, chassis1, ChassisKey(secret, chassis1))
	if err := r.Send(t.Context(), chassis1, order); err != nil {
		t.Fatal(err)
	}
	if o, err := wire.OrderOf(agent.next()); err != nil || o.ID != (wire.ID{7}) {
		t.Errorf("%v, %v", o, err)
	}
}

func TestTLS(t *testing.T) {
	authority, err := pki.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r := startTLS(t, Config{Records: &keep{}, Handshake: 2 * time.Second}, authority.ServerConfig(), "127.0.0.1:0")
	conf, err := pki.ClientConfig(authority.Pin())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	tc := tlsClient(nc, conf)
	t.Cleanup(func() { tc.Close() })
	p := newPeer(t, tc, ChassisGroup, chassis1)
	if a := p.ask(wire.Request(p.ids.Next(), p.group, p.server, wire.Authenticate, ChassisKey(secret, chassis1))); a != wire.Accepted {
		t.Fatal(a)
	}
	p.alive()
	denied := newPeer(t, dialTLS(t, r.address, conf), ChassisGroup, chassis1)
	if a := denied.ask(wire.Request(p.ids.Next(), p.group, p.server, wire.Authenticate, "x")); a != wire.Denied {
		t.Error(a)
	}
	denied.gone()
	plain := dial(t, r, ChassisGroup, chassis1)
	plain.send(wire.Request(p.ids.Next(), p.group, p.server, wire.Authenticate, ChassisKey(secret, chassis1)))
	plain.gone()
	silent := dial(t, r, ChassisGroup, chassis1)
	silent.gone()
}

// TestCommands: to an agent that is there, and not; the response is given until it is
// taken.
func TestCommands(t *testing.T) {
	r := start(t, Config{Records: &keep{}})
	var mu sync.Mutex
	var got []wire.Result
	tries := 0
	r.OnResponse(func(_ context.Context, a Agent, res wire.Result) error {
		mu.Lock()
		defer mu.Unlock()
		if tries++; tries < 3 {
			return errors.New("the database is away")
		}
		got = append(got, res)
		return nil
	})
	connected := make(chan Agent, 4)
	r.OnConnect(func(a Agent) { connected <- a })
	order := wire.Order{ID: wire.ID{1, 2, 3}, Kind: wire.External, Options: []string{"timeout=30"}, Argv: []string{"echo", "hi"}}
	if err := r.Send(t.Context(), chassis1, order.Frame()); !errors.Is(err, ErrAway) {
		t.Fatal(err)
	}
	p := acknowledged(t, r, ChassisGroup, chassis1, ChassisKey(secret, chassis1))
	if a := <-connected; a.Server != chassis1 || !a.Acknowledges || a.Address == "" {
		t.Errorf("%+v", a)
	}
	if err := r.Send(t.Context(), chassis1, order.Frame()); err != nil {
		t.Fatal(err)
	}
	if o, err := wire.OrderOf(p.next()); err != nil || !reflect.DeepEqual(o, order) {
		t.Errorf("%+v, %v", o, err)
	}
	res := wire.Result{ID: p.ids.Next(), Group: p.group, Server: p.server, Order: order.ID, Stdout: []string{"hi\n"}, Stderr: []string{}, State: wire.StateDone}
	p.send(res.Frame())
	p.through(res.ID) // acknowledged when it is taken, at the third try
	if mu.Lock(); len(got) != 1 || tries != 3 || !reflect.DeepEqual(got[0], res) {
		t.Errorf("%d tries, %+v", tries, got)
	}
	mu.Unlock()
	if err := r.Send(t.Context(), chassis1, wire.LogLine(wire.ID{}, "", "", "", strings.Repeat("x", wire.MaxSent))); !errors.Is(err, wire.ErrTooLong) {
		t.Error(err)
	}
	// An original is announced without waiting for more than its first heartbeat.
	o := login(t, r, ChassisGroup, server1, ChassisKey(secret, server1))
	o.alive()
	if a := <-connected; a.Server != server1 || a.Acknowledges {
		t.Errorf("%+v", a)
	}
	o.nc.Close()
	until(t, "the end of a connection", func() bool { _, ok := r.Connected(server1); return !ok })
	if err := r.Send(t.Context(), server1, order.Frame()); !errors.Is(err, ErrAway) {
		t.Error(err)
	}
	if list := r.Agents(); len(list) != 1 || list[0].Server != chassis1 {
		t.Errorf("%+v", list)
	}
}

// TestIngest: frames that came another way are kept, once, also those that come over a
// connection as well.
func TestIngest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "chassis.log")
	r := start(t, Config{Groups: []GroupConfig{{ID: ChassisGroup, Services: []ServiceConfig{{Default: true, To: Destination{typeFile, path}}}}}})
	p := acknowledged(t, r, ChassisGroup, chassis1, ChassisKey(secret, chassis1))
	var payloads [][]byte
	var frames []wire.Frame
	for i := range 10 {
		f := p.line("agent", fmt.Sprintf("line %d", i))
		b, err := f.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		frames, payloads = append(frames, f), append(payloads, b[2:])
	}
	p.send(frames[:5]...)
	p.through(frames[4].ID)
	p.nc.Close()
	until(t, "the end of the connection", func() bool { _, ok := r.Connected(chassis1); return !ok })
	for range 2 {
		if err := r.Ingest(t.Context(), ChassisGroup, strings.ToUpper(chassis1), payloads); err != nil {
			t.Fatal(err)
		}
	}
	p = acknowledged(t, r, ChassisGroup, chassis1, ChassisKey(secret, chassis1))
	p.send(frames...)
	p.through(frames[9].ID)
	if got := messagesOf(t, path); !slices.Equal(got, numbered(0, 10)) {
		t.Errorf("kept %q", got)
	}
	if err := r.IngestLog(t.Context(), ChassisGroup, chassis1, "agent", strings.Repeat("é", 20000)+" end", time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := messagesOf(t, path); len(got) != 12 || !strings.HasSuffix(got[11], " end") {
		t.Errorf("%d lines", len(got))
	}
	foreign, _ := wire.LogLine(p.ids.Next(), ChassisGroup, server1, "agent", "x").Append(nil)
	for name, list := range map[string][][]byte{
		"another's": {foreign[2:]}, "nonsense": {{1, 2, 3}}, "a request": {payloadOf(t, wire.Request(wire.ID{1}, ChassisGroup, chassis1, wire.Heartbeat))},
		"too many": make([][]byte, maxIngest+1),
	} {
		if err := r.Ingest(t.Context(), ChassisGroup, chassis1, list); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.Ingest(t.Context(), "g9", chassis1, payloads); err == nil {
		t.Error("a group that is not there")
	}
}

func payloadOf(t *testing.T, f wire.Frame) []byte {
	t.Helper()
	b, err := f.AppendLarge(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b[2:]
}
