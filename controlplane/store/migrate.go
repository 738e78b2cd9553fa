package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
)

// migrations take the schema from the version before to that of their number.
// Those that have been released are never changed.
//
//go:embed schema/*.sql
var migrations embed.FS

// migrationLock is the advisory lock under which one server at a time migrates a
// PostgreSQL database.
const migrationLock = 0x7465657468 // "teeth"

func (s *Store) migrate(ctx context.Context) error {
	conn, err := s.w.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if s.postgres != nil {
		// To wait for another server's migration, or to do one, may take its time.
		if _, err := conn.ExecContext(ctx, `SET statement_timeout = 0`); err != nil {
			return err
		}
		defer conn.ExecContext(context.WithoutCancel(ctx), `RESET statement_timeout`)
		if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, int64(migrationLock)); err != nil {
			return fmt.Errorf("wait for another server's migration: %w", err)
		}
		defer conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, int64(migrationLock))
	}
	return migrate(ctx, conn, s.r.d)
}

func migrate(ctx context.Context, db *sql.Conn, d dialect) error {
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
		if _, err := t.ExecContext(ctx, d.rebind(`INSERT INTO schema_version (version) VALUES (?)`), version+1); err != nil {
			return err
		}
		if err := t.Commit(); err != nil {
			return err
		}
	}
	return nil
}
