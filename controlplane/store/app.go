package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// AppHost is a host whose apps are told by a Backbone slave, or kept as desired, or
// both. Package backbone knows what Desired and Status are.
type AppHost struct {
	ID      string // the chassis' id, else what the slave calls its host
	Chassis string // "" if it is none
	Name    string // of the chassis
	Host    string // what the slave calls its host; "" before it has said anything

	Desired   json.RawMessage // nil: nothing is desired of it
	Revision  int64           // of Desired
	Changed   *time.Time      // when Desired was
	ChangedBy string

	State     string          // of the last status
	Settled   bool            // the apps are as desired
	Status    json.RawMessage // the last one; nil if there was none
	Transport string          // by which it came
	Told      *time.Time      // its time by the host's clock; nil if it has none
	Received  *time.Time      // by ours
	BootID    string          // of the slave's start
	Sequence  int64           // of the status since then

	// Time, by the host's and our clock, of the newest status that was not taken as
	// it seemed older than the last one.
	Behind, BehindAt *time.Time

	Sent     int64 // revision that was sent last
	SentAt   *time.Time
	Attempts int    // to send that revision
	Error    string // of the last of them
}

// maxStrangers bounds the hosts that are no chassis and of which nothing is desired:
// whoever may publish on the broker may invent any number.
const maxStrangers = 10_000

const appHostColumns = `id, COALESCE(chassis, ''), host, desired, revision, changed, changed_by, state, settled, status, transport,
	told, received, boot_id, sequence, behind, behind_at, sent, sent_at, attempts, error,
	COALESCE((SELECT c.name FROM chassis c WHERE c.id = app_hosts.chassis), '')`

func scanAppHost(row scanner) (AppHost, error) {
	var h AppHost
	var desired, status sql.NullString
	var changed, told, received, behind, behindAt, sentAt sql.NullInt64
	err := row.Scan(&h.ID, &h.Chassis, &h.Host, &desired, &h.Revision, &changed, &h.ChangedBy, &h.State, &h.Settled, &status, &h.Transport,
		&told, &received, &h.BootID, &h.Sequence, &behind, &behindAt, &h.Sent, &sentAt, &h.Attempts, &h.Error, &h.Name)
	if desired.Valid {
		h.Desired = json.RawMessage(desired.String)
	}
	if status.Valid {
		h.Status = json.RawMessage(status.String)
	}
	h.Changed, h.Told, h.Received, h.Behind, h.BehindAt, h.SentAt = timeOf(changed), timeOf(told), timeOf(received), timeOf(behind), timeOf(behindAt), timeOf(sentAt)
	return h, err
}

func moment(t *time.Time) sql.NullInt64 {
	if t == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: t.UnixMilli(), Valid: true}
}

func jsonText(b json.RawMessage) sql.NullString {
	return sql.NullString{String: string(b), Valid: b != nil}
}

