package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
	"github.com/teeth-metal/teeth/internal/need"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// What only PostgreSQL can do, and all other tests of this package once more. To
// start a server takes longer than most tests, so they share it.
func TestPostgreSQL(t *testing.T) {
	if inPostgresRun() {
		t.Skip("this is the run with PostgreSQL")
	}
	server := postgrestest.Start(t, "fsync = off")
	for name, test := range map[string]func(*testing.T, *postgrestest.Server){
		"ServersStartAtOnce":  testServersStartAtOnce,
		"ChangesOfAllServers": testChangesOfAllServers,
		"Remote":              testRemote,
		"CommitInDoubt":       testCommitInDoubt,
		"PoisonousWrite":      testPoisonousWrite,
		"Servers":             testServers,
		"Backup":              testBackupOfPostgreSQL,
		"Package":             testPackage,
		"Killed":              testDatabaseKilledUnderLoad,
		"Away":                testDatabaseAway,
	} {
		t.Run(name, func(t *testing.T) { test(t, server) })
	}
}

func connectAs(t testing.TB, s *Store, mac, session string) Chassis {
	t.Helper()
	c, err := s.Connect(t.Context(), Session{ID: session, Handshake: teeth.Handshake{ID: mac, Version: "1", MACs: []string{mac}, BootID: "boot1"}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func soon(t testing.TB, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !check(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func openAs(t testing.TB, dsn string, o Options) *Store {
	t.Helper()
	s, err := OpenAs(t.Context(), dsn, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Several servers that start at once migrate the empty database once.
func testServersStartAtOnce(t *testing.T, server *postgrestest.Server) {
	dsn := server.Database(t)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			s, err := Open(t.Context(), dsn)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := s.AddImage(t.Context(), Image{ID: uuid.NewString(), Name: uuid.NewString()}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// Whoever follows the changes on one server sees every commit of all servers,
// none twice and none passed over, and is woken for it.
func testChangesOfAllServers(t *testing.T, server *postgrestest.Server) {
	dsn := server.Database(t)
	a, b := open(t, dsn), open(t, dsn)
	c := connect(t, a, "52:54:00:00:00:01")
	const each = 300
	seen := make(chan map[string]int)
	since, _ := b.Revision()
	go func() {
		got := map[string]int{}
		defer func() { seen <- got }()
		for len(got) < 2*each {
			_, changed := b.Revision()
			list, to, err := b.Changes(t.Context(), since, Filter{}, 0)
			if err != nil {
				t.Error(err)
				return
			}
			for _, ch := range list {
				if ch.Event != nil {
					got[ch.Event.Message]++
				}
			}
			if to > since {
				since = to
				continue
			}
			select {
			case <-changed:
			case <-time.After(20 * time.Second):
				t.Error("nobody said that there is more")
				return
			}
		}
	}()
	var wg sync.WaitGroup
	for name, s := range map[string]*Store{"a": a, "b": b} {
		for i := range each {
			wg.Go(func() {
				if err := s.AddEvent(context.Background(), Event{Chassis: c.ID, Time: time.Now(), Message: fmt.Sprint(name, i)}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	got := <-seen
	for message, n := range got {
		if n != 1 {
			t.Errorf("%s was seen %d times", message, n)
		}
	}
	if len(got) != 2*each {
		t.Errorf("saw %d of %d", len(got), 2*each)
	}
}

func testRemote(t *testing.T, server *postgrestest.Server) {
	dsn := server.Database(t)
	a, b := open(t, dsn), open(t, dsn)
	soon(t, "b is at rest", func() bool {
		select {
		case <-b.Remote():
			return false
		case <-time.After(2 * pollEvery):
			return true
		}
	})
	began := time.Now()
	connect(t, a, "52:54:00:00:00:01")
	select {
	case <-b.Remote():
		if d := time.Since(began); d > pollEvery/2 {
			t.Errorf("heard after %v: by polling", d)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("b does not hear of a's commit")
	}
	select {
	case <-a.Remote():
		t.Error("a takes its own commit for another's")
	case <-time.After(2 * pollEvery):
	}
	if _, err := a.FindChassis(t.Context(), "52:54:00:00:00:01"); err != nil {
		t.Error(err)
	}
}

// What agents say may hold what PostgreSQL has no text for.
func TestHostileText(t *testing.T) {
	s := open(t, newDSN(t))
	c := connect(t, s, "52:54:00:00:00:01")
	if err := s.AddEvent(t.Context(), Event{Chassis: c.ID, Time: time.Now(), Message: "a\x00b\xff"}); err != nil {
		t.Error(err)
	}
	if err := s.SetName(t.Context(), c.ID, "x'; DROP TABLE chassis; --?$1"); err != nil {
		t.Error(err)
	}
	if c, err := s.Chassis(t.Context(), c.ID); err != nil || c.Name != "x'; DROP TABLE chassis; --?$1" {
		t.Errorf("%q, %v", c.Name, err)
	}
	if _, err := s.FindChassis(t.Context(), "a\x00\xff"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// PostgreSQL is killed and started again, over and over, under load. Every write
// that was acknowledged is there, and what was not, is there at most once.
func testDatabaseKilledUnderLoad(t *testing.T, server *postgrestest.Server) {
	dsn := server.Database(t)
	s := open(t, dsn)
	c := connect(t, s, "52:54:00:00:00:01")
	stop := make(chan struct{})
	var acknowledged, refused sync.Map
	var count atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				m := fmt.Sprintf("%d/%d", w, i)
				if err := s.AddEvent(context.Background(), Event{Chassis: c.ID, Time: time.Now(), Message: m}); err != nil {
					refused.Store(m, err)
				} else {
					acknowledged.Store(m, true)
					count.Add(1)
				}
				time.Sleep(20 * time.Millisecond) // the newest 1000 are kept
			}
		})
	}
	for range 3 {
		before := count.Load()
		soon(t, "writes", func() bool { return count.Load() > before+20 })
		server.Restart(t)
	}
	before := count.Load()
	soon(t, "writes after the last restart", func() bool { return count.Load() > before+20 })
	close(stop)
	wg.Wait()
	stored := map[string]int{}
	events, err := s.Events(t.Context(), c.ID, MaxPage)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		stored[e.Message]++
	}
	if len(events) >= maxEvents {
		t.Fatal("too many events to tell")
	}
	acknowledged.Range(func(m, _ any) bool {
		if stored[m.(string)] != 1 {
			t.Errorf("%s was acknowledged and is stored %d times", m, stored[m.(string)])
		}
		return true
	})
	refused.Range(func(m, err any) bool {
		if n := stored[m.(string)]; n > 1 || n == 1 && errors.Is(err.(error), ErrUnavailable) {
			t.Errorf("%s failed (%v) and is stored %d times", m, err, n)
		}
		return true
	})
	t.Logf("%d writes over 3 crashes of the database", count.Load())
}

// cutter passes connections on to PostgreSQL. When it is armed it breaks the one
// over which the next commit comes, before or after PostgreSQL has it.
type cutter struct {
	net.Listener
	to            string
	before, after atomic.Bool
}

func (c *cutter) serve() {
	for {
		client, err := c.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", c.to)
			if err != nil {
				return
			}
			defer server.Close()
			var swallow atomic.Bool
			go func() {
				defer client.Close()
				b := make([]byte, 64<<10)
				for {
					n, err := server.Read(b)
					if err != nil || swallow.Load() {
						return
					}
					client.Write(b[:n])
				}
			}()
			b := make([]byte, 64<<10)
			for {
				n, err := client.Read(b)
				if err != nil {
					return
				}
				if bytes.Contains(b[:n], []byte("Q\x00\x00\x00\vcommit\x00")) {
					if c.before.CompareAndSwap(true, false) {
						return
					}
					swallow.Store(c.after.CompareAndSwap(true, false))
				}
				server.Write(b[:n])
			}
		}()
	}
}

// A connection that is lost while the commit is on its way: PostgreSQL knows
// whether it was made, and nothing is stored twice.
func testCommitInDoubt(t *testing.T, server *postgrestest.Server) {
	dsn, err := url.Parse(server.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cut := &cutter{Listener: l, to: dsn.Host}
	t.Cleanup(func() { l.Close() })
	go cut.serve()
	dsn.Host = l.Addr().String()
	s := open(t, dsn.String())
	c := connect(t, s, "52:54:00:00:00:01")
	for name, x := range map[string]struct {
		arm  func(*testing.T)
		runs int
	}{
		"undisturbed":       {func(*testing.T) {}, 1},
		"before the commit": {func(*testing.T) { cut.before.Store(true) }, 2},
		"after the commit":  {func(*testing.T) { cut.after.Store(true) }, 1},
		"within the transaction": {func(t *testing.T) {
			if _, err := s.r.db.ExecContext(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE state = 'idle in transaction' AND datname = current_database()`); err != nil {
				t.Error(err)
			}
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			ran := 0
			err := s.update(t.Context(), func(tx *tx) error {
				if ran++; ran == 1 {
					x.arm(t)
				}
				_, err := tx.Exec(`INSERT INTO events (rev, chassis, time, message) VALUES (?, ?, 0, ?)`, tx.nextRev(), c.ID, name)
				return err
			})
			var stored int
			if e := s.r.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM events WHERE message = ?`, name).Scan(&stored); e != nil {
				t.Fatal(e)
			}
			if err != nil || stored != 1 || ran != x.runs {
				t.Errorf("answered %v, ran %d times, stored %d times", err, ran, stored)
			}
			if cut.before.Load() || cut.after.Load() {
				t.Error("no commit came by: the test shows nothing")
			}
		})
	}
}

// While the database is away, writes fail in bounded time and say so; reads too;
// and both work once it is back.
func testDatabaseAway(t *testing.T, server *postgrestest.Server) {
	need.Time(t, "waits for an outage's end, 10 s")
	s := open(t, server.Database(t))
	c := connect(t, s, "52:54:00:00:00:01")
	server.Kill(t)
	began := time.Now()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := s.SetName(context.Background(), c.ID, "x"); !errors.Is(err, ErrUnavailable) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if d := time.Since(began); d > 2*outage {
		t.Errorf("50 writes failed after %v", d)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.SetName(ctx, c.ID, "x"); err == nil {
		t.Error("stored nowhere")
	}
	if _, err := s.Chassis(t.Context(), c.ID); err == nil {
		t.Error("read from nowhere")
	}
	server.Run(t)
	if err := s.SetName(t.Context(), c.ID, "back"); err != nil {
		t.Error(err)
	}
	if c, err := s.Chassis(t.Context(), c.ID); err != nil || c.Name != "back" {
		t.Errorf("%q, %v", c.Name, err)
	}
	// The listener is back too.
	other := open(t, s.postgres.config.ConnString())
	soon(t, "hear of another server by notification", func() bool {
		for len(s.remote) > 0 {
			<-s.remote
		}
		began := time.Now()
		if err := other.SetName(t.Context(), c.ID, "other"); err != nil {
			t.Fatal(err)
		}
		<-s.Remote()
		return time.Since(began) < pollEvery/4
	})
}

// A write that breaks its transaction each time takes no other with it for ever.
func testPoisonousWrite(t *testing.T, server *postgrestest.Server) {
	s := open(t, server.Database(t))
	connect(t, s, "52:54:00:00:00:01")
	ran := 0
	err := s.update(t.Context(), func(tx *tx) error {
		ran++
		_, err := tx.Exec(`SELECT pg_terminate_backend(pg_backend_pid())`)
		return err
	})
	if err == nil || ran != maxAttempts {
		t.Errorf("%v after %d runs", err, ran)
	}
	// A statement's error that the write passes over would void the transaction.
	err = s.update(t.Context(), func(tx *tx) error { tx.Exec(`SELECT nonsense`); return nil })
	if err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Error(err)
	}
	if err := s.AddImage(t.Context(), Image{ID: "x", Name: "x"}); err != nil {
		t.Error(err)
	}
}

func testServers(t *testing.T, server *postgrestest.Server) {
	dsn := server.Database(t)
	a, b := openAs(t, dsn, Options{Name: "a", Version: "1"}), openAs(t, dsn, Options{Name: "b"})
	if err := a.SetBoot(t.Context(), "http://a:1"); err != nil {
		t.Fatal(err)
	}
	list, err := b.Servers(t.Context())
	if err != nil || len(list) != 2 || list[0].Name != "a" || list[0].Boot != "http://a:1" || !list[0].Alive || !list[1].Alive {
		t.Fatalf("%+v, %v", list, err)
	}
	ofA, ofB := connectAs(t, a, "52:54:00:00:00:01", "1"), connectAs(t, b, "52:54:00:00:00:02", "2")
	connected := func(want ...bool) {
		t.Helper()
		for i, id := range []string{ofA.ID, ofB.ID} {
			if c, err := b.Chassis(t.Context(), id); err != nil || c.Connected != want[i] {
				t.Errorf("chassis %d: connected %v, %v", i, c.Connected, err)
			}
		}
	}
	if list, err = b.Servers(t.Context()); err != nil || list[0].Sessions != 1 || list[1].Sessions != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	// A third that starts leaves the sessions of those that live.
	open(t, dsn)
	connected(true, true)
	// b finds a silent for too long.
	since, _ := b.Revision()
	silent := func() {
		t.Helper()
		if _, err := b.w.Exec(`UPDATE servers SET seen = seen - 30000 WHERE id = '` + a.server + `'`); err != nil {
			t.Fatal(err)
		}
	}
	silent()
	if alive, err := b.Alive(t.Context(), a.server); err != nil || alive {
		t.Errorf("a is alive: %v, %v", alive, err)
	}
	if err := b.bury(t.Context()); err != nil {
		t.Fatal(err)
	}
	connected(false, true)
	changes, _, err := b.Changes(t.Context(), since, Filter{}, 0)
	if err != nil || len(changes) != 1 || changes[0].Chassis == nil || changes[0].Chassis.ID != ofA.ID {
		t.Errorf("%+v, %v", changes, err)
	}
	// a comes back and hears of it, once.
	lost := 0
	for range 2 {
		if err := a.beat(t.Context(), func() { lost++ }); err != nil {
			t.Fatal(err)
		}
	}
	if alive, err := b.Alive(t.Context(), a.server); lost != 1 || err != nil || !alive {
		t.Errorf("a was told %d times; alive: %v, %v", lost, alive, err)
	}
	// Its own start forgets only its own sessions.
	connectAs(t, a, "52:54:00:00:00:01", "3")
	again := openAs(t, dsn, Options{Server: a.server})
	connected(false, true)
	// The process that was there before is told to stop.
	if err := a.beat(t.Context(), func() {}); !errors.Is(err, errDuplicate) {
		t.Errorf("two processes of one id: %v", err)
	}
	if err := again.beat(t.Context(), func() { t.Error("lost") }); err != nil {
		t.Error(err)
	}
	// One that stops in good order is gone at once.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := again.KeepAlive(ctx, func() {}); err != nil {
		t.Error(err)
	}
	if alive, err := b.Alive(t.Context(), a.server); err != nil || alive {
		t.Errorf("alive after signing off: %v, %v", alive, err)
	}
}

func TestEstate(t *testing.T) {
	dsn := newDSN(t)
	s := open(t, dsn)
	if v, err := s.Estate(t.Context(), "ca"); v != "" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	for _, value := range []string{"first", "second"} {
		if v, err := s.SetEstate(t.Context(), "ca", value); v != "first" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
	}
	if v, err := s.Estate(t.Context(), "ca"); v != "first" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
}

// No error and no log line holds the password of the database.
func TestPasswordStaysSecret(t *testing.T) {
	var log strings.Builder
	for _, dsn := range []string{
		"postgres://teeth:hunter2@127.0.0.1:1/teeth?sslmode=disable",
		"postgres://teeth:hunter2%zz@127.0.0.1:1/teeth",
		"postgres://teeth:hunter2@127.0.0.1:port/teeth",
		"postgresql://127.0.0.1:1/teeth?user=teeth&password=hunter2&sslmode=nonsense",
	} {
		_, err := OpenAs(t.Context(), dsn, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(log.String(), "hunter2") {
			t.Errorf("%v\n%s", err, log.String())
		}
	}
}

func TestRebind(t *testing.T) {
	const query = `a = ? AND b = ?`
	if got := postgreSQL.rebind(query); got != `a = $1 AND b = $2` {
		t.Error(got)
	}
	if got := sqlite.rebind(query); got != query {
		t.Error(got)
	}
}
