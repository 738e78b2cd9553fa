package records

import (
	"context"
	"database/sql"
	"fmt"
	"time"
	"unicode/utf8"
)

// A segment is closed when it has so many lines, or its first came so long ago.
const (
	segmentLines = 50_000
	segmentAge   = 10 * time.Minute
)

// segmentAll closes all segments that are ready. One server at a time does it.
func (d *DB) segmentAll(ctx context.Context) error {
	d.segmentation.Lock()
	defer d.segmentation.Unlock()
	for {
		more, err := d.segmentNext(ctx, time.Now())
		if err != nil {
			return fmt.Errorf("summarise log lines: %w", err)
		}
		if !more {
			return nil
		}
	}
}

// segmentNext closes the next segment, if it is ready.
func (d *DB) segmentNext(ctx context.Context, now time.Time) (closed bool, err error) {
	if d.pg == nil { // not in a transaction, which would hold up lines meanwhile
		return d.segmentIn(ctx, d.r, d.w, now)
	}
	err = d.attempt(ctx, func(t *sql.Tx) error {
		mine, err := d.keepsHouse(ctx, t)
		if err == nil && mine {
			closed, err = d.segmentIn(ctx, t, t, now)
		}
		return err
	})
	return closed && err == nil, err
}

// keepsHouse makes this server the one that keeps house until the transaction ends,
// and reports whether it is.
func (d *DB) keepsHouse(ctx context.Context, t runner) (mine bool, err error) {
	if d.pg == nil {
		return true, nil
	}
	err = t.QueryRowContext(ctx, fmt.Sprintf(`SELECT pg_try_advisory_xact_lock(%d, 'logs'::regclass::oid::int)`, lockHouse)).Scan(&mine)
	return mine, err
}

func (d *DB) segmentIn(ctx context.Context, from, to runner, now time.Time) (bool, error) {
	var after int64
	if err := from.QueryRowContext(ctx, `SELECT COALESCE(MAX(last_seq), 0) FROM log_segments`).Scan(&after); err != nil {
		return false, err
	}
	s, ready, err := d.summarise(ctx, from, after, now)
	if err != nil || !ready {
		return false, err
	}
	_, err = to.ExecContext(ctx, d.d.rebind(`INSERT INTO log_segments (first_seq, last_seq, lines, first_at, last_at, first_arrival, last_arrival, words)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?)`), s.first, s.last, s.lines, d.d.time(s.firstAt), d.d.time(s.lastAt), d.d.time(s.firstArrival), d.d.time(s.lastArrival), []byte(s.words))
	return err == nil, err
}

type segment struct {
	first, last, lines        int64
	firstAt, lastAt           time.Time
	firstArrival, lastArrival time.Time
	words                     filter
}

// summarise reads up to segmentLines lines after a seq and tells whether they are a
// segment.
func (d *DB) summarise(ctx context.Context, from runner, after int64, now time.Time) (s segment, ready bool, err error) {
	var oldest stamp
	switch err := from.QueryRowContext(ctx, d.d.rebind(`SELECT updated_at FROM logs WHERE seq > ? ORDER BY seq LIMIT 1`), after).Scan(&oldest); err {
	case nil:
	case sql.ErrNoRows:
		return s, false, nil
	default:
		return s, false, err
	}
	if now.Sub(oldest.Time) < segmentAge {
		var n int64
		err := from.QueryRowContext(ctx, d.d.rebind(`SELECT seq FROM logs WHERE seq > ? ORDER BY seq LIMIT 1 OFFSET ?`), after, segmentLines-1).Scan(&n)
		if err == sql.ErrNoRows {
			return s, false, nil
		}
		if err != nil {
			return s, false, err
		}
	}
	rows, err := from.QueryContext(ctx, d.d.rebind(`SELECT seq, created_at, updated_at, msg FROM logs WHERE seq > ? ORDER BY seq LIMIT ?`), after, segmentLines)
	if err != nil {
		return s, false, err
	}
	defer rows.Close()
	hashes := make(map[uint64]struct{}, segmentLines)
	buf := make([]byte, 0, maxWord+utf8.UTFMax)
	s.first = after + 1 // so that ranges have no gaps
	for rows.Next() {
		var at, arrival stamp
		var msg string
		if err := rows.Scan(&s.last, &at, &arrival, &msg); err != nil {
			return s, false, err
		}
		if s.lines == 0 {
			s.firstAt, s.lastAt, s.firstArrival, s.lastArrival = at.Time, at.Time, arrival.Time, arrival.Time
		}
		s.lines++
		s.firstAt, s.lastAt = earlier(s.firstAt, at.Time), later(s.lastAt, at.Time)
		s.firstArrival, s.lastArrival = earlier(s.firstArrival, arrival.Time), later(s.lastArrival, arrival.Time)
		words(msg, buf, func(w []byte) { hashes[hash(w)] = struct{}{} })
	}
	s.words = newFilter(hashes)
	return s, s.lines > 0, rows.Err()
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
