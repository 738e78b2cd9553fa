package records

import (
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
)

// A transaction that PostgreSQL ends, as this process had no time for it, is done again
// over another connection, once; one that never gets on is an error in the end.
func TestPostgreSQLSlowTransaction(t *testing.T) {
	server := postgrestest.Start(t, "fsync=off")
	d := open(t, server.Database(t)+"&idle_in_transaction_session_timeout=50ms", Options{Keep: kept})
	id, calls := uuid.NewString(), 0
	slow := func(until int) func(*sql.Tx) error {
		return func(tx *sql.Tx) error {
			calls++
			if _, err := tx.ExecContext(t.Context(), `INSERT INTO commands (id, argv, type, created_at, updated_at) VALUES ($1, '{true}', 'external', now(), now())`, id); err != nil {
				return err
			}
			if calls < until {
				time.Sleep(250 * time.Millisecond)
			}
			_, err := tx.ExecContext(t.Context(), `SELECT 1`)
			return err
		}
	}
	if err := d.transact(t.Context(), slow(3)); err != nil || calls != 3 {
		t.Fatalf("%d calls: %v", calls, err)
	}
	var n int
	if err := d.r.QueryRow(`SELECT COUNT(*) FROM commands`).Scan(&n); err != nil || n != 1 {
		t.Error(n, err)
	}
	id, calls = uuid.NewString(), 0
	if err := d.transact(t.Context(), slow(1000)); !errors.Is(err, ErrUnavailable) || calls != 5 {
		t.Errorf("%d calls: %v", calls, err)
	}
}
