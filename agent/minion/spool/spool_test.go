package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func text(i int) string { return fmt.Sprintf("record %06d %s", i, strings.Repeat("x", i%97)) }

func open(t testing.TB, opt Options) *Spool {
	t.Helper()
	opt.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !t.Failed() {
			t.Log(err)
		}
	})
	return s
}

// put adds records from to (without) to, numbered so.
func put(t testing.TB, s *Spool, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if seq, err := s.Put([]byte(text(i))); err != nil || seq != uint64(i) {
			t.Fatalf("record %d got number %d, %v", i, seq, err)
		}
	}
}

// expect reads records from to (without) to.
func expect(t testing.TB, r *Reader, from, to int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i := from; i < to; i++ {
		rec, err := r.Next(ctx)
		if err != nil || rec.Lost > 0 || rec.Seq != uint64(i) || string(rec.Data) != text(i) {
			t.Fatalf("got %d (%q, lost %d), %v; want record %d", rec.Seq, rec.Data, rec.Lost, err, i)
		}
	}
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.spool"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestMemoryOnly(t *testing.T) {
	s := open(t, Options{Memory: 64 << 10})
	r := s.NewReader()
	defer r.Close()
	put(t, s, 1, 100)
	expect(t, r, 1, 100)
	if _, ok := r.Try(); ok {
		t.Error("a record that nobody put")
	}
	put(t, s, 100, 110)
	expect(t, r, 100, 110)
	s.Ack(50)
	r.Rewind()
	expect(t, r, 51, 110)
	s.Ack(109)
	if st := s.Stats(); st.Records != 0 || st.Memory != 0 || st.Dropped != 0 {
		t.Errorf("left: %+v", st)
	}
	for _, bad := range [][]byte{nil, make([]byte, MaxRecord+1)} {
		if _, err := s.Put(bad); err == nil {
			t.Errorf("took a record of %d bytes", len(bad))
		}
	}
	if seq, err := s.Put(make([]byte, MaxRecord)); err != nil || seq != 110 {
		t.Error(seq, err)
	}
}

func TestMemoryFull(t *testing.T) {
	const limit, n = 64 << 10, 5000
	s := open(t, Options{Memory: limit})
	r := s.NewReader()
	defer r.Close()
	put(t, s, 1, n+1)
	st := s.Stats()
	if st.Memory > limit || st.Dropped == 0 {
		t.Fatalf("%+v", st)
	}
	rec, ok := r.Try()
	if !ok || rec.Lost != st.Dropped || rec.Seq != st.Dropped {
		t.Fatalf("got %+v, want word of %d lost ones", rec, st.Dropped)
	}
	expect(t, r, int(st.Dropped)+1, n+1)

	// What was read and dropped before it was acknowledged is missing after a rewind.
	s.Ack(rec.Seq)
	put(t, s, n+1, 2*n+1)
	r.Rewind()
	again, ok := r.Try()
	if lost := s.Stats().Dropped - st.Dropped; !ok || again.Lost != lost || again.Seq != rec.Seq+lost {
		t.Fatalf("got %+v, want word of %d lost ones", again, lost)
	}
	expect(t, r, int(again.Seq)+1, 2*n+1)
}

func TestOrderOverMemoryAndDisk(t *testing.T) {
	const n = 20000
	dir := t.TempDir()
	s := open(t, Options{Memory: 128 << 10, Dir: dir, Disk: 16 << 20, Delay: time.Hour})
	r := s.NewReader()
	defer r.Close()
	go func() {
		for i := 1; i <= n; i++ {
			if _, err := s.PutWait(t.Context(), []byte(text(i))); err != nil {
				t.Error(err)
			}
		}
	}()
	// One that reads along, one that goes back again and again, one that is late.
	expect(t, r, 1, n+1)
	if st := s.Stats(); st.Disk == 0 || st.Memory > 128<<10 || st.Dropped != 0 {
		t.Errorf("%+v", st)
	}
	for at := 0; at < n; at += n / 10 {
		s.Ack(uint64(at))
		r.Rewind()
		expect(t, r, at+1, min(at+n/5, n)+1)
	}
	late := s.NewReader()
	defer late.Close()
	expect(t, late, n-n/10+1, n+1)
	s.Ack(n)
	eventually(t, "nothing left", func() bool { st := s.Stats(); return st.Records == 0 && st.Disk == 0 && len(names(t, dir)) == 0 })
	put(t, s, n+1, n+100)
	expect(t, r, n+1, n+100)
}

func TestDelay(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, Delay: 20 * time.Millisecond})
	put(t, s, 1, 4)
	eventually(t, "written although there is room", func() bool { st := s.Stats(); return st.Memory == 0 && st.Disk > 0 })
	put(t, s, 4, 6)
	r := s.NewReader()
	defer r.Close()
	expect(t, r, 1, 6)
}

func TestPutWait(t *testing.T) {
	s := open(t, Options{Memory: 64 << 10})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var err error
	n := uint64(0)
	for err == nil {
		_, err = s.PutWait(ctx, bytes.Repeat([]byte("x"), 1000))
		n++
	}
	if !errors.Is(err, context.DeadlineExceeded) || s.Stats().Dropped != 0 {
		t.Errorf("%v after %d, %+v", err, n, s.Stats())
	}
	waits := make(chan error, 1)
	go func() { _, err := s.PutWait(t.Context(), []byte("x")); waits <- err }()
	s.Ack(n / 2)
	if err := <-waits; err != nil {
		t.Error(err)
	}
}

func TestWait(t *testing.T) {
	s := open(t, Options{})
	put(t, s, 1, 4)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Wait(ctx, s.Last()); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "3 records") {
		t.Error(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Wait(t.Context(), 3); err != nil {
			t.Error(err)
		}
	})
	s.Ack(3)
	wg.Wait()
}

// TestAtOnce has writers, a reader that goes back, and acknowledgements, at once.
func TestAtOnce(t *testing.T) {
	s := open(t, Options{Memory: 64 << 10, Dir: t.TempDir(), Delay: time.Millisecond, Sync: time.Millisecond})
	const writers, each = 4, 2000
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := s.PutWait(t.Context(), fmt.Appendf(nil, "%d %d", w, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	r := s.NewReader()
	defer r.Close()
	seen := [writers]int{}
	cut := uint64(0)
	for acked := uint64(0); acked < writers*each; {
		rec, err := r.Next(t.Context())
		if err != nil || rec.Lost > 0 {
			t.Fatal(rec, err)
		}
		if rec.Seq%500 == 499 && rec.Seq > cut { // a lost connection
			cut = rec.Seq
			r.Rewind()
			continue
		}
		if rec.Seq != acked+1 {
			t.Fatalf("record %d after %d", rec.Seq, acked)
		}
		var w, i int
		if _, err := fmt.Sscanf(string(rec.Data), "%d %d", &w, &i); err != nil || i != seen[w] {
			t.Fatalf("%q, want %d of that writer: %v", rec.Data, seen[w], err)
		}
		seen[w]++
		acked = rec.Seq
		s.Ack(acked)
	}
	wg.Wait()
}
