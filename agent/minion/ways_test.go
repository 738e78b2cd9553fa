package minion

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

func TestDenied(t *testing.T) {
	p := newPeer(t, false)
	c := client(t, Options{})
	to := target(p.address)
	to.Key = "wrong"
	aim(t, c, to)
	if _, err := c.open(t.Context(), &to, p.address); !errors.Is(err, errDenied) || strings.Contains(err.Error(), "wrong") {
		t.Error(err)
	}
	run(t, c)
	c.Log("s", "x")
	time.Sleep(50 * time.Millisecond)
	if p.count() != 0 {
		t.Error("a record of a denied agent")
	}
	aim(t, c, target(p.address)) // the key is put right
	flush(t, c)
}

func TestUnknownGroup(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c := client(t, Options{})
	c.timers.answer = 30 * time.Millisecond
	to := target(ln.Addr().String())
	if _, err := c.open(t.Context(), &to, to.Addresses[0]); err == nil || !strings.Contains(err.Error(), "does not know the group") {
		t.Error(err)
	}
}

// TestSilentOriginal has no database, and so no answer to a heartbeat.
func TestSilentOriginal(t *testing.T) {
	p := newPeer(t, true, func(p *peer) { p.silent = true })
	c := client(t, Options{})
	c.timers.negotiate, c.timers.heartbeat, c.timers.silence = 20*time.Millisecond, 10*time.Millisecond, 10*time.Millisecond
	aim(t, c, target(p.address))
	run(t, c)
	c.Log("s", line(0))
	flush(t, c)
	p.has(1)
	once(t, p.lines("s"), 1)
}

// TestHung has a server that reads and does not answer any more.
func TestHung(t *testing.T) {
	p, well := newPeer(t, false), newPeer(t, false)
	p.delay.Store(int64(time.Second)) // one record, and it hangs
	c := client(t, Options{})
	c.timers.heartbeat, c.timers.silence = 10*time.Millisecond, 50*time.Millisecond
	aim(t, c, target(p.address, well.address))
	run(t, c)
	eventually(t, "connected", func() bool { _, ok := c.Connected(); return ok })
	c.Log("s", line(0))
	eventually(t, "the other one has it", func() bool { p.mu.Lock(); p.ln.Close(); p.mu.Unlock(); return len(well.lines("s")) == 1 })
}

// TestHalfFrames has servers that send rubbish, or half of something.
func TestHalfFrames(t *testing.T) {
	id := wire.NewID(time.Now(), wire.RandomNode())
	whole, err := wire.Reply(id, id, wire.Accepted).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, answer := range []string{"", "\x00", string(whole[:20]), "\xff\xff", "\x00\x00", "\x00\x01\x90", string(whole), "HTTP/1.1 400 Bad Request\r\n\r\n"} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				io.WriteString(nc, answer)
				nc.Close()
			}
		}()
		well := newPeer(t, false)
		c := client(t, Options{})
		aim(t, c, target(ln.Addr().String(), well.address))
		stop := run(t, c)
		c.Log("s", line(0))
		flush(t, c)
		once(t, well.lines("s"), 1)
		stop()
		ln.Close()
	}
}

// TestSession has no StreamServer, then one; then none again.
func TestSession(t *testing.T) {
	both(t, func(t *testing.T, p *peer) {
		p.kill()
		var mu sync.Mutex
		var got []string
		ids := map[wire.ID]bool{}
		var away atomic.Bool
		away.Store(true)
		c := client(t, Options{Session: func(ctx context.Context, frames []byte) error {
			if away.Load() {
				return ErrNoSession
			}
			mu.Lock()
			defer mu.Unlock()
			r := wire.NewReader(strings.NewReader(string(frames)))
			for {
				payload, err := r.Next()
				if err == io.EOF {
					return nil
				}
				f, err := wire.Parse(payload)
				if err != nil || f.Data[0].Text != group || ids[f.ID] {
					t.Errorf("%v, %v", f, err)
				}
				ids[f.ID] = true
				got = append(got, f.Data[3].Text)
			}
		}})
		aim(t, c, target(p.address))
		run(t, c)
		for i := range 100 {
			c.Log("s", line(i))
		}
		time.Sleep(20 * time.Millisecond)
		away.Store(false)
		flush(t, c)
		mu.Lock()
		once(t, got, 100)
		mu.Unlock()
		p.start()
		eventually(t, "connected", func() bool { _, ok := c.Connected(); return ok })
		for i := range 100 {
			c.Log("s", line(i))
		}
		flush(t, c)
		p.has(100)
		once(t, p.lines("s"), 100)
		if len(got) != 100 {
			t.Errorf("%d over the session", len(got))
		}
	})
}

