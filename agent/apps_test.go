package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/agent/backbone"
	"github.com/teeth-metal/teeth/agent/backbone/broker"
	"github.com/teeth-metal/teeth/agent/session"
	"github.com/teeth-metal/teeth/hwinfo"
	"github.com/teeth-metal/teeth/internal/rabbitmqtest"
	wire "github.com/teeth-metal/teeth/wire/backbone"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// answers is a session's other end.
type answers struct {
	mu   sync.Mutex
	err  error
	sent []string // method and data
}

func (a *answers) call(_ context.Context, method string, params any) (json.RawMessage, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent = append(a.sent, fmt.Sprintf("%s %s", method, params.(teeth.AppParams).Data))
	return nil, a.err
}

func TestAppsOverSession(t *testing.T) {
	w := newWay(slog.New(slog.DiscardHandler))
	status := wire.Envelope{Opcode: wire.StatusReport, Data: json.RawMessage(`{"host_id":"c"}`)}
	if err := w.Send(t.Context(), status); !errors.Is(err, backbone.ErrAway) {
		t.Errorf("before there is a session: %v", err)
	}
	a := &answers{}
	w.welcomed(t.Context(), teeth.HandshakeResult{}, "c", "", a.call)
	if err := w.Send(t.Context(), status); !errors.Is(err, backbone.ErrAway) {
		t.Errorf("to a control plane that takes none, which would end the session: %v", err)
	}
	w.welcomed(t.Context(), teeth.HandshakeResult{Apps: true}, "c", "", a.call)
	select {
	case <-w.Up():
	default:
		t.Error("not announced")
	}
	if id, d, _ := w.Identity(); id != "c" || d != wire.MasterDeclared {
		t.Errorf("known as %s in %v", id, d)
	}
	if err := w.Send(t.Context(), status); err != nil || len(a.sent) != 1 || a.sent[0] != `app_status {"host_id":"c"}` {
		t.Errorf("%q, %v", a.sent, err)
	}
	a.err = fmt.Errorf("x: %w", session.ErrLost)
	if err := w.Send(t.Context(), status); !errors.Is(err, backbone.ErrAway) {
		t.Errorf("a session that is lost: %v", err)
	}
	a.err = &teeth.MethodError{Msg: "chassis c is not approved"}
	if err := w.Send(t.Context(), status); err == nil || errors.Is(err, backbone.ErrAway) || !strings.Contains(err.Error(), "not approved") {
		t.Errorf("refused: %v", err)
	}
	if n := w.MaxMessage(); n > teeth.MaxLine-200 {
		t.Errorf("messages of %d bytes do not fit into a line of the session", n)
	}
}

