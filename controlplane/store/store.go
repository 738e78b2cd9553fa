// Package store keeps what the control plane knows: chassis, graphs and their
// tasks, images, log events and phone-home tokens, in SQLite or PostgreSQL.
//
// All writes of a server go through one goroutine that commits as many of them
// together as have queued up while the last commit was being flushed to disk. A
// write that has returned nil survives a power cut, so an agent's update is
// acknowledged only after the call that stores it.
//
// Every change of a chassis, a task or the log takes the next number of one
// revision counter. Changes returns what is newer than a revision, which is all
// that a watcher needs to go on after any interruption.
//
// A SQLite file belongs to one server. A PostgreSQL database may be shared by
// several: their transactions take turns at the row that holds the revision, so
// that revisions are committed in order over all of them, and each hears of the
// others' commits (see Remote).
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// Errors that calls of this package wrap.
var (
	ErrNotFound  = errors.New("not found")
	ErrAmbiguous = errors.New("matches more than one")
	ErrConflict  = errors.New("conflict")
	ErrClosed    = errors.New("store is closed")
	// ErrUnavailable: the database could not be reached. Nothing was stored.
	ErrUnavailable = errors.New("database is not available")
	// ErrInDoubt: the database was lost during the commit and did not come back
	// in time to say whether it was made. Look before doing it again.
	ErrInDoubt = errors.New("it is not known whether it was stored")
)

// MaxPage is the most items that one call of a list returns.
const MaxPage = 1000

// Store is safe for concurrent use.
type Store struct {
	w        *sql.DB     // the writer's one connection
	kept     *statements // of w
	r        reader
	postgres *postgres // nil: SQLite
	path     string    // of a SQLite file
	server   string    // id of the server that has it open
	instance string    // differs for every Open
	log      *slog.Logger

	committed func() // called after every commit; tests
	meters    *meters

	ops    chan op
	quit   chan struct{}  // closed by Close
	done   chan struct{}  // closed when the writer has ended
	others sync.WaitGroup // goroutines but the writer
	remote chan struct{}
	work   chan struct{}

	batch     int64     // number of the writer's newest transaction
	downSince time.Time // since when the writer has not reached the database
	tokens    tokenTidier
	ahead     atomic.Int64 // how far the database's clock is ahead of ours, in ms

	mu      sync.Mutex
	rev     int64         // newest committed revision that is known here
	changed chan struct{} // closed when rev grows
	workOf  map[string]bool
	closed  bool
}

// Options say which server opens a store.
type Options struct {
	Server  string // its id, a UUID that outlives restarts; a new one unless set
	Name    string // host name, for people
	Version string // of its software
	Log     *slog.Logger
}

// Open is OpenAs for a server that only this call knows.
func Open(ctx context.Context, dsn string) (*Store, error) { return OpenAs(ctx, dsn, Options{}) }

