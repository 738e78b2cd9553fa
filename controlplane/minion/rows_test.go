package minion_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/teeth-metal/teeth/controlplane/minion"
	"github.com/teeth-metal/teeth/controlplane/minion/records"
	"github.com/teeth-metal/teeth/controlplane/store/postgrestest"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// BenchmarkToRecords measures rows a second from agents that acknowledge, over
// loopback, into the records database: frames of 180 bytes, each with an id of its own,
// and a run ends when the last is committed. Load generator and PostgreSQL run on the
// same processors.
func BenchmarkToRecords(b *testing.B) {
	for name, open := range map[string]func(b *testing.B) string{
		"SQLite":     func(b *testing.B) string { return filepath.Join(b.TempDir(), "records.db") },
		"PostgreSQL": func(b *testing.B) string { return postgrestest.Start(b).Database(b) },
	} {
		for _, agents := range []int{1, 100} {
			b.Run(fmt.Sprintf("%s/%d", name, agents), func(b *testing.B) { toRecords(b, open(b), agents) })
		}
	}
}

func toRecords(b *testing.B, dsn string, agents int) {
	db, err := records.Open(context.Background(), dsn, records.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	const secret = "a secret"
	s, err := minion.New(minion.Config{Records: db, Secret: secret, Rate: 1e6, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Run(ctx) })
	running.Go(func() { s.Serve(ctx, l, nil) })
	b.Cleanup(func() {
		cancel()
		running.Wait()
		db.Close()
	})
	list := make([]*sender, agents)
	for i := range list {
		list[i] = dialSender(b, l.Addr().String(), fmt.Sprintf("11111111-2222-3333-4444-%012d", i), secret)
	}
	const total = 200_000
	b.ResetTimer()
	for b.Loop() {
		var sending sync.WaitGroup
		for _, a := range list {
			sending.Go(func() {
				if err := a.lines(total / agents); err != nil {
					b.Error(err)
				}
			})
		}
		sending.Wait()
	}
	b.ReportMetric(total*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// sender is an agent that acknowledges.
type sender struct {
	nc  net.Conn
	r   *wire.Reader
	ids *wire.Generator
	id  string
}

func dialSender(b *testing.B, address, id, secret string) *sender {
	b.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { nc.Close() })
	a := &sender{nc: nc, r: wire.NewReader(nc), ids: wire.NewGenerator(wire.RandomNode()), id: id}
	for _, f := range []wire.Frame{
		wire.Request(a.ids.Next(), minion.ChassisGroup, id, wire.Authenticate, minion.ChassisKey(secret, id)),
		wire.Request(a.ids.Next(), minion.ChassisGroup, id, wire.Acknowledge),
	} {
		raw, err := f.Append(nil)
		if err == nil {
			_, err = nc.Write(raw)
		}
		if err == nil {
			_, err = a.r.Next()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	return a
}

// lines sends n lines, and returns when the last is kept.
func (a *sender) lines(n int) error {
	last := make(chan wire.ID, 1)
	sent := make(chan error, 1)
	go func() {
		var buf []byte
		var err error
		for i := range n {
			f := wire.LogLine(a.ids.Next(), minion.ChassisGroup, a.id, "pg", "")
			f.Data[3].Text = fmt.Sprintf("%08d ", i) + strings.Repeat("x", 180-2-f.Size()-10)
			if i == n-1 {
				last <- f.ID
			}
			if buf, err = f.Append(buf); err == nil && (len(buf) > 32<<10 || i == n-1) {
				_, err = a.nc.Write(buf)
				buf = buf[:0]
			}
			if err != nil {
				break
			}
		}
		sent <- err
	}()
	var want string
	for {
		payload, err := a.r.Next()
		if err != nil {
			return err
		}
		f, err := wire.Parse(payload)
		if err != nil {
			return err
		}
		select {
		case id := <-last:
			want = id.String()
		default:
		}
		if f.Data[0].Text == want {
			return <-sent
		}
	}
}
