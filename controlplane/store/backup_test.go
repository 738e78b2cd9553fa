package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
)

// A backup taken while writes go on is a database as it was at one moment.
func TestBackup(t *testing.T) {
	sqliteOnly(t, "see testBackupOfPostgreSQL")
	s := newStore(t)
	c := connect(t, s, "52:54:00:00:00:01")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.AddEvent(t.Context(), Event{Chassis: c.ID, Time: time.Now(), Message: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		}
	})
	soon(t, "events", func() bool { list, _ := s.Events(t.Context(), c.ID, 0); return len(list) > 10 })
	path := filepath.Join(t.TempDir(), "it's a ?#%& backup.db")
	if err := s.Backup(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	close(stop)
	wg.Wait()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	copied := open(t, path)
	events, err := copied.Events(t.Context(), c.ID, 0)
	if err != nil || len(events) < 10 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	for i, e := range events {
		if len(events) < maxEvents && e.Message != fmt.Sprint(i) {
			t.Fatalf("event %d is %s", i, e.Message)
		}
	}
	if err := s.Backup(t.Context(), path); !errors.Is(err, os.ErrExist) {
		t.Errorf("overwrote a backup: %v", err)
	}
	if err := s.Backup(t.Context(), filepath.Join(t.TempDir(), "no", "such.db")); err == nil || !strings.Contains(err.Error(), "such.db") {
		t.Error(err)
	}
}

func testBackupOfPostgreSQL(t *testing.T, server *postgrestest.Server) {
	s := open(t, server.Database(t))
	if err := s.Backup(t.Context(), filepath.Join(t.TempDir(), "x")); !errors.Is(err, ErrNoBackup) || !strings.Contains(err.Error(), "pg_dump") {
		t.Error(err)
	}
}
