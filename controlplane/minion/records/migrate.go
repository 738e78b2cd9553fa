package records

import (
	"context"
	"embed"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/teeth-metal/teeth/controlplane/internal/database"
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
		release, err := database.Alone(ctx, conn, fmt.Sprintf("%d, 0", lockMigration))
		if err != nil {
			return err
		}
		defer release()
		if d.o.Schema != "" {
			if _, err := conn.ExecContext(ctx, `CREATE SCHEMA IF NOT EXISTS `+pgx.Identifier{d.o.Schema}.Sanitize()); err != nil {
				return err
			}
		}
	}
	return database.Migrate(ctx, conn, migrations, dir+"/*.sql", "records_version")
}
