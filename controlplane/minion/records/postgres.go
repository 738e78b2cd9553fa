package records

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/teeth-metal/teeth/controlplane/internal/database"
	"github.com/teeth-metal/teeth/controlplane/minion"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

const (
	// channelCommands is the original's. The others tell of new lines and of what has
	// come of commands.
	channelCommands = "agent_commands"
	channelLines    = "teeth_records"
	channelResults  = "teeth_results"
	// outage is how long a write waits for a database that is away.
	outage = 10 * time.Second
)

// settings of every connection.
var settings = map[string]string{"application_name": "teeth records", "statement_timeout": "60s"}

func (d *DB) openPostgres(dsn string) error {
	config, err := database.Config(dsn, settings)
	if err != nil {
		return err
	}
	if d.o.Schema != "" {
		config.RuntimeParams["search_path"] = pgx.Identifier{d.o.Schema}.Sanitize()
	}
	if len(config.Fallbacks) > 0 && config.ValidateConnect == nil {
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite // not the standby
	}
	d.d, d.pg, d.name = postgreSQL, config, database.Name(config)
	d.w = stdlib.OpenDB(*config)
	d.w.SetMaxOpenConns(4)
	d.w.SetMaxIdleConns(2)
	d.r = stdlib.OpenDB(*config)
	d.r.SetMaxOpenConns(8)
	d.r.SetMaxIdleConns(4)
	for _, db := range []interface{ SetConnMaxIdleTime(time.Duration) }{d.w, d.r} {
		db.SetConnMaxIdleTime(5 * time.Minute)
	}
	d.in = &copier{config: config, server: rand.Int64(), temporary: false}
	return nil
}

// copier inserts by COPY, over a connection of its own.
type copier struct {
	config    *pgx.ConnConfig
	conn      *pgx.Conn
	temporary bool  // the connection has the table into which doubtful rows go
	server    int64 // tells notifications of this process from others'
	buf       []byte
	// doubt is how many batches more go the slow way: after a reconnect of agents
	// several hold what is there already.
	doubt int
}

func (c *copier) close() error {
	if c.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn := c.conn
	c.conn, c.temporary = nil, false
	return conn.Close(ctx)
}

func (c *copier) insert(ctx context.Context, lines []minion.Entry, measurements []measurement) error {
	return patiently(ctx, outage, func(err error) bool { return broken(err) || repeatable(err) }, func() error {
		if c.doubt == 0 {
			err := c.attempt(ctx, lines, measurements, false)
			if err == nil || database.Code(err) != "23505" {
				return err
			}
			c.doubt = 16
		} else {
			c.doubt--
		}
		return c.attempt(ctx, lines, measurements, true)
	})
}

const lineColumns = `(id, server_id, created_at, service, msg)`

