package controlplane

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/wire/teeth"
)

const patience = 20 * time.Second

const (
	testMAC  = "52:54:00:12:34:56"
	testUUID = "4c4c4544-0043-3010-8052-b4c04f564231"
)

var inventory = json.RawMessage(`{"system":{"product":"Standard PC"},"disks":[` +
	`{"name":"nvme0n1","path":"/dev/nvme0n1","size":8589934592,"serial":"NVME1","wwn":"eui.1","transport":"nvme"},` +
	`{"name":"vda","path":"/dev/vda","size":5368709120,"serial":"VDA1","transport":"virtio"}]}`)

// agent is a scripted agent. Tests drive it line by line.
type agent struct {
	t      testing.TB
	conn   net.Conn
	r      *bufio.Scanner
	mu     sync.Mutex // of writing
	bootID string

	tasks    []teeth.TaskStatus // said in the status
	found    json.RawMessage    // ditto: the inventory
	commands chan teeth.Message // but status, which it answers itself
	replies  chan teeth.Message
	closed   chan struct{}
	welcome  teeth.HandshakeResult
	fatal    string // set before closed is
}

// dial connects to a server's TLS listener.
func dial(t testing.TB, info Info) net.Conn {
	t.Helper()
	conf, err := pki.ClientConfig(info.CASHA256)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", info.Agents, conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// connect dials, introduces itself and begins to answer.
func connect(t testing.TB, s *running, bootID string, tasks ...teeth.TaskStatus) *agent {
	t.Helper()
	return connectWith(t, s, bootID, inventory, tasks...)
}

// connectWith is connect of a chassis with another inventory.
func connectWith(t testing.TB, s *running, bootID string, found json.RawMessage, tasks ...teeth.TaskStatus) *agent {
	t.Helper()
	a := &agent{
		t: t, conn: dial(t, s.info), bootID: bootID, tasks: tasks, found: found,
		commands: make(chan teeth.Message, 100), replies: make(chan teeth.Message, 100), closed: make(chan struct{}),
	}
	a.r = bufio.NewScanner(a.conn)
	a.r.Buffer(nil, teeth.MaxLine+2)
	go a.read()
	reply := a.call(teeth.MethodHandshake, teeth.Handshake{ID: testMAC, UUID: testUUID, Serial: "SN1", Version: "1.0",
		MACs: []string{testMAC}, BootID: bootID, Token: s.token, Endpoint: s.info.Agents, Apps: true})
	if reply.Kind != teeth.KindResult {
		t.Fatalf("handshake refused: %v", reply.Err)
	}
	if err := json.Unmarshal(reply.Result, &a.welcome); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *agent) read() {
	defer close(a.closed)
	for a.r.Scan() {
		m, err := teeth.Parse(a.r.Bytes())
		if err != nil {
			a.t.Errorf("from the server: %v", err)
			return
		}
		m = copied(m)
		switch {
		case m.Kind == teeth.KindFatal:
			a.fatal = m.Fatal
		case m.Kind == teeth.KindCommand && m.Method == teeth.MethodStatus:
			st := teeth.Status{Mode: "STANDBY", Uptime: 1, Version: "1.0", BootID: a.bootID, Tasks: a.tasks, Inventory: a.found,
				Phases: []teeth.Phase{{Name: "mounts", Seconds: 0.1}}}
			reply, _ := teeth.NewResult(m.ID, st)
			a.send(reply)
		case m.Kind == teeth.KindCommand:
			a.commands <- m
		default:
			a.replies <- m
		}
	}
}

// copied is m without parts of the scanner's buffer.
func copied(m teeth.Message) teeth.Message {
	m.ID, m.Params, m.Result = json.RawMessage(strings.Clone(string(m.ID))), json.RawMessage(strings.Clone(string(m.Params))), json.RawMessage(strings.Clone(string(m.Result)))
	return m
}

func (a *agent) send(m teeth.Message) {
	b, err := m.Append(nil)
	if err != nil {
		a.t.Error(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conn.Write(b) // a server that has gone is noticed by who waits for its answer
}

// call sends a command and returns the server's reply to it.
func (a *agent) call(method string, params any) teeth.Message {
	a.t.Helper()
	m, err := teeth.NewCommand(teeth.NewID(), method, params)
	if err != nil {
		a.t.Fatal(err)
	}
	a.send(m)
	select {
	case reply := <-a.replies:
		if string(reply.ID) != string(m.ID) {
			a.t.Fatalf("reply to %s, expected one to %s", reply.ID, m.ID)
		}
		return reply
	case <-a.closed:
		a.t.Fatalf("connection closed (fatal %q) instead of a reply to %s", a.fatal, method)
	case <-time.After(patience):
		a.t.Fatalf("no reply to %s", method)
	}
	panic("unreachable")
}

// report sends a task_status and fails the test unless it is acknowledged.
func (a *agent) report(st teeth.TaskStatus) {
	a.t.Helper()
	if reply := a.call(teeth.MethodTaskStatus, st); reply.Kind != teeth.KindResult {
		a.t.Fatalf("task_status refused: %v", reply.Err)
	}
}

// command waits for a command.
func (a *agent) command(method string) teeth.Message {
	a.t.Helper()
	select {
	case m := <-a.commands:
		if m.Method != method {
			a.t.Fatalf("got %s, expected %s", m.Method, method)
		}
		return m
	case <-a.closed:
		a.t.Fatalf("connection closed (fatal %q) while waiting for %s", a.fatal, method)
	case <-time.After(patience):
		a.t.Fatalf("no %s within %v", method, patience)
	}
	panic("unreachable")
}

// accept waits for a command, decodes its params into v, and answers {}.
func (a *agent) accept(method string, v any) {
	a.t.Helper()
	m := a.command(method)
	dec := json.NewDecoder(strings.NewReader(string(m.Params)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		a.t.Fatalf("%s %s: %v", method, m.Params, err)
	}
	reply, _ := teeth.NewResult(m.ID, struct{}{})
	a.send(reply)
}

// quiet fails the test if a command comes within a moment.
func (a *agent) quiet() {
	a.t.Helper()
	select {
	case m := <-a.commands:
		a.t.Fatalf("unexpected %s %s", m.Method, m.Params)
	case <-time.After(300 * time.Millisecond):
	}
}

func (a *agent) waitClosed() {
	a.t.Helper()
	select {
	case <-a.closed:
	case <-time.After(patience):
		a.t.Fatal("the connection stays open")
	}
}

// legacy is the original agent (version 0.1-dev) on a plain connection: standby.*
// only, null results, fatal on a method it does not know.
type legacy struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func connectLegacy(t testing.TB, address string) *legacy {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * patience))
	l := &legacy{t: t, conn: conn, r: bufio.NewReader(conn)}
	l.line(`{"id": "2dd6bbf2-3fbd-4d0e-8f32-f3f5e6a8a1cb", "version": "v1", "method": "handshake", "params": {"id": "a:b:c:d", "version": "0.1-dev"}}`)
	if m := l.next(); m.Kind != teeth.KindResult {
		t.Fatalf("handshake: %+v", m)
	}
	l.ping(1)
	return l
}

func (l *legacy) line(s string) {
	l.t.Helper()
	if _, err := io.WriteString(l.conn, s+"\n"); err != nil {
		l.t.Fatal(err)
	}
}

func (l *legacy) next() teeth.Message {
	l.t.Helper()
	b, err := l.r.ReadBytes('\n')
	if err != nil {
		l.t.Fatal(err)
	}
	m, err := teeth.Parse(b)
	if err != nil {
		l.t.Fatalf("%s: %v", b, err)
	}
	return copied(m)
}

func (l *legacy) ping(n int) {
	l.line(fmt.Sprintf(`{"id": "ping-%d", "version": "v1", "method": "ping", "params": {}}`, n))
}

// serve answers as the original does until one of the wanted methods has come,
// and returns its params. A method it does not know is the end of the test: the
// original would end the session.
func (l *legacy) serve(want string) map[string]any {
	l.t.Helper()
	for {
		m := l.next()
		if m.Kind != teeth.KindCommand {
			if m.Kind != teeth.KindResult {
				l.t.Fatalf("%+v", m)
			}
			continue // to its ping
		}
		var params map[string]any
		if err := json.Unmarshal(m.Params, &params); err != nil {
			l.t.Fatal(err)
		}
		switch m.Method {
		case "status":
			if len(params) != 0 {
				l.t.Fatalf("status with params %v", params)
			}
			l.line(fmt.Sprintf(`{"id": %s, "version": "v1", "result": {"mode": "STANDBY", "uptime": 12.5, "version": "0.1-dev"}}`, m.ID))
		case "standby.cache_images", "standby.prepare_image", "standby.run_image":
			l.line(fmt.Sprintf(`{"id": %s, "version": "v1", "result": null}`, m.ID))
		default:
			l.line(`{"fatal_error": "unknown message method"}`)
			l.t.Fatalf("the server sent %s to the original agent", m.Method)
		}
		if m.Method == want {
			return params
		}
	}
}

// running is a server in this process.
type running struct {
	t      testing.TB
	info   Info
	token  string
	dir    string
	client *client.Client
	stop   func()
	done   chan error
}

// start serves from dir until the test or stop ends it.
func start(t testing.TB, dir string, change func(*Config)) *running {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	// signal.NotifyContext gives a cause too.
	stop := func() { cancel(errors.New("terminated")) }
	s := &running{t: t, dir: dir, stop: stop, done: make(chan error, 1)}
	ready := make(chan Info, 1)
	c := testConfig(dir)
	c.Ready = func(i Info) { ready <- i }
	if change != nil {
		change(&c)
	}
	go func() { s.done <- Serve(ctx, c) }()
	select {
	case s.info = <-ready:
	case err := <-s.done:
		stop()
		t.Fatalf("server ended: %v", err)
	}
	t.Cleanup(func() { s.halt() })
	s.load()
	return s
}

func (s *running) load() {
	s.t.Helper()
	var err error
	if s.token, err = pki.Secret(s.dir, "enrol.token"); err != nil {
		s.t.Fatal(err)
	}
	conf, err := client.Load(s.info.ClientFile)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.client, err = client.New(conf); err != nil {
		s.t.Fatal(err)
	}
}

// halt stops the server, once, and checks that it went well.
func (s *running) halt() {
	s.t.Helper()
	s.stop()
	select {
	case err, ok := <-s.done:
		if ok && err != nil {
			s.t.Errorf("server: %v", err)
		}
		if ok {
			close(s.done)
		}
	case <-time.After(patience):
		s.t.Error("the server does not end")
	}
}

// eventually polls until check returns true.
func eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if check() {
			return
		}
	}
	t.Fatalf("not within %v: %s", patience, what)
}

// chassis waits until the agent's chassis is in a state.
func (s *running) chassis(state string) client.Chassis {
	s.t.Helper()
	var c client.Chassis
	eventually(s.t, "chassis "+state, func() bool {
		var err error
		c, err = s.client.Chassis(context.Background(), testMAC)
		return err == nil && c.State == state
	})
	return c
}

func (s *running) run(id string) client.Graph {
	s.t.Helper()
	r, err := s.client.Graph(context.Background(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// ended waits for the end of a run.
func (s *running) ended(id string) client.Graph {
	s.t.Helper()
	eventually(s.t, "end of run", func() bool { r := s.run(id); return r.State != "running" && r.State != "pending" })
	return s.run(id)
}
