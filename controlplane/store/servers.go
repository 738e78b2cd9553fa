package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

const (
	// heartbeat is how often a server says that it lives.
	heartbeat = 5 * time.Second
	// DeadAfter is how long a server may be silent before others take over.
	DeadAfter = 20 * time.Second
	// forgetAfter is how long a server that is gone stays in the list.
	forgetAfter = 7 * 24 * time.Hour
)

// Server is a control plane that has the database open, or had.
type Server struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"` // host name
	Version  string    `json:"version"`
	Boot     string    `json:"boot,omitempty"` // base URL of its boot listener
	Started  time.Time `json:"started"`
	Seen     time.Time `json:"seen"`
	Alive    bool      `json:"alive"`
	Sessions int       `json:"sessions"` // chassis that are connected to it
}

// register records the server and forgets the chassis' sessions of its process
// before, and of servers that are dead, and what that process was polling.
func (s *Store) register(ctx context.Context, o Options) error {
	return s.update(ctx, func(t *tx) error {
		if s.postgres == nil { // it has the file for itself
			if _, err := t.Exec(`DELETE FROM servers WHERE id <> ?`, s.server); err != nil {
				return err
			}
		}
		if _, err := t.Exec(`DELETE FROM servers WHERE seen < ?`, t.now-forgetAfter.Milliseconds()); err != nil {
			return err
		}
		if _, err := t.Exec(`DELETE FROM commits WHERE server = ? OR server NOT IN (SELECT id FROM servers)`, s.server); err != nil {
			return err
		}
		if _, err := t.Exec(`INSERT INTO servers (id, instance, name, version, started, seen) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET instance = excluded.instance, name = excluded.name, version = excluded.version,
				started = excluded.started, seen = excluded.seen`,
			s.server, s.instance, o.Name, o.Version, t.now, t.now); err != nil {
			return fmt.Errorf("register the server: %w", err)
		}
		if _, err := t.Exec(`UPDATE pollers SET lease = '', until = 0 WHERE server = ? AND lease <> ''`, s.server); err != nil {
			return err
		}
		return t.forgetSessions(`server = ? OR server NOT IN (SELECT id FROM servers WHERE seen >= ?)`,
			s.server, t.now-DeadAfter.Milliseconds())
	})
}

// forgetSessions marks the connected chassis that where selects as not connected.
// Watchers are to hear of each, so each has a revision of its own, and a notice.
func (t *tx) forgetSessions(where string, args ...any) error {
	where = `connected <> 0 AND (` + where + `)`
	notices, err := t.Exec(`INSERT INTO notices (number, kind, chassis, subject, data, time)
		SELECT CAST(? AS BIGINT) + ROW_NUMBER() OVER (ORDER BY id), CAST(? AS TEXT), id, id, '{}', CAST(? AS BIGINT) FROM chassis WHERE `+where,
		append([]any{t.rev, NoticeDisconnected, t.now}, args...)...)
	if err != nil {
		return fmt.Errorf("forget sessions: %w", err)
	}
	n, err := notices.RowsAffected()
	if err != nil {
		return err
	}
	t.rev += n
	res, err := t.Exec(`UPDATE chassis SET connected = 0, session = '', rev = CAST(? AS BIGINT) + n.number
		FROM (SELECT id, ROW_NUMBER() OVER (ORDER BY id) AS number FROM chassis WHERE `+where+`) AS n
		WHERE chassis.id = n.id`, append([]any{t.rev}, args...)...)
	if err != nil {
		return fmt.Errorf("forget sessions: %w", err)
	}
	if n, err = res.RowsAffected(); err != nil {
		return err
	}
	t.rev += n
	return nil
}

// SetBoot tells the other servers the base URL of this server's boot listener.
func (s *Store) SetBoot(ctx context.Context, base string) error {
	return s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`UPDATE servers SET boot = ? WHERE id = ?`, base, s.server)
		return err
	})
}

// Servers returns all servers of the database, the longest running first.
func (s *Store) Servers(ctx context.Context) ([]Server, error) {
	rows, err := s.r.QueryContext(ctx, `SELECT id, name, version, boot, started, seen, COALESCE(held, 0)
		FROM servers LEFT JOIN (SELECT server, COUNT(*) AS held FROM chassis WHERE connected <> 0 GROUP BY server) AS sessions
			ON sessions.server = servers.id
		ORDER BY started, id LIMIT ?`, MaxPage)
	if err != nil {
		return nil, fmt.Errorf("list servers: %w", err)
	}
	defer rows.Close()
	list := []Server{}
	for rows.Next() {
		var v Server
		var started, seen int64
		if err := rows.Scan(&v.ID, &v.Name, &v.Version, &v.Boot, &started, &seen, &v.Sessions); err != nil {
			return nil, fmt.Errorf("list servers: %w", err)
		}
		v.Started, v.Seen = time.UnixMilli(started).UTC(), time.UnixMilli(seen).UTC()
		v.Alive = v.ID == s.server || s.Now().Sub(v.Seen) < DeadAfter
		list = append(list, v)
	}
	return list, rows.Err()
}

