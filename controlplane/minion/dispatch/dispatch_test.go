package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/teeth-metal/teeth/controlplane/minion"
	"github.com/teeth-metal/teeth/controlplane/minion/records"
	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// fleet is the agents of a server. What they are sent goes to received.
type fleet struct {
	mu       sync.Mutex
	here     map[string]minion.Agent
	received []wire.Order
	fail     error
	failed   int // tries
}

func (f *fleet) Connected(server string) (minion.Agent, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.here[server]
	return a, ok
}

func (f *fleet) Send(_ context.Context, server string, frame wire.Frame) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		f.failed++
		return f.fail
	}
	o, err := wire.OrderOf(frame)
	if err != nil {
		return err
	}
	f.received = append(f.received, o)
	return nil
}

func (f *fleet) come(a minion.Agent) minion.Agent {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.here == nil {
		f.here = map[string]minion.Agent{}
	}
	f.here[a.Server] = a
	return a
}

func (f *fleet) failing(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *fleet) failures() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

func (f *fleet) orders() []wire.Order {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.received)
}

func open(t *testing.T, dsn string) *records.DB {
	t.Helper()
	db, err := records.Open(t.Context(), dsn, records.Options{Keep: 24 * time.Hour, Schema: "minion"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// run has commands sent until the test ends, or stop is called.
func run(t *testing.T, db *records.DB, agents Agents) (p *Dispatcher, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p = New(db, agents, slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() { p.Run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return p, stop
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what + ": it does not happen")
		}
	}
}

func state(t *testing.T, db *records.DB, command, server string) records.Run {
	t.Helper()
	r, err := db.Run(t.Context(), command, server)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCommandWaitsForItsAgent(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "records.db"))
	f := &fleet{}
	p, _ := run(t, db, f)
	a, old := uuid.NewString(), "an old one"
	c, err := db.Issue(t.Context(), records.NewCommand{Servers: []string{a, old}, Argv: []string{"uptime"}, Options: []string{"timeout=5"}})
	if err != nil {
		t.Fatal(err)
	}
	p.Connected(f.come(minion.Agent{Server: a, Acknowledges: true}))
	eventually(t, "sent on connect", func() bool { return len(f.orders()) == 1 })
	if r := state(t, db, c.ID, a); r.State != records.Sent {
		t.Errorf("%+v", r)
	}
	// It could not be sent for sure: it waits again, until the agent comes again.
	f.failing(fmt.Errorf("cut: %w", minion.ErrAway))
	p.Connected(f.come(minion.Agent{Server: old}))
	eventually(t, "waits again", func() bool {
		return state(t, db, c.ID, old).State == records.Waiting
	})
	f.failing(nil)
	p.Connected(minion.Agent{Server: old})
	eventually(t, "sent", func() bool { return len(f.orders()) == 2 })
	orders := f.orders()
	if !slices.Equal(orders[0].Options, []string{"timeout=5"}) || orders[1].Options != nil {
		t.Errorf("only who acknowledges gets options: %+v", orders)
	}
	// It may have been sent: it is not sent again.
	failed := f.failures()
	f.failing(errors.New("cut in the middle"))
	if c, err = db.Issue(t.Context(), records.NewCommand{Servers: []string{a}, Argv: []string{"reboot"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "tried", func() bool { return f.failures() > failed })
	f.failing(nil)
	p.Connected(f.come(minion.Agent{Server: a, Acknowledges: true}))
	time.Sleep(100 * time.Millisecond) // nothing may happen
	if n := len(f.orders()); n != 2 || f.failures() != failed+1 || state(t, db, c.ID, a).State != records.Sent {
		t.Errorf("%d orders sent, %d failed", n, f.failures())
	}
}

// The way of the original's document, statement by statement.
func TestCommandsByHand(t *testing.T) {
	dsn := postgrestest.Start(t, "fsync=off").Database(t)
	one, other := open(t, dsn), open(t, dsn)
	here, there := &fleet{}, &fleet{}
	run(t, one, here)
	_, stop := run(t, other, there)
	a, b := uuid.NewString(), uuid.NewString()
	here.come(minion.Agent{Server: a})
	there.come(minion.Agent{Server: b})
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`SET search_path TO minion`)
	byHand := func(notify bool, argv ...string) (command string) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), `INSERT INTO commands (argv, created_at, updated_at, type) VALUES ($1, now(), now(), 'external') RETURNING id`, argv).Scan(&command); err != nil {
			t.Fatal(err)
		}
		for _, server := range []string{a, b} {
			exec(`INSERT INTO servers (id, created_at, updated_at) VALUES ($1, now(), now()) ON CONFLICT DO NOTHING`, server)
			exec(`INSERT INTO servers_commands (server_id, command_id, created_at, updated_at) VALUES ($1, $2, now(), now())`, server, command)
		}
		exec(`INSERT INTO command_queues (command_id, created_at, updated_at) VALUES ($1, now(), now())`, command)
		if notify {
			exec(`NOTIFY agent_commands`)
		}
		return command
	}
	command := byHand(true, "echo", "hi there")
	eventually(t, "sent by both servers", func() bool { return len(here.orders()) == 1 && len(there.orders()) == 1 })
	if o := here.orders()[0]; o.Kind != wire.External || !slices.Equal(o.Argv, []string{"echo", "hi there"}) {
		t.Errorf("%+v", o)
	}
	if err := one.Respond(t.Context(), minion.Agent{Server: a}, wire.Result{Order: here.orders()[0].ID, Stdout: []string{"hi there\n"}, Stderr: []string{""}}); err != nil {
		t.Fatal(err)
	}
	var stdout []string
	var hash string
	var dispatched, responded time.Time
	if err := conn.QueryRow(t.Context(), `SELECT r.stdout, r.hash, s.dispatched_at, s.response_at FROM servers_commands s, command_responses r
		WHERE s.server_id = $1 AND s.command_id = $2 AND s.response_id = r.id`, a, command).Scan(&stdout, &hash, &dispatched, &responded); err != nil {
		t.Fatal(err)
	}
	// printf 'hi there\n' | sha256sum
	if !slices.Equal(stdout, []string{"hi there\n"}) || hash != "c641344867e9806fadfd219f25b62b97c94db0eed04a1d79e93676533cfb782b" || responded.Before(dispatched) {
		t.Errorf("%q %s %v %v", stdout, hash, dispatched, responded)
	}
	// Nobody notifies; and one of the servers dies while its agent is told. What it had
	// not claimed another sends when the agent has come to that.
	stop()
	byHand(false, "uptime")
	eventually(t, "found by looking", func() bool { return len(here.orders()) == 2 })
	here.come(minion.Agent{Server: b})
	eventually(t, "sent by the other server", func() bool { return len(here.orders()) == 3 })
	seen := map[wire.ID]bool{}
	for _, o := range append(here.orders(), there.orders()...) {
		if seen[o.ID] {
			t.Errorf("%s was sent twice", o.ID)
		}
		seen[o.ID] = true
	}
	eventually(t, "the queue empties", func() bool {
		if err := one.Settle(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM command_queues`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
	// A command that no frame has room for.
	huge := byHand(true, "echo", string(make([]byte, 0))+fmt.Sprintf("%09000d", 1))
	eventually(t, "refused", func() bool { return state(t, one, huge, a).State == records.Refused })
}
