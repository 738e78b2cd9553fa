package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Setting is one key of the servers' configuration that has been set.
type Setting struct {
	Key     string          `json:"key"`
	Value   json.RawMessage `json:"value"`
	By      string          `json:"by,omitempty"`
	Changed time.Time       `json:"changed"`
}

// Settings returns what has been set, in the order of the keys.
func (s *Store) Settings(ctx context.Context) ([]Setting, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT key, value, author, changed FROM settings ORDER BY key`)
	if err != nil {
		return nil, fmt.Errorf("list settings: %w", err)
	}
	defer rows.Close()
	list := []Setting{}
	for rows.Next() {
		var set Setting
		var value string
		var changed int64
		if err := rows.Scan(&set.Key, &value, &set.By, &changed); err != nil {
			return nil, fmt.Errorf("list settings: %w", err)
		}
		set.Value, set.Changed = json.RawMessage(value), time.UnixMilli(changed).UTC()
		list = append(list, set)
	}
	return list, rows.Err()
}

// Set stores a setting; a nil value returns it to its default. Package settings
// checks key and value before.
func (s *Store) Set(ctx context.Context, key string, value json.RawMessage, by string) error {
	return s.update(ctx, func(t *tx) error {
		t.nextRev() // for those who wait for a change
		var err error
		if value == nil {
			_, err = t.Exec(`DELETE FROM settings WHERE key = ?`, key)
		} else {
			_, err = t.Exec(`INSERT INTO settings (key, value, author, changed) VALUES (?, ?, ?, ?)
				ON CONFLICT (key) DO UPDATE SET value = excluded.value, author = excluded.author, changed = excluded.changed`,
				key, string(value), by, t.now)
		}
		if err != nil {
			return fmt.Errorf("setting %s: %w", key, err)
		}
		return nil
	})
}
