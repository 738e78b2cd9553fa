package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// BMC is the management controller of a chassis and how to be admitted to it.
type BMC struct {
	Chassis    string    `json:"chassis"`
	Protocol   string    `json:"protocol"` // ipmi or redfish
	Address    string    `json:"address"`
	Username   string    `json:"username"`
	Password   string    `json:"-"` // sealed
	CertSHA256 string    `json:"cert_sha256,omitempty"`
	Insecure   bool      `json:"insecure,omitempty"` // any TLS certificate will do
	System     string    `json:"system,omitempty"`   // Redfish: of several behind one BMC
	Updated    time.Time `json:"updated"`
}

const bmcColumns = `chassis, protocol, address, username, password, cert_sha256, insecure, system, updated`

func scanBMC(row scanner) (BMC, error) {
	var b BMC
	var updated int64
	err := row.Scan(&b.Chassis, &b.Protocol, &b.Address, &b.Username, &b.Password, &b.CertSHA256, &b.Insecure, &b.System, &updated)
	b.Updated = time.UnixMilli(updated).UTC()
	return b, err
}

// SetBMC records the BMC of a chassis, in the place of the one it had.
func (s *Store) SetBMC(ctx context.Context, b BMC) error {
	return s.update(ctx, func(t *tx) error {
		if err := t.needChassis(b.Chassis); err != nil {
			return err
		}
		_, err := t.Exec(`INSERT INTO bmcs (`+bmcColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (chassis) DO UPDATE SET protocol = excluded.protocol, address = excluded.address, username = excluded.username,
				password = excluded.password, cert_sha256 = excluded.cert_sha256, insecure = excluded.insecure,
				system = excluded.system, updated = excluded.updated`,
			b.Chassis, b.Protocol, b.Address, b.Username, b.Password, b.CertSHA256, number(b.Insecure), b.System, t.now)
		return err
	})
}

func (t *tx) needChassis(id string) error {
	var one int
	err := t.QueryRow(`SELECT 1 FROM chassis WHERE id = ?`, id).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("chassis %.64q: %w", id, ErrNotFound)
	}
	return err
}

// number is how a boolean is stored.
func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// BMC returns the BMC of a chassis.
func (s *Store) BMC(ctx context.Context, chassis string) (BMC, error) {
	b, err := scanBMC(s.r.QueryRowContext(ctx, `SELECT `+bmcColumns+` FROM bmcs WHERE chassis = ?`, chassis))
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("chassis %.64s has no BMC noted: tell with teeth bmc set: %w", chassis, ErrNotFound)
	}
	return b, err
}

// ListBMCs returns up to limit BMCs of chassis whose id comes after the given one.
func (s *Store) ListBMCs(ctx context.Context, after string, limit int) ([]BMC, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+bmcColumns+` FROM bmcs WHERE chassis > ? ORDER BY chassis LIMIT ?`, after, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list BMCs: %w", err)
	}
	defer rows.Close()
	list := []BMC{}
	for rows.Next() {
		b, err := scanBMC(rows)
		if err != nil {
			return nil, fmt.Errorf("list BMCs: %w", err)
		}
		list = append(list, b)
	}
	return list, rows.Err()
}

// RemoveBMC forgets the BMC of a chassis.
func (s *Store) RemoveBMC(ctx context.Context, chassis string) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`DELETE FROM bmcs WHERE chassis = ?`, chassis)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("chassis %.64s has no BMC noted: %w", chassis, ErrNotFound))
		}
		return nil
	})
}
