package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

func sqliteDSN(path string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)"
}

func (s *Store) openSQLite(path string) error {
	// SQLite would create it readable by everybody; it holds user data and tokens.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if s.w, err = sql.Open("sqlite", sqliteDSN(path)+"&_txlock=immediate"); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	s.w.SetMaxOpenConns(1)
	s.kept = &statements{db: s.w}
	db, err := sql.Open("sqlite", sqliteDSN(path)+"&_pragma=query_only(1)")
	if err != nil {
		s.w.Close()
		return fmt.Errorf("%s: %w", path, err)
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	s.r = reader{db: db, d: sqlite, kept: &statements{db: db}}
	return nil
}

// ErrNoBackup is returned by Backup for a database that is backed up with tools
// of its own.
var ErrNoBackup = errors.New("this database is backed up with pg_dump")

// Backup writes a copy of a SQLite database, as it is at one moment, to a new
// file at path (mode 0600), while the server goes on. It is on disk when the
// call returns. PostgreSQL is ErrNoBackup: its own pg_dump does it while servers run.
func (s *Store) Backup(ctx context.Context, path string) (err error) {
	if s.postgres != nil {
		return fmt.Errorf("%s: %w: pg_dump --format=custom --file=%s DSN", s.name(), ErrNoBackup, path)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("back up %s to %s: %w", s.path, path, err)
		}
	}()
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(path)
		}
	}()
	db, err := sql.Open("sqlite", sqliteDSN(s.path))
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, path); err != nil { // takes an empty file
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
