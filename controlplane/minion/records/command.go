package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// States of a run, which is a command on one server. Those after Running are final,
// but that a response may still come of one that is lost.
const (
	Waiting   = "waiting" // for its agent
	Sent      = "sent"
	Running   = wire.StateRunning // some of its output is here
	Done      = wire.StateDone
	Timeout   = wire.StateTimeout // it took longer than it may
	Refused   = wire.StateRefused // by the agent's policy
	Killed    = wire.StateKilled
	Cancelled = "cancelled" // before it was sent
	Expired   = "expired"   // its agent did not come in time
	Lost      = "lost"      // no response has come in the time that it may take
)

// Final reports whether nothing more comes of a run.
func Final(state string) bool {
	return state != Waiting && state != Sent && state != Running
}

// NewCommand is a command to be issued.
type NewCommand struct {
	Servers  []string // that it is for, at least one
	Argv     []string
	Internal bool     // one of the agent's own functions
	Options  []string // of wire.Order, for agents that acknowledge
	By       string   // who issues it
	RunLimit time.Duration
	Expires  time.Time // is not sent after that; zero: waits as long as it is kept
}

// Command is one that was issued, to some servers or many.
type Command struct {
	ID       string         `json:"id"`
	Type     string         `json:"type"` // external or internal
	Argv     []string       `json:"argv"`
	Options  []string       `json:"options"`      // without the values of variables
	By       string         `json:"by,omitempty"` // who issued it; by hand, in the database, nobody is known
	RunLimit int64          `json:"run_limit,omitempty"`
	Created  time.Time      `json:"created"`
	Expires  *time.Time     `json:"expires,omitempty"`
	States   map[string]int `json:"states"` // how many of its runs are in which
}

// Run is a command on one server. Its id is what the agent knows the command by.
type Run struct {
	ID         string     `json:"id"`
	Command    string     `json:"command"`
	Server     string     `json:"server"`
	State      string     `json:"state"`
	Exit       *int       `json:"exit,omitempty"` // unknown of agents that do not say
	Dispatched *time.Time `json:"dispatched,omitempty"`
	Responded  *time.Time `json:"responded,omitempty"`
	Updated    time.Time  `json:"updated"`
	Stdout     string     `json:"stdout,omitempty"` // only where one run is asked for
	Stderr     string     `json:"stderr,omitempty"`
	Dropped    int64      `json:"dropped,omitempty"` // bytes of output beyond what is kept
}

// Bounds of a command: it has to fit into one frame.
const (
	maxArgv    = wire.MaxSent - 512
	maxServers = 50_000
)

func (in NewCommand) check() error {
	size := 0
	for _, a := range append(slices.Clone(in.Argv), in.Options...) {
		if strings.IndexByte(a, 0) >= 0 || !utf8.ValidString(a) {
			return fmt.Errorf("%w: argument %.40q: want UTF-8 without NUL", ErrInvalid, a)
		}
		size += wire.TextSize(len(a))
	}
	switch {
	case len(in.Argv) == 0 || in.Argv[0] == "":
		return fmt.Errorf("%w: no command given", ErrInvalid)
	case size > maxArgv:
		return fmt.Errorf("%w: the command takes %d bytes, at most %d can be sent", ErrInvalid, size, maxArgv)
	case len(in.Servers) == 0:
		return fmt.Errorf("%w: no server given to run the command on", ErrInvalid)
	case len(in.Servers) > maxServers:
		return fmt.Errorf("%w: %d servers, at most %d", ErrInvalid, len(in.Servers), maxServers)
	}
	return nil
}

