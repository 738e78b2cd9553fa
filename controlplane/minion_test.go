package controlplane

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/store"
	wire "github.com/teeth-metal/teeth/wire/minion"
	"github.com/teeth-metal/teeth/wire/teeth"
)

func withMinion(c *Config) { c.Minion.Address = "127.0.0.1:0" }

// minionPeer is a Minion agent on a StreamServer.
type minionPeer struct {
	t   *testing.T
	nc  net.Conn
	r   *wire.Reader
	ids *wire.Generator
	as  teeth.MinionServer
}

func dialMinion(t *testing.T, s *running, as teeth.MinionServer) *minionPeer {
	t.Helper()
	conf, err := pki.ClientConfig(s.info.CASHA256)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", as.Addresses[0], conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(patience))
	return &minionPeer{t: t, nc: nc, r: wire.NewReader(nc), ids: wire.NewGenerator(wire.RandomNode()), as: as}
}

func (p *minionPeer) send(f wire.Frame) {
	p.t.Helper()
	b, err := f.Append(nil)
	if err == nil {
		_, err = p.nc.Write(b)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *minionPeer) next() wire.Frame {
	p.t.Helper()
	b, err := p.r.Next()
	if err != nil {
		p.t.Fatal(err)
	}
	f, err := wire.Parse(b)
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

func (p *minionPeer) ask(what string, key ...string) string {
	p.t.Helper()
	p.send(wire.Request(p.ids.Next(), p.as.Group, p.as.ID, what, key...))
	return p.next().Data[1].Text
}

func (s *running) logLines(filter client.LogFilter) []string {
	s.t.Helper()
	var list []string
	if err := s.client.Logs(context.Background(), filter, func(l client.LogLine) error {
		list = append(list, l.Service+": "+l.Message)
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return list
}

// TestChassisRecords: an approved chassis is told of the StreamServer, over which its
// records come, or over its session; a command goes the other way.
func TestChassisRecords(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	s := start(t, dir, withMinion)
	a := connect(t, s, "boot1")
	id := s.chassis("ready").ID
	as := a.welcome.Minion
	if as == nil || as.Group != "chassis" || as.ID != id || len(as.Key) != 64 || as.Insecure || !slices.Equal(as.Addresses, []string{s.info.Minion}) {
		t.Fatalf("%+v", as)
	}
	p := dialMinion(t, s, *as)
	if answer := p.ask(wire.Authenticate, as.Key); answer != wire.Accepted {
		t.Fatal(answer)
	}
	if answer := p.ask(wire.Acknowledge); answer != wire.Acknowledging {
		t.Fatal(answer)
	}
	line := wire.LogLine(p.ids.Next(), as.Group, as.ID, "kernel", "over the StreamServer")
	p.send(line)
	if f := p.next(); f.Data[0].Text != line.ID.String() || f.Data[1].Text != wire.RecordedThrough {
		t.Errorf("%v", f)
	}
	// The same and another over the session.
	more := wire.LogLine(p.ids.Next(), as.Group, as.ID, "kernel", "over the session")
	b, err := line.Append(nil)
	if err == nil {
		b, err = more.Append(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	if reply := a.call(teeth.MethodRecords, teeth.RecordsParams{Frames: b}); reply.Kind != teeth.KindResult {
		t.Errorf("%v", reply.Err)
	}
	a.call(teeth.MethodLog, teeth.Log{Message: "from the agent", Time: float64(time.Now().Unix()), Fields: map[string]any{"disk": "sda 1", "n": 3}})
	want := []string{"kernel: over the StreamServer", "kernel: over the session", `agent: from the agent disk="sda 1" n=3`}
	if got := s.logLines(client.LogFilter{Chassis: []string{testMAC}}); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for name, frames := range map[string][]byte{"cut off": b[:len(b)-1], "nonsense": {0, 1, 0xc0}} {
		if reply := a.call(teeth.MethodRecords, teeth.RecordsParams{Frames: frames}); reply.Kind != teeth.KindError {
			t.Errorf("%s: %s", name, reply.Result)
		}
	}
	command, err := s.client.RunCommand(ctx, client.NewCommand{Chassis: []string{id}, Argv: []string{"uptime"}})
	if err != nil {
		t.Fatal(err)
	}
	order, err := wire.OrderOf(p.next())
	if err != nil || order.Kind != wire.External || !slices.Equal(order.Argv, []string{"uptime"}) {
		t.Fatalf("%+v, %v", order, err)
	}
	p.send(wire.Result{ID: p.ids.Next(), Group: as.Group, Server: as.ID, Order: order.ID, Stdout: []string{"up 3 days\n"}, State: wire.StateDone}.Frame())
	var output strings.Builder
	err = s.client.FollowCommand(ctx, command.ID, func(o client.Output) error { output.WriteString(o.Text); return nil },
		func(r client.Run) error {
			if r.State == wire.StateDone {
				return io.EOF
			}
			return nil
		})
	if (err != nil && err != io.EOF) || output.String() != "up 3 days\n" {
		t.Errorf("output %q, %v", output.String(), err)
	}
	// The key outlives the server.
	s.halt()
	s = start(t, dir, withMinion)
	if again := connect(t, s, "boot1").welcome.Minion; again == nil || again.Key != as.Key {
		t.Errorf("%+v after a restart", again)
	}
	if got := s.logLines(client.LogFilter{Chassis: []string{testMAC}}); !slices.Equal(got, want) {
		t.Errorf("%q after a restart", got)
	}
}

// TestUnapprovedChassisRecords: a chassis that nobody has approved gets nothing kept.
func TestUnapprovedChassisRecords(t *testing.T) {
	s := start(t, t.TempDir(), func(c *Config) {
		withMinion(c)
		c.Enrolment.AutoApprove = []store.Rule{}
	})
	a := connect(t, s, "boot1")
	as := a.welcome.Minion
	if as == nil {
		t.Fatal("it is not told where to go once it is approved")
	}
	p := dialMinion(t, s, *as)
	if answer := p.ask(wire.Authenticate, as.Key); answer != wire.Denied {
		t.Error(answer)
	}
	b, _ := wire.LogLine(p.ids.Next(), as.Group, as.ID, "kernel", "x").Append(nil)
	if reply := a.call(teeth.MethodRecords, teeth.RecordsParams{Frames: b}); reply.Kind != teeth.KindError || !strings.Contains(reply.Err.Error(), "not approved") {
		t.Errorf("%v", reply)
	}
	if _, err := s.client.Approve(t.Context(), testMAC); err != nil {
		t.Fatal(err)
	}
	eventually(t, "accepted once approved", func() bool { return dialMinion(t, s, *as).ask(wire.Authenticate, as.Key) == wire.Accepted })
}

// TestMinionGroups: groups of the original's configuration, on the plain listener.
func TestMinionGroups(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "minion.yml")
	file := filepath.Join(dir, "web.log")
	if err := os.WriteFile(path, fmt.Appendf(nil, "groups:\n- id: web\n  key: s3cret\n  services:\n  - service: nginx\n    type: file\n    destination: %s\n    default: true\n", file), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, filepath.Join(dir, "data"), func(c *Config) {
		c.Minion.Insecure, c.Minion.Groups = "127.0.0.1:0", path
	})
	if s.info.Minion != "" || s.info.InsecureMinion == "" {
		t.Fatalf("%+v", s.info)
	}
	nc, err := net.Dial("tcp", s.info.InsecureMinion)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	p := &minionPeer{t: t, nc: nc, r: wire.NewReader(nc), ids: wire.NewGenerator(wire.RandomNode()), as: teeth.MinionServer{Group: "web", ID: "web1"}}
	if answer := p.ask(wire.Authenticate, "s3cret"); answer != wire.Accepted {
		t.Fatal(answer)
	}
	p.send(wire.LogLine(p.ids.Next(), "web", "web1", "nginx", "GET /"))
	eventually(t, "the line in the file", func() bool {
		b, _ := os.ReadFile(file)
		return strings.HasSuffix(string(b), "\tweb1\tnginx\tGET /\n")
	})
	// There is none over TLS for chassis: their records come over the session.
	if a := connect(t, s, "boot1").welcome.Minion; a == nil || len(a.Addresses) > 0 || a.Key != "" {
		t.Errorf("a chassis on TLS is told of %+v", a)
	}
}