func TestSessionOnly(t *testing.T) {
	var n atomic.Int32
	c := client(t, Options{Session: func(context.Context, []byte) error { n.Add(1); return nil }})
	aim(t, c, target())
	run(t, c)
	for range 30 {
		c.Log("s", strings.Repeat("x", 7000))
	}
	flush(t, c)
	if n.Load() < 2 {
		t.Errorf("%d batches of 210,000 bytes", n.Load())
	}
}

func TestTargets(t *testing.T) {
	c := client(t, Options{})
	for _, bad := range []Target{
		{}, {Group: "g"}, {Group: "g", Server: strings.Repeat("s", 256)}, {Group: "g", Server: "s", Addresses: []string{"host"}},
		{Group: "g", Server: "s", Addresses: []string{":1"}}, {Group: "g", Server: "s", Key: strings.Repeat("k", 5000)},
	} {
		if err := c.SetTarget(bad); err == nil {
			t.Errorf("took %+v", bad)
		}
	}
	one, two := newPeer(t, false), newPeer(t, false)
	aim(t, c, target(one.address))
	run(t, c)
	c.Log("s", "a")
	flush(t, c)
	aim(t, c, target(one.address)) // nothing new
	aim(t, c, target(two.address))
	eventually(t, "connected to the other", func() bool { p, ok := c.Connected(); return ok && p.Address == two.address })
	c.Log("s", "b")
	flush(t, c)
	if one.count() != 1 || two.count() != 1 {
		t.Errorf("%d and %d", one.count(), two.count())
	}
}

// TestBackoff: waits are random, grow, and are bounded.
func TestBackoff(t *testing.T) {
	c, err := New(Options{Spool: memory(t, 1<<20), Log: client(t, Options{}).opt.Log})
	if err != nil {
		t.Fatal(err)
	}
	var most [40]time.Duration
	for i := range most {
		for range 200 {
			most[i] = max(most[i], c.backoff(i))
		}
	}
	if most[1] > 2*time.Second || most[39] > time.Minute || most[39] < 30*time.Second || most[3] < 3*time.Second {
		t.Errorf("%v", most)
	}
}

// TestRate: what has gathered in an outage comes at a bounded rate.
func TestRate(t *testing.T) {
	both(t, func(t *testing.T, p *peer) {
		const n, perSecond = 1500, 2000
		c := client(t, Options{Rate: perSecond})
		for i := range n {
			c.Log("s", line(i))
		}
		least := time.Duration(n-c.limit.Burst()) * time.Second / perSecond
		aim(t, c, target(p.address))
		began := time.Now()
		run(t, c)
		flush(t, c)
		p.has(n)
		once(t, p.lines("s"), n)
		if took := time.Since(began); took < least {
			t.Errorf("%d records in %v, want at least %v", n, took, least)
		}
	})
}

// TestApproved: a chassis that was refused by both ways is not long in coming back to
// the StreamServer when the other one takes it.
func TestApproved(t *testing.T) {
	p := newPeer(t, false)
	var approved, refused atomic.Bool
	c := client(t, Options{Session: func(context.Context, []byte) error {
		if approved.Load() {
			return nil
		}
		refused.Store(true)
		return errors.New("not approved")
	}})
	c.timers.backoffMin, c.timers.backoffMax = time.Hour, time.Hour
	to := target(p.address)
	to.Key = "wrong"
	aim(t, c, to)
	run(t, c)
	c.Log("s", "x")
	eventually(t, "refused", func() bool { return p.denied.Load() == 1 && refused.Load() })
	time.Sleep(10 * time.Millisecond) // for the refusal to be taken
	approved.Store(true)
	flush(t, c)
	eventually(t, "asked again", func() bool { return p.denied.Load() == 2 })
}