// Issue queues a command for each of its servers. It waits for agents that are away.
func (d *DB) Issue(ctx context.Context, in NewCommand) (Command, error) {
	if err := in.check(); err != nil {
		return Command{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Command{}, err
	}
	kind := wire.External
	if in.Internal {
		kind = wire.Internal
	}
	var expires any
	if !in.Expires.IsZero() {
		expires = d.d.time(in.Expires)
	}
	now := d.d.now()
	err = d.transact(ctx, func(t *sql.Tx) error {
		if _, err := t.ExecContext(ctx, d.d.rebind(`INSERT INTO commands (id, argv, type, options, issued_by, run_limit, expires_at, created_at, updated_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, `+now+`, `+now+`)`),
			id.String(), d.d.list(in.Argv), kind, d.d.list(in.Options), in.By, int64(in.RunLimit/time.Second), expires); err != nil {
			return err
		}
		given := map[wire.ID]bool{}
		for _, server := range in.Servers {
			s := ServerID(server)
			if given[s] {
				continue
			}
			given[s] = true
			if err := d.upsert(ctx, t, s, server, "", now); err != nil {
				return err
			}
			if _, err := t.ExecContext(ctx, d.d.rebind(`INSERT INTO servers_commands (id, server_id, command_id, created_at, updated_at) VALUES (?, ?, ?, `+now+`, `+now+`)`),
				uuid.NewString(), s.String(), id.String()); err != nil {
				return err
			}
		}
		if _, err := t.ExecContext(ctx, d.d.rebind(`INSERT INTO command_queues (id, command_id, created_at, updated_at) VALUES (?, ?, `+now+`, `+now+`)`),
			uuid.NewString(), id.String()); err != nil {
			return err
		}
		return d.notify(ctx, t, channelCommands)
	})
	if err != nil {
		return Command{}, fmt.Errorf("issue command: %w", err)
	}
	d.wakeCommands()
	return d.Command(ctx, id.String())
}

// notify tells the other servers, when the transaction is committed.
func (d *DB) notify(ctx context.Context, t runner, channel string) error {
	if d.pg == nil {
		return nil
	}
	_, err := t.ExecContext(ctx, `NOTIFY `+channel)
	return err
}

const commandColumns = `c.id, c.type, c.argv, c.options, c.issued_by, c.run_limit, c.created_at, c.expires_at`

func (d *DB) scanCommand(row interface{ Scan(...any) error }) (Command, error) {
	c := Command{States: map[string]int{}}
	var created, expires stamp
	err := row.Scan(&c.ID, &c.Type, texts{d.d, &c.Argv}, texts{d.d, &c.Options}, &c.By, &c.RunLimit, &created, &expires)
	c.Created, c.Expires = created.Time, expires.pointer()
	for i, o := range c.Options { // who may look need not know the secrets of who ran it
		if name, _, ok := strings.Cut(strings.TrimPrefix(o, "env="), "="); ok && strings.HasPrefix(o, "env=") {
			c.Options[i] = "env=" + name + "=(hidden)"
		}
	}
	return c, err
}

// Command returns a command by its id.
func (d *DB) Command(ctx context.Context, id string) (Command, error) {
	if uuid.Validate(id) != nil {
		return Command{}, fmt.Errorf("command %.64q: %w", id, ErrNotFound)
	}
	c, err := d.scanCommand(d.r.QueryRowContext(ctx, d.d.rebind(`SELECT `+commandColumns+` FROM commands c WHERE c.id = ?`), id))
	if errors.Is(err, sql.ErrNoRows) {
		return c, fmt.Errorf("command %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return c, d.unavailable(fmt.Errorf("command %s: %w", id, err))
	}
	return c, d.count(ctx, []*Command{&c})
}

// ListCommands lists up to limit commands, newest first, of a server ("": of all), that are
// older than the one with the id before ("": the newest).
func (d *DB) ListCommands(ctx context.Context, server, before string, limit int) ([]Command, error) {
	where, args := `1 = 1`, []any{}
	if server != "" {
		where += ` AND EXISTS (SELECT 1 FROM servers_commands s WHERE s.command_id = c.id AND s.server_id = ?)`
		args = append(args, ServerID(server).String())
	}
	if before != "" {
		if uuid.Validate(before) != nil {
			return nil, fmt.Errorf("%w: page %.64q: want the id of a command", ErrInvalid, before)
		}
		where += ` AND (c.created_at, c.id) < (SELECT created_at, id FROM commands WHERE id = ?)`
		args = append(args, before)
	}
	rows, err := d.r.QueryContext(ctx, d.d.rebind(`SELECT `+commandColumns+` FROM commands c WHERE `+where+` ORDER BY c.created_at DESC, c.id DESC LIMIT ?`), append(args, limit)...)
	if err != nil {
		return nil, d.unavailable(fmt.Errorf("list commands: %w", err))
	}
	defer rows.Close()
	list := []Command{}
	for rows.Next() {
		c, err := d.scanCommand(rows)
		if err != nil {
			return nil, fmt.Errorf("list commands: %w", err)
		}
		list = append(list, c)
	}
	if err := rows.Err(); err != nil {
		return nil, d.unavailable(err)
	}
	all := make([]*Command, len(list))
	for i := range list {
		all[i] = &list[i]
	}
	return list, d.count(ctx, all)
}

// count sets how many runs of each command are in which state.
func (d *DB) count(ctx context.Context, list []*Command) error {
	for _, c := range list {
		rows, err := d.r.QueryContext(ctx, d.d.rebind(`SELECT `+stateOf+`, COUNT(*) FROM servers_commands s WHERE command_id = ? GROUP BY 1`), c.ID)
		if err != nil {
			return d.unavailable(err)
		}
		for rows.Next() {
			var state string
			var n int
			if err := rows.Scan(&state, &n); err != nil {
				rows.Close()
				return err
			}
			c.States[state] = n
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return d.unavailable(err)
		}
	}
	return nil
}

// stateOf is a run's state; of one that others than this program have changed it tells
// by the original's columns.
const stateOf = `CASE WHEN s.state <> '' THEN s.state WHEN s.response_at IS NOT NULL THEN 'done' WHEN s.dispatched_at IS NOT NULL THEN 'sent' ELSE 'waiting' END`

const runColumns = `s.id, s.command_id, s.server_id, ` + stateOf + `, s.exit_code, s.dispatched_at, s.response_at, s.updated_at, s.dropped`

func scanRun(row interface{ Scan(...any) error }) (Run, error) {
	var r Run
	var exit sql.NullInt64
	var dispatched, responded, updated stamp
	err := row.Scan(&r.ID, &r.Command, &r.Server, &r.State, &exit, &dispatched, &responded, &updated, &r.Dropped)
	if exit.Valid {
		n := int(exit.Int64)
		r.Exit = &n
	}
	r.Dispatched, r.Responded, r.Updated = dispatched.pointer(), responded.pointer(), updated.Time
	return r, err
}

// Runs lists up to limit runs of a command by id, after the one given ("": from the
// first), without output. Of those, only those that have changed since, if that is set.
func (d *DB) Runs(ctx context.Context, command, after string, since time.Time, limit int) ([]Run, error) {
	if after == "" {
		after = wire.ID{}.String()
	}
	if uuid.Validate(command) != nil || uuid.Validate(after) != nil {
		return nil, fmt.Errorf("runs of command %.64q: %w", command, ErrNotFound)
	}
	rows, err := d.r.QueryContext(ctx, d.d.rebind(`SELECT `+runColumns+` FROM servers_commands s WHERE s.command_id = ? AND s.id > ? AND s.updated_at >= ? ORDER BY s.id LIMIT ?`),
		command, after, d.d.time(later(since, earliest)), limit)
	if err != nil {
		return nil, d.unavailable(fmt.Errorf("runs of command %s: %w", command, err))
	}
	defer rows.Close()
	list := []Run{}
	for rows.Next() {
		r, err := scanRun(rows)
		if err != nil {
			return nil, fmt.Errorf("runs of command %s: %w", command, err)
		}
		list = append(list, r)
	}
	return list, d.unavailable(rows.Err())
}

// Run returns the run of a command on a server, by its own id or the server's, with as
// much of its output as is there.
func (d *DB) Run(ctx context.Context, command, ref string) (Run, error) {
	if uuid.Validate(command) != nil {
		return Run{}, fmt.Errorf("command %.64q: %w", command, ErrNotFound)
	}
	id := ServerID(ref).String()
	r, err := scanRun(d.r.QueryRowContext(ctx, d.d.rebind(`SELECT `+runColumns+` FROM servers_commands s WHERE s.command_id = ? AND (s.id = ? OR s.server_id = ?)`), command, id, id))
	if errors.Is(err, sql.ErrNoRows) {
		return r, fmt.Errorf("command %s was not issued to %.64s: %w", command, ref, ErrNotFound)
	}
	if err == nil {
		err = d.output(ctx, &r)
	}
	if err != nil {
		return r, d.unavailable(fmt.Errorf("run %s: %w", ref, err))
	}
	return r, nil
}

// output reads what a run has written, by one statement, as parts become a response
// at any moment.
func (d *DB) output(ctx context.Context, r *Run) error {
	rows, err := d.r.QueryContext(ctx, d.d.rebind(`SELECT o.sequence, o.stdout, o.stderr, NULL, NULL FROM command_outputs o WHERE o.servers_command_id = ?
		UNION ALL SELECT -1, '', '', p.stdout, p.stderr FROM servers_commands s JOIN command_responses p ON p.id = s.response_id WHERE s.id = ?
		ORDER BY 1`), r.ID, r.ID)
	if err != nil {
		return err
	}
	defer rows.Close()
	var stdout, stderr strings.Builder
	for rows.Next() {
		var sequence int64
		var out, errs string
		var outs, errss []string
		if err := rows.Scan(&sequence, &out, &errs, texts{d.d, &outs}, texts{d.d, &errss}); err != nil {
			return err
		}
		stdout.WriteString(out + strings.Join(outs, ""))
		stderr.WriteString(errs + strings.Join(errss, ""))
	}
	r.Stdout, r.Stderr = stdout.String(), stderr.String()
	return rows.Err()
}

// Part is some of the output of a run that goes on.
type Part struct{ Stdout, Stderr string }

// Parts returns what a run that goes on has written from its part number from on, as
// far as there is no gap. Of one that has ended there are none.
func (d *DB) Parts(ctx context.Context, run string, from int64) ([]Part, error) {
	rows, err := d.r.QueryContext(ctx, d.d.rebind(`SELECT sequence, stdout, stderr FROM command_outputs WHERE servers_command_id = ? AND sequence >= ? ORDER BY sequence LIMIT 1000`), run, from)
	if err != nil {
		return nil, d.unavailable(fmt.Errorf("output of run %s: %w", run, err))
	}
	defer rows.Close()
	var list []Part
	for rows.Next() {
		var n int64
		var p Part
		if err := rows.Scan(&n, &p.Stdout, &p.Stderr); err != nil {
			return nil, fmt.Errorf("output of run %s: %w", run, err)
		}
		if n != from+int64(len(list)) {
			break
		}
		list = append(list, p)
	}
	return list, d.unavailable(rows.Err())
}

// Cancel ends what of a command is still waiting, and returns how many runs that were.
// What an agent has been sent goes on.
func (d *DB) Cancel(ctx context.Context, id string) (n int64, err error) {
	if uuid.Validate(id) != nil {
		return 0, fmt.Errorf("command %.64q: %w", id, ErrNotFound)
	}
	err = d.transact(ctx, func(t *sql.Tx) error {
		now := d.d.now()
		res, err := t.ExecContext(ctx, d.d.rebind(`UPDATE servers_commands SET state = ?, updated_at = `+now+` WHERE command_id = ? AND dispatched_at IS NULL AND state = ''`), Cancelled, id)
		if err != nil {
			return err
		}
		if n, err = res.RowsAffected(); err != nil {
			return err
		}
		if _, err := t.ExecContext(ctx, d.d.rebind(`DELETE FROM command_queues WHERE command_id = ?`), id); err != nil {
			return err
		}
		return d.notify(ctx, t, channelResults)
	})
	if err != nil {
		return 0, fmt.Errorf("cancel command %s: %w", id, err)
	}
	d.wakeResults()
	return n, nil
}
