package database

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	_ "modernc.org/sqlite"
)

// Each script is run once and as a whole, and a schema of a newer program is refused.
func TestMigrate(t *testing.T) {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	script := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	scripts := fstest.MapFS{"s/01.sql": script(`CREATE TABLE a (x)`), "s/README": script(`not SQL`)}
	migrate := func() error { return Migrate(context.Background(), conn, scripts, "s/*.sql", "versions") }
	tables := func(want int) {
		t.Helper()
		var n int
		if err := conn.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM sqlite_master WHERE name IN ('a', 'b')`).Scan(&n); err != nil || n != want {
			t.Fatalf("%d tables, want %d: %v", n, want, err)
		}
	}
	for range 2 {
		if err := migrate(); err != nil {
			t.Fatal(err)
		}
	}
	tables(1)
	scripts["s/02.sql"] = script(`CREATE TABLE b (x); CREATE TABLE a (x)`)
	if err := migrate(); err == nil || !strings.Contains(err.Error(), "schema version 2") {
		t.Fatal(err)
	}
	tables(1)
	scripts["s/02.sql"] = script(`CREATE TABLE b (x)`)
	if err := migrate(); err != nil {
		t.Fatal(err)
	}
	tables(2)
	delete(scripts, "s/02.sql")
	if err := migrate(); err == nil || !strings.Contains(err.Error(), "use the newer program") {
		t.Fatal(err)
	}
}
