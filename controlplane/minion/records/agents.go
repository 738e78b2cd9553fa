package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/teeth-metal/teeth/controlplane/internal/database"
	"github.com/teeth-metal/teeth/controlplane/minion"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

const (
	// register is how often agents that have connected or given a sign of life are
	// written down. One transaction has all of them.
	registerEvery = 2 * time.Second
	// maxAddresses is how many addresses are kept of a server, the newest ones.
	maxAddresses = 16
)

// agent is what is to be written down of one.
type agent struct {
	minion.Agent
	beat time.Time // zero: it has not given a sign of life
}

// Register records that an agent has connected, soon after.
func (d *DB) Register(a minion.Agent) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := ServerID(a.Server)
	d.seen[id] = agent{a, d.seen[id].beat}
}

// Heartbeat records that an agent has given a sign of life, soon after.
func (d *DB) Heartbeat(a minion.Agent, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[ServerID(a.Server)] = agent{a, at}
}

// registrar writes down agents until ctx ends.
func (d *DB) registrar(ctx context.Context) {
	tick := time.NewTicker(registerEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		last := ctx.Err() != nil
		d.mu.Lock()
		seen := d.seen
		d.seen = map[wire.ID]agent{}
		d.mu.Unlock()
		if len(seen) > 0 {
			c, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			if err := d.register(c, seen); err != nil && !errors.Is(err, ErrClosed) {
				d.log.Error("cannot record which agents are there", "database", d.name, "error", err)
				d.mu.Lock()
				for id, a := range seen {
					if _, newer := d.seen[id]; !newer {
						d.seen[id] = a
					}
				}
				d.mu.Unlock()
			}
			cancel()
		}
		if last {
			return
		}
	}
}

func (d *DB) register(ctx context.Context, seen map[wire.ID]agent) error {
	ids := make([]wire.ID, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	// In one order everywhere, or two servers would wait for each other.
	slices.SortFunc(ids, func(a, b wire.ID) int { return slices.Compare(a[:], b[:]) })
	now := d.d.now()
	return d.attempt(ctx, func(t *sql.Tx) error {
		for _, id := range ids {
			a := seen[id]
			if err := d.upsert(ctx, t, id, a.Server, a.Group, now); err != nil {
				return err
			}
			if host, _, err := net.SplitHostPort(a.Address); err == nil {
				if err := d.addAddress(ctx, t, id, host, now); err != nil {
					return err
				}
			}
			if !a.beat.IsZero() {
				if _, err := t.ExecContext(ctx, d.d.rebind(`UPDATE servers SET heartbeat_at = ? WHERE id = ?`), d.d.time(a.beat), id.String()); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// upsert makes sure that there is a row of a server. An id that is no UUID is an alias.
func (d *DB) upsert(ctx context.Context, t runner, id wire.ID, server, group, now string) error {
	aliases := []string{}
	if id.String() != server {
		aliases = append(aliases, database.Storable(server))
	}
	_, err := t.ExecContext(ctx, d.d.rebind(`INSERT INTO servers (id, aliases, group_id, created_at, updated_at) VALUES (?, ?, ?, `+now+`, `+now+`)
		ON CONFLICT (id) DO UPDATE SET group_id = excluded.group_id WHERE servers.group_id <> excluded.group_id AND excluded.group_id <> ''`),
		id.String(), d.d.list(aliases), database.Storable(group))
	return err
}

func (d *DB) addAddress(ctx context.Context, t runner, id wire.ID, host, now string) error {
	var known []string
	if err := t.QueryRowContext(ctx, d.d.rebind(`SELECT addresses FROM servers WHERE id = ?`), id.String()).Scan(texts{d.d, &known}); err != nil {
		return err
	}
	if slices.Contains(known, host) {
		return nil
	}
	known = append(known, host)
	known = known[max(0, len(known)-maxAddresses):]
	_, err := t.ExecContext(ctx, d.d.rebind(`UPDATE servers SET addresses = ?, updated_at = `+now+` WHERE id = ?`), d.d.list(known), id.String())
	return err
}

// Server is a row of servers: an agent that has connected, or was added by hand.
type Server struct {
	ID        string     `json:"id"`
	Name      string     `json:"name,omitempty"` // its own id, where that is no UUID
	Group     string     `json:"group,omitempty"`
	Addresses []string   `json:"addresses"`
	Heartbeat *time.Time `json:"heartbeat,omitempty"`
}

// Servers returns up to limit servers by id, after the one given ("": from the first).
func (d *DB) Servers(ctx context.Context, after string, limit int) ([]Server, error) {
	if after == "" {
		after = wire.ID{}.String()
	}
	rows, err := d.r.QueryContext(ctx, d.d.rebind(`SELECT id, aliases, group_id, addresses, heartbeat_at FROM servers
		WHERE discarded_at IS NULL AND id > ? ORDER BY id LIMIT ?`), after, limit)
	if err != nil {
		return nil, d.unavailable(fmt.Errorf("list servers: %w", err))
	}
	defer rows.Close()
	list := []Server{}
	for rows.Next() {
		var s Server
		var aliases []string
		var beat stamp
		if err := rows.Scan(&s.ID, texts{d.d, &aliases}, &s.Group, texts{d.d, &s.Addresses}, &beat); err != nil {
			return nil, err
		}
		if len(aliases) > 0 {
			s.Name = aliases[0]
		}
		s.Heartbeat = beat.pointer()
		list = append(list, s)
	}
	return list, d.unavailable(rows.Err())
}
