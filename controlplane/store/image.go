package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Image is an OS image whose file the control plane keeps.
type Image struct {
	ID      string    `json:"id"` // UUID
	Name    string    `json:"name"`
	Format  string    `json:"format"`
	Size    int64     `json:"size"`   // bytes of the file
	SHA256  string    `json:"sha256"` // of the file, hexadecimal
	Created time.Time `json:"created"`
}

const imageColumns = `id, name, format, size, sha256, created`

func scanImage(row scanner) (Image, error) {
	var i Image
	var created int64
	err := row.Scan(&i.ID, &i.Name, &i.Format, &i.Size, &i.SHA256, &created)
	i.Created = time.UnixMilli(created).UTC()
	return i, err
}

// AddImage records an image; Created is set. A name that is taken is ErrConflict.
func (s *Store) AddImage(ctx context.Context, i Image) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`INSERT INTO images (id, name, format, size, sha256, created) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (name) DO NOTHING`, i.ID, i.Name, i.Format, i.Size, i.SHA256, t.now)
		if err != nil {
			return fmt.Errorf("image %s: %w", i.Name, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("an image named %q exists: choose another name or remove it: %w", i.Name, ErrConflict))
		}
		return nil
	})
}

// Image returns the image with this id or name.
func (s *Store) Image(ctx context.Context, ref string) (Image, error) {
	i, err := scanImage(s.r.QueryRowContext(ctx, `SELECT `+imageColumns+` FROM images WHERE id = ? OR name = ?
		ORDER BY CASE WHEN id = ? THEN 0 ELSE 1 END LIMIT 1`, ref, ref, ref))
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("image %.64q: %w", ref, ErrNotFound)
	}
	return i, err
}

// ListImages returns up to limit images whose name comes after the given one,
// by name.
func (s *Store) ListImages(ctx context.Context, after string, limit int) ([]Image, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+imageColumns+` FROM images WHERE name > ? ORDER BY name LIMIT ?`, after, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	defer rows.Close()
	list := []Image{}
	for rows.Next() {
		i, err := scanImage(rows)
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		list = append(list, i)
	}
	return list, rows.Err()
}

// RemoveImage forgets an image. While a task that is not finished mentions it,
// it is ErrConflict.
func (s *Store) RemoveImage(ctx context.Context, id string) error {
	return s.update(ctx, func(t *tx) error {
		var task string
		err := t.QueryRow(`SELECT id FROM tasks WHERE state IN ('pending', 'running') AND params LIKE ? LIMIT 1`,
			`%"`+likeEscape(id)+`"%`).Scan(&task)
		if err == nil {
			return fmt.Errorf("image %s is needed by task %s: wait for it or cancel it: %w", id, task, ErrConflict)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		_, err = t.Exec(`DELETE FROM images WHERE id = ?`, id)
		return err
	})
}
