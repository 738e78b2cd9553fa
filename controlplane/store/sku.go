package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// SKU is a kind of machine. Package sku knows its Rules.
type SKU struct {
	ID      string          `json:"id"`
	Name    string          `json:"name"`
	Rules   json.RawMessage `json:"rules"`
	Graph   string          `json:"graph,omitempty"`   // run once when it is assigned to a chassis
	Options json.RawMessage `json:"options,omitempty"` // of the graph
	Created time.Time       `json:"created"`
}

// What has become of the graph of an assigned SKU.
const (
	SKUGraphWaiting  = "waiting"
	SKUGraphStarting = "starting"
	SKUGraphStarted  = "started"
	SKUGraphFailed   = "failed" // to start; Error says why
)

// SKUAssignment is which SKU a chassis has.
type SKUAssignment struct {
	Chassis  string     `json:"chassis"`
	SKU      string     `json:"sku,omitempty"` // id; "": no SKU's rules match
	Name     string     `json:"name,omitempty"`
	Assigned *time.Time `json:"assigned,omitempty"`
	Step     string     `json:"graph_step,omitempty"` // waiting, starting, started or failed
	Graph    string     `json:"graph,omitempty"`      // id of the instance that was started
	Error    string     `json:"error,omitempty"`
}

const maxSKUs = 1000

const skuColumns = `id, name, rules, graph, options, created`

func scanSKU(row scanner) (SKU, error) {
	var k SKU
	var created int64
	var rules, options string
	err := row.Scan(&k.ID, &k.Name, &rules, &k.Graph, &options, &created)
	k.Rules, k.Options, k.Created = json.RawMessage(rules), json.RawMessage(options), time.UnixMilli(created).UTC()
	return k, err
}

// PutSKU stores a SKU, in the place of the one with that name, and has all
// chassis looked at anew.
func (s *Store) PutSKU(ctx context.Context, k SKU) (SKU, error) {
	if len(k.Options) == 0 {
		k.Options = json.RawMessage("{}")
	}
	err := s.update(ctx, func(t *tx) error {
		var count int
		if err := t.QueryRow(`SELECT COUNT(*) FROM skus`).Scan(&count); err != nil {
			return err
		}
		if count >= maxSKUs {
			return fmt.Errorf("there are %d SKUs, which is the most: remove some: %w", count, ErrConflict)
		}
		_, err := t.Exec(`INSERT INTO skus (`+skuColumns+`) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET rules = excluded.rules, graph = excluded.graph, options = excluded.options`,
			uuid.NewString(), k.Name, string(k.Rules), k.Graph, string(k.Options), t.now)
		if err != nil {
			return err
		}
		return t.skusChanged()
	})
	if err != nil {
		return SKU{}, err
	}
	return s.SKU(ctx, k.Name)
}

func (t *tx) skusChanged() error {
	t.nextRev() // who assigns SKUs is to notice
	_, err := t.Exec(`UPDATE sku_version SET version = version + 1`)
	return err
}

// SKU returns the SKU with this id or name.
func (s *Store) SKU(ctx context.Context, ref string) (SKU, error) {
	k, err := scanSKU(s.r.QueryRowContext(ctx, `SELECT `+skuColumns+` FROM skus WHERE id = ? OR name = ?
		ORDER BY CASE WHEN id = ? THEN 0 ELSE 1 END LIMIT 1`, ref, ref, ref))
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("SKU %.64q: %w", ref, ErrNotFound)
	}
	return k, err
}

// ListSKUs returns up to limit SKUs whose name comes after the given one.
func (s *Store) ListSKUs(ctx context.Context, after string, limit int) ([]SKU, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+skuColumns+` FROM skus WHERE name > ? ORDER BY name LIMIT ?`, after, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list SKUs: %w", err)
	}
	defer rows.Close()
	list := []SKU{}
	for rows.Next() {
		k, err := scanSKU(rows)
		if err != nil {
			return nil, fmt.Errorf("list SKUs: %w", err)
		}
		list = append(list, k)
	}
	return list, rows.Err()
}

