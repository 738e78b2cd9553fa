package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// AuditEntry is one request that changes something, or was to.
type AuditEntry struct {
	ID      string    `json:"id"` // UUID version 7: ids are in the order of time
	Time    time.Time `json:"time"`
	User    string    `json:"user"`
	Token   string    `json:"token,omitempty"` // its name
	Address string    `json:"address"`         // where the request came from
	Method  string    `json:"method"`
	Path    string    `json:"path"`             // never the query or the body, which may hold secrets
	Target  string    `json:"target,omitempty"` // id of the chassis, where the path names one
	Status  int       `json:"status"`           // HTTP; 0: not answered yet, or the server ended before it was
	Detail  string    `json:"detail,omitempty"` // why it was refused
	Millis  int64     `json:"millis"`           // how long it took
}

// BeginAudit records a request before it is carried out and returns the entry's
// id. ID, Time and what is known only at the end are set by the calls.
func (s *Store) BeginAudit(ctx context.Context, e AuditEntry) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("audit: %w", err)
	}
	err = s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`INSERT INTO audit (id, time, user_name, token, address, method, path, target) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			id.String(), t.now, e.User, e.Token, e.Address, e.Method, e.Path, e.Target)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("audit: %w", err)
	}
	return id.String(), nil
}

// EndAudit records how a request ended.
func (s *Store) EndAudit(ctx context.Context, id string, status int, detail string, took time.Duration) error {
	err := s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`UPDATE audit SET status = ?, detail = ?, millis = ? WHERE id = ?`, status, detail, took.Milliseconds(), id)
		return err
	})
	if err != nil {
		return fmt.Errorf("audit %s: %w", id, err)
	}
	return nil
}

// AuditFilter selects entries; empty fields select all.
type AuditFilter struct{ User, Target string }

// ListAudit returns up to limit entries, newest first, that are older than the one
// with the id before ("": the newest).
func (s *Store) ListAudit(ctx context.Context, f AuditFilter, before string, limit int) ([]AuditEntry, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT id, time, user_name, token, address, method, path, target, status, detail, millis FROM audit
		WHERE (? = '' OR id < ?) AND (? = '' OR user_name = ?) AND (? = '' OR target = ?) ORDER BY id DESC LIMIT ?`,
		before, before, f.User, f.User, f.Target, f.Target, page(limit))
	if err != nil {
		return nil, fmt.Errorf("list audit: %w", err)
	}
	defer rows.Close()
	list := []AuditEntry{}
	for rows.Next() {
		var e AuditEntry
		var at int64
		if err := rows.Scan(&e.ID, &at, &e.User, &e.Token, &e.Address, &e.Method, &e.Path, &e.Target, &e.Status, &e.Detail, &e.Millis); err != nil {
			return nil, fmt.Errorf("list audit: %w", err)
		}
		e.Time = time.UnixMilli(at).UTC()
		list = append(list, e)
	}
	return list, rows.Err()
}

// PruneAudit drops the oldest entries beyond the newest keep.
func (s *Store) PruneAudit(ctx context.Context, keep int) error {
	err := s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`DELETE FROM audit WHERE id <= (SELECT id FROM audit ORDER BY id DESC LIMIT 1 OFFSET ?)`, keep)
		return err
	})
	if err != nil {
		return fmt.Errorf("prune audit: %w", err)
	}
	return nil
}
