package store

import (
	"context"
	"errors"
	"fmt"
)

// Ping reports whether the database takes writes, by making one.
func (s *Store) Ping(ctx context.Context) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`UPDATE servers SET seen = ? WHERE id = ? AND instance = ?`, t.now, s.server, s.instance)
		if err != nil {
			return fmt.Errorf("write to the database: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("others have taken this server for dead: %w", ErrConflict))
		}
		return nil
	})
}