// attempt makes one transaction. Some of the lines may be there already, if doubtful.
// They go by COPY straight into the table, which is three times as fast as by way of a
// temporary one, where the rows that are there are told from the others.
func (c *copier) attempt(ctx context.Context, lines []minion.Entry, measurements []measurement, doubtful bool) (err error) {
	if c.conn == nil || c.conn.IsClosed() {
		c.temporary = false
		if c.conn, err = pgx.ConnectConfig(ctx, c.config.Copy()); err != nil {
			c.conn = nil
			return err
		}
	}
	defer func() {
		if err != nil && (broken(err) || ctx.Err() != nil) {
			c.close()
		}
	}()
	if doubtful && !c.temporary {
		if _, err := c.conn.Exec(ctx, `CREATE TEMPORARY TABLE logs_doubtful (id uuid, server_id uuid, created_at timestamptz, service varchar, msg varchar, n serial) ON COMMIT DELETE ROWS`); err != nil {
			return err
		}
		c.temporary = true
	}
	t, err := c.conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer t.Rollback(context.WithoutCancel(ctx))
	if len(lines) > 0 {
		if doubtful {
			if err := c.copy(ctx, `logs_doubtful `+lineColumns, lines); err != nil {
				return err
			}
		}
		// seq ascends in the order of commits only if one at a time takes numbers.
		if _, err := t.Exec(ctx, fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d, 'logs'::regclass::oid::int)`, lockLines)); err != nil {
			return err
		}
		if doubtful {
			_, err = t.Exec(ctx, `INSERT INTO logs `+lineColumns+` SELECT id, server_id, created_at, service, msg FROM logs_doubtful ORDER BY n ON CONFLICT DO NOTHING`)
		} else {
			err = c.copy(ctx, `logs `+lineColumns, lines)
		}
		if err != nil {
			return err
		}
	}
	if len(measurements) > 0 {
		if err := insertMeasurements(ctx, t, measurements); err != nil {
			return err
		}
	}
	if _, err := t.Exec(ctx, fmt.Sprintf(`SELECT pg_notify('%s', '%d')`, channelLines, c.server)); err != nil {
		return err
	}
	return t.Commit(ctx)
}

func insertMeasurements(ctx context.Context, t pgx.Tx, measurements []measurement) error {
	var servers, ids, labels, data []string
	var times []time.Time
	for _, m := range measurements {
		servers, ids = append(servers, m.server.String()), append(ids, m.id.String())
		labels, data, times = append(labels, m.label), append(data, string(m.data)), append(times, m.at)
	}
	_, err := t.Exec(ctx, `INSERT INTO telemetries (server_id, id, data_key, data, created_at)
		SELECT s, i, k, d::jsonb, c FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[]) AS u (s, i, k, d, c)
		ON CONFLICT DO NOTHING`, servers, ids, labels, data, times)
	return err
}

// postgresEpoch is what PostgreSQL counts from, in microseconds.
var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// copy streams lines in COPY's binary form, which nothing else encodes as cheaply.
func (c *copier) copy(ctx context.Context, into string, lines []minion.Entry) error {
	r := &rowReader{lines: lines, buf: append(c.buf[:0], "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)}
	_, err := c.conn.PgConn().CopyFrom(ctx, r, `COPY `+into+` FROM STDIN (FORMAT binary)`)
	c.buf = r.buf[:0]
	return err
}

// rowReader is the stream of rows.
type rowReader struct {
	lines []minion.Entry
	buf   []byte
	off   int
	ended bool

	name string // of the server that has id
	id   wire.ID
}

func (r *rowReader) Read(p []byte) (int, error) {
	if r.off == len(r.buf) {
		r.buf, r.off = r.buf[:0], 0
	}
	for len(r.buf)-r.off < len(p) && !r.ended {
		if len(r.lines) == 0 {
			r.buf = append(r.buf, 0xff, 0xff)
			r.ended = true
			break
		}
		r.row(&r.lines[0])
		r.lines = r.lines[1:]
	}
	if r.off == len(r.buf) {
		return 0, io.EOF
	}
	n := copy(p, r.buf[r.off:])
	r.off += n
	return n, nil
}

func (r *rowReader) row(e *minion.Entry) {
	if r.name != e.Server || r.id.IsZero() {
		r.name, r.id = e.Server, ServerID(e.Server)
	}
	b := append(r.buf, 0, 5, 0, 0, 0, 16)
	b = append(b, e.ID[:]...)
	b = append(b, 0, 0, 0, 16)
	b = append(b, r.id[:]...)
	b = append(b, 0, 0, 0, 8)
	b = binary.BigEndian.AppendUint64(b, uint64(timeOf(e.ID).UnixMicro()-postgresEpoch))
	for _, s := range [2]string{database.Storable(e.Service), database.Storable(e.Message)} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	r.buf = b
}

// listen hears of new lines and commands until ctx ends.
func (d *DB) listen(ctx context.Context) {
	own := strconv.FormatInt(d.in.(*copier).server, 10)
	database.Listener{
		Config: d.pg, Channels: []string{channelCommands, channelLines, channelResults},
		Listening: func() {
			d.wakeCommands()
			d.wakeLines()
			d.wakeResults()
		},
		Heard: func(_ context.Context, channel, payload string) {
			switch {
			case channel == channelCommands:
				d.wakeCommands()
			case channel == channelResults:
				d.wakeResults()
			case payload != own:
				d.wakeLines()
			}
		},
		Lost: func(err error) {
			d.log.Warn("lost the connection that hears of commands; polling meanwhile", "database", d.name, "error", err)
		},
	}.Run(ctx)
}

// repeatable reports whether a transaction is to be done again because it got in the
// way of another, or was too slow: PostgreSQL ends one that is idle for too long, as that
// of a machine which had no time for it, only while it is open. Nothing of it was kept.
func repeatable(err error) bool {
	switch database.Code(err) {
	case "40001", "40P01", "25P03":
		return true
	}
	return false
}

// refusedData reports whether it is a value that PostgreSQL does not take.
func refusedData(err error) bool {
	c := database.Code(err)
	return strings.HasPrefix(c, "22") || strings.HasPrefix(c, "23") || strings.HasPrefix(c, "54")
}

// broken reports whether the connection is what failed, or PostgreSQL itself, also for
// want of room or memory, rather than the statement.
func broken(err error) bool {
	return strings.HasPrefix(database.Code(err), "53") || database.Broken(err)
}
