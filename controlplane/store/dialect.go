package store

import (
	"context"
	"database/sql"

	"github.com/teeth-metal/teeth/controlplane/internal/database"
)

// dialect is what differs between the databases in how a statement is handed over.
type dialect int

const (
	sqlite dialect = iota
	postgreSQL
)

// rebind numbers the ? of a query as the database wants them.
func (d dialect) rebind(query string) string {
	if d == sqlite {
		return query
	}
	return database.Rebind(query)
}

// arguments makes values what both databases take. Text from outside may hold
// what PostgreSQL has no text for, and would then never get stored; booleans are
// kept as 0 and 1.
func (d dialect) arguments(args []any) []any {
	if d == sqlite {
		return args
	}
	out := make([]any, len(args))
	for i, a := range args {
		switch v := a.(type) {
		case string:
			a = database.Storable(v)
		case sql.NullString:
			v.String = database.Storable(v.String)
			a = v
		case *string:
			if v != nil {
				a = database.Storable(*v)
			}
		case bool:
			a = 0
			if v {
				a = 1
			}
		}
		out[i] = a
	}
	return out
}

// reader runs queries outside of transactions, on connections of its own.
type reader struct {
	db   *sql.DB
	d    dialect
	kept *statements
}

// readAttempts is how often a query is tried whose connection turns out broken.
const readAttempts = 3

// QueryContext runs a query with ? for parameters.
func (r reader) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if st := r.kept.get(query); st != nil {
		return st.QueryContext(ctx, r.d.arguments(args)...)
	}
	r.kept.prepare()
	for attempt := 1; ; attempt++ {
		rows, err := r.db.QueryContext(ctx, r.d.rebind(query), r.d.arguments(args)...)
		if err == nil || r.d == sqlite || attempt == readAttempts || ctx.Err() != nil || !database.Broken(err) {
			return rows, err
		}
	}
}

// QueryRowContext runs a query of one row with ? for parameters.
func (r reader) QueryRowContext(ctx context.Context, query string, args ...any) row {
	rows, err := r.QueryContext(ctx, query, args...)
	return row{rows: rows, err: err}
}

// row is the outcome of a query of one row, as sql.Row is.
type row struct {
	rows *sql.Rows
	err  error
}

// Scan copies the first row, or returns sql.ErrNoRows, and ends the query.
func (r row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return sql.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	return r.rows.Close()
}
