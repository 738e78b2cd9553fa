package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// maxBatch bounds how many writes share a transaction.
	maxBatch = 256
	// outage is how long writes wait for a database that is away.
	outage = 10 * time.Second
	// maxAttempts bounds how often writes are tried whose transactions break though
	// the database is there: one of them may be what breaks them.
	maxAttempts = 5
	// maxTransaction bounds one transaction, should the network swallow it.
	maxTransaction = time.Minute
)

type op struct {
	ctx  context.Context // nil: never ends
	do   func(*tx) error
	done chan error // has room for the answer
}

// tx is one write's view of the transaction it shares with others. Rows must be
// read to their end, or closed, before the next statement.
type tx struct {
	sql    *sql.Tx
	ctx    context.Context
	d      dialect
	rev    int64
	now    int64 // Unix milliseconds, by the database's clock
	saved  bool  // a savepoint of a write before is still there
	failed error // of a statement of the current write
	ended  []ending
	work   []string // chassis whose tasks there is something to do for
	kept   *statements
}

func (t *tx) nextRev() int64 { t.rev++; return t.rev }

// Exec runs a statement with ? for parameters.
func (t *tx) Exec(query string, args ...any) (sql.Result, error) {
	if st := t.kept.get(query); st != nil {
		res, err := t.sql.StmtContext(t.ctx, st).ExecContext(t.ctx, t.d.arguments(args)...)
		return res, t.note(err)
	}
	res, err := t.sql.ExecContext(t.ctx, t.d.rebind(query), t.d.arguments(args)...)
	return res, t.note(err)
}

// Query runs a query with ? for parameters.
func (t *tx) Query(query string, args ...any) (*sql.Rows, error) {
	if st := t.kept.get(query); st != nil {
		rows, err := t.sql.StmtContext(t.ctx, st).QueryContext(t.ctx, t.d.arguments(args)...)
		return rows, t.note(err)
	}
	rows, err := t.sql.QueryContext(t.ctx, t.d.rebind(query), t.d.arguments(args)...)
	return rows, t.note(err)
}

// QueryRow runs a query of one row with ? for parameters.
func (t *tx) QueryRow(query string, args ...any) row {
	rows, err := t.Query(query, args...)
	return row{rows: rows, err: err}
}

func (t *tx) note(err error) error {
	if err != nil && t.failed == nil {
		t.failed = err
	}
	return err
}

// update queues do and waits until it is committed or has failed. If ctx ends
// before the writer has got to it, it is not done at all; after that it takes
// effect even if ctx ends.
//
// do may run more than once, when a transaction has to be repeated: it sets what
// it returns through variables anew each time. Only the last run counts.
func (s *Store) update(ctx context.Context, do func(*tx) error) error {
	o := op{ctx: ctx, do: do, done: make(chan error, 1)}
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
			s.kept.prepare()
		case <-s.quit:
			return
		}
	}
}

// commit stores first and what has queued up behind it in one transaction.
func (s *Store) commit(first op) {
	batch := []op{first}
	var err error
	begun := time.Now()
	defer func() { s.meters.observe(begun, len(batch), err) }()
	pause := 25 * time.Millisecond
	for attempt := 1; ; attempt++ {
		var again bool
		if batch, again, err = s.attempt(batch, attempt == 1); err == nil || !again || attempt >= maxAttempts && s.downSince.IsZero() {
			break
		}
		if !s.downSince.IsZero() && time.Since(s.downSince) > outage {
			// What has queued up would only wait as long, one after the other.
			for more := true; more; {
				select {
				case o := <-s.ops:
					batch = append(batch, o)
				default:
					more = false
				}
			}
			break
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
			pause = min(2*pause, time.Second)
		case <-s.quit:
			again = false
		}
		if !again {
			break
		}
	}
	for _, o := range batch {
		o.done <- err
	}
}