// RemoveSKU forgets a SKU. Chassis that have it are looked at anew.
func (s *Store) RemoveSKU(ctx context.Context, id string) error {
	return s.update(ctx, func(t *tx) error {
		if _, err := t.Exec(`DELETE FROM skus WHERE id = ?`, id); err != nil {
			return err
		}
		return t.skusChanged()
	})
}

// SKUCandidate is a chassis whose SKU is to be found.
type SKUCandidate struct {
	Chassis   string
	Inspected int64 // which inventory, to be given to AssignSKU
	Inventory json.RawMessage
}

// SKUsToAssign returns up to limit approved chassis whose inventory, or which SKUs
// there are, has changed since their SKU was last found, and the version of the
// SKUs.
func (s *Store) SKUsToAssign(ctx context.Context, limit int) (list []SKUCandidate, version int64, err error) {
	if err := s.r.QueryRowContext(ctx, `SELECT version FROM sku_version`).Scan(&version); err != nil {
		return nil, 0, fmt.Errorf("SKUs: %w", err)
	}
	rows, err := s.r.QueryContext(ctx, `SELECT c.id, c.inspected, i.inventory FROM chassis c JOIN inventories i ON i.chassis = c.id LEFT JOIN sku_assignments a ON a.chassis = c.id
		WHERE c.approved IS NOT NULL AND c.inspected IS NOT NULL AND i.inventory IS NOT NULL
			AND (a.chassis IS NULL OR a.inspected <> c.inspected OR a.version <> ?) ORDER BY c.id LIMIT ?`, version, page(limit))
	if err != nil {
		return nil, 0, fmt.Errorf("SKUs: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var c SKUCandidate
		var inventory string
		if err := rows.Scan(&c.Chassis, &c.Inspected, &inventory); err != nil {
			return nil, 0, fmt.Errorf("SKUs: %w", err)
		}
		c.Inventory = json.RawMessage(inventory)
		list = append(list, c)
	}
	return list, version, rows.Err()
}

// AssignSKU records that a chassis with that inventory is of a SKU, or ("") of
// none, as of a version of the SKUs. If it is another than before, a notice tells,
// and the SKU's graph waits to be started.
func (s *Store) AssignSKU(ctx context.Context, c SKUCandidate, version int64, sku string) error {
	return s.update(ctx, func(t *tx) error {
		var approved sql.NullInt64
		err := t.QueryRow(`SELECT approved FROM chassis WHERE id = ?`, c.Chassis).Scan(&approved)
		if errors.Is(err, sql.ErrNoRows) || err == nil && !approved.Valid {
			return nil // forgotten, or not approved any more
		} else if err != nil {
			return err
		}
		var before, graph string
		if err := t.QueryRow(`SELECT sku FROM sku_assignments WHERE chassis = ?`, c.Chassis).Scan(&before); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if before == sku {
			_, err := t.Exec(`INSERT INTO sku_assignments (chassis, inspected, version, sku) VALUES (?, ?, ?, ?)
				ON CONFLICT (chassis) DO UPDATE SET inspected = excluded.inspected, version = excluded.version`, c.Chassis, c.Inspected, version, sku)
			return err
		}
		if sku != "" {
			if err := t.QueryRow(`SELECT graph FROM skus WHERE id = ?`, sku).Scan(&graph); errors.Is(err, sql.ErrNoRows) {
				return nil // removed meanwhile: there is a newer version
			} else if err != nil {
				return err
			}
		}
		step := ""
		if graph != "" {
			step = SKUGraphWaiting
		}
		_, err = t.Exec(`INSERT INTO sku_assignments (chassis, inspected, version, sku, assigned, step) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (chassis) DO UPDATE SET inspected = excluded.inspected, version = excluded.version, sku = excluded.sku,
				assigned = excluded.assigned, step = excluded.step, graph = '', error = '', not_before = 0`,
			c.Chassis, c.Inspected, version, sku, t.now, step)
		if err != nil || sku == "" {
			return err
		}
		return t.notice(NoticeSKU, c.Chassis, c.Chassis, map[string]any{"sku": sku})
	})
}

const assignmentColumns = `a.chassis, a.sku, COALESCE((SELECT k.name FROM skus k WHERE k.id = a.sku), ''), a.assigned, a.step, a.graph, a.error`

func scanAssignment(row scanner) (SKUAssignment, error) {
	var a SKUAssignment
	var assigned sql.NullInt64
	err := row.Scan(&a.Chassis, &a.SKU, &a.Name, &assigned, &a.Step, &a.Graph, &a.Error)
	a.Assigned = timeOf(assigned)
	return a, err
}

// SKUOf returns which SKU a chassis has.
func (s *Store) SKUOf(ctx context.Context, chassis string) (SKUAssignment, error) {
	a, err := scanAssignment(s.r.QueryRowContext(ctx, `SELECT `+assignmentColumns+` FROM sku_assignments a WHERE a.chassis = ?`, chassis))
	if errors.Is(err, sql.ErrNoRows) {
		return SKUAssignment{Chassis: chassis}, nil
	}
	return a, err
}

// SKUAssignments returns up to limit chassis that have a SKU, or ("") any, whose
// id comes after the given one.
func (s *Store) SKUAssignments(ctx context.Context, sku, after string, limit int) ([]SKUAssignment, error) {
	return s.assignmentsWhere(ctx, `a.sku <> '' AND (? = '' OR a.sku = ?) AND a.chassis > ? ORDER BY a.chassis LIMIT ?`, sku, sku, after, page(limit))
}

// SKUGraphsToStart returns up to limit assignments whose graph is yet to be
// started, or was being started when the server stopped.
func (s *Store) SKUGraphsToStart(ctx context.Context, limit int) ([]SKUAssignment, error) {
	return s.assignmentsWhere(ctx, `a.step IN ('waiting', 'starting') AND a.not_before <= ? ORDER BY a.not_before, a.chassis LIMIT ?`,
		s.Now().UnixMilli(), page(limit))
}

func (s *Store) assignmentsWhere(ctx context.Context, where string, args ...any) ([]SKUAssignment, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+assignmentColumns+` FROM sku_assignments a WHERE `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("SKUs of chassis: %w", err)
	}
	defer rows.Close()
	list := []SKUAssignment{}
	for rows.Next() {
		a, err := scanAssignment(rows)
		if err != nil {
			return nil, fmt.Errorf("SKUs of chassis: %w", err)
		}
		list = append(list, a)
	}
	return list, rows.Err()
}

// SetSKUGraph records what has become of the graph of an assignment, unless
// another SKU has been assigned meanwhile. With step waiting it is tried again
// after delay.
func (s *Store) SetSKUGraph(ctx context.Context, a SKUAssignment, delay time.Duration) error {
	return s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`UPDATE sku_assignments SET step = ?, graph = ?, error = ?, not_before = ? WHERE chassis = ? AND sku = ?`,
			a.Step, a.Graph, a.Error, t.now+delay.Milliseconds(), a.Chassis, a.SKU)
		return err
	})
}

// SKUGraphOf returns the id of the graph of that name that author has created for
// a chassis since its SKU was assigned, or "".
func (s *Store) SKUGraphOf(ctx context.Context, a SKUAssignment, graph, author string) (string, error) {
	var id string
	err := s.r.QueryRowContext(ctx, `SELECT g.id FROM graphs g JOIN sku_assignments a ON a.chassis = g.chassis
		WHERE g.chassis = ? AND g.name = ? AND g.author = ? AND g.created >= a.assigned ORDER BY g.number LIMIT 1`,
		a.Chassis, graph, author).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return id, err
}
