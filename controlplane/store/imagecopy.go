package store

import (
	"context"
	"fmt"
)

// AddImageCopy records that this server has an image's file.
func (s *Store) AddImageCopy(ctx context.Context, image string) error {
	return s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`INSERT INTO image_copies (image, server) SELECT id, CAST(? AS TEXT) FROM images WHERE id = ?
			ON CONFLICT (image, server) DO NOTHING`, s.server, image)
		return err
	})
}

// RemoveImageCopy records that this server has an image's file no longer.
func (s *Store) RemoveImageCopy(ctx context.Context, image string) error {
	return s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`DELETE FROM image_copies WHERE image = ? AND server = ?`, image, s.server)
		return err
	})
}

// ImageHolders returns the other servers that live and have an image's file, the
// one heard of last first.
func (s *Store) ImageHolders(ctx context.Context, image string) ([]Server, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT v.id, v.name, v.boot FROM image_copies c JOIN servers v ON v.id = c.server
		WHERE c.image = ? AND v.id <> ? AND v.boot <> '' AND v.seen >= ? ORDER BY v.seen DESC LIMIT 16`,
		image, s.server, s.Now().Add(-DeadAfter).UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("servers with image %s: %w", image, err)
	}
	defer rows.Close()
	var list []Server
	for rows.Next() {
		v := Server{Alive: true}
		if err := rows.Scan(&v.ID, &v.Name, &v.Boot); err != nil {
			return nil, fmt.Errorf("servers with image %s: %w", image, err)
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// ImagesElsewhere returns up to limit images whose file this server does not have.
func (s *Store) ImagesElsewhere(ctx context.Context, limit int) ([]Image, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+imageColumns+` FROM images i WHERE NOT EXISTS (
			SELECT 1 FROM image_copies c WHERE c.image = i.id AND c.server = ?) ORDER BY created LIMIT ?`, s.server, page(limit))
	if err != nil {
		return nil, fmt.Errorf("images of other servers: %w", err)
	}
	defer rows.Close()
	var list []Image
	for rows.Next() {
		i, err := scanImage(rows)
		if err != nil {
			return nil, fmt.Errorf("images of other servers: %w", err)
		}
		list = append(list, i)
	}
	return list, rows.Err()
}
