package records

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/google/uuid"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// Ready is a run that waits for its agent.
type Ready struct {
	Command string
	Server  string // as in servers_commands: the server's id, or what ServerID makes of it
	Name    string // the id by which the agent is known
	Order   wire.Order
}

// Ready returns up to limit runs that wait, in the order of their commands: of one
// server, or if that is "", of all. A run waits that has a row in command_queues, and
// was neither sent nor cancelled.
func (d *DB) Ready(ctx context.Context, server string, skip, limit int) ([]Ready, error) {
	where, args := ``, []any{}
	if server != "" {
		where, args = ` AND s.server_id = ?`, []any{ServerID(server).String()}
	}
	rows, err := d.r.QueryContext(ctx, d.d.rebind(`SELECT s.id, s.command_id, s.server_id, v.aliases, c.type, c.argv, c.options
		FROM servers_commands s JOIN commands c ON c.id = s.command_id LEFT JOIN servers v ON v.id = s.server_id
		WHERE s.dispatched_at IS NULL AND s.state = '' AND (c.expires_at IS NULL OR c.expires_at > `+d.d.now()+`)
			AND EXISTS (SELECT 1 FROM command_queues q WHERE q.command_id = s.command_id)`+where+`
		ORDER BY c.created_at, c.id, s.id LIMIT ? OFFSET ?`), append(args, limit, skip)...)
	if err != nil {
		return nil, d.unavailable(fmt.Errorf("commands that wait: %w", err))
	}
	defer rows.Close()
	var list []Ready
	for rows.Next() {
		var r Ready
		var id string
		var aliases []string
		if err := rows.Scan(&id, &r.Command, &r.Server, texts{d.d, &aliases}, &r.Order.Kind, texts{d.d, &r.Order.Argv}, texts{d.d, &r.Order.Options}); err != nil {
			return nil, fmt.Errorf("commands that wait: %w", err)
		}
		r.Name = r.Server
		if len(aliases) > 0 && ServerID(aliases[0]).String() == r.Server { // not one that somebody has given it
			r.Name = aliases[0]
		}
		if r.Order.ID, err = wire.ParseID(id); err != nil {
			return nil, fmt.Errorf("commands that wait: %w", err)
		}
		list = append(list, r)
	}
	return list, d.unavailable(rows.Err())
}

// Claim marks a run as dispatched and reports whether it was still waiting. Who claims
// it, and nobody else, sends it then.
func (d *DB) Claim(ctx context.Context, run wire.ID) (bool, error) {
	now := d.d.now()
	n := int64(0)
	err := d.transact(ctx, func(t *sql.Tx) error {
		res, err := t.ExecContext(ctx, d.d.rebind(`UPDATE servers_commands SET dispatched_at = `+now+`, state = ?, updated_at = `+now+` WHERE id = ? AND dispatched_at IS NULL AND state = ''`), Sent, run.String())
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	if err != nil {
		return false, fmt.Errorf("claim command %s: %w", run, err)
	}
	return n == 1, nil
}

// Unclaim makes a run wait again that was claimed and for sure not sent.
func (d *DB) Unclaim(ctx context.Context, r Ready) error {
	now := d.d.now()
	err := d.transact(ctx, func(t *sql.Tx) error {
		res, err := t.ExecContext(ctx, d.d.rebind(`UPDATE servers_commands SET dispatched_at = NULL, state = '', updated_at = `+now+` WHERE id = ? AND state = ?`), r.Order.ID.String(), Sent)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		// The queue may have been left meanwhile, as nothing of the command waited.
		_, err = t.ExecContext(ctx, d.d.rebind(`INSERT INTO command_queues (id, command_id, created_at, updated_at)
			SELECT CAST(? AS `+d.d.uuidType()+`), c.id, `+now+`, `+now+` FROM commands c WHERE c.id = ? AND NOT EXISTS (SELECT 1 FROM command_queues q WHERE q.command_id = c.id)`),
			uuid.NewString(), r.Command)
		return err
	})
	if err != nil {
		return fmt.Errorf("command %s, which was not sent: %w", r.Order.ID, err)
	}
	return nil
}

func (d dialect) uuidType() string {
	if d == postgreSQL {
		return "uuid"
	}
	return "TEXT"
}

// unanswered is how long a run without a limit may take until it is lost.
const (
	unanswered = 24 * time.Hour
	// grace is what a run's response may take beyond its time limit.
	grace = 2 * time.Minute
)

// Settle ends runs whose time is over, and takes commands out of the queue of which
// nothing waits any more. Every server may call it, now and then.
func (d *DB) Settle(ctx context.Context, now time.Time) error {
	changed := int64(0)
	stamp := d.d.now()
	err := d.transact(ctx, func(t *sql.Tx) error {
		changed = 0
		age := `s.dispatched_at < ?::timestamptz - make_interval(secs => CASE WHEN c.run_limit > 0 THEN c.run_limit + ? ELSE ? END)`
		at := any(now)
		if d.pg == nil {
			age = `s.dispatched_at < ? - 1000000 * CASE WHEN c.run_limit > 0 THEN c.run_limit + ? ELSE ? END`
			at = now.UnixMicro()
		}
		for _, q := range []struct {
			sql  string
			args []any
		}{
			{`UPDATE servers_commands SET state = ?, updated_at = ` + stamp + ` WHERE id IN (SELECT s.id FROM servers_commands s JOIN commands c ON c.id = s.command_id
				WHERE s.response_at IS NULL AND s.dispatched_at IS NOT NULL AND s.state IN ('', 'sent', 'running') AND ` + age + `)`,
				[]any{Lost, at, int(grace / time.Second), int(unanswered / time.Second)}},
			{`UPDATE servers_commands SET state = ?, updated_at = ` + stamp + ` WHERE dispatched_at IS NULL AND state = '' AND
				command_id IN (SELECT id FROM commands WHERE expires_at <= ?)`, []any{Expired, at}},
		} {
			res, err := t.ExecContext(ctx, d.d.rebind(q.sql), q.args...)
			if err != nil {
				return err
			}
			n, err := res.RowsAffected()
			if err != nil {
				return err
			}
			changed += n
		}
		_, err := t.ExecContext(ctx, `DELETE FROM command_queues WHERE
			EXISTS (SELECT 1 FROM servers_commands s WHERE s.command_id = command_queues.command_id) AND
			NOT EXISTS (SELECT 1 FROM servers_commands s WHERE s.command_id = command_queues.command_id AND s.dispatched_at IS NULL AND s.state = '')`)
		return err
	})
	if err != nil {
		return fmt.Errorf("commands whose time is over: %w", err)
	}
	if changed > 0 {
		d.wakeResults()
	}
	return nil
}
