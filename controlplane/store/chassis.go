package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// States of a chassis. They are derived from what is stored, never set.
const (
	Discovered = "discovered" // seen, not approved yet
	Rejected   = "rejected"   // refused until it is approved
	Inspecting = "inspecting" // approved and connected, has yet to say what it is made of
	Ready      = "ready"      // connected and idle
	Working    = "working"    // has tasks to finish, or an installed system that has yet to call back
	InService  = "in_service" // its installed system has called back
	Errored    = "failed"     // connected, its last run failed
	Offline    = "offline"    // not connected
)

// Chassis is one machine. Inventory and Phases are as the agent reported them.
type Chassis struct {
	ID          string          `json:"id"`
	Name        string          `json:"name,omitempty"`
	State       string          `json:"state"`
	Connected   bool            `json:"connected"`
	UUID        string          `json:"uuid,omitempty"` // SMBIOS
	Serial      string          `json:"serial,omitempty"`
	MAC         string          `json:"mac,omitempty"` // of the NIC it booted from
	MACs        []string        `json:"macs"`
	Version     string          `json:"version,omitempty"` // of the agent's software
	BootID      string          `json:"boot_id,omitempty"`
	Address     string          `json:"address,omitempty"` // its own
	LastSeen    time.Time       `json:"last_seen"`
	Created     time.Time       `json:"created"`
	Inspected   *time.Time      `json:"inspected,omitempty"`
	InstalledAt *time.Time      `json:"installed_at,omitempty"`
	InServiceAt *time.Time      `json:"in_service_at,omitempty"`
	Approved    *time.Time      `json:"approved,omitempty"`
	ApprovedBy  string          `json:"approved_by,omitempty"`
	Rejected    *time.Time      `json:"rejected,omitempty"`
	Inventory   json.RawMessage `json:"inventory,omitempty"`
	Phases      json.RawMessage `json:"phases,omitempty"`

	Endpoint  string   `json:"-"`                    // host under which it reaches this server
	Notes     []string `json:"-"`                    // what an operator should know of the session that Connect recorded
	OpenGraph string   `json:"open_graph,omitempty"` // that is not finished
	rev       int64
}

const chassisColumns = `c.id, c.name, c.uuid, c.serial, c.mac, c.macs, c.version, c.boot_id, c.connected, c.address,
	c.endpoint, c.last_seen, c.created, c.inspected, c.failed, c.installed, c.in_service,
	c.approved, c.approved_by, c.rejected, c.rev,
	COALESCE((SELECT MIN(g.id) FROM graphs g WHERE g.chassis = c.id AND g.parent = '' AND g.state IN ('pending', 'running')), ''),
	EXISTS (SELECT 1 FROM phone_home p WHERE p.chassis = c.id AND p.used IS NULL)`

const chassisDetails = `, (SELECT i.inventory FROM inventories i WHERE i.chassis = c.id), (SELECT i.phases FROM inventories i WHERE i.chassis = c.id)`

func scanChassis(row scanner, details bool) (Chassis, error) {
	var (
		c                               Chassis
		macs                            string
		seen, created                   int64
		inspected, installed, inService sql.NullInt64
		approved, rejected              sql.NullInt64
		failed, awaited                 bool
		inventory, phases               sql.NullString
	)
	dest := []any{&c.ID, &c.Name, &c.UUID, &c.Serial, &c.MAC, &macs, &c.Version, &c.BootID, &c.Connected, &c.Address,
		&c.Endpoint, &seen, &created, &inspected, &failed, &installed, &inService,
		&approved, &c.ApprovedBy, &rejected, &c.rev, &c.OpenGraph, &awaited}
	if details {
		dest = append(dest, &inventory, &phases)
	}
	if err := row.Scan(dest...); err != nil {
		return Chassis{}, err
	}
	if err := json.Unmarshal([]byte(macs), &c.MACs); err != nil {
		return Chassis{}, fmt.Errorf("chassis %s: MAC addresses: %w", c.ID, err)
	}
	c.LastSeen, c.Created = time.UnixMilli(seen).UTC(), time.UnixMilli(created).UTC()
	c.Inspected, c.InstalledAt, c.InServiceAt = timeOf(inspected), timeOf(installed), timeOf(inService)
	c.Approved, c.Rejected = timeOf(approved), timeOf(rejected)
	if inventory.Valid {
		c.Inventory = json.RawMessage(inventory.String)
	}
	if phases.Valid {
		c.Phases = json.RawMessage(phases.String)
	}
	switch {
	case c.Rejected != nil:
		c.State = Rejected
	case c.Approved == nil:
		c.State = Discovered
	case c.InServiceAt != nil && (c.OpenGraph == "" || !c.Connected):
		c.State = InService
	case c.OpenGraph != "", c.InstalledAt != nil && awaited:
		c.State = Working
	case !c.Connected:
		c.State = Offline
	case failed:
		c.State = Errored
	case c.Inspected == nil && c.Version != teeth.LegacyVersion:
		c.State = Inspecting
	default:
		c.State = Ready
	}
	return c, nil
}

