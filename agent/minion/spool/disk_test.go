package spool

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/internal/need"
)

func TestDiskLimit(t *testing.T) {
	const n, limit = 30000, 1 << 20
	s := open(t, Options{Memory: 128 << 10, Dir: t.TempDir(), Disk: limit, Delay: time.Millisecond})
	for i := 1; i <= n; i++ {
		if _, err := s.PutWait(t.Context(), []byte(text(i))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all on disk", func() bool { return s.Stats().Memory == 0 })
	st := s.Stats()
	if st.Disk > limit || st.Dropped == 0 {
		t.Fatalf("%+v", st)
	}
	r := s.NewReader()
	defer r.Close()
	rec, _ := r.Try()
	if rec.Lost != st.Dropped {
		t.Fatalf("got %+v, want word of %d lost ones", rec, st.Dropped)
	}
	expect(t, r, int(rec.Seq)+1, n+1)
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	opt := Options{Memory: 128 << 10, Dir: dir, Disk: 1 << 30}
	s := open(t, opt)
	if s.Recovered() != 0 {
		t.Error("an empty folder with records")
	}
	for i := 1; i <= 5000; i++ {
		if _, err := s.PutWait(t.Context(), []byte(text(i))); err != nil {
			t.Fatal(err)
		}
	}
	s.Ack(1234)
	if _, err := Open(opt); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put([]byte("late")); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	s = open(t, opt)
	if s.Recovered() != 5000 || s.Acked() != 1234 {
		t.Errorf("recovered to %d from %d", s.Recovered(), s.Acked())
	}
	r := s.NewReader()
	defer r.Close()
	put(t, s, 5001, 5100)
	expect(t, r, 1235, 5100)
	s.Ack(5099)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, opt)
	put(t, s, 5100, 5101) // numbers go on
	if got, err := s.NewReader().Next(t.Context()); err != nil || got.Seq != 5100 {
		t.Error(got, err)
	}
}

// crash copies the folder as a killed process leaves it.
func crash(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestKilled(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Memory: 1 << 20, Dir: dir, Delay: 10 * time.Millisecond})
	put(t, s, 1, 1001)
	eventually(t, "on disk", func() bool { return s.Stats().Memory == 0 })
	s.Ack(400)
	eventually(t, "noted", func() bool {
		c, err := openCursor(filepath.Join(dir, "acknowledged"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		return c.value == 400
	})
	after := open(t, Options{Dir: crash(t, dir)})
	r := after.NewReader()
	defer r.Close()
	expect(t, r, 401, 1001)
	if rec, ok := r.Try(); ok {
		t.Errorf("then %+v", rec)
	}

	// Acknowledged in memory, never written: not lost.
	s.Ack(1000)
	put(t, s, 1001, 2001)
	s.Ack(1500)
	eventually(t, "on disk", func() bool { return s.Stats().Memory == 0 })
	after = open(t, Options{Dir: crash(t, dir)})
	r = after.NewReader()
	defer r.Close()
	rec, ok := r.Try()
	if !ok || rec.Lost > 0 || rec.Seq > 1501 {
		t.Errorf("got %+v", rec)
	}
}

// TestTornTail cuts a file at every byte of its last records, and writes rubbish there.
func TestTornTail(t *testing.T) {
	const n = 20
	whole := appendFileHead(nil, 7)
	var ends []int
	for i := range n {
		whole = appendRecord(whole, 7+uint64(i), []byte(text(7+i)))
		ends = append(ends, len(whole))
	}
	check := func(t *testing.T, content []byte, good int) {
		dir := t.TempDir()
		if err := os.WriteFile(fileName(dir, 7), content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Options{Dir: dir, Delay: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if whole, err := os.ReadFile(fileName(dir, 7)); err != nil || int64(len(content)-len(whole)) != s.Stats().Torn {
			t.Fatalf("%d bytes are left of %d, %d torn, %v", len(whole), len(content), s.Stats().Torn, err)
		}
		r := s.NewReader()
		defer r.Close()
		if rec, ok := r.Try(); !ok || rec.Lost != 6 {
			t.Fatalf("begins with %+v", rec)
		}
		expect(t, r, 7, 7+good)
		next := 7 + good
		if s.Stats().Torn > 0 {
			if rec, ok := r.Try(); !ok || rec.Lost != 1 {
				t.Fatalf("no word of the torn record: %+v", rec)
			}
			next++
		}
		put(t, s, next, next+3)
		expect(t, r, next, next+3)
	}
	for cut := ends[n-3]; cut <= len(whole); cut++ {
		good := 0
		for _, e := range ends {
			if e <= cut {
				good++
			}
		}
		check(t, whole[:cut], good)
	}
	for _, tail := range [][]byte{make([]byte, 100), bytes.Repeat([]byte{0xff}, 100), whole[ends[0]:ends[1]], appendRecord(nil, 7+n+1, []byte("skipped"))} {
		check(t, append(bytes.Clone(whole), tail...), n)
	}
}

// TestDamaged has a file in the middle go bad: what is lost is counted, the rest comes.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Memory: 64 << 10, Dir: dir, Disk: 1 << 20, Delay: time.Millisecond})
	const n = 4000
	for i := 1; i <= n; i++ {
		if _, err := s.PutWait(t.Context(), []byte(text(i))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "on disk", func() bool { return s.Stats().Memory == 0 })
	files := names(t, dir)
	if len(files) < 3 {
		t.Fatalf("%d files", len(files))
	}
	b, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(files[1], b, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r := s.NewReader()
		got, lost, last := 0, 0, uint64(0)
		for {
			rec, ok := r.Try()
			if !ok {
				break
			}
			if rec.Lost > 0 {
				lost += int(rec.Lost)
				last = rec.Seq
				continue
			}
			if last++; rec.Seq != last || string(rec.Data) != text(int(rec.Seq)) {
				t.Fatalf("record %d after %d: %q", rec.Seq, last, rec.Data)
			}
			got++
		}
		r.Close()
		if lost == 0 || got+lost != n || got < n/2 {
			t.Errorf("%d read, %d lost, of %d", got, lost, n)
		}
	}
}

func TestDiskFull(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	need.Right(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=700"))
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	const limit = 256 << 10
	s := open(t, Options{Memory: limit, Dir: dir, Delay: 5 * time.Millisecond})
	defer s.Close()
	hog := filepath.Join(dir, "hog")
	i := 1
	feed := func(n int) {
		t.Helper()
		for end := i + n; i < end; i++ {
			if i%200 == 0 {
				time.Sleep(time.Millisecond) // or nothing would ever be written in time
			}
			put(t, s, i, i+1)
		}
	}
	feed(2000)
	eventually(t, "on disk", func() bool { return s.Stats().Memory == 0 })
	// Others fill the disk: what is written stays, new records are in memory.
	f, err := os.Create(hog)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	feed(1000)
	time.Sleep(20 * time.Millisecond)
	if st := s.Stats(); st.Dropped != 0 || st.Memory == 0 || st.Memory > limit {
		t.Errorf("disk full, memory free: %+v", st)
	}
	feed(20000) // far more than memory and disk
	st := s.Stats()
	if st.Dropped == 0 || st.Memory > limit {
		t.Errorf("disk and memory full: %+v", st)
	}
	// There is room again.
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disk is used again", func() bool { return s.Stats().Memory == 0 })
	feed(500)
	r := s.NewReader()
	defer r.Close()
	next, lost := uint64(1), uint64(0)
	for {
		rec, ok := r.Try()
		if !ok {
			break
		}
		if rec.Lost > 0 {
			lost += rec.Lost
			next += rec.Lost
			continue
		}
		if rec.Seq != next || string(rec.Data) != text(int(next)) {
			t.Fatalf("got record %d, want %d", rec.Seq, next)
		}
		next++
	}
	if next != uint64(i) || lost != s.Stats().Dropped {
		t.Errorf("read to %d of %d, %d lost, %d counted", next, i, lost, s.Stats().Dropped)
	}
}

func TestWritten(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, Delay: time.Hour})
	for i := range 3 {
		put(t, s, 1+i*10, 1+i*10+10)
		if err := s.Written(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := open(t, Options{Dir: crash(t, dir)})
		if after.Last() != uint64(i*10+10) {
			t.Errorf("%d records after a crash, of %d", after.Last(), i*10+10)
		}
	}
	s = open(t, Options{})
	put(t, s, 1, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Written(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	s.Ack(1)
	if err := s.Written(t.Context()); err != nil {
		t.Error(err)
	}
}

// FuzzScan: whatever is in a file, what is read of it is what would be written.
func FuzzScan(f *testing.F) {
	whole := appendFileHead(nil, 1)
	for i := range 3 {
		whole = appendRecord(whole, uint64(1+i), []byte(text(i)))
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(append(bytes.Clone(whole), make([]byte, 64)...))
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		again := appendFileHead(nil, 1)
		n, good, err := Scan(bytes.NewReader(b), 1, func(seq uint64, data []byte) { again = appendRecord(again, seq, data) })
		if good == 0 {
			if n != 0 || err == nil {
				t.Fatalf("%d records, %v, in nothing good", n, err)
			}
			return
		}
		if !bytes.Equal(again, b[:good]) {
			t.Fatalf("%d bytes were read as something else", good)
		}
		if (err == nil) != (good == int64(len(b))) {
			t.Fatalf("%d of %d bytes good, and %v", good, len(b), err)
		}
	})
}
