package records

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Measurement is telemetry of an agent.
type Measurement struct {
	Server   string          `json:"server"`
	Label    string          `json:"label"`
	Data     json.RawMessage `json:"data"` // a list of texts, or what the agent sent as JSON
	Time     time.Time       `json:"time"`
	Received time.Time       `json:"received"`
}

// maxLabels bounds how many labels of one server are looked at.
const maxLabels = 1000

const measurementColumns = `data_key, data, created_at, updated_at`

func scanMeasurement(row interface{ Scan(...any) error }, server string) (Measurement, error) {
	m := Measurement{Server: ServerID(server).String()}
	var at, received stamp
	var data sql.NullString
	if err := row.Scan(&m.Label, &data, &at, &received); err != nil {
		return m, err
	}
	m.Data = json.RawMessage("null")
	if data.Valid {
		m.Data = json.RawMessage(data.String)
	}
	m.Time, m.Received = at.Time, received.Time
	return m, nil
}

// Latest returns the newest measurement of each label of a server, by label.
func (d *DB) Latest(ctx context.Context, server string) ([]Measurement, error) {
	list := []Measurement{}
	id := ServerID(server).String()
	// An index has them in this order, so each costs one look.
	query := d.d.rebind(`SELECT ` + measurementColumns + ` FROM telemetries WHERE server_id = ? AND data_key > ? ORDER BY data_key, created_at DESC LIMIT 1`)
	first := d.d.rebind(`SELECT ` + measurementColumns + ` FROM telemetries WHERE server_id = ? AND data_key = ? ORDER BY created_at DESC LIMIT 1`)
	label := ""
	for len(list) < maxLabels {
		q := query
		if label == "" && first != "" {
			q, first = first, ""
		}
		m, err := scanMeasurement(d.r.QueryRowContext(ctx, q, id, label), server)
		switch {
		case errors.Is(err, sql.ErrNoRows) && q != query:
			continue
		case errors.Is(err, sql.ErrNoRows):
			return list, nil
		case err != nil:
			return nil, fmt.Errorf("telemetry of %s: %w", server, d.unavailable(err))
		}
		list = append(list, m)
		label = m.Label
	}
	return list, nil
}

// Measurements returns up to limit measurements of a server in a range of the agent's
// time, oldest first. An empty label is all of them.
func (d *DB) Measurements(ctx context.Context, server, label string, since, until time.Time, limit int) ([]Measurement, error) {
	if limit <= 0 || limit > MaxLines {
		limit = MaxLines
	}
	if until.IsZero() {
		until = latest
	}
	rows, err := d.r.QueryContext(ctx, d.d.rebind(`SELECT `+measurementColumns+` FROM telemetries
		WHERE server_id = ? AND (? = '' OR data_key = ?) AND created_at >= ? AND created_at <= ? ORDER BY created_at, id LIMIT ?`),
		ServerID(server).String(), label, label, d.d.time(later(since, earliest)), d.d.time(until), limit)
	if err != nil {
		return nil, fmt.Errorf("telemetry of %s: %w", server, d.unavailable(err))
	}
	defer rows.Close()
	list := []Measurement{}
	for rows.Next() {
		m, err := scanMeasurement(rows, server)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, d.unavailable(rows.Err())
}
