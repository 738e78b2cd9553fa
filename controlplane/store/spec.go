package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Spec is what quality control compares a chassis with, kept by name.
type Spec struct {
	Name    string          `json:"name"`
	Spec    json.RawMessage `json:"spec,omitempty"` // of package hwinfo/qc; left out in lists
	Created time.Time       `json:"created"`
	Updated time.Time       `json:"updated"`
}

// PutSpec adds a spec or replaces the one of its name. The caller has checked it.
func (s *Store) PutSpec(ctx context.Context, name string, spec json.RawMessage) (Spec, error) {
	err := s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`INSERT INTO specs (name, body, created, updated) VALUES (?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET body = excluded.body, updated = excluded.updated`, name, string(spec), t.now, t.now)
		return err
	})
	if err != nil {
		return Spec{}, fmt.Errorf("spec %s: %w", name, err)
	}
	return s.Spec(ctx, name)
}

// Spec returns the spec with this name.
func (s *Store) Spec(ctx context.Context, name string) (Spec, error) {
	var body string
	var created, updated int64
	err := s.r.QueryRowContext(ctx, `SELECT body, created, updated FROM specs WHERE name = ?`, name).Scan(&body, &created, &updated)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return Spec{}, fmt.Errorf("spec %.64q: %w", name, err)
	}
	return Spec{Name: name, Spec: json.RawMessage(body), Created: time.UnixMilli(created).UTC(), Updated: time.UnixMilli(updated).UTC()}, nil
}

// ListSpecs returns up to limit specs, without their contents, whose name comes
// after the given one, by name.
func (s *Store) ListSpecs(ctx context.Context, after string, limit int) ([]Spec, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT name, created, updated FROM specs WHERE name > ? ORDER BY name LIMIT ?`, after, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list specs: %w", err)
	}
	defer rows.Close()
	list := []Spec{}
	for rows.Next() {
		var sp Spec
		var created, updated int64
		if err := rows.Scan(&sp.Name, &created, &updated); err != nil {
			return nil, fmt.Errorf("list specs: %w", err)
		}
		sp.Created, sp.Updated = time.UnixMilli(created).UTC(), time.UnixMilli(updated).UTC()
		list = append(list, sp)
	}
	return list, rows.Err()
}

// RemoveSpec removes a spec. Tasks that were given it have a copy.
func (s *Store) RemoveSpec(ctx context.Context, name string) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`DELETE FROM specs WHERE name = ?`, name)
		if err != nil {
			return fmt.Errorf("spec %s: %w", name, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("spec %.64q: %w", name, ErrNotFound))
		}
		return nil
	})
}