// SetName names a chassis for people.
func (s *Store) SetName(ctx context.Context, chassis, name string) error {
	return s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`UPDATE chassis SET name = ?, rev = ? WHERE id = ?`, name, t.nextRev(), chassis)
		return err
	})
}

// Chassis returns the chassis with this id, with Inventory and Phases.
func (s *Store) Chassis(ctx context.Context, id string) (Chassis, error) {
	c, err := scanChassis(s.r.QueryRowContext(ctx, `SELECT `+chassisColumns+chassisDetails+` FROM chassis c WHERE c.id = ?`, id), true)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("chassis %q: %w", id, ErrNotFound)
	}
	return c, err
}

// FindChassis returns the one chassis that ref means: its id, name, MAC address,
// serial number or SMBIOS UUID in whole, or the beginning of its id. What an
// agent says of itself yields to the id and the name, which it cannot choose.
func (s *Store) FindChassis(ctx context.Context, ref string) (Chassis, error) {
	lower := strings.ToLower(strings.TrimSpace(ref))
	if lower == "" || len(lower) > 256 {
		return Chassis{}, fmt.Errorf("chassis %.40q: %w", ref, ErrNotFound)
	}
	list := `"` + likeEscape(strings.ReplaceAll(lower, "-", ":")) + `"`
	for _, where := range []struct {
		sql  string
		args []any
	}{
		{`c.id = ?`, []any{lower}},
		{`LOWER(c.name) = ?`, []any{lower}},
		{`c.mac = ? OR LOWER(c.serial) = ? OR LOWER(c.uuid) = ? OR c.macs LIKE ? ESCAPE '!' OR c.id LIKE ? ESCAPE '!'`,
			[]any{strings.ReplaceAll(lower, "-", ":"), lower, lower, "%" + list + "%", likeEscape(lower) + "%"}},
	} {
		found, err := s.chassisWhere(ctx, where.sql+` LIMIT 2`, true, where.args...)
		switch {
		case err != nil:
			return Chassis{}, err
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return Chassis{}, fmt.Errorf("chassis %q: %w (%s, %s): name it by its id", ref, ErrAmbiguous, found[0].ID, found[1].ID)
		}
	}
	return Chassis{}, fmt.Errorf("chassis %q: %w", ref, ErrNotFound)
}

// FindBooting returns the chassis that a boot loader describes by SMBIOS UUID (""
// if it has none, in either byte order) and MAC address. Anybody can describe
// himself so: it decides what is booted, and opens nothing.
func (s *Store) FindBooting(ctx context.Context, uuid, mac string) (Chassis, error) {
	if uuid = lower(uuid); trivialUUID(uuid) {
		uuid = ""
	}
	mac = lower(mac)
	swapped := swappedUUID(uuid)
	if uuid == "" {
		uuid, swapped = "-", "-" // which none has
	}
	found, err := s.chassisWhere(ctx, `c.uuid IN (?, ?) OR c.`+byMACs(1)+`
		ORDER BY CASE WHEN c.uuid IN (?, ?) THEN 0 ELSE 2 END + CASE WHEN c.`+byMACs(1)+` THEN 0 ELSE 1 END,
		c.last_seen DESC LIMIT 1`, false, uuid, swapped, mac, uuid, swapped, mac)
	if err != nil {
		return Chassis{}, err
	}
	if len(found) == 0 {
		return Chassis{}, fmt.Errorf("chassis with MAC address %s: %w", mac, ErrNotFound)
	}
	return found[0], nil
}

// ListChassis returns up to limit chassis whose id comes after the given one,
// in the order of their ids, without Inventory and Phases.
func (s *Store) ListChassis(ctx context.Context, after string, limit int) ([]Chassis, error) {
	return s.chassisWhere(ctx, `c.id > ? ORDER BY c.id LIMIT ?`, false, after, page(limit))
}

func (s *Store) chassisWhere(ctx context.Context, where string, details bool, args ...any) ([]Chassis, error) {
	columns := chassisColumns
	if details {
		columns += chassisDetails
	}
	rows, err := s.r.QueryContext(ctx, `SELECT `+columns+` FROM chassis c WHERE `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("list chassis: %w", err)
	}
	defer rows.Close()
	list := []Chassis{}
	for rows.Next() {
		c, err := scanChassis(rows, details)
		if err != nil {
			return nil, fmt.Errorf("list chassis: %w", err)
		}
		list = append(list, c)
	}
	return list, rows.Err()
}

func likeEscape(s string) string {
	return strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(s)
}
