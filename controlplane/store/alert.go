package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
)

// Alert is something that a poller's rule found. It is open until what it found is
// over, or an operator clears it.
type Alert struct {
	ID        string     `json:"id"`
	Number    int64      `json:"number"` // in the order in which they were raised
	Poller    string     `json:"poller"`
	Chassis   string     `json:"chassis,omitempty"`
	Kind      string     `json:"kind"` // the poller's
	Rule      string     `json:"rule"`
	Item      string     `json:"item,omitempty"` // the sensor, event or object that it is about
	Severity  string     `json:"severity"`       // information, warning or critical
	Message   string     `json:"message"`
	Value     string     `json:"value,omitempty"`
	Raised    time.Time  `json:"raised"`
	Cleared   *time.Time `json:"cleared,omitempty"`
	ClearedBy string     `json:"cleared_by,omitempty"` // the user who did; absent: the rule

	// Data is told with the notice in addition, and not stored.
	Data map[string]any `json:"-"`
}

// Of the alerts that are over so many are kept; of those that are open, so many
// of one poller.
const (
	maxClearedAlerts = 10_000
	maxOpenAlerts    = 500
)

const alertColumns = `id, number, poller, chassis, kind, rule, item, severity, message, value, raised, cleared, cleared_by`

func scanAlert(row scanner) (Alert, error) {
	var a Alert
	var raised int64
	var cleared sql.NullInt64
	err := row.Scan(&a.ID, &a.Number, &a.Poller, &a.Chassis, &a.Kind, &a.Rule, &a.Item, &a.Severity, &a.Message, &a.Value, &raised, &cleared, &a.ClearedBy)
	a.Raised, a.Cleared = time.UnixMilli(raised).UTC(), timeOf(cleared)
	return a, err
}

// alertNotice tells of an alert. Data: state (raised or cleared), severity,
// message, pollerId, pollerName, kind, value, rule, item, alertId; and of an event
// of the SEL, event.
func (t *tx) alertNotice(p Poller, a Alert, state string) error {
	data := map[string]any{
		"state": state, "severity": a.Severity, "message": a.Message, "pollerId": p.ID, "pollerName": p.Name,
		"kind": p.Kind, "value": a.Value, "rule": a.Rule, "item": a.Item, "alertId": a.ID,
	}
	for k, v := range a.Data {
		data[k] = v
	}
	return t.notice(NoticeAlert, p.Chassis, p.ID, data)
}

// raiseAlert opens an alert, unless the same is open already.
func (t *tx) raiseAlert(p Poller, a Alert) error {
	var open, same int
	if err := t.QueryRow(`SELECT COUNT(*), COALESCE(SUM(CASE WHEN rule = ? AND item = ? THEN 1 ELSE 0 END), 0) FROM alerts WHERE poller = ? AND cleared IS NULL`,
		a.Rule, a.Item, p.ID).Scan(&open, &same); err != nil {
		return err
	}
	if same > 0 {
		return nil
	}
	if open >= maxOpenAlerts { // the oldest gives way
		if _, err := t.Exec(`UPDATE alerts SET cleared = ?, cleared_by = 'for want of room' WHERE id = (
			SELECT id FROM alerts WHERE poller = ? AND cleared IS NULL ORDER BY number LIMIT 1)`, t.now, p.ID); err != nil {
			return err
		}
	}
	a.ID = uuid.NewString()
	_, err := t.Exec(`INSERT INTO alerts (id, number, poller, chassis, kind, rule, item, severity, message, value, raised) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		a.ID, t.nextRev(), p.ID, p.Chassis, p.Kind, a.Rule, a.Item, a.Severity, a.Message, a.Value, t.now)
	if err != nil {
		return err
	}
	return t.alertNotice(p, a, "raised")
}

func (t *tx) clearAlert(p Poller, a Alert) error {
	found, err := scanAlert(t.QueryRow(`SELECT `+alertColumns+` FROM alerts WHERE poller = ? AND rule = ? AND item = ? AND cleared IS NULL`, p.ID, a.Rule, a.Item))
	if errors.Is(err, sql.ErrNoRows) {
		return nil // an operator has cleared it
	} else if err != nil {
		return err
	}
	if _, err := t.Exec(`UPDATE alerts SET cleared = ? WHERE id = ?`, t.now, found.ID); err != nil {
		return err
	}
	if _, err := t.Exec(`DELETE FROM alerts WHERE cleared IS NOT NULL AND number <= (
		SELECT number FROM alerts WHERE cleared IS NOT NULL ORDER BY number DESC LIMIT 1 OFFSET ?)`, maxClearedAlerts); err != nil {
		return err
	}
	found.Value, found.Data = a.Value, a.Data
	if a.Message != "" {
		found.Message = a.Message
	}
	return t.alertNotice(p, found, "cleared")
}

// ClearAlert ends an alert in an operator's name. The rule raises it anew only
// when what it found was over in between.
func (s *Store) ClearAlert(ctx context.Context, id, by string) (Alert, error) {
	var a Alert
	err := s.update(ctx, func(t *tx) error {
		var err error
		a, err = scanAlert(t.QueryRow(`SELECT `+alertColumns+` FROM alerts WHERE id = ?`, id))
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("alert %.64q: %w", id, ErrNotFound)
		} else if err != nil || a.Cleared != nil {
			return err
		}
		if _, err := t.Exec(`UPDATE alerts SET cleared = ?, cleared_by = ? WHERE id = ?`, t.now, by, id); err != nil {
			return err
		}
		a.Cleared, a.ClearedBy = timeOf(sql.NullInt64{Int64: t.now, Valid: true}), by
		p, err := scanPoller(t.QueryRow(`SELECT `+pollerColumns+` FROM pollers WHERE id = ?`, a.Poller))
		if err != nil {
			return err
		}
		return t.alertNotice(p, a, "cleared")
	})
	return a, err
}

// AlertFilter chooses alerts. Its zero value chooses all that are open.
type AlertFilter struct {
	Chassis string
	Poller  string
	Cleared bool  // those that are over, too
	Before  int64 // number; 0: from the newest on
}

// Alerts returns up to limit alerts, newest first.
func (s *Store) Alerts(ctx context.Context, f AlertFilter, limit int) ([]Alert, error) {
	if f.Before == 0 {
		f.Before = math.MaxInt64
	}
	rows, err := s.r.QueryContext(ctx, `SELECT `+alertColumns+` FROM alerts WHERE (? = '' OR chassis = ?) AND (? = '' OR poller = ?)
		AND (? = 1 OR cleared IS NULL) AND number < ? ORDER BY number DESC LIMIT ?`,
		f.Chassis, f.Chassis, f.Poller, f.Poller, number(f.Cleared), f.Before, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list alerts: %w", err)
	}
	defer rows.Close()
	list := []Alert{}
	for rows.Next() {
		a, err := scanAlert(rows)
		if err != nil {
			return nil, fmt.Errorf("list alerts: %w", err)
		}
		list = append(list, a)
	}
	return list, rows.Err()
}
