package store

import (
	"context"
	"time"
)

// Lead makes this server the one that does what name stands for, for the time
// given, and reports whether it is. A server that goes on doing it calls again
// well before the time is over.
func (s *Store) Lead(ctx context.Context, name string, during time.Duration) (bool, error) {
	leads := false
	err := s.update(ctx, func(t *tx) error {
		leads = false
		res, err := t.Exec(`INSERT INTO leaderships (name, server, until) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET server = excluded.server, until = excluded.until
			WHERE leaderships.server = excluded.server OR leaderships.until < ?`,
			name, s.server, t.now+during.Milliseconds(), t.now)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		leads = n > 0
		return err
	})
	return leads && err == nil, err
}
