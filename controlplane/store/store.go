// Package store keeps what the control plane knows: chassis, runs and their
// tasks, images, log events and phone-home tokens, in SQLite.
//
// All writes go through one goroutine that commits as many of them together as
// have queued up while the last commit was being flushed to disk. A write that
// has returned nil survives a power cut, so an agent's update is acknowledged
// only after the call that stores it.
//
// Every change of a chassis, a task or the log takes the next number of one
// revision counter. Changes returns what is newer than a revision, which is all
// that a watcher needs to go on after any interruption.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// Errors that calls of this package wrap.
var (
	ErrNotFound  = errors.New("not found")
	ErrAmbiguous = errors.New("matches more than one")
	ErrConflict  = errors.New("conflict")
	ErrClosed    = errors.New("store is closed")
)

// MaxPage is the most items that one call of a list returns.
const MaxPage = 1000

// maxBatch bounds how many writes share a transaction.
const maxBatch = 256

// Store is safe for concurrent use.
type Store struct {
	w, r   *sql.DB
	server string // id of the server that has it open
	ops    chan op
	quit   chan struct{} // closed by Close
	done   chan struct{} // closed when the writer has ended

	mu      sync.Mutex
	rev     int64         // newest committed revision
	changed chan struct{} // closed when rev grows
	closed  bool
}

// tx is one write's view of the transaction it shares with others.
type tx struct {
	*sql.Tx
	rev int64
	now int64 // Unix milliseconds
}

func (t *tx) nextRev() int64 { t.rev++; return t.rev }

type op struct {
	do   func(*tx) error
	done chan error
}

// Open opens or creates the database file at path and brings its schema up to
// date. It refuses a file that a newer version of the program has written.
func Open(ctx context.Context, path string) (*Store, error) {
	// SQLite would create it readable by everybody; it holds user data and tokens.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	f.Close()
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)"
	w, err := sql.Open("sqlite", dsn+"&_txlock=immediate")
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	w.SetMaxOpenConns(1)
	r, err := sql.Open("sqlite", dsn+"&_pragma=query_only(1)")
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	r.SetMaxOpenConns(8)
	r.SetMaxIdleConns(8)
	s := &Store{
		w: w, r: r, server: uuid.NewString(),
		ops:     make(chan op, maxBatch),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
		changed: make(chan struct{}),
	}
	if err := s.start(ctx); err != nil {
		w.Close()
		r.Close()
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	go s.write()
	return s, nil
}

// start migrates, reads the revision, and forgets the sessions of the process
// that had the file open before.
func (s *Store) start(ctx context.Context) error {
	if err := migrate(ctx, s.w); err != nil {
		return err
	}
	var connected int64
	err := s.w.QueryRowContext(ctx, `SELECT MAX(rev), (SELECT COUNT(*) FROM chassis WHERE connected <> 0) FROM (
		SELECT COALESCE(MAX(rev), 0) AS rev FROM chassis UNION ALL
		SELECT COALESCE(MAX(rev), 0) FROM tasks UNION ALL
		SELECT COALESCE(MAX(rev), 0) FROM events UNION ALL
		SELECT COALESCE(MAX(number), 0) FROM notices) AS revisions`).Scan(&s.rev, &connected)
	if err != nil {
		return err
	}
	// Watchers that come back are to hear of it, so it has revisions of its own.
	_, err = s.w.ExecContext(ctx, `UPDATE chassis SET connected = 0, session = '', rev = ? + n.number
		FROM (SELECT id, ROW_NUMBER() OVER (ORDER BY id) AS number FROM chassis WHERE connected <> 0) AS n
		WHERE chassis.id = n.id`, s.rev)
	s.rev += connected
	return err
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
	return errors.Join(s.r.Close(), s.w.Close())
}

// update queues do and waits until it is committed or has failed. Once queued
// it takes effect even if ctx ends meanwhile.
func (s *Store) update(ctx context.Context, do func(*tx) error) error {
	o := op{do: do, done: make(chan error, 1)}
	select {
	case s.ops <- o:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.quit:
		return ErrClosed
	}
	select {
	case err := <-o.done:
		return err
	case <-s.done: // the writer may have answered as its last act
		select {
		case err := <-o.done:
			return err
		default:
			return ErrClosed
		}
	}
}

func (s *Store) write() {
	defer close(s.done)
	for {
		select {
		case o := <-s.ops:
			s.commit(o)
		case <-s.quit:
			return
		}
	}
}

// commit runs first and what has queued up behind it in one transaction. Each
// has a savepoint of its own, so that one that fails takes no other with it.
func (s *Store) commit(first op) {
	sqlTx, err := s.w.Begin()
	if err != nil {
		first.done <- fmt.Errorf("store: %w", err)
		return
	}
	t := &tx{Tx: sqlTx, rev: s.rev, now: time.Now().UnixMilli()}
	var accepted []op
	undone := false
	run := func(o op) {
		if err := t.isolated(o.do); err != nil {
			undone = errors.Is(err, errUndone)
			o.done <- err
			return
		}
		accepted = append(accepted, o)
	}
	run(first)
	for more := true; more && !undone && len(accepted) < maxBatch; {
		select {
		case o := <-s.ops:
			run(o)
		default:
			more = false
		}
	}
	if undone {
		sqlTx.Rollback()
		err = fmt.Errorf("store: a write of the same transaction failed: %w", errUndone)
	} else if err = sqlTx.Commit(); err != nil {
		sqlTx.Rollback()
		err = fmt.Errorf("store: commit: %w", err)
	} else if t.rev > s.rev {
		s.mu.Lock()
		s.rev = t.rev
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
	}
	for _, o := range accepted {
		o.done <- err
	}
}

// errUndone is a failure, of the disk mostly, on which SQLite has rolled back the
// whole transaction. A write after it would be committed on its own, and not be
// known to be.
var errUndone = errors.New("the transaction was rolled back")

func (t *tx) isolated(do func(*tx) error) (err error) {
	if _, err := t.Exec(`SAVEPOINT op`); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("store: panic in a write: %v", p)
		}
		if err == nil {
			if _, err = t.Exec(`RELEASE SAVEPOINT op`); err == nil {
				return
			}
		}
		if _, e := t.Exec(`ROLLBACK TO SAVEPOINT op`); e != nil {
			err = errors.Join(err, errUndone, e)
			return
		}
		t.Exec(`RELEASE SAVEPOINT op`)
	}()
	return do(t)
}

// Revision returns the newest revision and a channel that is closed when there
// is a newer one.
func (s *Store) Revision() (int64, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev, s.changed
}

// migrations take the schema from the version before to that of their number.
// Those that have been released are never changed.
//
//go:embed schema/*.sql
var migrations embed.FS

func migrate(ctx context.Context, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)`); err != nil {
		return err
	}
	var version int
	if err := db.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM schema_version`).Scan(&version); err != nil {
		return err
	}
	files, err := fs.Glob(migrations, "schema/*.sql") // sorted
	if err != nil {
		return err
	}
	if version > len(files) {
		return fmt.Errorf("its schema is version %d, this program knows up to %d: use the newer program", version, len(files))
	}
	for ; version < len(files); version++ {
		script, err := migrations.ReadFile(files[version])
		if err != nil {
			return err
		}
		t, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer t.Rollback()
		if _, err := t.ExecContext(ctx, string(script)); err != nil {
			return fmt.Errorf("schema version %d: %w", version+1, err)
		}
		if _, err := t.ExecContext(ctx, `INSERT INTO schema_version (version) VALUES (?)`, version+1); err != nil {
			return err
		}
		if err := t.Commit(); err != nil {
			return err
		}
	}
	return nil
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
