package store

import (
	"context"
	"embed"
	"strconv"

	"github.com/teeth-metal/teeth/controlplane/internal/database"
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
		release, err := database.Alone(ctx, conn, strconv.Itoa(migrationLock))
		if err != nil {
			return err
		}
		defer release()
	}
	return database.Migrate(ctx, conn, migrations, "schema/*.sql", "schema_version")
}
