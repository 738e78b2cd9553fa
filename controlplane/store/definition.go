package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Kinds of definition.
const (
	DefinedTask  = "task"
	DefinedGraph = "graph"
)

// maxDefinitions bounds how many definitions operators may add.
const maxDefinitions = 10_000

// Definitions returns the definitions of a kind that operators have added, in the
// order of their names.
func (s *Store) Definitions(ctx context.Context, kind string) ([]json.RawMessage, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT body FROM definitions WHERE kind = ? ORDER BY name`, kind)
	if err != nil {
		return nil, fmt.Errorf("list definitions: %w", err)
	}
	defer rows.Close()
	var list []json.RawMessage
	for rows.Next() {
		var body string
		if err := rows.Scan(&body); err != nil {
			return nil, fmt.Errorf("list definitions: %w", err)
		}
		list = append(list, json.RawMessage(body))
	}
	return list, rows.Err()
}

// Define stores a definition, in the place of one of that kind and name.
func (s *Store) Define(ctx context.Context, kind, name string, body json.RawMessage) error {
	return s.update(ctx, func(t *tx) error {
		var count int
		if err := t.QueryRow(`SELECT COUNT(*) FROM definitions`).Scan(&count); err != nil {
			return err
		}
		if count >= maxDefinitions {
			return fmt.Errorf("%d definitions are stored, which is the most: remove some: %w", count, ErrConflict)
		}
		_, err := t.Exec(`INSERT INTO definitions (kind, name, body, created) VALUES (?, ?, ?, ?)
			ON CONFLICT (kind, name) DO UPDATE SET body = excluded.body, created = excluded.created`, kind, name, string(body), t.now)
		return err
	})
}

// Undefine removes a definition.
func (s *Store) Undefine(ctx context.Context, kind, name string) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`DELETE FROM definitions WHERE kind = ? AND name = ?`, kind, name)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("%s %.100q: %w", kind, name, ErrNotFound))
		}
		return nil
	})
}
