package minion

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/internal/need"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// TestDuplicateIDs: what an agent sends again on a new connection, since it did not
// hear that it was kept, is in the file once, and acknowledged.
func TestDuplicateIDs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "minion.log")
	r := start(t, Config{Groups: []GroupConfig{toFile(path, true)}})
	p := acknowledged(t, r, "g1", server1, "k1")
	var frames []wire.Frame
	for i := range 3000 {
		frames = append(frames, p.line("pg", fmt.Sprintf("line %d", i)))
	}
	for base := 0; base < len(frames); base += 1000 {
		// Some of it is acknowledged, some is on its way, and the connection is replaced
		// by the next without having ended.
		p.send(frames[base : base+400+base/10]...)
		next := acknowledged(t, r, "g1", server1, "k1")
		p.gone()
		next.send(frames[max(base-700, 0) : base+1000]...)
		next.through(frames[base+999].ID)
		p = next
	}
	if got := messagesOf(t, path); !slices.Equal(got, numbered(0, 3000)) {
		t.Errorf("%d lines", len(got))
	}
	if n := count(r.meter.again); n < 1400 {
		t.Errorf("%v were known", n)
	}
}

// TestReplacedWhileDestinationFails: what the older connection could not hand on yet is
// known to the newer one all the same, and acknowledged only when it is kept.
func TestReplacedWhileDestinationFails(t *testing.T) {
	sink := &keep{}
	sink.setFail(errors.New("the disk is away"))
	r := start(t, Config{Records: sink, ConnectionBytes: 4 << 10, QueueBytes: 8 << 10})
	key := ChassisKey(secret, chassis1)
	p := acknowledged(t, r, ChassisGroup, chassis1, key)
	var frames []wire.Frame
	for i := range 100 {
		frames = append(frames, p.line("agent", fmt.Sprintf("line %d", i)))
		p.send(frames[i]) // each a batch of its own, mostly
	}
	until(t, "something waits", func() bool { b, _, _ := r.records.look(); return b > 0 })
	q := acknowledged(t, r, ChassisGroup, chassis1, key)
	q.send(frames...)
	q.nc.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if b, err := q.r.Next(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%q, %v while nothing is kept", b, err)
	}
	q.r = wire.NewReader(q.nc)
	q.nc.SetReadDeadline(time.Now().Add(patience))
	if r.Err() == nil || !strings.Contains(r.Err().Error(), "the disk is away") {
		t.Errorf("%v", r.Err())
	}
	sink.setFail(nil)
	q.through(frames[99].ID)
	got := sink.messages()
	slices.Sort(got)
	want := numbered(0, 100)
	slices.Sort(want)
	if !slices.Equal(got, want) || sink.twice != 0 {
		t.Errorf("%d kept, %d given twice", len(got), sink.twice)
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// TestSlowDestination: when it does not keep up, agents wait. Nothing is lost, and what
// is in memory is bounded.
func TestSlowDestination(t *testing.T) {
	sink := &keep{gate: make(chan struct{})}
	r := start(t, Config{Records: sink, ConnectionBytes: 64 << 10, QueueBytes: 256 << 10})
	const agents, lines = 2, 2000
	padding := strings.Repeat(".", 8000) // more than the sockets hold
	sent := make(chan int, agents)
	for a := range agents {
		id := fmt.Sprintf("agent-%d", a)
		p := login(t, r, ChassisGroup, id, ChassisKey(secret, id))
		go func() {
			var b []byte
			n := 0
			for i := range lines {
				b, _ = p.line("agent", fmt.Sprintf("line %d", i)+padding).Append(b)
				if len(b) > 32<<10 {
					if _, err := p.nc.Write(b); err != nil {
						t.Error(err)
						break
					}
					b = b[:0]
				}
				n++
			}
			p.nc.Write(b)
			sent <- n
		}()
	}
	// How much that is depends on how large the first batches were: the second one of a
	// connection may already have no room beside it.
	had := 0
	until(t, "the destination has all it may hold", func() bool {
		before := had
		time.Sleep(50 * time.Millisecond)
		had, _, _ = r.records.look()
		return had > 0 && had == before
	})
	select {
	case n := <-sent:
		t.Fatalf("an agent could send %d lines while nothing was kept", n)
	default:
	}
	if b, _, _ := r.records.look(); b > 512<<10 {
		t.Errorf("%d bytes in memory", b)
	}
	close(sink.gate)
	for range agents {
		<-sent
	}
	until(t, "all lines", func() bool { return sink.n() == agents*lines })
	next := map[string]int{}
	for _, e := range sink.all() {
		if want := fmt.Sprintf("line %d", next[e.Server]) + padding; e.Message != want {
			t.Fatalf("%.20s of %s, want %.20s", e.Message, e.Server, want)
		}
		next[e.Server]++
	}
}

// TestDiskFull: a log file's disk is full. Agents wait; when there is room again no line
// is missing, doubled or torn.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("teeth-test", dir, "tmpfs", 0, "size=256k"); err != nil {
		need.Right(t, fmt.Errorf("mount a tmpfs: %w", err))
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "minion.log")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 100<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, Config{Groups: []GroupConfig{toFile(path, false)}})
	p := acknowledged(t, r, "g1", server1, "k1")
	var frames []wire.Frame
	for i := range 2000 { // some 180 KB of lines
		frames = append(frames, p.line("pg", fmt.Sprintf("line %d", i)))
	}
	p.send(frames...)
	until(t, "the disk is full", func() bool { return r.Err() != nil })
	if !errors.Is(r.Err(), unix.ENOSPC) || !strings.Contains(r.Err().Error(), path) {
		t.Errorf("%v", r.Err())
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	p.through(frames[1999].ID)
	if got := messagesOf(t, path); !slices.Equal(got, numbered(0, 2000)) {
		t.Errorf("%d lines", len(got))
	}
}

