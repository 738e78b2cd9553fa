package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/api/quota"
	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	uuidA = "4c4c4544-0043-3010-8052-b4c04f564231"
	uuidB = "4c4c4544-0043-3010-8052-b4c04f564232"
	macA  = "52:54:00:00:00:0a"
	macB  = "52:54:00:00:00:0b"
)

// woken counts.
type woken struct{ n atomic.Int64 }

func (w *woken) Connected(context.Context, string, teeth.Status) error { return nil }
func (w *woken) Wake(string)                                           { w.n.Add(1) }

// site is a gateway with TLS and what belongs to it.
type site struct {
	t       *testing.T
	g       *Gateway
	s       *store.Store
	address string
	pin     string
	woken   woken
}

func newSite(t *testing.T) *site {
	t.Helper()
	s, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "teeth.db"))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &site{t: t, s: s, address: l.Addr().String(), pin: authority.Pin()}
	w.g = New(Config{Store: s, Handler: &w.woken, Token: "estate token", Authority: authority, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- w.g.Serve(ctx, l, authority.AgentConfig(ctx, "secret")) }()
	go func() { done <- w.g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		s.Close()
	})
	return w
}

// machine is an agent that answers status, and ping unless it is deaf.
type machine struct {
	w       *site
	hello   teeth.Handshake
	key     *ecdsa.PrivateKey
	cert    []byte
	deaf    bool
	conn    *tls.Conn
	chassis string
	replies chan teeth.Message
	closed  chan struct{}
}

func (w *site) machine(uuid, serial, mac, boot, token string) *machine {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	return &machine{w: w, key: key, hello: teeth.Handshake{ID: mac, MACs: []string{mac}, UUID: uuid, Serial: serial, Version: "1", BootID: boot, Token: token}}
}

// connect introduces the machine and returns what the server refused it with.
func (m *machine) connect() (refusal string) {
	t := m.w.t
	t.Helper()
	conf, err := pki.ClientConfig(m.w.pin)
	if err != nil {
		t.Fatal(err)
	}
	if m.cert != nil {
		conf.Certificates = []tls.Certificate{{Certificate: [][]byte{m.cert}, PrivateKey: m.key}}
	}
	m.conn = tls.Client(dial(t, m.w.address), conf)
	m.replies, m.closed = make(chan teeth.Message, 10), make(chan struct{})
	go m.read(teeth.NewReader(m.conn))
	reply := m.call(teeth.MethodHandshake, m.hello)
	if reply.Kind == teeth.KindError {
		return reply.Err.Msg
	}
	var r teeth.HandshakeResult
	if err := json.Unmarshal(reply.Result, &r); err != nil || reply.Kind != teeth.KindResult || !r.Certificates {
		t.Fatalf("%+v, %v", reply, err)
	}
	m.chassis = r.Chassis
	return ""
}

func (m *machine) read(r *teeth.Reader) {
	defer close(m.closed)
	for {
		line, err := r.ReadLine()
		if err != nil {
			return
		}
		msg, err := teeth.Parse(line)
		if err != nil {
			m.w.t.Errorf("%q: %v", line, err)
			return
		}
		var reply teeth.Message
		switch {
		case msg.Kind != teeth.KindCommand:
			msg.ID, msg.Result = json.RawMessage(strings.Clone(string(msg.ID))), json.RawMessage(strings.Clone(string(msg.Result)))
			m.replies <- msg
			continue
		case msg.Method == teeth.MethodStatus:
			reply, err = teeth.NewResult(msg.ID, teeth.Status{Mode: "STANDBY", BootID: m.hello.BootID, Inventory: json.RawMessage(`{}`)})
		case m.deaf:
			continue
		default:
			reply, err = teeth.NewResult(msg.ID, msg.Params)
		}
		if err != nil {
			m.w.t.Error(err)
		}
		teeth.NewWriter(m.conn).WriteMessage(reply)
	}
}

func (m *machine) call(method string, params any) teeth.Message {
	t := m.w.t
	t.Helper()
	c, err := teeth.NewCommand(teeth.NewID(), method, params)
	if err == nil {
		err = teeth.NewWriter(m.conn).WriteMessage(c)
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case reply := <-m.replies:
		return reply
	case <-time.After(20 * time.Second):
	case <-m.closed:
		select {
		case reply := <-m.replies:
			return reply
		default:
		}
	}
	t.Fatalf("no answer to %s", method)
	panic("unreachable")
}