// Alive reports whether a server has been heard of lately.
func (s *Store) Alive(ctx context.Context, server string) (bool, error) {
	if server == s.server {
		return true, nil
	}
	var seen int64
	err := s.r.QueryRowContext(ctx, `SELECT seen FROM servers WHERE id = ?`, server).Scan(&seen)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil && s.Now().Sub(time.UnixMilli(seen)) < DeadAfter, err
}

// alive is Alive in a transaction.
func (t *tx) alive(server string) (bool, error) {
	var n int
	err := t.QueryRow(`SELECT COUNT(*) FROM servers WHERE id = ? AND seen >= ?`, server, t.now-DeadAfter.Milliseconds()).Scan(&n)
	return n > 0, err
}

// KeepAlive says, until ctx ends, that the server lives, and takes note of others
// that do not: their chassis are no longer connected. When ctx ends it signs off,
// so that others need not wait.
//
// lost is called when others have taken this server for dead, because it had no
// database for a while: its sessions are no longer on record and are to be ended,
// so that the chassis connect again. An error means that another process uses
// the same id; this one is to stop.
func (s *Store) KeepAlive(ctx context.Context, lost func()) error {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	steady, last := time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return s.signOff()
		case <-tick.C:
		}
		err := s.beat(ctx, lost)
		switch {
		case errors.Is(err, errDuplicate):
			return err
		case err != nil:
			if ctx.Err() == nil {
				s.log.Error("cannot tell the other servers that this one lives", "error", err)
			}
			continue
		}
		// After an outage of the database all servers look dead to the first that
		// is back. Whoever was away itself waits until the others had their chance.
		if time.Since(last) > 2*heartbeat {
			steady = time.Now()
		}
		last = time.Now()
		if s.postgres != nil && time.Since(steady) > DeadAfter {
			if err := s.bury(ctx); err != nil && ctx.Err() == nil {
				s.log.Error("cannot look for servers that are gone", "error", err)
			}
		}
	}
}

var errDuplicate = errors.New("another process uses this server's id: remove server.id from the data folder that was copied from another server's")

func (s *Store) beat(ctx context.Context, lost func()) error {
	var instance string
	if err := s.update(ctx, func(t *tx) error {
		err := t.QueryRow(`SELECT instance FROM servers WHERE id = ?`, s.server).Scan(&instance)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if instance != s.instance && instance != "" {
			return fmt.Errorf("server %s: %w", s.server, errDuplicate)
		}
		_, err = t.Exec(`INSERT INTO servers (id, instance, started, seen) VALUES (?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET instance = excluded.instance, seen = excluded.seen`, s.server, s.instance, t.now, t.now)
		return err
	}); err != nil {
		return err
	}
	if instance == "" {
		s.log.Warn("other servers took this one for dead; its chassis are to connect again")
		lost()
	}
	return nil
}

// bury forgets the sessions of servers that are dead. One that comes back sees it
// by its instance.
func (s *Store) bury(ctx context.Context) error {
	deadline := s.Now().Add(-DeadAfter).UnixMilli()
	var n int
	if err := s.r.QueryRowContext(ctx, `SELECT COUNT(*) FROM servers WHERE seen < ? AND instance <> ''`, deadline).Scan(&n); err != nil || n == 0 {
		return err
	}
	var names []string
	err := s.update(ctx, func(t *tx) error {
		names = nil
		deadline := t.now - DeadAfter.Milliseconds()
		rows, err := t.Query(`SELECT name, id FROM servers WHERE seen < ? AND instance <> ''`, deadline)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name, id string
			if err := rows.Scan(&name, &id); err != nil {
				return err
			}
			names = append(names, name+" "+id)
		}
		if err := rows.Err(); err != nil || len(names) == 0 {
			return err
		}
		if _, err := t.Exec(`UPDATE servers SET instance = '' WHERE seen < ?`, deadline); err != nil {
			return err
		}
		return t.forgetSessions(`server NOT IN (SELECT id FROM servers WHERE instance <> '')`)
	})
	if err == nil && len(names) > 0 {
		s.log.Warn("servers are gone; their chassis connect to others", "servers", names)
	}
	return err
}

// signOff lets the others know at once that the server is gone.
func (s *Store) signOff() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.update(ctx, func(t *tx) error {
		_, err := t.Exec(`UPDATE servers SET seen = ? WHERE id = ? AND instance = ?`, t.now-2*DeadAfter.Milliseconds(), s.server, s.instance)
		if err != nil {
			return err
		}
		_, err = t.Exec(`DELETE FROM leaderships WHERE server = ?`, s.server)
		return err
	})
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

// Estate returns what SetEstate has recorded under a key, or "".
func (s *Store) Estate(ctx context.Context, key string) (string, error) {
	var value string
	err := s.r.QueryRowContext(ctx, `SELECT value FROM estate WHERE key = ?`, key).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return value, err
}

// SetEstate records a fact that all servers of the database must agree on, and
// returns what is on record: of two that set it, the first wins.
func (s *Store) SetEstate(ctx context.Context, key, value string) (string, error) {
	var kept string
	err := s.update(ctx, func(t *tx) error {
		if _, err := t.Exec(`INSERT INTO estate (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING`, key, value); err != nil {
			return err
		}
		return t.QueryRow(`SELECT value FROM estate WHERE key = ?`, key).Scan(&kept)
	})
	return kept, err
}
