package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// onBoth runs a benchmark on SQLite and on PostgreSQL with its usual durability.
func onBoth(b *testing.B, run func(*testing.B, *Store)) {
	b.Run("SQLite", func(b *testing.B) { run(b, newStore(b)) })
	b.Run("PostgreSQL", func(b *testing.B) { run(b, open(b, postgrestest.Start(b).Database(b))) })
}

// Updates of many agents at once, each acknowledged only when it is on disk.
func BenchmarkTaskStatus(b *testing.B) {
	const agents = 200
	onBoth(b, func(b *testing.B, s *Store) {
		var chassis, tasks [agents]string
		for i := range agents {
			chassis[i] = connect(b, s, fmt.Sprintf("52:54:00:00:00:%02x", i)).ID
			tasks[i] = newGraph(b, s, chassis[i], teeth.MethodDiskErase).Tasks[0].ID
		}
		next := make(chan int, agents)
		for i := range agents {
			next <- i
		}
		before := s.batch
		b.SetParallelism(agents / 2)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			i := <-next
			defer func() { next <- i }()
			for pb.Next() {
				if _, err := s.ApplyStatus(context.Background(), chassis[i], "boot1", teeth.TaskStatus{TaskID: tasks[i], State: teeth.Running, Percent: ptr(5)}); err != nil {
					b.Error(err)
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
		if n := s.batch - before; n > 0 {
			b.ReportMetric(float64(b.N)/float64(n), "updates/commit")
		}
	})
}

// What a watcher asks for after each change, of 10,000 chassis with tasks.
func BenchmarkChanges(b *testing.B) {
	const chassis = 10_000
	onBoth(b, func(b *testing.B, s *Store) {
		if err := s.update(b.Context(), func(t *tx) error {
			for i := range chassis {
				id := fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
				if _, err := t.Exec(`INSERT INTO chassis (id, identity, last_seen, created, rev) VALUES (?, ?, 0, 0, ?)`, id, id, t.nextRev()); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		one := connect(b, s, "52:54:00:00:00:01")
		b.ResetTimer()
		for range b.N {
			b.StopTimer()
			since, _ := s.Revision()
			if err := s.AddEvent(b.Context(), Event{Chassis: one.ID, Time: time.Now(), Message: "x"}); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if list, _, err := s.Changes(b.Context(), since, Filter{}, 0); err != nil || len(list) != 1 {
				b.Fatalf("%d changes, %v", len(list), err)
			}
		}
	})
}
