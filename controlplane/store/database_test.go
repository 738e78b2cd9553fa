package store

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
)

// databaseEnv makes the tests of this package use PostgreSQL.
const databaseEnv = "TEETH_TEST_STORE_POSTGRES"

// newDSN is where a test keeps its store.
func newDSN(t testing.TB) string {
	t.Helper()
	if !inPostgresRun() {
		return filepath.Join(t.TempDir(), "a ?#%&.db")
	}
	return postgresServer(t).Database(t)
}

// postgresServer is one server for all tests of this package.
func postgresServer(t testing.TB) *postgrestest.Server {
	t.Helper()
	if url := os.Getenv(databaseEnv); url != "" {
		t.Setenv(postgrestest.Environment, url)
	}
	return postgrestest.Start(t, "fsync = off")
}

// inPostgresRun reports whether this is the run of testPackage.
func inPostgresRun() bool { return os.Getenv(databaseEnv) != "" }

func sqliteOnly(t testing.TB, why string) {
	t.Helper()
	if inPostgresRun() {
		t.Skip("SQLite only: " + why)
	}
}

func open(t testing.TB, dsn string) *Store {
	t.Helper()
	s, err := OpenAs(t.Context(), dsn, Options{Server: "8e7a3c52-6d0f-4b8e-9d35-3f6f7d1d2c11"}) // the same one when it is opened again
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newStore(t testing.TB) *Store { return open(t, newDSN(t)) }

// testPackage runs the tests of this package with their stores in PostgreSQL.
func testPackage(t *testing.T, server *postgrestest.Server) {
	args := []string{"-test.run=^Test", "-test.timeout=5m"}
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), databaseEnv+"="+server.URL("postgres"))
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("with PostgreSQL: %v", err)
	}
}
