package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	houseEvery = 5 * time.Second // segments
	tidyEvery  = 5 * time.Minute // retention
	// slice is the range of time of a partition. What is too old, or too much, is
	// dropped by the slice.
	slice = 6 * time.Hour
	// ahead is how far in the future there are partitions.
	ahead = 48 * time.Hour
	// dropOnce is how many rows a transaction deletes where there are no partitions.
	dropOnce = 5000
)

// maintain keeps house until ctx ends.
func (d *DB) maintain(ctx context.Context) {
	tidied := time.Now().Add(-tidyEvery + rand.N(time.Minute)) // servers not all at once
	tick := time.NewTicker(houseEvery)
	defer tick.Stop()
	report := func(what string, err error) {
		if err != nil && ctx.Err() == nil {
			d.log.Error(what, "database", d.name, "error", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		report("searches of log lines are slow", d.segmentAll(ctx))
		if time.Since(tidied) >= tidyEvery {
			tidied = time.Now()
			report("cannot prepare partitions for log lines", d.makeSlices(ctx))
			report("the records database grows: cannot drop what is too old", d.tidy(ctx, time.Now()))
		}
	}
}

// tidy drops what is too old, or too much.
func (d *DB) tidy(ctx context.Context, now time.Time) error {
	var errs []error
	if d.o.Keep > 0 {
		before := now.Add(-d.o.Keep)
		errs = append(errs, d.dropLines(ctx, before), d.dropMeasurements(ctx, before), d.dropCommands(ctx, before))
	}
	if d.o.MaxBytes > 0 {
		errs = append(errs, d.shrink(ctx))
	}
	errs = append(errs, d.dropSegments(ctx))
	return errors.Join(errs...)
}

// rowKey names a row of a table for deletion.
func (d *DB) rowKey() string {
	if d.pg != nil {
		return "ctid"
	}
	return "rowid"
}

// inBatches deletes rows of a table, some at a time. Its condition has to be one that
// an index answers.
func (d *DB) inBatches(ctx context.Context, table, where string, args ...any) (total int64, err error) {
	key := d.rowKey()
	query := d.d.rebind(`DELETE FROM ` + table + ` WHERE ` + key + ` IN (SELECT ` + key + ` FROM ` + table + ` WHERE ` + where + fmt.Sprintf(` LIMIT %d)`, dropOnce))
	for {
		res, err := d.w.ExecContext(ctx, query, args...)
		if err != nil {
			return total, fmt.Errorf("drop old rows of %s: %w", table, err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return total, err
		}
		total += n
		if n < dropOnce {
			return total, nil
		}
		select { // lines that come in go first
		case <-ctx.Done():
			return total, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (d *DB) dropMeasurements(ctx context.Context, before time.Time) error {
	_, err := d.inBatches(ctx, `telemetries`, `updated_at < ?`, d.d.time(before))
	return err
}

// dropCommands deletes commands that were issued before, with what has come of them.
func (d *DB) dropCommands(ctx context.Context, before time.Time) error {
	for _, q := range []struct{ table, where string }{
		{`servers_commands`, `command_id IN (SELECT id FROM commands WHERE created_at < ?)`},
		{`command_queues`, `command_id IN (SELECT id FROM commands WHERE created_at < ?)`},
		{`commands`, `created_at < ?`},
		{`command_responses`, `updated_at < ? AND NOT EXISTS (SELECT 1 FROM servers_commands c WHERE c.response_id = command_responses.id)`},
	} {
		if _, err := d.inBatches(ctx, q.table, q.where, d.d.time(before)); err != nil {
			return err
		}
	}
	return nil
}

// dropSegments deletes summaries of lines that are not there any more.
func (d *DB) dropSegments(ctx context.Context) error {
	_, err := d.w.ExecContext(ctx, `DELETE FROM log_segments WHERE last_seq < (SELECT COALESCE(MIN(seq), 0) FROM logs)`)
	return err
}

// dropLines deletes log lines that came before.
func (d *DB) dropLines(ctx context.Context, before time.Time) error {
	if d.pg == nil {
		// seq ascends with arrival, so what is to go is one range of the table.
		return d.dropThrough(ctx, `updated_at < ?`, d.d.time(before))
	}
	slices, err := d.slices(ctx)
	if err != nil {
		return err
	}
	for _, s := range slices {
		if !s.to.After(before) {
			if err := d.dropSlice(ctx, s); err != nil {
				return err
			}
		}
	}
	n, err := d.inBatches(ctx, `logs_default`, `updated_at < ?`, before)
	d.meters.dropped.Add(float64(n))
	return err
}

// dropThrough deletes the oldest lines of a SQLite database while the oldest is such
// that condition holds.
func (d *DB) dropThrough(ctx context.Context, condition string, args ...any) error {
	for {
		var oldest sql.NullInt64
		if err := d.r.QueryRowContext(ctx, `SELECT seq FROM (SELECT seq, updated_at FROM logs ORDER BY seq LIMIT 1) WHERE `+condition, args...).Scan(&oldest); err != nil {
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			return err
		}
		res, err := d.w.ExecContext(ctx, `DELETE FROM logs WHERE seq < ? AND `+condition, append([]any{oldest.Int64 + dropOnce}, args...)...)
		if err != nil {
			return fmt.Errorf("drop old log lines: %w", err)
		}
		n, _ := res.RowsAffected() // SQLite has it always
		d.meters.dropped.Add(float64(n))
		if n == 0 {
			return nil
		}
		select { // lines that come in go first
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// shrink drops the oldest lines until logs take no more disk than they may.
func (d *DB) shrink(ctx context.Context) error {
	if d.pg != nil {
		return d.shrinkSlices(ctx)
	}
	var size int64
	for first := true; ; first = false {
		if err := d.r.QueryRowContext(ctx, `SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size`).Scan(&size); err != nil {
			return err
		}
		if size <= d.o.MaxBytes {
			return nil
		}
		if first {
			d.log.Warn("log lines take more disk than they may, the oldest are dropped", "database", d.name, "bytes", size, "limit", d.o.MaxBytes)
		}
		var oldest, newest int64
		if err := d.r.QueryRowContext(ctx, `SELECT COALESCE(MIN(seq), 0), COALESCE(MAX(seq), 0) FROM logs`).Scan(&oldest, &newest); err != nil || newest == 0 {
			return err
		}
		// About a twentieth at once, as pages are free only when all in them is.
		if err := d.dropThrough(ctx, `seq <= ?`, oldest+max((newest-oldest)/20, 1)); err != nil {
			return err
		}
	}
}

// lineSlice is a partition of logs.
type lineSlice struct {
	name     string
	from, to time.Time
	bytes    int64
}

// nameOf is what the partition that begins then is called.
func nameOf(from time.Time) string { return from.UTC().Format("logs_20060102t15") }

// slices returns the partitions but the default one, oldest first.
func (d *DB) slices(ctx context.Context) ([]lineSlice, error) {
	rows, err := d.r.QueryContext(ctx, `SELECT c.relname, pg_total_relation_size(c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'logs'::regclass ORDER BY c.relname`)
	if err != nil {
		return nil, fmt.Errorf("list partitions of log lines: %w", err)
	}
	defer rows.Close()
	var list []lineSlice
	for rows.Next() {
		var s lineSlice
		if err := rows.Scan(&s.name, &s.bytes); err != nil {
			return nil, err
		}
		if s.from, err = time.Parse("logs_20060102t15", s.name); err != nil {
			continue // the default one
		}
		s.to = s.from.Add(slice)
		list = append(list, s)
	}
	return list, rows.Err()
}

// makeSlices makes the partitions of the time that is kept and a while ahead.
func (d *DB) makeSlices(ctx context.Context) error {
	if d.pg == nil {
		return nil
	}
	return d.transact(ctx, func(t *sql.Tx) error {
		if _, err := t.ExecContext(ctx, fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d, 0)`, lockMigration)); err != nil {
			return err
		}
		there, err := d.slices(ctx)
		if err != nil {
			return err
		}
		if len(there) > 0 { // nobody writes to the default one until those that are missing are made
			if _, err := t.ExecContext(ctx, `LOCK TABLE logs_default IN SHARE ROW EXCLUSIVE MODE`); err != nil {
				return err
			}
		}
		var move bool // some lines from the default one
		if err := t.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM logs_default)`).Scan(&move); err != nil {
			return err
		}
		known := map[string]bool{}
		for _, s := range there {
			known[s.name] = true
		}
		now := time.Now().UTC()
		keep := d.o.Keep
		if keep < 0 || keep > DefaultKeep { // older lines come rarely: the default partition has them
			keep = DefaultKeep
		}
		for from := now.Add(-keep).Truncate(slice); from.Before(now.Add(ahead)); from = from.Add(slice) {
			if !known[nameOf(from)] {
				if err := d.makeSlice(ctx, t, from, move); err != nil {
					return fmt.Errorf("partition %s: %w", nameOf(from), err)
				}
			}
		}
		return nil
	})
}

// makeSlice makes a partition. Lines of its time may be in the default one.
func (d *DB) makeSlice(ctx context.Context, t *sql.Tx, from time.Time, move bool) error {
	name := pgx.Identifier{nameOf(from)}.Sanitize()
	bounds := fmt.Sprintf(`FROM ('%s') TO ('%s')`, from.Format(time.RFC3339), from.Add(slice).Format(time.RFC3339))
	if !move {
		_, err := t.ExecContext(ctx, `CREATE TABLE `+name+` PARTITION OF logs FOR VALUES `+bounds)
		return err
	}
	for _, q := range []string{
		`CREATE TABLE ` + name + ` (LIKE logs INCLUDING ALL)`,
		// Nobody writes to the default partition meanwhile.
		`LOCK TABLE logs_default IN SHARE ROW EXCLUSIVE MODE`,
		fmt.Sprintf(`WITH moved AS (DELETE FROM logs_default WHERE created_at >= '%s' AND created_at < '%s' RETURNING *) INSERT INTO %s SELECT * FROM moved`,
			from.Format(time.RFC3339), from.Add(slice).Format(time.RFC3339), name),
		`ALTER TABLE logs ATTACH PARTITION ` + name + ` FOR VALUES ` + bounds,
	} {
		if _, err := t.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

func (d *DB) dropSlice(ctx context.Context, s lineSlice) error {
	return d.attempt(ctx, func(t *sql.Tx) error {
		if mine, err := d.keepsHouse(ctx, t); err != nil || !mine {
			return err
		}
		name := pgx.Identifier{s.name}.Sanitize()
		var there bool
		if err := t.QueryRowContext(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&there); err != nil || !there {
			return err
		}
		var lines int64
		if err := t.QueryRowContext(ctx, `SELECT GREATEST(reltuples, 0)::bigint FROM pg_class WHERE oid = $1::regclass`, name).Scan(&lines); err != nil {
			return err
		}
		// To wait for a long search behind which all others would wait is worse than
		// to try again later.
		if _, err := t.ExecContext(ctx, `SET LOCAL lock_timeout = '2s'`); err != nil {
			return err
		}
		if _, err := t.ExecContext(ctx, `DROP TABLE `+name); err != nil {
			return fmt.Errorf("drop partition %s: %w", s.name, err)
		}
		d.meters.dropped.Add(float64(lines)) // about
		return nil
	})
}

// shrinkSlices drops the oldest partitions that have lines until the rest takes no more
// disk than it may. That of now and those after it stay: what fills those six hours
// with more needs a larger limit, and says so.
func (d *DB) shrinkSlices(ctx context.Context) error {
	if err := d.shrinkDefault(ctx); err != nil {
		return err
	}
	slices, err := d.slices(ctx)
	if err != nil {
		return err
	}
	var total, empty int64 = 0, 64 << 10
	for _, s := range slices {
		total += s.bytes
	}
	now := time.Now()
	for _, s := range slices {
		if total <= d.o.MaxBytes || s.to.After(now) {
			break
		}
		if s.bytes <= empty {
			continue
		}
		d.log.Warn("log lines take more disk than they may, the oldest are dropped", "database", d.name, "bytes", total, "limit", d.o.MaxBytes, "partition", s.name)
		if err := d.dropSlice(ctx, s); err != nil {
			return err
		}
		total -= s.bytes
	}
	if total > d.o.MaxBytes {
		d.log.Error("the log lines of the last hours alone take more disk than logs may: find out who logs so much, or allow more", "database", d.name, "bytes", total, "limit", d.o.MaxBytes)
	}
	return nil
}

// lineBytes is about what a line takes, with its places in indexes.
const lineBytes = 450

// shrinkDefault drops the older half of the lines in the default partition when they
// take more than a quarter of the disk that logs may take. Their clocks are wrong, so
// it is by seq. The space is used again, and not given back.
func (d *DB) shrinkDefault(ctx context.Context) error {
	var size, lines int64
	if err := d.r.QueryRowContext(ctx, `SELECT pg_total_relation_size('logs_default')`).Scan(&size); err != nil || size <= d.o.MaxBytes/4 {
		return err
	}
	// Not all of it may be in use.
	if err := d.r.QueryRowContext(ctx, `SELECT COUNT(*) FROM logs_default`).Scan(&lines); err != nil || lines*lineBytes <= d.o.MaxBytes/4 {
		return err
	}
	var first, last int64
	if err := d.r.QueryRowContext(ctx, `SELECT COALESCE(MIN(seq), 0), COALESCE(MAX(seq), 0) FROM logs_default`).Scan(&first, &last); err != nil {
		return err
	}
	d.log.Warn("log lines of agents whose clock is wrong take much disk, the oldest are dropped", "database", d.name, "lines", lines)
	n, err := d.inBatches(ctx, `logs_default`, `seq < ?`, first+(last-first)/2)
	d.meters.dropped.Add(float64(n))
	if err != nil {
		return err
	}
	_, err = d.w.ExecContext(ctx, `VACUUM logs_default`)
	return err
}
