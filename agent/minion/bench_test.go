package minion_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/agent/minion"
	"github.com/teeth-metal/teeth/agent/minion/spool"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// replayed is what an agent says after a replay.
type replayed struct {
	Fill, Replay float64 // seconds
	Disk         int64   // bytes of the spool when it was full
	Dropped      uint64
	// Peak is the most memory that was the process' own, in bytes: what it has mapped of
	// its program, which a test binary has far more of than an agent, is the page cache's.
	Peak int64
}

// replay is an agent that spools records while no server is reachable, then delivers
// them: a process of its own, for its memory to be seen.
func replay(how string) {
	words := strings.Fields(how)
	n, err := strconv.Atoi(words[2])
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fail(err)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	queue, err := spool.Open(spool.Options{Dir: words[1], Log: log})
	fail(err)
	c, err := minion.New(minion.Options{Spool: queue, Log: log, Rate: 1 << 24})
	fail(err)
	sampling := make(chan struct{})
	peak := make(chan int64)
	go func() {
		most := int64(0)
		for {
			most = max(most, anonymous())
			select {
			case <-sampling:
				peak <- most
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	began := time.Now()
	for i := range n {
		fail(c.LogWait(context.Background(), "s", benchLine(i)))
	}
	out := replayed{Fill: time.Since(began).Seconds(), Disk: queue.Stats().Disk}
	began = time.Now()
	fail(c.SetTarget(minion.Target{Addresses: []string{words[0]}, Group: "g1", Server: "s1", Key: "k"}))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); c.Run(ctx) }()
	fail(c.Flush(context.Background()))
	cancel()
	<-ended
	out.Replay, out.Dropped = time.Since(began).Seconds(), queue.Stats().Dropped
	fail(queue.Close())
	close(sampling)
	out.Peak = <-peak
	fail(json.NewEncoder(os.Stdout).Encode(out))
}

// benchLine makes frames of about 180 bytes.
func benchLine(i int) string { return fmt.Sprintf("line %09d %s", i, strings.Repeat("x", 92)) }

// anonymous returns the bytes of memory that are this process' own.
func anonymous() int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}

// BenchmarkReplay spools 1,000,000 records of 180 bytes and delivers them to a server
// that acknowledges, and checks that none is lost, doubled or out of order.
func BenchmarkReplay(b *testing.B) {
	const n, most = 1_000_000, 32 << 20
	for range b.N {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		got := make(chan int, 1)
		go func() {
			nc, err := l.Accept()
			if err != nil {
				b.Error(err)
				got <- 0
				return
			}
			defer nc.Close()
			got <- count(b, nc)
		}()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", envReplay, l.Addr(), b.TempDir(), n))
		cmd.Stderr = os.Stderr
		stdout, err := cmd.Output()
		if err != nil {
			b.Fatal(err)
		}
		var r replayed
		if err := json.Unmarshal(stdout, &r); err != nil {
			b.Fatalf("%q: %v", stdout, err)
		}
		if c := <-got; c != n || r.Dropped != 0 {
			b.Fatalf("%d records came of %d, %d were dropped", c, n, r.Dropped)
		}
		if r.Peak == 0 || r.Peak > most {
			b.Errorf("the agent has used %d bytes of memory, at most %d are allowed", r.Peak, most)
		}
		b.ReportMetric(n/r.Fill, "spooled/s")
		b.ReportMetric(n/r.Replay, "replayed/s")
		b.ReportMetric(float64(r.Peak)/(1<<20), "MiB-peak")
		b.ReportMetric(float64(r.Disk)/(1<<20), "MiB-disk")
		b.ReportMetric(0, "ns/op")
		l.Close()
	}
}

// count takes records until the agent ends the connection, and returns how many came
// in the right order.
func count(b *testing.B, nc net.Conn) (n int) {
	r := wire.NewReader(nc)
	w := bufio.NewWriter(nc)
	ids := wire.NewGenerator(wire.RandomNode())
	answer := func(of wire.ID, what string) {
		f, err := wire.Reply(ids.Next(), of, what).Append(nil)
		if err != nil {
			b.Error(err)
		}
		w.Write(f)
		w.Flush() // what cannot be said shows at the other end
	}
	var v wire.View
	var last wire.ID
	for unsaid := 0; ; {
		if unsaid > 0 && (unsaid >= 1000 || !r.Ready()) {
			answer(last, wire.RecordedThrough)
			unsaid = 0
		}
		payload, err := r.Next()
		if err != nil {
			return n
		}
		if err := wire.Scan(payload, &v); err != nil {
			b.Error(err)
			return n
		}
		if v.Verb == wire.Command {
			answer(v.ID, map[string]string{
				wire.Authenticate: wire.Accepted, wire.Heartbeat: wire.Recorded, wire.Acknowledge: wire.Acknowledging,
			}[string(v.Data[2].Text)])
			continue
		}
		if want := benchLine(n); string(v.Data[3].Text) != want {
			b.Errorf("record %d is %q", n, v.Data[3].Text)
			return n
		}
		last = v.ID
		n++
		unsaid++
	}
}
