package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// States of a chassis. They are derived from what is stored, never set.
const (
	Discovered = "discovered" // seen, not yet inspected
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
	Inventory   json.RawMessage `json:"inventory,omitempty"`
	Phases      json.RawMessage `json:"phases,omitempty"`

	Endpoint string `json:"-"` // host under which it reaches this server
	OpenRun  string `json:"open_run,omitempty"`
	rev      int64
}

const chassisColumns = `c.id, c.name, c.uuid, c.serial, c.mac, c.macs, c.version, c.boot_id, c.connected, c.address,
	c.endpoint, c.last_seen, c.created, c.inspected, c.failed, c.installed, c.in_service, c.rev,
	COALESCE((SELECT MIN(t.run) FROM tasks t WHERE t.chassis = c.id AND t.state IN ('pending', 'sent', 'running')), ''),
	EXISTS (SELECT 1 FROM phone_home p WHERE p.chassis = c.id AND p.used IS NULL)`

const chassisDetails = `, c.inventory, c.phases`

func scanChassis(row scanner, details bool) (Chassis, error) {
	var (
		c                               Chassis
		macs                            string
		seen, created                   int64
		inspected, installed, inService sql.NullInt64
		failed, awaited                 bool
		inventory, phases               sql.NullString
	)
	dest := []any{&c.ID, &c.Name, &c.UUID, &c.Serial, &c.MAC, &macs, &c.Version, &c.BootID, &c.Connected, &c.Address,
		&c.Endpoint, &seen, &created, &inspected, &failed, &installed, &inService, &c.rev, &c.OpenRun, &awaited}
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
	if inventory.Valid {
		c.Inventory = json.RawMessage(inventory.String)
	}
	if phases.Valid {
		c.Phases = json.RawMessage(phases.String)
	}
	switch {
	case c.InServiceAt != nil && (c.OpenRun == "" || !c.Connected):
		c.State = InService
	case c.OpenRun != "", c.InstalledAt != nil && awaited:
		c.State = Working
	case !c.Connected:
		c.State = Offline
	case failed:
		c.State = Errored
	case c.Inspected == nil && c.Version != teeth.LegacyVersion:
		c.State = Discovered
	default:
		c.State = Ready
	}
	return c, nil
}

// Session is what the gateway knows when an agent has introduced itself. The
// handshake must have been checked: lengths bounded, addresses in lower case.
type Session struct {
	ID        string // differs for every connection
	Handshake teeth.Handshake
	Address   string // of the chassis, without port
	Endpoint  string // host under which it reaches this server
}

// Identity is the name a chassis is recognised by: its SMBIOS UUID, or, where
// the firmware has none that is unique, the MAC address it gave as id.
func Identity(h teeth.Handshake) string {
	if u := strings.ToLower(h.UUID); !trivialUUID(u) {
		return "uuid:" + u
	}
	return "mac:" + strings.ToLower(h.ID)
}

// trivialUUID reports whether u is one that firmware shares between machines:
// unset, or the sample that board makers forget to change.
func trivialUUID(u string) bool {
	id, err := uuid.Parse(u)
	if err != nil || len(u) != 36 {
		return true
	}
	same := true
	for _, b := range id {
		same = same && b == id[0]
	}
	return same || strings.HasPrefix(u, "03000200-0400-0500-0006-") || u == "00020003-0004-0005-0006-000700080009" ||
		u == "12345678-1234-5678-90ab-cddeefaabbcc" || u == "fefefefe-fefe-fefe-fefe-fefefefefefe"
}

// Connect records a new session and returns the chassis it belongs to, which is
// created when it was never seen before.
func (s *Store) Connect(ctx context.Context, in Session) (Chassis, error) {
	h := in.Handshake
	macs := h.MACs
	if macs == nil {
		macs = []string{}
	}
	list, err := json.Marshal(macs)
	if err != nil {
		return Chassis{}, err
	}
	identity := Identity(h)
	var id string
	err = s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`INSERT INTO chassis (id, identity, uuid, serial, mac, macs, version, boot_id, session, connected,
				address, endpoint, last_seen, created, rev)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?)
			ON CONFLICT (identity) DO UPDATE SET uuid = excluded.uuid, serial = excluded.serial, mac = excluded.mac,
				macs = excluded.macs, version = excluded.version, boot_id = excluded.boot_id, session = excluded.session,
				connected = 1, address = excluded.address, endpoint = excluded.endpoint, last_seen = excluded.last_seen,
				rev = excluded.rev`,
			uuid.NewString(), identity, h.UUID, h.Serial, h.ID, string(list), h.Version, h.BootID, in.ID,
			in.Address, in.Endpoint, t.now, t.now, t.nextRev())
		if err != nil {
			return fmt.Errorf("chassis %s: %w", identity, err)
		}
		return t.QueryRow(`SELECT id FROM chassis WHERE identity = ?`, identity).Scan(&id)
	})
	if err != nil {
		return Chassis{}, err
	}
	return s.Chassis(ctx, id)
}

// Disconnect records that a session has ended. It does nothing when a newer one
// has taken its place.
func (s *Store) Disconnect(ctx context.Context, chassis, session string) error {
	return s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`UPDATE chassis SET connected = 0, session = '', last_seen = ?, rev = ? WHERE id = ? AND session = ?`,
			t.now, t.nextRev(), chassis, session)
		return err
	})
}

// SaveStatus records what a chassis says of itself. Parts that are absent keep
// what is known.
func (s *Store) SaveStatus(ctx context.Context, chassis string, st teeth.Status) error {
	var inventory, phases sql.NullString
	if len(st.Inventory) > 0 && string(st.Inventory) != "null" {
		inventory = sql.NullString{String: string(st.Inventory), Valid: true}
	}
	if len(st.Phases) > 0 {
		b, err := json.Marshal(st.Phases)
		if err != nil {
			return fmt.Errorf("chassis %s: boot phases: %w", chassis, err)
		}
		phases = sql.NullString{String: string(b), Valid: true}
	}
	return s.update(ctx, func(t *tx) error {
		inspected := sql.NullInt64{Int64: t.now, Valid: inventory.Valid}
		_, err := t.Exec(`UPDATE chassis SET inventory = COALESCE(?, inventory), phases = COALESCE(?, phases),
			inspected = COALESCE(?, inspected), last_seen = ?, rev = ? WHERE id = ?`,
			inventory, phases, inspected, t.now, t.nextRev(), chassis)
		return err
	})
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

// FindBooting returns the chassis that a boot loader describes by SMBIOS UUID
// and MAC address.
func (s *Store) FindBooting(ctx context.Context, uuid, mac string) (Chassis, error) {
	found, err := s.chassisWhere(ctx, `c.identity IN (?, ?) OR c.mac = ? OR c.macs LIKE ? ESCAPE '!'
		ORDER BY CASE WHEN c.identity = ? THEN 0 ELSE 1 END, c.last_seen DESC LIMIT 1`, false,
		Identity(teeth.Handshake{UUID: uuid, ID: mac}), "mac:"+mac, mac, `%"`+likeEscape(mac)+`"%`,
		Identity(teeth.Handshake{UUID: uuid, ID: mac}))
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