// AppHost returns the host with this id.
func (s *Store) AppHost(ctx context.Context, id string) (AppHost, error) {
	h, err := scanAppHost(s.r.QueryRowContext(ctx, `SELECT `+appHostColumns+` FROM app_hosts WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return AppHost{}, fmt.Errorf("apps of host %.64q: %w", id, err)
	}
	return h, nil
}

// ListAppHosts returns up to limit hosts whose id comes after the given one, by id.
func (s *Store) ListAppHosts(ctx context.Context, after string, limit int) ([]AppHost, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+appHostColumns+` FROM app_hosts WHERE id > ? ORDER BY id LIMIT ?`, after, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list hosts of apps: %w", err)
	}
	defer rows.Close()
	list := []AppHost{}
	for rows.Next() {
		h, err := scanAppHost(rows)
		if err != nil {
			return nil, fmt.Errorf("list hosts of apps: %w", err)
		}
		list = append(list, h)
	}
	return list, rows.Err()
}

// AppHostsChanged returns the ids of hosts of which something else is desired since
// a revision.
func (s *Store) AppHostsChanged(ctx context.Context, since int64) ([]string, error) {
	return s.appHostIDs(ctx, `rev > ?`, since)
}

// AppHostsUnsettled returns the ids of hosts that were not as desired at last.
func (s *Store) AppHostsUnsettled(ctx context.Context) ([]string, error) {
	return s.appHostIDs(ctx, `settled = 0 AND desired IS NOT NULL`)
}

func (s *Store) appHostIDs(ctx context.Context, where string, args ...any) ([]string, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT id FROM app_hosts WHERE `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("hosts of apps: %w", err)
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// ChassisOfHost returns the id of the chassis that a slave's host id means: the
// chassis' own id, its SMBIOS UUID, or a MAC address; "" if there is none, or more
// than one that has it.
func (s *Store) ChassisOfHost(ctx context.Context, host string) (string, error) {
	host = strings.ToLower(host)
	for _, query := range []string{
		`SELECT id FROM chassis WHERE id = ?`,
		`SELECT id FROM chassis WHERE uuid = ? LIMIT 2`,
		`SELECT chassis FROM chassis_macs WHERE mac = ? LIMIT 2`,
	} {
		rows, err := s.r.QueryContext(ctx, query, host)
		if err != nil {
			return "", fmt.Errorf("chassis of host %.64q: %w", host, err)
		}
		var ids []string
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				rows.Close()
				return "", err
			}
			ids = append(ids, id)
		}
		rows.Close()
		if err := rows.Err(); err != nil || len(ids) > 1 {
			return "", err
		}
		if len(ids) == 1 {
			return ids[0], nil
		}
	}
	return "", nil
}

// appHost is the row of id, or a new one.
func (t *tx) appHost(id string) (h AppHost, known bool, err error) {
	h, err = scanAppHost(t.QueryRow(`SELECT `+appHostColumns+` FROM app_hosts WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return AppHost{ID: id}, false, nil
	}
	return h, true, err
}

func (t *tx) putAppHost(h AppHost, rev int64) error {
	_, err := t.Exec(`INSERT INTO app_hosts (id, chassis, host, desired, revision, changed, changed_by, state, settled, status, transport,
			told, received, boot_id, sequence, behind, behind_at, sent, sent_at, attempts, error, rev)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET chassis = excluded.chassis, host = excluded.host, desired = excluded.desired, revision = excluded.revision,
			changed = excluded.changed, changed_by = excluded.changed_by, state = excluded.state, settled = excluded.settled,
			status = excluded.status, transport = excluded.transport, told = excluded.told, received = excluded.received,
			boot_id = excluded.boot_id, sequence = excluded.sequence, behind = excluded.behind, behind_at = excluded.behind_at,
			sent = excluded.sent, sent_at = excluded.sent_at, attempts = excluded.attempts, error = excluded.error,
			rev = CASE WHEN excluded.rev > 0 THEN excluded.rev ELSE app_hosts.rev END`,
		h.ID, null(h.Chassis), h.Host, jsonText(h.Desired), h.Revision, moment(h.Changed), h.ChangedBy, h.State, number(h.Settled), jsonText(h.Status), h.Transport,
		moment(h.Told), moment(h.Received), h.BootID, h.Sequence, moment(h.Behind), moment(h.BehindAt), h.Sent, moment(h.SentAt), h.Attempts, h.Error, rev)
	return err
}

// DesireApps sets what is desired of a host, which need not be known. change is given
// the host as it is and sets Desired and Settled; an error of it is returned. It may
// run more than once.
func (s *Store) DesireApps(ctx context.Context, id, chassis, by string, change func(*AppHost) error) (AppHost, error) {
	var out AppHost
	err := s.update(ctx, func(t *tx) error {
		h, _, err := t.appHost(id)
		if err != nil {
			return err
		}
		if chassis != "" {
			if err := t.needChassis(chassis); err != nil {
				return err
			}
			h.Chassis = chassis
		}
		if err := change(&h); err != nil {
			return err
		}
		now := time.UnixMilli(t.now).UTC()
		h.Revision, h.Changed, h.ChangedBy = t.nextRev(), &now, by
		h.Attempts, h.Error = 0, ""
		out = h
		return t.putAppHost(h, h.Revision)
	})
	return out, err
}

// ForgetApps makes nothing desired of a host: its apps are left alone. A host that
// has never said anything is forgotten altogether.
func (s *Store) ForgetApps(ctx context.Context, id string) error {
	return s.update(ctx, func(t *tx) error {
		h, known, err := t.appHost(id)
		if err != nil {
			return err
		}
		if !known {
			return fmt.Errorf("apps of host %.64q: %w", id, ErrNotFound)
		}
		if h.Status == nil {
			_, err := t.Exec(`DELETE FROM app_hosts WHERE id = ?`, id)
			return err
		}
		h.Desired, h.Settled, h.Error, h.Attempts = nil, false, "", 0
		h.Revision = t.nextRev()
		return t.putAppHost(h, h.Revision)
	})
}

// AppStatus is one status of a slave on its way into the store.
type AppStatus struct {
	Host    string // what the slave calls its host
	Chassis string // that this is; "": none
}

// TakeAppStatuses has take look at each status together with the host as it is, and
// stores the hosts that it changes: it returns whether to. It may run more than once
// for a status. A status of a host that is new and no chassis gets there only while
// there are few of those; the number of others is returned.
func (s *Store) TakeAppStatuses(ctx context.Context, statuses []AppStatus, take func(i int, h *AppHost) bool) (refused int, err error) {
	err = s.update(ctx, func(t *tx) error {
		refused = 0
		room := -1 // for hosts that are no chassis; not counted yet
		for i, st := range statuses {
			ok, err := t.takeAppStatus(st, &room, func(h *AppHost) bool { return take(i, h) })
			if err != nil {
				return fmt.Errorf("status of host %.64q: %w", st.Host, err)
			}
			if !ok {
				refused++
			}
		}
		return nil
	})
	return refused, err
}

func (t *tx) takeAppStatus(st AppStatus, room *int, take func(*AppHost) bool) (bool, error) {
	id := st.Host
	if st.Chassis != "" {
		switch err := t.needChassis(st.Chassis); {
		case errors.Is(err, ErrNotFound): // it has just been forgotten
			st.Chassis = ""
		case err != nil:
			return false, err
		default:
			id = st.Chassis
		}
	}
	h, known, err := t.appHost(id)
	if err != nil {
		return false, err
	}
	if !known && st.Chassis == "" {
		if *room < 0 {
			var strangers int
			if err := t.QueryRow(`SELECT COUNT(*) FROM app_hosts WHERE chassis IS NULL AND desired IS NULL`).Scan(&strangers); err != nil {
				return false, err
			}
			*room = max(maxStrangers-strangers, 0)
		}
		if *room == 0 {
			return false, nil
		}
		*room--
	}
	h.Chassis = st.Chassis
	rev := int64(0)
	if id != st.Host {
		// It may have been a host of no chassis before.
		if rev, err = t.adoptAppHost(&h, st.Host); err != nil {
			return false, err
		}
	}
	h.Host = st.Host
	if !take(&h) && rev == 0 {
		return true, nil
	}
	return true, t.putAppHost(h, rev)
}

// adoptAppHost moves what was desired of a host to the chassis that it has turned out
// to be, unless something is desired of that already.
func (t *tx) adoptAppHost(h *AppHost, host string) (rev int64, err error) {
	old, known, err := t.appHost(host)
	if err != nil || !known || old.Chassis != "" {
		return 0, err
	}
	if h.Desired == nil && old.Desired != nil {
		h.Desired, h.Changed, h.ChangedBy = old.Desired, old.Changed, old.ChangedBy
		h.Revision, h.Attempts, h.Error = t.nextRev(), 0, ""
		rev = h.Revision
	}
	_, err = t.Exec(`DELETE FROM app_hosts WHERE id = ?`, host)
	return rev, err
}

// AppSent is what has come of sending a host what is desired of it.
type AppSent struct {
	ID       string
	Revision int64
	At       time.Time
	Attempts int
	Error    string // "" if it was taken over
}

// SaveAppSent records it, unless something else is desired of the host by now.
func (s *Store) SaveAppSent(ctx context.Context, sent AppSent) error {
	return s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`UPDATE app_hosts SET sent = ?, sent_at = ?, attempts = ?, error = ? WHERE id = ? AND revision = ?`,
			sent.Revision, sent.At.UnixMilli(), sent.Attempts, sent.Error, sent.ID, sent.Revision)
		return err
	})
}

// PruneAppHosts forgets hosts of which nothing is desired and that have said nothing
// since a time, and returns how many.
func (s *Store) PruneAppHosts(ctx context.Context, before time.Time) (int64, error) {
	var n int64
	err := s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`DELETE FROM app_hosts WHERE desired IS NULL AND received < ?`, before.UnixMilli())
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}