// serveEnvironment makes the test program a server, which a test kills.
const serveEnvironment = "TEETH_MINION_TEST_SERVE"

func TestMain(m *testing.M) {
	if arg := os.Getenv(serveEnvironment); arg != "" {
		address, path, _ := strings.Cut(arg, " ")
		if err := serveForTest(address, path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func serveForTest(address, path string) error {
	s, err := New(Config{Groups: []GroupConfig{toFile(path, true)}, Log: newTestLog()})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go s.Run(context.Background())
	return s.Serve(context.Background(), l, nil)
}

// TestKilledAndRestarted: a server process is killed (SIGKILL) again and again while an
// agent sends; every line is in the file once, in order.
func TestKilledAndRestarted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "minion.log")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	const total = 20_000
	ids := wire.NewGenerator(wire.RandomNode())
	var frames []wire.Frame
	at := map[string]int{}
	for i := range total {
		f := wire.LogLine(ids.Next(), "g1", server1, "pg", fmt.Sprintf("line %d", i))
		at[f.ID.String()] = i
		frames = append(frames, f)
	}
	kept := 0 // frames before are acknowledged
	for life := 0; kept < total; life++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), serveEnvironment+"="+address+" "+path)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var nc net.Conn
		until(t, "the server listens", func() bool {
			nc, err = net.Dial("tcp", address)
			return err == nil
		})
		p := newPeer(t, nc, "g1", server1)
		p.ids = ids
		p.ask(wire.Request(ids.Next(), "g1", server1, wire.Authenticate, "k1"))
		if a := p.ask(wire.Request(ids.Next(), "g1", server1, wire.Acknowledge)); a != wire.Acknowledging {
			t.Fatal(a)
		}
		go func(from int) {
			for len(frames[from:]) > 0 {
				n := min(500, len(frames[from:]))
				var b []byte
				for _, f := range frames[from : from+n] {
					b, _ = f.Append(b)
				}
				if _, err := nc.Write(b); err != nil {
					return
				}
				from += n
				time.Sleep(2 * time.Millisecond)
			}
		}(kept)
		die := time.AfterFunc(time.Duration(50+30*life)*time.Millisecond, func() { cmd.Process.Kill() })
		if life > 8 { // let it be done
			die.Stop()
		}
		for kept < total {
			payload, err := p.r.Next()
			if err != nil {
				break
			}
			f, err := wire.Parse(payload)
			if err != nil {
				t.Fatal(err)
			}
			if len(f.Data) == 2 && f.Data[1].Text == wire.RecordedThrough {
				kept = at[f.Data[0].Text] + 1
			}
		}
		nc.Close()
		cmd.Process.Kill()
		cmd.Wait()
	}
	got := messagesOf(t, path)
	if !slices.Equal(got, numbered(0, total)) {
		seen := map[string]int{}
		for _, m := range got {
			seen[m]++
		}
		missing, doubled := 0, 0
		for _, m := range numbered(0, total) {
			switch {
			case seen[m] == 0:
				missing++
			case seen[m] > 1:
				doubled++
			}
		}
		t.Errorf("%d lines, %d missing, %d doubled", len(got), missing, doubled)
	}
}

// TestShutdownDrains: what was read of agents that acknowledge nothing is kept when the
// server ends, and those that listen are told how far their records are kept.
func TestShutdownDrains(t *testing.T) {
	sink := &keep{gate: make(chan struct{})}
	r := start(t, Config{Records: sink})
	o := login(t, r, ChassisGroup, server1, ChassisKey(secret, server1))
	p := acknowledged(t, r, ChassisGroup, chassis1, ChassisKey(secret, chassis1))
	last := p.line("agent", "line 99")
	for i := range 99 {
		o.send(o.line("agent", fmt.Sprintf("line %d", i)))
		p.send(p.line("agent", fmt.Sprintf("line %d", i)))
	}
	p.send(last)
	until(t, "all was read", func() bool { return count(r.meter.records) == 199 })
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	time.Sleep(20 * time.Millisecond)
	close(sink.gate)
	p.through(last.ID)
	<-stopped
	if n := len(sink.all()); n != 199 {
		t.Errorf("%d records are kept", n)
	}
	// A destination that fails until the end: it does not hold up the end for ever, and
	// what is lost is counted and said.
	bad := &keep{}
	bad.setFail(errors.New("the disk is away"))
	r = start(t, Config{Records: bad, Drain: 100 * time.Millisecond})
	o = login(t, r, ChassisGroup, server1, ChassisKey(secret, server1))
	for i := range 10 {
		o.send(o.line("agent", fmt.Sprintf("line %d", i)))
	}
	until(t, "all was read", func() bool { return count(r.meter.records) == 10 })
	r.stop()
	if n := count(r.meter.dropped.WithLabelValues("shutdown")); n != 10 || !strings.Contains(r.log.String(), "records=10") {
		t.Errorf("%v lost; log: %s", n, r.log)
	}
}
