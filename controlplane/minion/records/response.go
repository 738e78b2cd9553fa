package records

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/internal/database"
	"github.com/teeth-metal/teeth/controlplane/minion"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// MaxOutput is how many bytes of a run's output are kept.
const MaxOutput = 16 << 20

// Respond records an agent's response, or a part of it; see minion.Responses. One that
// makes no sense, or is of another server's command, is logged and dropped: to fail
// would hold up all that the agent has to say.
func (d *DB) Respond(ctx context.Context, a minion.Agent, result wire.Result) error {
	odd := func(why string) error {
		d.log.Warn("dropped a response to a command", "server", a.Server, "command", result.Order, "why", why)
		return nil
	}
	switch result.State {
	case "", Running, Done, Timeout, Refused, Killed:
	default:
		return odd("unknown state " + result.State)
	}
	why := ""
	err := d.transact(ctx, func(t *sql.Tx) error {
		why = ""
		var server, state string
		var response sql.NullString
		var kept, dropped int64
		lock := ``
		if d.pg != nil {
			lock = ` FOR UPDATE`
		}
		err := t.QueryRowContext(ctx, d.d.rebind(`SELECT server_id, state, response_id, kept, dropped FROM servers_commands WHERE id = ?`+lock), result.Order.String()).Scan(&server, &state, &response, &kept, &dropped)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			why = "no such command"
			return nil
		case err != nil:
			return err
		case server != ServerID(a.Server).String():
			why = "the command is for server " + server
			return nil
		case response.Valid: // it was sent again
			return nil
		}
		if err := d.keepOutput(ctx, t, result, kept, dropped); err != nil {
			return err
		}
		if result.State == Running {
			_, err := t.ExecContext(ctx, d.d.rebind(`UPDATE servers_commands SET state = ?, updated_at = `+d.d.now()+` WHERE id = ?`), Running, result.Order.String())
			return errors.Join(err, d.notify(ctx, t, channelResults))
		}
		return d.respond(ctx, t, result)
	})
	if err != nil && d.pg != nil && refusedData(err) {
		d.meters.refused.Inc()
		return odd("the database refuses it: " + err.Error())
	}
	if err != nil {
		return fmt.Errorf("response to command %s of %s: %w", result.Order, a.Server, err)
	}
	if why != "" {
		return odd(why)
	}
	d.wakeResults()
	return nil
}

// keepOutput adds a part of the output, unless it is there, or one before it was too
// much: what is kept has no gap.
func (d *DB) keepOutput(ctx context.Context, t *sql.Tx, r wire.Result, kept, dropped int64) error {
	id := r.Order.String()
	stdout, stderr := database.Storable(strings.Join(r.Stdout, "")), database.Storable(strings.Join(r.Stderr, ""))
	size := int64(len(stdout) + len(stderr))
	if dropped > 0 || kept+size > d.maxOutput {
		_, err := t.ExecContext(ctx, d.d.rebind(`UPDATE servers_commands SET dropped = dropped + ? WHERE id = ?
			AND NOT EXISTS (SELECT 1 FROM command_outputs o WHERE o.servers_command_id = servers_commands.id AND o.sequence = ?)`), size, id, r.Sequence)
		return err
	}
	res, err := t.ExecContext(ctx, d.d.rebind(`INSERT INTO command_outputs (servers_command_id, sequence, stdout, stderr) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`),
		id, r.Sequence, stdout, stderr)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	_, err = t.ExecContext(ctx, d.d.rebind(`UPDATE servers_commands SET kept = kept + ? WHERE id = ?`), size, id)
	return err
}

// respond makes the parts of the output a response.
func (d *DB) respond(ctx context.Context, t *sql.Tx, r wire.Result) error {
	id, now := r.Order.String(), d.d.now()
	stdout, stderr, err := d.parts(ctx, t, id)
	if err != nil {
		return err
	}
	response, err := d.response(ctx, t, stdout, stderr, id)
	if err != nil {
		return err
	}
	// Any program's fits the column; what an agent makes up must not fail for ever.
	state, exit := r.State, any(min(max(r.Exit, math.MinInt32), math.MaxInt32))
	if state == "" { // an agent that knows no more
		state, exit = Done, nil
	}
	if _, err := t.ExecContext(ctx, d.d.rebind(`UPDATE servers_commands SET state = ?, exit_code = ?, response_id = ?, response_at = `+now+`, updated_at = `+now+`,
		dispatched_at = COALESCE(dispatched_at, `+now+`) WHERE id = ?`), state, exit, response, id); err != nil {
		return err
	}
	if _, err := t.ExecContext(ctx, d.d.rebind(`DELETE FROM command_outputs WHERE servers_command_id = ?`), id); err != nil {
		return err
	}
	return d.notify(ctx, t, channelResults)
}

func (d *DB) parts(ctx context.Context, t *sql.Tx, id string) (stdout, stderr []string, err error) {
	rows, err := t.QueryContext(ctx, d.d.rebind(`SELECT stdout, stderr FROM command_outputs WHERE servers_command_id = ? ORDER BY sequence`), id)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var out, errs string
		if err := rows.Scan(&out, &errs); err != nil {
			return nil, nil, err
		}
		if out != "" {
			stdout = append(stdout, out)
		}
		if errs != "" {
			stderr = append(stderr, errs)
		}
	}
	return stdout, stderr, rows.Err()
}

// response returns the id of the row with this output, which is made if there is none.
// The original finds it by the SHA-256 of standard output followed by standard error;
// the same text divided otherwise gets a row under a hash of its own.
func (d *DB) response(ctx context.Context, t *sql.Tx, stdout, stderr []string, run string) (string, error) {
	text := strings.Join(stdout, "")
	sum := sha256.Sum256([]byte(text + strings.Join(stderr, "")))
	hash := hex.EncodeToString(sum[:])
	now := d.d.now()
	// Of the same text, as much is standard output if it is divided in the same way.
	length := `LENGTH(array_to_string(stdout, ''))`
	if d.pg == nil {
		length = `(SELECT COALESCE(SUM(LENGTH(value)), 0) FROM json_each(stdout))`
	}
	for {
		var id string
		var characters int
		err := t.QueryRowContext(ctx, d.d.rebind(`INSERT INTO command_responses (id, stdout, stderr, hash, created_at, updated_at) VALUES (?, ?, ?, ?, `+now+`, `+now+`)
			ON CONFLICT (hash) DO UPDATE SET updated_at = excluded.updated_at RETURNING id, `+length),
			uuid.NewString(), d.d.list(stdout), d.d.list(stderr), hash).Scan(&id, &characters)
		if err != nil {
			return "", err
		}
		if characters == utf8.RuneCountInString(text) || len(hash) > hex.EncodedLen(sha256.Size) {
			return id, nil
		}
		hash += "-" + run
	}
}
