package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// maxEvents is how many log events are kept of each chassis.
const maxEvents = 1000

// Event is a log message of a chassis.
type Event struct {
	Chassis string          `json:"chassis"`
	Time    time.Time       `json:"time"`
	Message string          `json:"message"`
	Fields  json.RawMessage `json:"fields,omitempty"`
	rev     int64
}

// AddEvent records a log message and drops the chassis' oldest beyond 1000.
// Fields is a JSON object or nil.
func (s *Store) AddEvent(ctx context.Context, e Event) error {
	return s.update(ctx, func(t *tx) error {
		fields := sql.NullString{String: string(e.Fields), Valid: len(e.Fields) > 0}
		if _, err := t.Exec(`INSERT INTO events (rev, chassis, time, message, fields) VALUES (?, ?, ?, ?, ?)`,
			t.nextRev(), e.Chassis, e.Time.UnixMilli(), e.Message, fields); err != nil {
			return err
		}
		_, err := t.Exec(`DELETE FROM events WHERE chassis = ? AND rev <= (
			SELECT rev FROM events WHERE chassis = ? ORDER BY rev DESC LIMIT 1 OFFSET ?)`, e.Chassis, e.Chassis, maxEvents)
		return err
	})
}

// Events returns up to limit of the newest log messages of a chassis, oldest first.
func (s *Store) Events(ctx context.Context, chassis string, limit int) ([]Event, error) {
	list, err := s.eventsWhere(ctx, `chassis = ? ORDER BY rev DESC LIMIT ?`, chassis, page(limit))
	slices.Reverse(list)
	return list, err
}

func (s *Store) eventsWhere(ctx context.Context, where string, args ...any) ([]Event, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT rev, chassis, time, message, fields FROM events WHERE `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	defer rows.Close()
	var list []Event
	for rows.Next() {
		var e Event
		var ms int64
		var fields sql.NullString
		if err := rows.Scan(&e.rev, &e.Chassis, &ms, &e.Message, &fields); err != nil {
			return nil, fmt.Errorf("list events: %w", err)
		}
		e.Time = time.UnixMilli(ms).UTC()
		if fields.Valid {
			e.Fields = json.RawMessage(fields.String)
		}
		list = append(list, e)
	}
	return list, rows.Err()
}

// Filter selects changes. A graph selects itself, those inside it and their tasks,
// and no other kind of change.
type Filter struct {
	Chassis string // "": of all
	Graph   string
}

// Change is one thing as it is now, having changed at revision Rev. Exactly one
// of the pointers is set.
type Change struct {
	Rev     int64
	Task    *Task
	Graph   *Graph   // without Tasks
	Chassis *Chassis // without Inventory and Phases
	Event   *Event
}

// Changes returns, in order, up to limit changes newer than revision since, and
// the revision to go on from. A thing that changed several times is there once,
// as it is now.
func (s *Store) Changes(ctx context.Context, since int64, f Filter, limit int) ([]Change, int64, error) {
	limit = page(limit)
	// What is committed between the queries below belongs to the next call, or a
	// change could be passed over by one of another kind with a higher number.
	upTo, _ := s.Revision()
	var list []Change
	tasks, err := s.tasksWhere(ctx, `rev > ? AND rev <= ? AND (? = '' OR chassis = ?)
		AND (? = '' OR graph IN (SELECT g.id FROM graphs g WHERE g.id = ? OR g.root = ?)) ORDER BY rev LIMIT ?`,
		since, upTo, f.Chassis, f.Chassis, f.Graph, f.Graph, f.Graph, limit)
	if err != nil {
		return nil, since, err
	}
	for i := range tasks {
		list = append(list, Change{Rev: tasks[i].rev, Task: &tasks[i]})
	}
	graphs, err := s.graphsWhere(ctx, `g.rev > ? AND g.rev <= ? AND (? = '' OR g.chassis = ?)
		AND (? = '' OR g.id = ? OR g.root = ?) ORDER BY g.rev LIMIT ?`, since, upTo, f.Chassis, f.Chassis, f.Graph, f.Graph, f.Graph, limit)
	if err != nil {
		return nil, since, err
	}
	for i := range graphs {
		list = append(list, Change{Rev: graphs[i].rev, Graph: &graphs[i]})
	}
	if f.Graph == "" {
		chassis, err := s.chassisWhere(ctx, `c.rev > ? AND c.rev <= ? AND (? = '' OR c.id = ?) ORDER BY c.rev LIMIT ?`, false,
			since, upTo, f.Chassis, f.Chassis, limit)
		if err != nil {
			return nil, since, err
		}
		for i := range chassis {
			list = append(list, Change{Rev: chassis[i].rev, Chassis: &chassis[i]})
		}
		events, err := s.eventsWhere(ctx, `rev > ? AND rev <= ? AND (? = '' OR chassis = ?) ORDER BY rev LIMIT ?`,
			since, upTo, f.Chassis, f.Chassis, limit)
		if err != nil {
			return nil, since, err
		}
		for i := range events {
			list = append(list, Change{Rev: events[i].rev, Event: &events[i]})
		}
	}
	slices.SortFunc(list, func(a, b Change) int { return cmp.Compare(a.Rev, b.Rev) })
	if len(list) >= limit {
		list = list[:limit]
		upTo = list[limit-1].Rev
	}
	return list, max(since, upTo), nil
}
