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

// Poller is something that is read every so often, with the rules that make
// alerts of what is read. Package poller knows what Kind, Config, Rules and State
// are.
type Poller struct {
	ID      string          `json:"id"`
	Chassis string          `json:"chassis,omitempty"`
	Kind    string          `json:"kind"` // power, sel, sdr or snmp
	Name    string          `json:"name,omitempty"`
	Period  float64         `json:"interval"` // seconds
	Paused  bool            `json:"paused,omitempty"`
	Config  json.RawMessage `json:"-"`
	Rules   json.RawMessage `json:"rules"`
	State   json.RawMessage `json:"-"`
	Created time.Time       `json:"created"`

	Next     time.Time  `json:"next"`
	Polled   *time.Time `json:"polled,omitempty"`   // last tried
	Answered *time.Time `json:"answered,omitempty"` // last succeeded
	Failures int        `json:"failures,omitempty"` // since then
	Error    string     `json:"error,omitempty"`    // of the last failure
	Server   string     `json:"server,omitempty"`   // that is polling now

	Lease string `json:"-"` // of TakePollers
}

// PollerResult is what was read once.
type PollerResult struct {
	Time   time.Time       `json:"time"`
	Result json.RawMessage `json:"result"`
}

const (
	maxPollers       = 100_000
	maxPollerResults = 10 // kept of each
)

const pollerColumns = `id, COALESCE(chassis, ''), kind, name, period, paused, config, rules, state, created, next, polled, answered, failures, error,
	CASE WHEN lease = '' THEN '' ELSE server END, lease`

func scanPoller(row scanner) (Poller, error) {
	var p Poller
	var period, created, next int64
	var polled, answered sql.NullInt64
	var config, rules, state string
	err := row.Scan(&p.ID, &p.Chassis, &p.Kind, &p.Name, &period, &p.Paused, &config, &rules, &state, &created, &next,
		&polled, &answered, &p.Failures, &p.Error, &p.Server, &p.Lease)
	p.Period = float64(period) / 1000
	p.Config, p.Rules, p.State = json.RawMessage(config), json.RawMessage(rules), json.RawMessage(state)
	p.Created, p.Next = time.UnixMilli(created).UTC(), time.UnixMilli(next).UTC()
	p.Polled, p.Answered = timeOf(polled), timeOf(answered)
	return p, err
}

