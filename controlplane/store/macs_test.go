package store

import (
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

func TestChassisByItsMACs(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	const macC = "52:54:00:00:00:0c"
	enter := func(id string, macs ...string) Chassis {
		t.Helper()
		c, err := s.Connect(ctx, Session{ID: id, Handshake: hello(uuidA, "SN1", macs...)})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	finds := func(mac, want string) {
		t.Helper()
		c, err := s.FindBooting(ctx, "", mac)
		if c.ID != want || (want == "") != errors.Is(err, ErrNotFound) {
			t.Errorf("%s boots chassis %q, %v, want %q", mac, c.ID, err, want)
		}
		var id string
		if err := s.update(ctx, func(t *tx) (err error) { id, err = t.chassisByMAC(mac); return err }); err != nil || id != want {
			t.Errorf("%s leases to chassis %q, %v, want %q", mac, id, err, want)
		}
	}
	id := enter("1", macA, macB).ID
	finds(macA, id)
	finds(macB, id)
	finds(macC, "")
	enter("2", macC, macA) // a NIC was replaced
	finds(macA, id)
	finds(macB, "")
	finds(macC, id)
	if err := s.Forget(ctx, id, "ann", true); err != nil {
		t.Fatal(err)
	}
	finds(macA, "")
}

// What strangers make us look up goes by an index.
func TestLookupsByMACAreNotScans(t *testing.T) {
	sqliteOnly(t, "reads the plan that SQLite explains")
	s := newStore(t)
	for _, query := range []string{
		`SELECT id FROM chassis WHERE ` + byMACs(2),
		`SELECT id FROM chassis c WHERE c.uuid IN (?, ?) OR c.` + byMACs(1),
		`SELECT id FROM chassis WHERE address = ? ORDER BY last_seen DESC LIMIT 1`,
		`SELECT COUNT(*) FROM chassis WHERE approved IS NULL`,
		`DELETE FROM boot_tokens WHERE mac = ? AND used IS NULL AND created <= ?`,
	} {
		args := make([]any, strings.Count(query, "?"))
		for i := range args {
			args[i] = "x"
		}
		rows, err := s.r.QueryContext(t.Context(), `EXPLAIN QUERY PLAN `+query, args...)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(detail, "SCAN") && !strings.Contains(detail, "INDEX chassis_waiting") {
				t.Errorf("%s\n\t%s", query, detail)
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUpgradeOfMACs(t *testing.T) {
	sqliteOnly(t, "begins with a file of the first version")
	path := filepath.Join(t.TempDir(), "teeth.db")
	script, err := migrations.ReadFile("schema/01-first.sql")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`CREATE TABLE schema_version (version INTEGER NOT NULL)`, `INSERT INTO schema_version (version) VALUES (1)`, string(script),
		`INSERT INTO chassis (id, identity, mac, macs, last_seen, created, rev) VALUES
			('c1', '1', '` + macA + `', '["` + macA + `","` + macB + `"]', 1, 1, 1), ('c2', '2', '', '[]', 1, 1, 2), ('c3', '3', 'old', '[]', 1, 1, 3)`,
	} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for mac, want := range map[string]string{macA: "c1", macB: "c1", "old": "c3"} {
		if c, err := s.FindBooting(t.Context(), "", mac); err != nil || c.ID != want {
			t.Errorf("%s is %q, %v, want %s", mac, c.ID, err, want)
		}
	}
	var n int
	if err := s.r.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM chassis_macs`).Scan(&n); err != nil || n != 3 {
		t.Errorf("%d addresses, %v, want 3", n, err)
	}
}