// attempt runs the writes of batch, and if it may grow, what has queued up, in
// one transaction. Each has a savepoint of its own, so that one that fails takes
// no other with it; it is answered at once. The others are returned, with the
// outcome for all of them and whether they may be tried again.
func (s *Store) attempt(batch []op, grow bool) (left []op, again bool, err error) {
	ctx := context.Background()
	if s.postgres != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, maxTransaction)
		defer cancel()
	}
	t, err := s.begin(ctx)
	if err != nil {
		if s.postgres == nil {
			return batch, false, fmt.Errorf("store: %w", err)
		}
		if s.downSince.IsZero() {
			s.downSince = time.Now()
			s.log.Error("the database is away, writes wait for it", "database", s.name(), "error", err)
		}
		return batch, true, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer t.sql.Rollback()
	before := t.rev
	for i := 0; ; i++ {
		if i == len(batch) {
			if !grow || len(batch) >= maxBatch {
				break
			}
			select {
			case o := <-s.ops:
				batch = append(batch, o)
			default:
			}
			if i == len(batch) {
				break
			}
		}
		o := batch[i]
		if o.ctx != nil && o.ctx.Err() != nil {
			o.done <- o.ctx.Err()
			batch = append(batch[:i], batch[i+1:]...)
			i--
			continue
		}
		err := t.isolated(o.do)
		switch {
		case err == nil:
			continue
		case s.postgres != nil && (errors.Is(err, errUndone) || repeatable(err)):
			return batch, true, fmt.Errorf("%w: the transaction was lost: %w", ErrUnavailable, err)
		}
		o.done <- err
		batch = append(batch[:i], batch[i+1:]...)
		i--
		if errors.Is(err, errUndone) {
			return batch, false, fmt.Errorf("store: a write of the same transaction failed: %w", errUndone)
		}
	}
	if len(batch) == 0 {
		return batch, false, nil
	}
	return s.conclude(t, batch, before)
}

func (s *Store) begin(ctx context.Context) (*tx, error) {
	if s.postgres != nil {
		t, err := s.beginPostgres(ctx)
		if err == nil && !s.downSince.IsZero() {
			s.log.Info("the database is back", "database", s.name(), "away", time.Since(s.downSince).String())
			s.downSince = time.Time{}
		}
		return t, err
	}
	sqlTx, err := s.w.BeginTx(ctx, nil)
	return &tx{sql: sqlTx, ctx: ctx, rev: s.rev, now: time.Now().UnixMilli(), kept: s.kept}, err
}

// conclude commits.
func (s *Store) conclude(t *tx, batch []op, before int64) (left []op, again bool, err error) {
	if s.postgres != nil {
		if again, err = s.concludePostgres(t, before); err != nil {
			return batch, again, err
		}
	} else {
		if t.rev > before {
			if _, err := t.Exec(`UPDATE revision SET rev = ?`, t.rev); err != nil {
				return batch, false, fmt.Errorf("store: revision: %w", err)
			}
		}
		if err := t.sql.Commit(); err != nil {
			return batch, false, fmt.Errorf("store: commit: %w", err)
		}
		s.batch++
	}
	s.advance(t.rev)
	s.meters.tasksEnded(t.ended)
	s.tellOfWork(t.work)
	if s.committed != nil {
		s.committed()
	}
	return batch, false, nil
}

// errUndone is a failure, of the disk or the connection mostly, with which the
// whole transaction is gone. A write after it would be committed on its own, and
// not be known to be.
var errUndone = errors.New("the transaction was rolled back")

func (t *tx) isolated(do func(*tx) error) (err error) {
	save := `SAVEPOINT op`
	if t.saved {
		save = `RELEASE SAVEPOINT op; ` + save // one round trip
	}
	if _, err := t.Exec(save); err != nil {
		return errors.Join(errUndone, err)
	}
	t.saved, t.failed = true, nil
	ended, work := len(t.ended), len(t.work)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("store: panic in a write: %v", p)
		}
		// PostgreSQL does nothing more in a transaction after a failed statement.
		if err == nil && t.failed != nil && t.d == postgreSQL {
			err = fmt.Errorf("store: a write has gone on after: %w", t.failed)
		}
		if err == nil {
			return
		}
		t.ended, t.work = t.ended[:ended], t.work[:work]
		if _, e := t.Exec(`ROLLBACK TO SAVEPOINT op`); e != nil {
			err = errors.Join(err, errUndone, e)
		}
	}()
	return do(t)
}
