package records

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/minion"
	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
)

// processorTime is what a process has used; 0 has used none.
func processorTime(b *testing.B, pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	var ticks time.Duration
	for _, f := range strings.Fields(rest)[11:13] { // user and system time, proc(5)
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += time.Duration(n)
	}
	return ticks * time.Second / 100 // USER_HZ
}

// BenchmarkRows writes lines of 100 servers, of which each is a frame of 180 bytes, in
// batches as the StreamServer's, with the database's own durability, and has them
// summarised. A batch is durable when Write returns.
func BenchmarkRows(b *testing.B) {
	for name, open := range map[string]func(b *testing.B) *DB{
		"SQLite":     func(b *testing.B) *DB { return open(b, filepath.Join(b.TempDir(), "records.db"), Options{}) },
		"PostgreSQL": func(b *testing.B) *DB { return open(b, postgrestest.Start(b).Database(b), Options{}) },
	} {
		b.Run(name, func(b *testing.B) {
			d := open(b)
			servers := make([]string, 100)
			for i := range servers {
				servers[i] = uuid.NewString()
			}
			const batch = 10_000
			entries := make([]minion.Entry, batch)
			write(b, d, line(servers[0], "kernel", "the first"))
			backend := 0
			if c, ok := d.in.(*copier); ok {
				backend = int(c.conn.PgConn().PID())
			}
			own, its := processorTime(b, os.Getpid()), processorTime(b, backend)
			b.ResetTimer()
			n, rare := 0, ""
			for range b.N {
				for i := range entries {
					entries[i] = line(servers[i%len(servers)], "kernel", fmt.Sprintf("[%012.6f] nvme0n1: I/O %08x QID 4 timeout, completion polled, xx", float64(n)/1000, uint32(n)*2654435761))
					n++
				}
				rare = strings.Fields(entries[0].Message)[3]
				write(b, d, entries...)
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
			// What a machine that has other work to do cannot disturb.
			b.ReportMetric(float64((processorTime(b, os.Getpid())-own).Nanoseconds())/float64(n), "ns-here/row")
			b.ReportMetric(float64((processorTime(b, backend)-its).Nanoseconds())/float64(n), "ns-backend/row")
			begun := time.Now()
			if err := d.segmentAll(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.Logf("%d rows, then summarised in %v", n, time.Since(begun))
			for _, s := range []Search{{Text: rare}, {Text: "timeout"}, {Text: "nothing"}, {Regexp: regexp.MustCompile("completion po[k]")}, {Servers: servers[:1], Newest: true, Limit: 100}} {
				begun = time.Now()
				p, err := d.Find(b.Context(), s)
				if err != nil {
					b.Fatal(err)
				}
				b.Logf("search %+v: %d lines in %v", s, len(p.Lines), time.Since(begun))
			}
		})
	}
}
