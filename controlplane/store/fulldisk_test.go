package store

import (
	"strconv"
	"strings"
	"testing"
)

// SQLite undoes a whole transaction when the disk is full. The writes that share
// it must all fail, none of them be stored after all.
func TestFullDisk(t *testing.T) {
	sqliteOnly(t, "PostgreSQL keeps the transaction and undoes one write")
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	image := func(id string) func(*tx) error {
		return func(t *tx) error {
			_, err := t.Exec(`INSERT INTO images (id, name, format, size, sha256, created) VALUES (?, ?, 'raw', 1, '', 0)`, id, id)
			return err
		}
	}
	// Pages as they are, so that a large write does not fit and a small one does.
	var pages int
	if err := s.w.QueryRow(`PRAGMA page_count`).Scan(&pages); err != nil {
		t.Fatal(err)
	}
	if _, err := s.w.Exec(`PRAGMA max_page_count = ` + strconv.Itoa(pages)); err != nil {
		t.Fatal(err)
	}
	// The writer waits in the first while the others queue up.
	gate, inside := make(chan struct{}), make(chan struct{})
	ops := []op{
		{do: func(t *tx) error { close(inside); <-gate; return image("first")(t) }},
		{do: func(t *tx) error {
			_, err := t.Exec(`UPDATE chassis SET name = ?, rev = ? WHERE id = ?`, strings.Repeat("x", 1<<20), t.nextRev(), c.ID)
			return err
		}},
		{do: image("last")},
	}
	for i := range ops {
		ops[i].done = make(chan error, 1)
		s.ops <- ops[i]
	}
	<-inside
	close(gate)
	for i, o := range ops {
		err := <-o.done
		_, stored := s.Image(t.Context(), []string{"first", "", "last"}[i])
		if i == 1 {
			if err == nil {
				t.Error("the large write fitted: the test shows nothing")
			}
			continue
		}
		if (err == nil) != (stored == nil) {
			t.Errorf("write %d: answered %v, but reading it says %v", i, err, stored)
		}
	}
	if _, err := s.w.Exec(`PRAGMA max_page_count = 100000`); err != nil {
		t.Fatal(err)
	}
	if err := s.AddEvent(t.Context(), Event{Chassis: c.ID, Message: "there is space again"}); err != nil {
		t.Error(err)
	}
}
