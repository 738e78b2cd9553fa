package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
)

func tokenDigest(token string) string {
	d := sha256.Sum256([]byte(token))
	return hex.EncodeToString(d[:])
}

// PhoneHome redeems a token: the system that was installed with it is up. The
// chassis is in service from here, and the task that started the system is
// complete even if its own report was lost on the way. It reports whether the
// token was new; a repeated call changes nothing, so that a client whose answer
// was lost may try again.
func (s *Store) PhoneHome(ctx context.Context, token string) (chassis string, first bool, err error) {
	err = s.update(ctx, func(t *tx) error {
		var id string
		var used sql.NullInt64
		err := t.QueryRow(`SELECT chassis, task, used FROM phone_home WHERE token_sha256 = ?`, tokenDigest(token)).Scan(&chassis, &id, &used)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("phone-home token: %w", ErrNotFound)
		}
		if first = !used.Valid; err != nil || !first {
			return err
		}
		task, err := t.task(id)
		if err != nil {
			return err
		}
		if task.State == Pending {
			return fmt.Errorf("chassis %s calls back before its image was run: %w", chassis, ErrConflict)
		}
		if !task.Final() {
			if err := t.finish(task, Succeeded, "confirmed by the installed system's call", nil); err != nil {
				return err
			}
		}
		if _, err := t.Exec(`UPDATE phone_home SET used = ? WHERE token_sha256 = ?`, t.now, tokenDigest(token)); err != nil {
			return err
		}
		_, err = t.Exec(`UPDATE chassis SET in_service = ?, last_seen = ?, rev = ? WHERE id = ?`, t.now, t.now, t.nextRev(), chassis)
		return err
	})
	return chassis, first, err
}
