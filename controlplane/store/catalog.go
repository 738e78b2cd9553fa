package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// maxCatalogs bounds how many sources one chassis has catalogs of.
const maxCatalogs = 256

// Formats of a catalog.
const (
	CatalogRaw  = "raw"  // data is a text
	CatalogJSON = "json" // data is what the command wrote
)

// Catalog is what a command on a chassis has told of it. The newest of each
// source is kept.
type Catalog struct {
	Chassis string          `json:"chassis"`
	Source  string          `json:"source"`         // its name, such as lshw
	Format  string          `json:"format"`         // raw or json
	Size    int64           `json:"size"`           // of the data, in bytes of JSON
	Data    json.RawMessage `json:"data,omitempty"` // not in lists
	Task    string          `json:"task"`           // that reported it
	Created time.Time       `json:"created"`
}

// SaveCatalogs keeps catalogs of one chassis, instead of older ones of the same
// sources. ErrConflict: it would have catalogs of too many sources.
func (s *Store) SaveCatalogs(ctx context.Context, chassis string, list []Catalog) error {
	if len(list) == 0 {
		return nil
	}
	return s.update(ctx, func(t *tx) error {
		for _, c := range list {
			if _, err := t.Exec(`INSERT INTO catalogs (chassis, source, format, data, task, created) VALUES (?, ?, ?, ?, ?, ?)
				ON CONFLICT (chassis, source) DO UPDATE SET format = excluded.format, data = excluded.data, task = excluded.task, created = excluded.created`,
				chassis, c.Source, c.Format, string(c.Data), c.Task, t.now); err != nil {
				return fmt.Errorf("catalog %.64q of chassis %s: %w", c.Source, chassis, err)
			}
		}
		var n int
		if err := t.QueryRow(`SELECT COUNT(*) FROM catalogs WHERE chassis = ?`, chassis).Scan(&n); err != nil {
			return err
		}
		if n > maxCatalogs {
			return fmt.Errorf("chassis %s would have catalogs of %d sources, the most is %d: %w", chassis, n, maxCatalogs, ErrConflict)
		}
		return nil
	})
}

// Catalogs returns those of a chassis, by source, without their data.
func (s *Store) Catalogs(ctx context.Context, chassis string) ([]Catalog, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT source, format, OCTET_LENGTH(data), task, created FROM catalogs WHERE chassis = ? ORDER BY source`, chassis)
	if err != nil {
		return nil, fmt.Errorf("catalogs of chassis %s: %w", chassis, err)
	}
	defer rows.Close()
	list := []Catalog{}
	for rows.Next() {
		c := Catalog{Chassis: chassis}
		var created int64
		if err := rows.Scan(&c.Source, &c.Format, &c.Size, &c.Task, &created); err != nil {
			return nil, fmt.Errorf("catalogs of chassis %s: %w", chassis, err)
		}
		c.Created = time.UnixMilli(created).UTC()
		list = append(list, c)
	}
	return list, rows.Err()
}

// Catalog returns the newest one of a source.
func (s *Store) Catalog(ctx context.Context, chassis, source string) (Catalog, error) {
	c := Catalog{Chassis: chassis, Source: source}
	var data string
	var created int64
	err := s.r.QueryRowContext(ctx, `SELECT format, data, task, created FROM catalogs WHERE chassis = ? AND source = ?`, chassis, source).
		Scan(&c.Format, &data, &c.Task, &created)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return c, fmt.Errorf("catalog %.64q of chassis %s: %w", source, chassis, err)
	}
	c.Data, c.Size, c.Created = json.RawMessage(data), int64(len(data)), time.UnixMilli(created).UTC()
	return c, nil
}

// ChassisLeasing returns the id of the chassis whose boot NIC has a valid lease of
// an address from our DHCP server. Without one, or if two chassis say that the NIC
// is theirs, it is ErrNotFound. Unlike ChassisAt it goes by nothing else, since
// something is opened by it.
func (s *Store) ChassisLeasing(ctx context.Context, ip netip.Addr) (string, error) {
	a := ip.Unmap().String()
	var id string
	var n int
	err := s.r.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(MIN(c.id), '') FROM chassis c JOIN leases l ON l.mac = c.mac
		WHERE l.ip = ? AND l.mac <> '' AND l.state = 'bound' AND l.expires > ?`, a, time.Now().UnixMilli()).Scan(&n, &id)
	if err == nil && n != 1 {
		err = ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("chassis with a lease of %s: %w", a, err)
	}
	return id, nil
}
