package store

import (
	"database/sql"
	"sync"
)

// maxStatements bounds how many statements are kept prepared.
const maxStatements = 256

// statements keeps the statements of a SQLite database prepared that are used again
// and again: to parse one costs more than to run it. PostgreSQL's driver does that
// itself. A nil *statements keeps none.
type statements struct {
	db *sql.DB

	mu   sync.Mutex
	kept map[string]*sql.Stmt
	seen map[string]bool // once
	want []string        // more often
}

// get returns the prepared statement, or nil if there is none yet.
func (s *statements) get(query string) *sql.Stmt {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.kept[query]; st != nil || len(s.kept)+len(s.want) >= maxStatements {
		return st
	}
	if s.seen[query] {
		s.want = append(s.want, query)
		delete(s.seen, query)
		return nil
	}
	if s.seen == nil || len(s.seen) >= 4*maxStatements {
		s.seen = map[string]bool{}
	}
	s.seen[query] = true
	return nil
}

// prepare prepares what has been asked for. No transaction of a database with a
// single connection may be open.
func (s *statements) prepare() {
	if s == nil {
		return
	}
	s.mu.Lock()
	want := s.want
	s.want = nil
	s.mu.Unlock()
	for _, query := range want {
		st, err := s.db.Prepare(query)
		if err != nil {
			continue // whoever runs it is told why
		}
		s.mu.Lock()
		if s.kept == nil {
			s.kept = map[string]*sql.Stmt{}
		}
		if s.kept[query] == nil {
			s.kept[query], st = st, nil
		}
		s.mu.Unlock()
		if st != nil {
			st.Close()
		}
	}
}