func null(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

// AddPoller stores a poller, which is due after delay, and returns it with its id.
func (s *Store) AddPoller(ctx context.Context, p Poller, delay time.Duration) (Poller, error) {
	if p.ID == "" {
		p.ID = uuid.NewString()
	}
	err := s.update(ctx, func(t *tx) error {
		if p.Chassis != "" {
			if err := t.needChassis(p.Chassis); err != nil {
				return err
			}
		}
		var count int
		if err := t.QueryRow(`SELECT COUNT(*) FROM pollers`).Scan(&count); err != nil {
			return err
		}
		if count >= maxPollers {
			return fmt.Errorf("there are %d pollers, which is the most: remove some: %w", count, ErrConflict)
		}
		_, err := t.Exec(`INSERT INTO pollers (id, chassis, kind, name, period, paused, config, rules, next, created)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, p.ID, null(p.Chassis), p.Kind, p.Name, int64(p.Period*1000), number(p.Paused),
			string(p.Config), string(p.Rules), t.now+delay.Milliseconds(), t.now)
		return err
	})
	if err != nil {
		return Poller{}, err
	}
	return s.Poller(ctx, p.ID)
}

// Poller returns the poller with this id, or the only one whose id begins so.
func (s *Store) Poller(ctx context.Context, ref string) (Poller, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+pollerColumns+` FROM pollers WHERE id LIKE ? ESCAPE '!' ORDER BY id LIMIT 2`, likeEscape(ref)+"%")
	if err != nil {
		return Poller{}, fmt.Errorf("poller %.64q: %w", ref, err)
	}
	defer rows.Close()
	var found []Poller
	for rows.Next() {
		p, err := scanPoller(rows)
		if err != nil {
			return Poller{}, fmt.Errorf("poller %.64q: %w", ref, err)
		}
		found = append(found, p)
	}
	switch {
	case rows.Err() != nil:
		return Poller{}, fmt.Errorf("poller %.64q: %w", ref, rows.Err())
	case len(found) == 0 || ref == "":
		return Poller{}, fmt.Errorf("poller %.64q: %w", ref, ErrNotFound)
	case len(found) > 1 && found[0].ID != ref:
		return Poller{}, fmt.Errorf("poller %.64q: %w", ref, ErrAmbiguous)
	}
	return found[0], nil
}

// ListPollers returns up to limit pollers whose id comes after the given one, of
// one chassis or ("") all.
func (s *Store) ListPollers(ctx context.Context, chassis, after string, limit int) ([]Poller, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT `+pollerColumns+` FROM pollers WHERE id > ? AND (? = '' OR chassis = ?) ORDER BY id LIMIT ?`,
		after, chassis, chassis, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list pollers: %w", err)
	}
	defer rows.Close()
	list := []Poller{}
	for rows.Next() {
		p, err := scanPoller(rows)
		if err != nil {
			return nil, fmt.Errorf("list pollers: %w", err)
		}
		list = append(list, p)
	}
	return list, rows.Err()
}

// ChangePoller stores name, period, paused, config and rules of a poller, forgets
// what its rules remember if they are others, and has it polled soon.
func (s *Store) ChangePoller(ctx context.Context, p Poller) (Poller, error) {
	err := s.update(ctx, func(t *tx) error {
		var rules string
		err := t.QueryRow(`SELECT rules FROM pollers WHERE id = ?`, p.ID).Scan(&rules)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("poller %.64q: %w", p.ID, ErrNotFound)
		} else if err != nil {
			return err
		}
		// A poll under way was of the old one: its lease ends, so that it reports nothing.
		_, err = t.Exec(`UPDATE pollers SET name = ?, period = ?, paused = ?, config = ?, rules = ?, next = ?, lease = '', until = 0 WHERE id = ?`,
			p.Name, int64(p.Period*1000), number(p.Paused), string(p.Config), string(p.Rules), t.now, p.ID)
		if err == nil && rules != string(p.Rules) {
			if _, err = t.Exec(`UPDATE pollers SET state = '{}' WHERE id = ?`, p.ID); err == nil {
				_, err = t.Exec(`UPDATE alerts SET cleared = ?, cleared_by = 'change of rules' WHERE poller = ? AND cleared IS NULL`, t.now, p.ID)
			}
		}
		return err
	})
	if err != nil {
		return Poller{}, err
	}
	return s.Poller(ctx, p.ID)
}

// RemovePoller forgets a poller with its results and alerts.
func (s *Store) RemovePoller(ctx context.Context, id string) error {
	return s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`DELETE FROM pollers WHERE id = ?`, id)
		return err
	})
}