func TestAppCommands(t *testing.T) {
	b := newBench(t)
	for _, method := range []string{teeth.MethodAppConfig, teeth.MethodAppPing} {
		if _, err := b.do(method, `{"data": {}}`); err == nil || errors.Is(err, session.ErrUnknownMethod) {
			t.Errorf("%s without apps: %v", method, err)
		}
	}
	if b.handshake().Apps {
		t.Error("the handshake promises apps")
	}
	b.apps.end() // of none
	b.apps = &apps{way: newWay(b.log), log: b.log}
	if !b.handshake().Apps {
		t.Error("the handshake promises no apps")
	}
	for _, bad := range []string{`{}`, `{"data": []}`, `{"data": {"web": {"version": "1"}}}`, `[]`} {
		if _, err := b.do(teeth.MethodAppConfig, bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	if _, err := b.do(teeth.MethodAppConfig, `{"data": {"web": {"version": "1", "url": "http://h/x", "config": {}}}, "revision": 3}`); err != nil {
		t.Error(err)
	}
	if _, err := b.do(teeth.MethodAppPing, `{}`); err != nil {
		t.Error(err)
	}
	if e := <-b.apps.way.Receive(); e.Opcode != wire.SetConfig || e.Revision != 3 || !strings.Contains(string(e.Data), `"web"`) {
		t.Errorf("%+v", e)
	}
	if e := <-b.apps.way.Receive(); e.Opcode != wire.Ping {
		t.Errorf("%+v", e)
	}
	for range cap(b.apps.way.in) {
		b.do(teeth.MethodAppPing, `{}`)
	}
	if _, err := b.do(teeth.MethodAppPing, `{}`); err == nil { // it must not hold up the session
		t.Error("more are taken than there is room for")
	}
}

// The control plane may name a broker, another one, and none again.
func TestAppsOverBroker(t *testing.T) {
	r := rabbitmqtest.Start(t)
	ch, done := r.Channel()
	defer done()
	const id = "5f0c1c1e-2f4b-4f7e-9d2e-0242ac110002"
	if err := ch.ExchangeDeclare(wire.Exchange, "direct", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("master", false, false, true, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind("master", wire.KeyMaster, wire.Exchange, false, nil); err != nil {
		t.Fatal(err)
	}
	said, err := ch.Consume("master", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := newWay(slog.New(slog.DiscardHandler))
	a := &answers{}
	status := wire.Envelope{Opcode: wire.StatusReport, Data: json.RawMessage(`{"host_id":"c"}`)}
	send := func() {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			err := w.Send(t.Context(), status)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		w.welcomed(t.Context(), teeth.HandshakeResult{Apps: true, Backbone: &teeth.BackboneBroker{URL: r.URL()}}, id, "", a.call)
		send()
		if d := <-said; string(d.Body) != `{"data":{"host_id":"c"},"opcode":"status"}` {
			t.Errorf("%s", d.Body)
		}
		if got, d, sure := w.Identity(); got != id || d != wire.MasterDeclared || !sure {
			t.Errorf("known as %s in %v", got, d)
		}
		if w.host() != "127.0.0.1" {
			t.Errorf("packages come from %q", w.host())
		}
		if len(a.sent) != 0 {
			t.Errorf("over the session, too: %q", a.sent)
		}
		w.welcomed(t.Context(), teeth.HandshakeResult{Apps: true}, id, "", a.call)
		send()
		if len(a.sent) != 1 {
			t.Errorf("over the session: %q", a.sent)
		}
		a.sent = nil
	}
	// That of the kernel command line comes before.
	fixed := newWay(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := fixed.fix(ctx, broker.Config{URL: r.URL(), Dialect: broker.Document, HostID: id, MAC: "02:00:00:00:00:0A", Log: fixed.log}, ""); err != nil {
		t.Fatal(err)
	}
	fixed.welcomed(t.Context(), teeth.HandshakeResult{Apps: true, Backbone: &teeth.BackboneBroker{URL: "amqp://elsewhere/"}}, "c", "", a.call)
	if got, d, _ := fixed.Identity(); got != "02:00:00:00:00:0A" || d != wire.Document || fixed.host() != "127.0.0.1" {
		t.Errorf("known as %s in %v to %s", got, d, fixed.host())
	}
	if p := (&apps{way: fixed}); p.keeps() {
		t.Error("the control plane may say which apps there are, beside another master")
	}
	// Over TLS the broker is known by a pin.
	url, pin := withTLS(t, r)
	for _, c := range []struct {
		pin  string
		well bool
	}{{pin, true}, {strings.Repeat("0", 64), false}, {"", false}} {
		ctx, cancel := context.WithCancel(t.Context())
		tw := newWay(fixed.log)
		if err := tw.fix(ctx, broker.Config{URL: url, Dialect: broker.MasterDeclared, HostID: id, Log: fixed.log}, c.pin); err != nil {
			t.Fatal(err)
		}
		patience := time.Second
		if c.well {
			patience = 20 * time.Second
		}
		var err error
		for began := time.Now(); time.Since(began) < patience; time.Sleep(20 * time.Millisecond) {
			if err = tw.Send(t.Context(), status); err == nil {
				break
			}
		}
		if (err == nil) != c.well {
			t.Errorf("with pin %.8q: %v", c.pin, err)
		}
		cancel()
	}
	if err := newWay(fixed.log).fix(ctx, broker.Config{URL: "amqps://h/", HostID: id, Log: fixed.log}, "no digest"); err == nil {
		t.Error("a pin that is none is taken")
	}
}

// withTLS puts TLS before a broker, and returns its URL then and the pin of its CA.
func withTLS(t *testing.T, r *rabbitmqtest.Broker) (url, pin string) {
	t.Helper()
	h := httptest.NewTLSServer(nil) // for its certificate, which is its own CA
	t.Cleanup(h.Close)
	sum := sha256.Sum256(h.Certificate().Raw)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: h.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", r.Address())
				if err != nil {
					return
				}
				defer out.Close()
				go io.Copy(out, in)
				io.Copy(in, out)
			}()
		}
	}()
	return "amqps://guest:guest@" + l.Addr().String() + "/", hex.EncodeToString(sum[:])
}

func TestDocumentID(t *testing.T) {
	b := newBench(t)
	for want, macs := range map[string][]string{"0A:00:00:00:00:01": {"00:00:00:00:00:00", "0a:00:00:00:00:01", "0a:00:00:00:00:00"}, "52:54:00:00:00:01": nil} {
		if got := b.documentID(macs); got != want {
			t.Errorf("of %q: %s, want %s", macs, got, want)
		}
	}
}

func TestCPUInfo(t *testing.T) {
	b := cpuInfo(&hwinfo.Inventory{CPUs: []hwinfo.CPU{{Vendor: "GenuineIntel", Model: "Xeon", Sockets: 2, Cores: 8, Threads: 16, Features: []string{"hypervisor"}}}}, "x86_64")
	var got struct {
		Sockets int            `json:"cpu_sockets"`
		Threads map[string]int `json:"cpu_threads"`
		Kind    string         `json:"virtual/physical"`
	}
	if err := json.Unmarshal(b, &got); err != nil || got.Sockets != 2 || got.Threads["total"] != 16 || got.Threads["per_core"] != 2 || got.Kind != "virtual" {
		t.Errorf("%s, %v", b, err)
	}
	if b := cpuInfo(&hwinfo.Inventory{}, "x86_64"); b != nil {
		t.Errorf("%s", b)
	}
}
