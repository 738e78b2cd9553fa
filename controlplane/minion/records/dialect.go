package records

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/teeth-metal/teeth/controlplane/internal/database"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// dialect is what differs between the databases in how values are handed over.
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

// now is the database's idea of the current time, as an expression.
func (d dialect) now() string {
	if d == postgreSQL {
		return "now()"
	}
	return strconv.FormatInt(time.Now().UnixMicro(), 10)
}

// time is a parameter.
func (d dialect) time(t time.Time) any {
	if d == postgreSQL {
		return t
	}
	return t.UnixMicro()
}

// list is a parameter of a column of texts.
func (d dialect) list(l []string) any {
	if l == nil {
		l = []string{}
	}
	if d == postgreSQL {
		return l
	}
	b, _ := json.Marshal(l) // texts always can be
	return string(b)
}

// server is a parameter of logs.server_id.
func (d dialect) server(id wire.ID) any {
	if d == postgreSQL {
		return id.String()
	}
	return id[:]
}

// stamp reads a time; zero if there is none.
type stamp struct{ time.Time }

func (s *stamp) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		s.Time = time.Time{}
	case time.Time:
		s.Time = v.UTC()
	case int64:
		s.Time = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("a time is a %T", v)
	}
	return nil
}

// pointer is nil for no time.
func (s stamp) pointer() *time.Time {
	if s.IsZero() {
		return nil
	}
	return &s.Time
}

// texts reads a list.
type texts struct {
	d    dialect
	list *[]string
}

var arrays = pgtype.NewMap()

func (t texts) Scan(v any) error {
	*t.list = []string{}
	if v == nil {
		return nil
	}
	if t.d == postgreSQL {
		return arrays.SQLScanner(t.list).Scan(v)
	}
	switch v := v.(type) {
	case string:
		return json.Unmarshal([]byte(v), t.list)
	case []byte:
		return json.Unmarshal(v, t.list)
	}
	return fmt.Errorf("a list is a %T", v)
}

// sortable is an id in the order of its time: seconds, nanoseconds, node.
func sortable(id wire.ID) []byte {
	b := make([]byte, 0, 16)
	b = append(b, id[4:10]...)
	b = append(b, id[0:4]...)
	return append(b, id[10:]...)
}

// idOf reads an id of the table logs.
type idOf struct {
	id *wire.ID
	as func([]byte) wire.ID // of 16 bytes
}

func (o idOf) Scan(v any) (err error) {
	switch v := v.(type) {
	case string:
		*o.id, err = wire.ParseID(v)
		return err
	case []byte:
		if len(v) == 16 {
			*o.id = o.as(v)
			return nil
		}
		*o.id, err = wire.ParseID(string(v))
		return err
	}
	return fmt.Errorf("an id is a %T", v)
}

func unsorted(b []byte) (id wire.ID) {
	copy(id[4:10], b[0:6])
	copy(id[0:4], b[6:10])
	copy(id[10:], b[10:16])
	return id
}

func plain(b []byte) wire.ID { return wire.ID(b) }

// Times that are kept have a place in every database and format. An id may claim any.
var (
	earliest = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// timeOf is the time in an id, to the microsecond: the same for the same id, always.
func timeOf(id wire.ID) time.Time {
	switch t := id.Time(); {
	case t.Before(earliest):
		return earliest
	case t.After(latest):
		return latest
	default:
		return t.Truncate(time.Microsecond)
	}
}

// runner is a database or a transaction.
type runner interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

// transact runs do in a transaction. do may run more than once.
func (d *DB) transact(ctx context.Context, do func(t *sql.Tx) error) error {
	for attempt := 1; ; attempt++ {
		err := d.attempt(ctx, do)
		if err == nil || attempt == 5 || ctx.Err() != nil || !repeatable(err) {
			return d.unavailable(err)
		}
	}
}

func (d *DB) attempt(ctx context.Context, do func(t *sql.Tx) error) error {
	if d.closed.Load() {
		return ErrClosed
	}
	t, err := d.w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer t.Rollback()
	if err := do(t); err != nil {
		return err
	}
	return t.Commit()
}

// unavailable marks an error that comes from the connection.
func (d *DB) unavailable(err error) error {
	if err != nil && d.pg != nil && broken(err) {
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, d.name, err)
	}
	return err
}