// TakePollers gives this server up to limit pollers that are due, for the time
// given. Others have them then no more, unless that is over.
func (s *Store) TakePollers(ctx context.Context, limit int, during time.Duration) ([]Poller, error) {
	var due bool
	err := s.r.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pollers WHERE next <= ? AND until < ? AND paused = 0)`,
		s.Now().UnixMilli(), s.Now().UnixMilli()).Scan(&due)
	if err != nil || !due {
		return nil, err
	}
	var taken []Poller
	err = s.update(ctx, func(t *tx) error {
		taken = nil
		rows, err := t.Query(`SELECT `+pollerColumns+` FROM pollers WHERE next <= ? AND until < ? AND paused = 0 ORDER BY next LIMIT ?`,
			t.now, t.now, page(limit))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			p, err := scanPoller(rows)
			if err != nil {
				return err
			}
			taken = append(taken, p)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		rows.Close()
		for i := range taken {
			taken[i].Lease, taken[i].Server = uuid.NewString(), s.server
			if _, err := t.Exec(`UPDATE pollers SET server = ?, until = ?, lease = ? WHERE id = ?`,
				s.server, t.now+during.Milliseconds(), taken[i].Lease, taken[i].ID); err != nil {
				return err
			}
		}
		return nil
	})
	return taken, err
}

// RenewPollers has the leases of TakePollers last for the time given from now, and
// returns those that are gone: the poller was changed, removed or taken over.
func (s *Store) RenewPollers(ctx context.Context, held []Poller, during time.Duration) (lost []Poller, err error) {
	err = s.update(ctx, func(t *tx) error {
		lost = nil
		for _, p := range held {
			res, err := t.Exec(`UPDATE pollers SET until = ? WHERE id = ? AND lease = ? AND lease <> ''`, t.now+during.Milliseconds(), p.ID, p.Lease)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil {
				return err
			} else if n == 0 {
				lost = append(lost, p)
			}
		}
		return nil
	})
	return lost, err
}

// Poll is how a poll has gone.
type Poll struct {
	Result json.RawMessage // nil: it failed
	Error  string
	State  json.RawMessage // nil: as before
	Next   time.Duration   // from now
	Raise  []Alert
	Clear  []Alert // by Rule and Item
}

// ReportPoll stores how a poll has gone: result, alerts and their notices, in one
// transaction. Of a poller whose lease is over, or that was changed or removed
// meanwhile, nothing is stored, and it reports false.
func (s *Store) ReportPoll(ctx context.Context, p Poller, poll Poll) (bool, error) {
	held := false
	err := s.update(ctx, func(t *tx) error {
		held = false
		res, err := t.Exec(`UPDATE pollers SET lease = '', until = 0, polled = ?, next = ?,
				answered = CASE WHEN ? = 1 THEN ? ELSE answered END, failures = CASE WHEN ? = 1 THEN 0 ELSE failures + 1 END,
				error = ?, state = COALESCE(?, state) WHERE id = ? AND lease = ? AND lease <> ''`,
			t.now, t.now+poll.Next.Milliseconds(), number(poll.Result != nil), t.now, number(poll.Result != nil),
			poll.Error, null(string(poll.State)), p.ID, p.Lease)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		held = true
		if poll.Result != nil {
			var newest int64
			if err := t.QueryRow(`SELECT COALESCE(MAX(number), 0) FROM poller_results WHERE poller = ?`, p.ID).Scan(&newest); err != nil {
				return err
			}
			if _, err := t.Exec(`INSERT INTO poller_results (poller, number, time, result) VALUES (?, ?, ?, ?)`,
				p.ID, newest+1, t.now, string(poll.Result)); err != nil {
				return err
			}
			if _, err := t.Exec(`DELETE FROM poller_results WHERE poller = ? AND number <= ?`, p.ID, newest+1-maxPollerResults); err != nil {
				return err
			}
		}
		for _, a := range poll.Clear {
			if err := t.clearAlert(p, a); err != nil {
				return err
			}
		}
		for _, a := range poll.Raise {
			if err := t.raiseAlert(p, a); err != nil {
				return err
			}
		}
		return nil
	})
	return held && err == nil, err
}

// ReleasePoller gives back a poller that was taken and is not going to be polled.
func (s *Store) ReleasePoller(ctx context.Context, p Poller) error {
	return s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`UPDATE pollers SET lease = '', until = 0 WHERE id = ? AND lease = ?`, p.ID, p.Lease)
		return err
	})
}

// LastResult returns what a poller read last; ErrNotFound if it never did.
func (s *Store) LastResult(ctx context.Context, poller string) (PollerResult, error) {
	list, err := s.PollerResults(ctx, poller, 1)
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("poller %.64q has read nothing yet: %w", poller, ErrNotFound)
	}
	if err != nil {
		return PollerResult{}, err
	}
	return list[0], nil
}

// PollerResults returns up to limit results of a poller, newest first.
func (s *Store) PollerResults(ctx context.Context, poller string, limit int) ([]PollerResult, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT time, result FROM poller_results WHERE poller = ? ORDER BY number DESC LIMIT ?`, poller, page(limit))
	if err != nil {
		return nil, fmt.Errorf("results of poller %s: %w", poller, err)
	}
	defer rows.Close()
	list := []PollerResult{}
	for rows.Next() {
		var ms int64
		var result string
		if err := rows.Scan(&ms, &result); err != nil {
			return nil, fmt.Errorf("results of poller %s: %w", poller, err)
		}
		list = append(list, PollerResult{time.UnixMilli(ms).UTC(), json.RawMessage(result)})
	}
	return list, rows.Err()
}
