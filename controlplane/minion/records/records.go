// Package records is the database of what Minion's agents send and are sent: log
// lines, telemetry, commands and their responses. It is a database of its own, so that
// any amount of log does not hold up the estate's: a SQLite file, or PostgreSQL, which
// several servers may share.
//
// Tables and columns are the original's, so that on PostgreSQL its own queries work,
// and its way of issuing a command: rows in commands, servers_commands and
// command_queues, then NOTIFY agent_commands. In a PostgreSQL database of another
// program's tables (the estate's has a table servers) they are in a schema of their own.
//
// # Lines of log
//
// Write returns when what it was given is durable, and may be given the same again. A
// line is known by its id. Lines are ordered by seq, the order in which they were
// committed, over all servers of the database; that is the cursor of every search. So
// nobody who follows the log misses a line, whatever clocks say, and the order of lines
// of one agent is that in which it sent them. A line has two times: that in its id, by
// the agent's clock, and that of its arrival. It counts for a range of time if either
// is in it, so that a chassis whose clock is wrong hides nothing.
//
// # Full text
//
// An index of words that is kept up to date with every line costs several times what it
// costs to store the line. Instead, every range of some 50,000 lines gets, in the
// background and once, a summary: its times and a Bloom filter of its words. A search
// reads only ranges that may have what it looks for, and all lines of those. Rare words
// are found at the speed at which filters are read (about 5 bytes a line), frequent ones
// fill a page from the first range.
package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// Errors that calls of this package wrap.
var (
	ErrNotFound = errors.New("not found")
	ErrInvalid  = errors.New("invalid")
	ErrConflict = errors.New("conflict")
	ErrClosed   = errors.New("records database is closed")
	// ErrUnavailable: the database could not be reached in time. What was given is
	// probably not stored, and may be given again.
	ErrUnavailable = errors.New("records database is not available")
)

// Defaults of Options.
const (
	DefaultKeep     = 30 * 24 * time.Hour
	DefaultMaxBytes = 20 << 30
)

// Options of a database.
type Options struct {
	// Schema of PostgreSQL where the tables are; "": that of the connection's
	// search_path, usually public.
	Schema string
	// Keep is how long log lines, telemetry and commands are kept. 0 is
	// DefaultKeep, negative is without end.
	Keep time.Duration
	// MaxBytes is how much disk logs may take before the oldest are dropped earlier.
	// 0 is DefaultMaxBytes, negative is without limit.
	MaxBytes int64
	Log      *slog.Logger
}

// DB is safe for concurrent use.
type DB struct {
	o    Options
	log  *slog.Logger
	d    dialect
	name string // for errors; holds no password

	w    *sql.DB // transactions; with SQLite one connection
	r    *sql.DB // queries
	pg   *pgx.ConnConfig
	path string

	meters *meters
	stop   context.CancelFunc
	others sync.WaitGroup
	closed atomic.Bool

	maxOutput int64 // of a run, in bytes

	writing      sync.Mutex // held by Write
	segmentation sync.Mutex // held by segmentAll
	in           writer

	mu       sync.Mutex
	lines    chan struct{} // closed when there may be new lines or telemetry
	commands chan struct{} // closed when there may be new commands
	results  chan struct{} // closed when something may have come of a command
	seen     map[wire.ID]agent
}

// Open opens a database and brings its schema up to date. dsn is a path or sqlite:PATH
// of a SQLite file, which is made if absent (mode 0600), or a PostgreSQL URL.
func Open(ctx context.Context, dsn string, o Options) (*DB, error) {
	if o.Keep == 0 {
		o.Keep = DefaultKeep
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &DB{
		o: o, log: o.Log, meters: newMeters(), maxOutput: MaxOutput,
		lines: make(chan struct{}), commands: make(chan struct{}), results: make(chan struct{}), seen: map[wire.ID]agent{},
	}
	var err error
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		err = d.openPostgres(dsn)
	} else {
		err = d.openSQLite(strings.TrimPrefix(dsn, "sqlite:"))
	}
	if err != nil {
		return nil, fmt.Errorf("open records database: %w", err)
	}
	if err := d.migrate(ctx); err != nil {
		d.w.Close()
		d.r.Close()
		return nil, fmt.Errorf("open records database %s: %w", d.name, err)
	}
	if err := d.makeSlices(ctx); err != nil {
		d.w.Close()
		d.r.Close()
		return nil, fmt.Errorf("open records database %s: %w", d.name, err)
	}
	background, stop := context.WithCancel(context.Background())
	d.stop = stop
	d.others.Go(func() { d.maintain(background) })
	d.others.Go(func() { d.registrar(background) })
	if d.pg != nil {
		d.others.Go(func() { d.listen(background) })
	}
	return d, nil
}

// Close ends what runs in the background and closes the database. Calls after it get
// ErrClosed.
func (d *DB) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	d.stop()
	d.others.Wait()
	d.writing.Lock()
	defer d.writing.Unlock()
	return errors.Join(d.in.close(), d.r.Close(), d.w.Close())
}

// File is the SQLite database's file; "" for PostgreSQL.
func (d *DB) File() string { return d.path }

// Shared reports whether other servers may have the database open too.
func (d *DB) Shared() bool { return d.pg != nil }

// Ping reports whether the database answers.
func (d *DB) Ping(ctx context.Context) error {
	if err := d.r.PingContext(ctx); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, d.name, err)
	}
	return nil
}

// Lines returns a channel that is closed when there may be new log lines or telemetry.
// Those of other servers may be missed: look every second.
func (d *DB) Lines() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lines
}

// Commands returns a channel that is closed when commands may have been issued, here,
// on another server, or by hand. Look every few seconds besides.
func (d *DB) Commands() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.commands
}

// Results returns a channel that is closed when something may have come of a command.
// What other servers hear may be missed: look every second.
func (d *DB) Results() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.results
}

func (d *DB) wakeLines()    { d.wake(&d.lines) }
func (d *DB) wakeCommands() { d.wake(&d.commands) }
func (d *DB) wakeResults()  { d.wake(&d.results) }

func (d *DB) wake(c *chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(*c)
	*c = make(chan struct{})
}

// private makes a file that only its owner can read: logs may hold anything.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}
