package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// BenchmarkTaskStatus is 200 agents that report as fast as they get their
// reports acknowledged, each of which is on disk by then.
func BenchmarkTaskStatus(b *testing.B) {
	s, err := store.Open(b.Context(), filepath.Join(b.TempDir(), "teeth.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- New(Config{MaxHandshakes: 1 << 14, Store: s, Handler: nothing{}, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l, nil)
	}()
	defer func() { cancel(); <-done }()
	var left atomic.Int64
	left.Store(int64(b.N))
	var ready, ended sync.WaitGroup
	begin := make(chan struct{})
	for i := range 200 {
		ready.Add(1)
		ended.Go(func() {
			err := report(s, l.Addr().String(), fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256), &left, ready.Done, begin)
			if err != nil {
				b.Error(err)
			}
		})
	}
	ready.Wait()
	b.ResetTimer()
	close(begin)
	ended.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
}

// report is one agent.
func report(s *store.Store, address, mac string, left *atomic.Int64, ready func(), begin <-chan struct{}) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		ready()
		return err
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	next := func() (string, error) {
		for {
			line, err := r.ReadString('\n')
			if err != nil || !strings.Contains(line, `"method"`) {
				return line, err
			}
		}
	}
	io.WriteString(conn, strings.Replace(hello, "52:54:00:00:00:01", mac, 1))
	_, err = next()
	var c store.Chassis
	var run store.Graph
	if err == nil {
		c, err = s.FindChassis(context.Background(), mac)
	}
	if err == nil {
		run, err = s.CreateGraph(context.Background(), store.NewGraph{Name: "Graph.Bench", Chassis: c.ID, Tasks: []store.NewTask{{
			Label: "erase", Kind: store.KindAgent, Command: store.Command{Method: teeth.MethodDiskErase}}}})
	}
	ready()
	if err != nil {
		return err
	}
	<-begin
	for seq := 1; left.Add(-1) >= 0; seq++ {
		fmt.Fprintf(conn, `{"id": "%d", "version": "v1", "method": "task_status", "params": {"task_id": "%s", "state": "running", "percent": 50.0, "eta": 60.0, "seq": %d}}`+"\n",
			seq, run.Tasks[0].ID, seq)
		if line, err := next(); err != nil || !strings.Contains(line, `"result": {}`) {
			return fmt.Errorf("%s: %q, %w", mac, line, err)
		}
	}
	return nil
}
