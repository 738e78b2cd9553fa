package records

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
)

// migrations take the schema from the version before to that of their number. Those
// that have been released are never changed.
//
//go:embed schema
var migrations embed.FS

// Advisory locks of PostgreSQL, together with the schema's oid: who migrates, whose
// lines are being committed, and who keeps house.
const (
	lockMigration = iota + 0x6d696e69 // "mini"
	lockLines
	lockHouse
)

func (d *DB) migrate(ctx context.Context) error {
	conn, err := d.w.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	dir := "schema/sqlite"
	if d.pg != nil {
		dir = "schema/postgres"
		// One server at a time; to wait for another may take its time.
		if _, err := conn.ExecContext(ctx, `SET statement_timeout = 0`); err != nil {
			return err
		}
		defer conn.ExecContext(context.WithoutCancel(ctx), `RESET statement_timeout`)
		if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock($1, 0)`, lockMigration); err != nil {
			return fmt.Errorf("wait for another server's migration: %w", err)
		}
		defer conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1, 0)`, lockMigration)
		if d.o.Schema != "" {
			if _, err := conn.ExecContext(ctx, `CREATE SCHEMA IF NOT EXISTS `+pgx.Identifier{d.o.Schema}.Sanitize()); err != nil {
				return err
			}
		}
	}
	if _, err := conn.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS records_version (version INTEGER NOT NULL)`); err != nil {
		return err
	}
	var version int
	if err := conn.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM records_version`).Scan(&version); err != nil {
		return err
	}
	files, err := fs.Glob(migrations, dir+"/*.sql") // sorted
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
		t, err := conn.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer t.Rollback()
		if _, err := t.ExecContext(ctx, string(script)); err != nil {
			return fmt.Errorf("schema version %d: %w", version+1, err)
		}
		if _, err := t.ExecContext(ctx, d.d.rebind(`INSERT INTO records_version (version) VALUES (?)`), version+1); err != nil {
			return err
		}
		if err := t.Commit(); err != nil {
			return err
		}
	}
	return nil
}