// OpenAs opens a database and brings its schema up to date. dsn is a path or
// sqlite:PATH of a SQLite file, which is created if absent, or a PostgreSQL URL
// (postgres://user@host/database?sslmode=verify-full, with the parameters and the
// PG* environment variables of libpq). It refuses a database that a newer version
// of the program has written.
//
// Connect to PostgreSQL itself: poolers that hand out a connection by transaction
// carry neither session settings nor notifications.
func OpenAs(ctx context.Context, dsn string, o Options) (*Store, error) {
	if o.Server == "" {
		o.Server = uuid.NewString()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := uuid.Validate(o.Server); err != nil {
		return nil, fmt.Errorf("server id %.64q: want a UUID", o.Server)
	}
	s := &Store{
		server: o.Server, instance: uuid.NewString(), log: o.Log, meters: newMeters(),
		ops:     make(chan op, maxBatch),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
		remote:  make(chan struct{}, 1),
		work:    make(chan struct{}, 1),
		workOf:  map[string]bool{},
		changed: make(chan struct{}),
	}
	var err error
	if IsPostgres(dsn) {
		err = s.openPostgres(dsn)
	} else {
		s.path = strings.TrimPrefix(dsn, "sqlite:")
		err = s.openSQLite(s.path)
	}
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.start(ctx, o); err != nil {
		s.w.Close()
		s.r.db.Close()
		return nil, fmt.Errorf("open store %s: %w", s.name(), err)
	}
	return s, nil
}

// IsPostgres reports whether a dsn of Open means a PostgreSQL database, which
// several servers can share.
func IsPostgres(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// name is how errors call the database; it holds no password.
func (s *Store) name() string {
	if s.postgres != nil {
		return s.postgres.name
	}
	return s.path
}

// start migrates, reads the revision, and registers the server.
func (s *Store) start(ctx context.Context, o Options) error {
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if err := s.w.QueryRowContext(ctx, `SELECT rev FROM revision`).Scan(&s.rev); err != nil {
		return fmt.Errorf("revision: %w", err)
	}
	go s.write()
	if err := s.register(ctx, o); err != nil {
		close(s.quit)
		<-s.done
		return err
	}
	if s.postgres != nil {
		ctx, cancel := context.WithCancel(context.Background())
		s.others.Go(func() { <-s.quit; cancel() })
		s.others.Go(func() { s.listen(ctx) })
		s.others.Go(func() { s.poll(ctx) })
	}
	return nil
}

// Close waits for writes under way and closes the database.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	close(s.quit)
	<-s.done
	s.others.Wait()
	return errors.Join(s.r.db.Close(), s.w.Close())
}

// Server returns the id of the server that has the store open.
func (s *Store) Server() string { return s.server }

// Shared reports whether other servers may have the database open too.
func (s *Store) Shared() bool { return s.postgres != nil }

// Now is the time by the database's clock, which is the one that stored times
// come from, to within a second.
func (s *Store) Now() time.Time {
	return time.Now().Add(time.Duration(s.ahead.Load()) * time.Millisecond)
}

// Revision returns the newest revision and a channel that is closed when there
// is a newer one.
func (s *Store) Revision() (int64, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev, s.changed
}

// Remote returns a channel that is sent to, soon after, when other servers have
// committed something; several commits may be one signal. It is one channel for
// one receiver.
func (s *Store) Remote() <-chan struct{} { return s.remote }

// Work returns a channel that is sent to when this server has committed something
// that leaves work for the doers of tasks: a task has become ready, also of another
// chassis than the one whose task has ended, or is to be stopped. TakeWork tells of
// which chassis. It is one channel for one receiver.
func (s *Store) Work() <-chan struct{} { return s.work }

// TakeWork returns the chassis of Work since the call before; "" stands for the
// tasks of none.
func (s *Store) TakeWork() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Collect(maps.Keys(s.workOf))
	clear(s.workOf)
	return list
}

func (s *Store) tellOfWork(chassis []string) {
	if len(chassis) == 0 {
		return
	}
	s.mu.Lock()
	for _, c := range chassis {
		s.workOf[c] = true
	}
	s.mu.Unlock()
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// advance notes that everything up to a revision is committed.
func (s *Store) advance(rev int64) (grown bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rev <= s.rev {
		return false
	}
	s.rev = rev
	close(s.changed)
	s.changed = make(chan struct{})
	return true
}

// heardOf is advance for a revision that another server has committed.
func (s *Store) heardOf(rev int64) {
	if s.advance(rev) {
		select {
		case s.remote <- struct{}{}:
		default:
		}
	}
}

// scanner is a row or rows.
type scanner interface{ Scan(...any) error }

// page bounds a limit that a caller asked for.
func page(limit int) int {
	if limit <= 0 || limit > MaxPage {
		return MaxPage
	}
	return limit
}

func timeOf(ms sql.NullInt64) *time.Time {
	if !ms.Valid {
		return nil
	}
	t := time.UnixMilli(ms.Int64).UTC()
	return &t
}
