package minion

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// frames180 returns n log frames of 180 bytes, all different, as the original's
// measurement had.
func frames180(b *testing.B, p *peer, n int) ([]byte, wire.ID) {
	b.Helper()
	var out []byte
	var last wire.ID
	for i := range n {
		last = p.ids.Next()
		f := wire.LogLine(last, p.group, p.server, "pg", "")
		f.Data[3].Text = fmt.Sprintf("%08d ", i) + strings.Repeat("x", 180-2-f.Size()-10)
		var err error
		if out, err = f.Append(out); err != nil {
			b.Fatal(err)
		}
	}
	if len(out)/n != 180 {
		b.Fatalf("frames of %d bytes", len(out)/n)
	}
	return out, last
}

// BenchmarkToFile measures frames a second from agents, over loopback, into a file;
// the load generator runs on the same processors. A run ends when all lines are in the
// file; "kept" is of agents that acknowledge, and ends when the last is durable.
func BenchmarkToFile(b *testing.B) {
	for _, conns := range []int{1, 100} {
		for _, exact := range []bool{false, true} {
			name := fmt.Sprintf("%d/written", conns)
			if exact {
				name = fmt.Sprintf("%d/kept", conns)
			}
			b.Run(name, func(b *testing.B) { toFileBench(b, conns, exact) })
		}
	}
}

func toFileBench(b *testing.B, conns int, exact bool) {
	path := filepath.Join(b.TempDir(), "minion.log")
	r := start(b, Config{Groups: []GroupConfig{toFile(path, false)}})
	const total = 1_000_000
	peers := make([]*peer, conns)
	data := make([][]byte, conns)
	for i := range peers {
		peers[i] = login(b, r, "g1", fmt.Sprintf("11111111-2222-3333-4444-%012d", i), "k1")
		if exact {
			peers[i] = acknowledged(b, r, "g1", peers[i].server, "k1")
		}
		peers[i].nc.SetDeadline(time.Time{})
		data[i], _ = frames180(b, peers[i], 1000)
	}
	size := int64(0)
	b.ResetTimer()
	for b.Loop() {
		var sending sync.WaitGroup
		for i, p := range peers {
			sending.Go(func() {
				for range total / 1000 / conns {
					if _, err := p.nc.Write(data[i]); err != nil {
						b.Error(err)
						return
					}
				}
				if exact { // all are kept when the last is
					f := p.line("pg", "last")
					p.send(f)
					p.through(f.ID)
				}
			})
		}
		sending.Wait()
		if exact {
			continue
		}
		want := size + total
		for {
			if n := linesOf(b, path, want); n >= want {
				break
			}
			time.Sleep(time.Millisecond)
		}
		size = want
	}
	b.ReportMetric(total*float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}

var lineSize int64

// linesOf returns how many lines of the benchmark a file has.
func linesOf(b *testing.B, path string, want int64) int64 {
	if lineSize == 0 {
		raw, err := os.ReadFile(path)
		if err != nil {
			return 0
		}
		lineSize = int64(strings.IndexByte(string(raw), '\n') + 1)
		if lineSize == 0 {
			return 0
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size() / lineSize
}

// BenchmarkIdle measures the memory of the server's end of an agent that has nothing to
// say, with our dialect, on plain TCP.
func BenchmarkIdle(b *testing.B) {
	r := start(b, Config{Records: &keep{}, MaxPerAddress: 20000, MaxGreeting: 1 << 20})
	var before, after runtime.MemStats
	const agents = 1000
	peers := make([]*peer, 0, agents)
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range agents {
		id := fmt.Sprintf("agent-%d", i)
		p := acknowledged(b, r, ChassisGroup, id, ChassisKey(secret, id))
		f := p.line("agent", "hello")
		p.send(f)
		p.through(f.ID)
		peers = append(peers, p)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	// The agents' ends, in the same process, have a reader's buffer and little else.
	used := float64(after.HeapInuse+after.StackInuse) - float64(before.HeapInuse+before.StackInuse)
	b.ReportMetric(used/agents/1024, "KiB/agent")
	b.ReportMetric(0, "ns/op")
	runtime.KeepAlive(peers)
}