// certify gets a certificate and returns the refusal instead, if there is one.
func (m *machine) certify() (refusal string) {
	t := m.w.t
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, m.key)
	if err != nil {
		t.Fatal(err)
	}
	reply := m.call(teeth.MethodCertificate, teeth.CertificateParams{CSR: csr})
	if reply.Kind == teeth.KindError {
		return reply.Err.Msg
	}
	var r teeth.CertificateResult
	if err := json.Unmarshal(reply.Result, &r); err != nil || r.Renew <= 0 {
		t.Fatalf("%s, %v", reply.Result, err)
	}
	m.cert = r.Certificate
	return ""
}

func (w *site) eventually(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func (w *site) try(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *site) bootToken(uuid, mac string) string {
	w.t.Helper()
	token, err := w.s.IssueBootToken(w.t.Context(), uuid, mac)
	w.try(err)
	return token
}

func TestUnapprovedGetsNoCommands(t *testing.T) {
	w := newSite(t)
	ctx := t.Context()
	m := w.machine(uuidA, "SN1", macA, "boot1", w.bootToken(uuidA, macA))
	if r := m.connect(); r != "" {
		t.Fatal(r)
	}
	w.eventually("inspected", func() bool { _, ok := w.g.present(m.chassis); return ok })
	if _, ok := w.g.Session(m.chassis); ok {
		t.Error("a session that the engine could use")
	}
	w.try(w.g.Inspect(ctx, m.chassis))
	s, _ := w.g.present(m.chassis)
	var refusal *teeth.MethodError
	if _, err := s.Call(ctx, teeth.MethodDiskErase, teeth.DiskEraseParams{TaskID: "t"}); !errors.As(err, &refusal) {
		t.Errorf("an erase for an unapproved chassis: %v", err)
	}
	if r := m.certify(); r != "not approved yet" {
		t.Errorf("certificate: %q", r)
	}
	before := w.woken.n.Load()
	w.try(w.s.Approve(ctx, m.chassis, "ann"))
	w.eventually("approved", func() bool { _, ok := w.g.Session(m.chassis); return ok && w.woken.n.Load() > before })
	if r := m.certify(); r != "" {
		t.Error(r)
	}
	w.try(w.s.Reject(ctx, m.chassis, "ann"))
	select {
	case <-m.closed:
	case <-time.After(10 * time.Second):
		t.Error("a rejected chassis stays connected")
	}
	for _, m := range []*machine{m, w.machine(uuidA, "SN1", macA, "boot2", "estate token")} {
		if r := m.connect(); !strings.Contains(r, "refused") {
			t.Errorf("a rejected chassis is let in: %q", r)
		}
	}
}

func TestCertificateInsteadOfToken(t *testing.T) {
	w := newSite(t)
	ctx := t.Context()
	m := w.machine(uuidA, "SN1", macA, "boot1", w.bootToken(uuidA, macA))
	if r := m.connect(); r != "" {
		t.Fatal(r)
	}
	w.try(w.s.Approve(ctx, m.chassis, "ann"))
	w.eventually("certificate", func() bool { return m.certify() == "" })
	token := m.hello.Token
	m.hello.Token = ""
	if r := m.connect(); r != "" {
		t.Fatalf("with the certificate: %s", r)
	}
	chassis := m.chassis
	for name, change := range map[string]func(*machine){
		"another board":                    func(o *machine) { o.hello.UUID, o.hello.Serial = uuidB, "SN2" },
		"another boot":                     func(o *machine) { o.hello.BootID = "boot2" },
		"the token it was got with":        func(o *machine) { o.cert, o.hello.Token = nil, token },
		"no token":                         func(o *machine) { o.cert = nil },
		"another authority's certificate":  func(o *machine) { o.cert = foreign(t, o) },
		"a token beside a bad certificate": func(o *machine) { o.cert, o.hello.Token = foreign(t, o), "estate token" },
	} {
		o := *m
		if change(&o); o.connect() == "" {
			t.Errorf("%s: let in", name)
		}
	}
	if c, err := w.s.Chassis(ctx, chassis); err != nil || !c.Connected {
		t.Errorf("the attempts have cost it its session: %+v, %v", c, err)
	}
	w.try(w.s.Forget(ctx, chassis, "ann", true))
	if r := m.connect(); !strings.Contains(r, "forgotten") {
		t.Errorf("forgotten: %q", r)
	}
	m.cert, m.hello.Token = nil, "estate token"
	if r := m.connect(); r != "" || m.chassis == chassis {
		t.Errorf("anew: %q, chassis %s", r, m.chassis)
	}
}

// foreign is a certificate for the machine from another estate.
func foreign(t *testing.T, m *machine) []byte {
	t.Helper()
	a, err := pki.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, m.key)
	if err != nil {
		t.Fatal(err)
	}
	der, _, err := a.IssueClient(csr, m.chassis, m.hello.BootID)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Whoever knows all that a chassis says of itself does not get its session while it
// is there; the chassis itself, after a reset, does.
func TestTakeover(t *testing.T) {
	w := newSite(t)
	m := w.machine(uuidA, "SN1", macA, "boot1", "estate token")
	if r := m.connect(); r != "" {
		t.Fatal(r)
	}
	w.try(w.s.Approve(t.Context(), m.chassis, "ann"))
	w.eventually("certificate", func() bool { return m.certify() == "" })
	impostor := w.machine(uuidA, "SN1", macA, "boot2", "estate token")
	if r := impostor.connect(); !strings.Contains(r, "refused") {
		t.Errorf("the impostor: %q", r)
	}
	if reply := m.call(teeth.MethodPing, struct{}{}); reply.Kind != teeth.KindResult {
		t.Errorf("%+v", reply)
	}
	m.deaf = true // what is left of a session when a machine is reset
	if r := impostor.connect(); r != "" {
		t.Errorf("after a reset: %s", r)
	}
}

// A plain session gets no config drive, nor the record of a chassis that is known
// over TLS.
func TestPlainSessions(t *testing.T) {
	w := newSite(t)
	m := w.machine(uuidA, "SN1", macA, "boot1", "estate token")
	if r := m.connect(); r != "" {
		t.Fatal(r)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.try(err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.g.Serve(ctx, l, nil) }()
	defer func() { cancel(); <-done }()
	hello := func(uuid, mac string) string {
		return fmt.Sprintf(`{"id": "1", "version": "v1", "method": "handshake", "params": {"id": "%s", "uuid": "%s", "serial": "SN1", "version": "1.0"}}`+"\n", mac, uuid)
	}
	if got := exchange(t, l.Addr().String(), hello(uuidA, macA)); !strings.Contains(got, "in the clear") {
		t.Errorf("a chassis known over TLS: %q", got)
	}
	conn := dial(t, l.Addr().String())
	io.WriteString(conn, hello(uuidB, macB))
	var c store.Chassis
	w.eventually("connected", func() bool { c, err = w.s.FindChassis(ctx, macB); return err == nil && c.Connected })
	w.try(w.s.Approve(ctx, c.ID, "ann"))
	var s *Session
	w.eventually("session", func() bool {
		w.g.mu.Lock()
		s = w.g.sessions[c.ID]
		w.g.mu.Unlock()
		return s != nil && s.approved.Load()
	})
	for config, want := range map[*teeth.ConfigDrive]bool{{UserData: "secret"}: true, nil: false} {
		ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		_, err := s.Call(ctx, teeth.MethodRunImage, teeth.RunImageParams{TaskID: "t", ImageID: "i", ConfigDrive: config})
		cancel()
		var refusal *teeth.MethodError
		if errors.As(err, &refusal) != want {
			t.Errorf("config drive %v: %v", config != nil, err)
		}
	}
}

func TestHandshakesAreBounded(t *testing.T) {
	address, _ := serve(t, Config{MaxHandshakes: 2, Handshake: 2 * time.Second})
	for range 2 {
		dial(t, address) // says nothing
	}
	refused := func() bool {
		conn := dial(t, address)
		io.WriteString(conn, hello)
		n, _ := conn.Read(make([]byte, 1))
		return n == 0
	}
	time.Sleep(50 * time.Millisecond)
	if !refused() {
		t.Error("a third handshake is taken")
	}
	time.Sleep(3 * time.Second)
	for range 5 { // sessions do not count
		if refused() {
			t.Fatal("refused although the others have timed out")
		}
	}
}

func TestRateOfAnAddress(t *testing.T) {
	r := rates{per: 10}
	from := quota.Source("192.0.2.1:7")
	now := time.Now()
	allowed := 0
	for range 100 {
		if r.allow(from, now) {
			allowed++
		}
	}
	if allowed != 41 {
		t.Errorf("a burst of %d", allowed)
	}
	if !r.allow(quota.Source("192.0.2.2:7"), now) {
		t.Error("another address suffers")
	}
	if !r.allow(from, now.Add(time.Second)) {
		t.Error("refused for ever")
	}
	r.allow(from, now.Add(time.Hour))
	if len(r.of) != 1 {
		t.Errorf("%d addresses are remembered", len(r.of))
	}
	if quota.Source("[2001:db8::1]:1") != quota.Source("[2001:db8::2]:1") {
		t.Error("two addresses of a /64 are two")
	}
}
