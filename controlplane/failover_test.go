package controlplane

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/client"
	"github.com/teeth-metal/teeth/controlplane/pki"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
	"github.com/teeth-metal/teeth/internal/need"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// joinEstate prepares the data folder of a further server: it copies what help
// tells an operator to.
func joinEstate(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"ca.pem", secretsFile, "enrol.token", "operator.token"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// roamer is an agent that stays on one boot, connects to whichever server answers,
// and works on what it is given as the real one does: a task goes on through the
// loss of a session, and its end is said until a server acknowledges it.
type roamer struct {
	t         *testing.T
	number    int
	endpoints []*running
	pause     time.Duration // between updates
	wg        sync.WaitGroup

	mu       sync.Mutex
	session  *roamerSession
	tasks    map[string]teeth.TaskStatus
	started  map[string]int
	finished map[string]bool // acknowledged
	acked    map[string]float64
	sessions int
}

type roamerSession struct {
	conn    net.Conn
	writing sync.Mutex
	mu      sync.Mutex
	replies map[string]chan teeth.Message
	done    chan struct{}
}

func roam(t *testing.T, ctx context.Context, number int, pause time.Duration, endpoints ...*running) *roamer {
	r := &roamer{t: t, number: number, endpoints: endpoints, pause: pause,
		tasks: map[string]teeth.TaskStatus{}, started: map[string]int{}, finished: map[string]bool{}, acked: map[string]float64{}}
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(func() { cancel(); r.wg.Wait() })
	r.wg.Go(func() {
		for i := number; ctx.Err() == nil; i++ {
			r.connect(ctx, r.endpoints[i%len(r.endpoints)])
			select {
			case <-ctx.Done():
			case <-time.After(50*time.Millisecond + rand.N(150*time.Millisecond)):
			}
		}
	})
	return r
}

func (r *roamer) mac() string { return fmt.Sprintf("52:54:00:00:01:%02x", r.number) }

// connect is one session, from its start to its end.
func (r *roamer) connect(ctx context.Context, to *running) {
	conf, err := pki.ClientConfig(to.info.CASHA256)
	if err != nil {
		r.t.Error(err)
		return
	}
	conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", to.info.Agents)
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s := &roamerSession{conn: conn, replies: map[string]chan teeth.Message{}, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer conn.Close()
		lines := bufio.NewScanner(conn)
		lines.Buffer(nil, teeth.MaxLine+2)
		for lines.Scan() {
			m, err := teeth.Parse(lines.Bytes())
			if err != nil {
				r.t.Error(err)
				return
			}
			m = copied(m)
			if m.Kind == teeth.KindCommand {
				r.obey(ctx, s, m)
				continue
			}
			s.mu.Lock()
			if c := s.replies[string(m.ID)]; c != nil {
				c <- m
			}
			s.mu.Unlock()
		}
	}()
	uuid := fmt.Sprintf("4c4c4544-0043-3010-8052-%012x", r.number+1)
	if err := s.call(ctx, teeth.MethodHandshake, teeth.Handshake{ID: r.mac(), UUID: uuid, Serial: fmt.Sprint("ROAM", r.number), Version: "1.0",
		MACs: []string{r.mac()}, BootID: fmt.Sprint("boot", r.number), Token: to.token, Endpoint: to.info.Agents}); err != nil {
		return
	}
	r.mu.Lock()
	r.session = s
	r.sessions++
	r.mu.Unlock()
	<-s.done
	r.mu.Lock()
	r.session = nil
	r.mu.Unlock()
}

func (s *roamerSession) send(m teeth.Message) error {
	b, err := m.Append(nil)
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	_, err = s.conn.Write(b)
	return err
}

// call returns nil once the server has answered that it has done it.
func (s *roamerSession) call(ctx context.Context, method string, params any) error {
	m, err := teeth.NewCommand(teeth.NewID(), method, params)
	if err != nil {
		return err
	}
	answer := make(chan teeth.Message, 1)
	s.mu.Lock()
	s.replies[string(m.ID)] = answer
	s.mu.Unlock()
	if err := s.send(m); err != nil {
		return err
	}
	select {
	case reply := <-answer:
		if reply.Kind != teeth.KindResult {
			return fmt.Errorf("%s: %v", method, reply.Err)
		}
		return nil
	case <-s.done:
		return errors.New("the session has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// obey does what a server wants. A task that it knows goes on as it is.
func (r *roamer) obey(ctx context.Context, s *roamerSession, m teeth.Message) {
	if m.Method == teeth.MethodStatus {
		st := teeth.Status{Mode: "STANDBY", Uptime: 1, Version: "1.0", BootID: fmt.Sprint("boot", r.number), Inventory: inventory}
		r.mu.Lock()
		for _, task := range r.tasks {
			st.Tasks = append(st.Tasks, task)
		}
		r.mu.Unlock()
		reply, _ := teeth.NewResult(m.ID, st)
		s.send(reply)
		return
	}
	var params teeth.TaskParams
	if err := json.Unmarshal(m.Params, &params); err != nil {
		r.t.Error(err)
	}
	r.mu.Lock()
	_, known := r.tasks[params.TaskID]
	if r.finished[params.TaskID] {
		r.t.Errorf("chassis %d: %s was acknowledged as finished and is given out again", r.number, m.Method)
	}
	if !known {
		r.tasks[params.TaskID] = teeth.TaskStatus{TaskID: params.TaskID, State: teeth.Running, Percent: percent(0)}
		r.started[params.TaskID]++
	}
	r.mu.Unlock()
	reply, _ := teeth.NewResult(m.ID, struct{}{})
	s.send(reply)
	if !known {
		r.wg.Go(func() { r.work(ctx, params.TaskID) })
	}
}

// work reports on a task until its end is acknowledged.
func (r *roamer) work(ctx context.Context, id string) {
	const updates = 8
	for seq := 1; seq <= updates; seq++ {
		st := teeth.TaskStatus{TaskID: id, State: teeth.Running, Percent: percent(float64(seq * 10)), Seq: uint64(seq)}
		if seq == updates {
			st = teeth.TaskStatus{TaskID: id, State: teeth.Complete, Seq: uint64(seq)}
		}
		r.mu.Lock()
		r.tasks[id] = st
		r.mu.Unlock()
		for {
			r.mu.Lock()
			s := r.session
			r.mu.Unlock()
			if s != nil && s.call(ctx, teeth.MethodTaskStatus, st) == nil {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
		r.mu.Lock()
		r.acked[id] = float64(seq * 10)
		r.finished[id] = st.State.Final()
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(r.pause):
		}
	}
}

// estate is two servers on one database, and chassis that know both.
type estate struct {
	a, b     *running
	dirs     [2]string
	killA    func()
	roamers  []*roamer
	graphs   []client.Graph
	database *postgrestest.Server
	dsn      string
	broker   string // URL; "": none
}

// newEstate has every chassis at a graph.
func newEstate(t *testing.T, chassis int, pause time.Duration) *estate {
	t.Helper()
	e := openEstate(t, chassis, pause, "")
	for i, r := range e.roamers {
		// All through one server: half of the chassis are on the other.
		g, err := e.a.client.Decommission(t.Context(), r.mac(), client.Decommission{})
		if err != nil {
			t.Fatalf("chassis %d: %v", i, err)
		}
		e.graphs = append(e.graphs, g)
	}
	return e
}

func openEstate(t *testing.T, chassis int, pause time.Duration, broker string) *estate {
	t.Helper()
	e := &estate{database: postgrestest.Start(t), broker: broker}
	e.dsn = e.database.Database(t)
	e.dirs[0] = t.TempDir()
	var cmd *exec.Cmd
	e.a, cmd = spawnOn(t, e.dirs[0], e.dsn, broker)
	e.killA = func() { cmd.Process.Kill(); cmd.Wait() }
	e.dirs[1] = joinEstate(t, e.dirs[0])
	e.b, _ = spawnOn(t, e.dirs[1], e.dsn, broker)
	for i := range chassis {
		e.roamers = append(e.roamers, roam(t, t.Context(), i, pause, e.a, e.b))
	}
	// Each server shows all chassis, those that are connected to the other too.
	for _, s := range []*running{e.a, e.b} {
		for _, r := range e.roamers {
			eventually(t, "chassis ready", func() bool {
				c, err := s.client.Chassis(t.Context(), r.mac())
				return err == nil && c.State == "ready"
			})
		}
	}
	return e
}

func (e *estate) serverID(t *testing.T, n int) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(e.dirs[n], "server.id"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// polling defines pollers of a device that never answers, so that each poll takes
// its time, and returns those that a is polling.
func (e *estate) polling(t *testing.T) (ofA []string) {
	t.Helper()
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	a := e.serverID(t, 0)
	query := &client.SNMPQuery{Address: silent.LocalAddr().String(), Community: "public", Get: []string{"1.3.6.1.2.1.1.3.0"}}
	for range 8 {
		if _, err := e.a.client.AddPoller(t.Context(), client.PollerSpec{Kind: "snmp", Interval: 5, SNMP: query}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the first server polls", func() bool {
		list, err := e.b.client.ListPollers(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			if p.Server == a {
				ofA = append(ofA, p.ID)
			}
		}
		return len(ofA) > 0
	})
	return ofA
}

// working waits until every chassis is at work and has said so.
func (e *estate) working(t *testing.T) {
	t.Helper()
	for _, r := range e.roamers {
		eventually(t, fmt.Sprintf("chassis %d at work", r.number), func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.acked) > 0
		})
	}
}

// kept checks that nothing which was acknowledged is lost.
func (e *estate) kept(t *testing.T, s *running) {
	t.Helper()
	for _, r := range e.roamers {
		r.mu.Lock()
		acked, finished := map[string]float64{}, map[string]bool{}
		for id, p := range r.acked {
			acked[id], finished[id] = p, r.finished[id]
		}
		r.mu.Unlock()
		for id, p := range acked {
			var task client.Task
			eventually(t, "an answer", func() bool {
				var err error
				task, err = s.client.Task(t.Context(), id)
				return err == nil
			})
			if task.Percent < p && task.State != "succeeded" || finished[id] && task.State != "succeeded" {
				t.Errorf("chassis %d: %v %% (finished %v) was acknowledged, stored is %s at %v %%", r.number, p, finished[id], task.State, task.Percent)
			}
		}
	}
}

// succeed waits for the end of all graphs and checks that each task ran once.
func (e *estate) succeed(t *testing.T, s *running) {
	t.Helper()
	for i, g := range e.graphs {
		var now client.Graph
		eventually(t, fmt.Sprintf("end of graph %d", i), func() bool {
			var err error
			now, err = s.client.Graph(t.Context(), g.ID)
			return err == nil && now.State != "running" && now.State != "pending"
		})
		if now.State != "succeeded" || len(now.Tasks) != 3 {
			t.Errorf("graph %d: %+v", i, now)
		}
		r := e.roamers[i]
		// The graph's end is known to the server before the chassis knows that it is.
		eventually(t, fmt.Sprintf("chassis %d knows that its tasks' ends are kept", i), func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return !slices.ContainsFunc(now.Tasks, func(task client.Task) bool { return !r.finished[task.ID] })
		})
		r.mu.Lock()
		for _, task := range now.Tasks {
			if r.started[task.ID] != 1 || !r.finished[task.ID] {
				t.Errorf("chassis %d: %s started %d times, its end acknowledged: %v", i, task.Method, r.started[task.ID], r.finished[task.ID])
			}
		}
		if len(r.started) != 3 {
			t.Errorf("chassis %d was given %d tasks", i, len(r.started))
		}
		r.mu.Unlock()
	}
}

// One of two servers is killed while chassis on both work on graphs that were
// started through it. All go on with the other.
func TestServerKilled(t *testing.T) {
	need.Time(t, "starts PostgreSQL and two servers")
	e := newEstate(t, 6, 150*time.Millisecond)
	polled := e.polling(t)
	e.working(t)
	e.killA()
	killed := time.Now()
	e.kept(t, e.b)
	e.succeed(t, e.b)
	// Its leases are over when it is known to be dead; then the other polls.
	for _, id := range polled {
		for taken := false; !taken; time.Sleep(50 * time.Millisecond) {
			p, err := e.b.client.Poller(t.Context(), id)
			taken = err == nil && (p.Server == e.serverID(t, 1) || p.Polled != nil && p.Polled.After(killed))
			if time.Since(killed) > store.DeadAfter+10*time.Second {
				t.Fatalf("poller %s of the dead server was not taken over: %+v, %v", id, p, err)
			}
		}
	}
	for _, r := range e.roamers {
		c, err := e.b.client.Chassis(t.Context(), r.mac())
		if err != nil || !c.Connected {
			t.Errorf("chassis %d: connected %v, %v", r.number, c.Connected, err)
		}
	}
	// It comes back under its old id and knows all of it.
	again, _ := spawnOn(t, e.dirs[0], e.dsn, "")
	e.succeed(t, again)
}

// PostgreSQL crashes, twice, while two servers record what chassis say.
func TestDatabaseRestarted(t *testing.T) {
	need.Time(t, "starts PostgreSQL and two servers")
	e := newEstate(t, 6, 150*time.Millisecond)
	for range 2 {
		e.working(t)
		e.database.Restart(t)
		e.kept(t, e.b)
		time.Sleep(time.Second)
	}
	e.succeed(t, e.a)
	e.succeed(t, e.b)
}

// A server with secrets of its own is kept out of an estate, and told why.
func TestForeignServer(t *testing.T) {
	need.Time(t, "starts PostgreSQL")
	dsn := postgrestest.Start(t, "fsync = off").Database(t)
	first := t.TempDir()
	s := start(t, first, func(c *Config) { c.Database = dsn })
	refused := func(dir, want string) {
		t.Helper()
		c := testConfig(dir)
		c.Database = dsn
		c.Ready = func(Info) { t.Error("it was let in") }
		err := Serve(t.Context(), c)
		for _, part := range []string{"another " + want, "copy ca.pem, secrets.key", dir} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%v; want %q in it", err, part)
			}
		}
	}
	empty := t.TempDir()
	refused(empty, "ca.pem")
	if _, err := os.Stat(filepath.Join(empty, "ca.pem")); err == nil {
		t.Error("it has made a CA that will be in the way")
	}
	other := t.TempDir()
	if _, err := pki.Open(other, nil); err != nil {
		t.Fatal(err)
	}
	refused(other, "secrets.key")
	if _, err := pki.Secret(other, secretsFile); err != nil {
		t.Fatal(err)
	}
	refused(other, "ca.pem")
	mixed := joinEstate(t, first)
	os.Remove(filepath.Join(mixed, secretsFile))
	if _, err := pki.Secret(mixed, secretsFile); err != nil {
		t.Fatal(err)
	}
	refused(mixed, "secrets.key")
	second := start(t, joinEstate(t, first), func(c *Config) { c.Database = dsn })
	// Either server's token opens the other.
	if second.token != s.token {
		t.Error("tokens differ")
	}
}
