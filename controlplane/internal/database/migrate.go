package database

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
)

// Alone waits until no other server has PostgreSQL's advisory lock with this key, which
// are the lock's arguments in SQL, and takes it. Until release, no statement of conn is
// ended because it takes long: to wait for another server's migration, or to do one, may.
func Alone(ctx context.Context, conn *sql.Conn, key string) (release func(), err error) {
	if _, err := conn.ExecContext(ctx, `SET statement_timeout = 0`); err != nil {
		return nil, err
	}
	reset := func() { conn.ExecContext(context.WithoutCancel(ctx), `RESET statement_timeout`) }
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock(`+key+`)`); err != nil {
		reset()
		return nil, fmt.Errorf("wait for another server's migration: %w", err)
	}
	return func() {
		conn.ExecContext(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock(`+key+`)`)
		reset()
	}, nil
}

// Migrate takes a schema to the newest version: the scripts that pattern matches, in the
// order of their names, are those from the version before to that of their number, and
// table is where it is kept which have been run. Each is a transaction.
func Migrate(ctx context.Context, conn *sql.Conn, scripts fs.FS, pattern, table string) error {
	if _, err := conn.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS `+table+` (version INTEGER NOT NULL)`); err != nil {
		return err
	}
	var version int
	if err := conn.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM `+table).Scan(&version); err != nil {
		return err
	}
	files, err := fs.Glob(scripts, pattern) // sorted
	if err != nil {
		return err
	}
	if version > len(files) {
		return fmt.Errorf("its schema is version %d, this program knows up to %d: use the newer program", version, len(files))
	}
	for ; version < len(files); version++ {
		if err := step(ctx, conn, scripts, files[version], table, version+1); err != nil {
			return err
		}
	}
	return nil
}

func step(ctx context.Context, conn *sql.Conn, scripts fs.FS, file, table string, version int) error {
	script, err := fs.ReadFile(scripts, file)
	if err != nil {
		return err
	}
	t, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer t.Rollback()
	if _, err := t.ExecContext(ctx, string(script)); err != nil {
		return fmt.Errorf("schema version %d: %w", version, err)
	}
	if _, err := t.ExecContext(ctx, fmt.Sprintf(`INSERT INTO %s (version) VALUES (%d)`, table, version)); err != nil {
		return err
	}
	return t.Commit()
}
