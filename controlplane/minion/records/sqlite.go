package records

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/teeth-metal/teeth/controlplane/minion"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

func sqliteDSN(path string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_pragma=cache_size(-32768)"
}

func (d *DB) openSQLite(path string) error {
	if err := private(path); err != nil { // SQLite would make it readable by everybody
		return err
	}
	d.d, d.path, d.name = sqlite, path, path
	var err error
	if d.w, err = sql.Open("sqlite", sqliteDSN(path)+"&_txlock=immediate&_pragma=wal_autocheckpoint(4000)"); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	d.w.SetMaxOpenConns(1)
	if d.r, err = sql.Open("sqlite", sqliteDSN(path)+"&_pragma=query_only(1)"); err != nil {
		d.w.Close()
		return fmt.Errorf("%s: %w", path, err)
	}
	d.r.SetMaxOpenConns(8)
	d.r.SetMaxIdleConns(8)
	d.in = &inserter{w: d.w}
	return nil
}

// inserter inserts many rows by one statement, to run which costs half of what as many
// statements do.
type inserter struct {
	w    *sql.DB
	many *sql.Stmt
	args []any
}

const (
	rowsOnce   = 50
	insertLine = `INSERT OR IGNORE INTO logs (id, server_id, service, msg, created_at, updated_at) VALUES `
	lineValues = `(?, ?, ?, ?, ?, ?)`
)

func (i *inserter) close() error { return nil } // statements end with their database

func (i *inserter) insert(ctx context.Context, lines []minion.Entry, measurements []measurement) error {
	if i.many == nil {
		var err error
		if i.many, err = i.w.PrepareContext(ctx, insertLine+strings.TrimSuffix(strings.Repeat(lineValues+",", rowsOnce), ",")); err != nil {
			return err
		}
	}
	t, err := i.w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer t.Rollback()
	many := t.StmtContext(ctx, i.many)
	now := time.Now().UnixMicro()
	var name string
	var id wire.ID
	var server []byte
	for len(lines) > 0 {
		i.args = i.args[:0]
		n := min(len(lines), rowsOnce)
		for k := range lines[:n] {
			e := &lines[k]
			if server == nil || name != e.Server {
				name, id = e.Server, ServerID(e.Server)
				server = append([]byte(nil), id[:]...)
			}
			i.args = append(i.args, sortable(e.ID), server, e.Service, e.Message, timeOf(e.ID).UnixMicro(), now)
		}
		if n == rowsOnce {
			_, err = many.ExecContext(ctx, i.args...)
		} else {
			_, err = t.ExecContext(ctx, insertLine+strings.TrimSuffix(strings.Repeat(lineValues+",", n), ","), i.args...)
		}
		if err != nil {
			return err
		}
		lines = lines[n:]
	}
	for _, m := range measurements {
		if _, err := t.ExecContext(ctx, `INSERT OR IGNORE INTO telemetries (server_id, id, data, data_key, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?)`,
			m.server.String(), m.id.String(), string(m.data), m.label, m.at.UnixMicro(), now); err != nil {
			return err
		}
	}
	return t.Commit()
}
