package minion

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"
)

// golden returns the bytes that the original agent ("A->S") or server sent.
func golden(t testing.TB, direction string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/minion-frames.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 5 || f[1] != direction {
			continue
		}
		raw, err := hex.DecodeString(f[4])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, raw...)
	}
	return all
}

// TestGolden reads every byte that the original's two ends exchanged and writes the
// same bytes again, however the segments were cut.
func TestGolden(t *testing.T) {
	for direction, want := range map[string]map[Verb]int{
		"A->S": {Command: 2, Log: 3, Telemetry: 28, Response: 1},
		"S->A": {Command: 2, Response: 2},
	} {
		stream := golden(t, direction)
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
			"halves": iotest.HalfReader(bytes.NewReader(stream)), "with error": iotest.DataErrReader(bytes.NewReader(stream)),
		} {
			t.Run(direction+" "+name, func(t *testing.T) {
				fr := NewReader(r)
				var again []byte
				got := map[Verb]int{}
				for {
					payload, err := fr.Next()
					if err == io.EOF {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					f, err := Parse(payload)
					if err != nil {
						t.Fatal(err)
					}
					got[f.Verb]++
					if again, err = f.Append(again); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(again, stream) {
					t.Errorf("written again:\n%x\nwant\n%x", again, stream)
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("frames %v, want %v", got, want)
				}
			})
		}
	}
}

// TestGoldenMessages makes the captured messages with the functions for them.
func TestGoldenMessages(t *testing.T) {
	const group, server = "g1", "11111111-2222-3333-4444-555555555555"
	g := NewGenerator(RandomNode())
	auth := g.Next()
	for _, c := range []struct {
		direction string
		f         Frame
	}{
		{"A->S", Request(auth, group, server, Authenticate, "k1")},
		{"S->A", Reply(g.Next(), auth, Accepted)},
		{"A->S", Request(g.Next(), group, server, Heartbeat)},
		{"A->S", LogLine(g.Next(), group, server, "pg", "hello log 1")},
		{"A->S", Measurement(g.Next(), group, server, "mem_used_kb", "1048678")},
		{"S->A", Order{ID: g.Next(), Kind: Internal, Argv: []string{"version"}}.Frame()},
	} {
		b, err := c.f.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		// All but the ids and what was measured must be as captured.
		strip := func(b []byte) string {
			f, err := Parse(b[2:])
			if err != nil {
				t.Fatal(err)
			}
			f.ID = ID{}
			for i := range f.Data {
				if _, err := ParseID(f.Data[i].Text); err == nil && f.Data[i].Text != server {
					f.Data[i].Text = ID{}.String()
				}
			}
			if f.Verb == Telemetry {
				f.Data[3].Text = ""
			}
			out, err := f.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			return string(out)
		}
		want := strip(b)
		r := NewReader(bytes.NewReader(golden(t, c.direction)))
		for {
			payload, err := r.Next()
			if err != nil {
				t.Errorf("%s %v: no such frame was captured: %v", c.direction, c.f, err)
				break
			}
			if strip(append([]byte{0, 0}, payload...)) == want {
				break
			}
		}
	}
}

func TestID(t *testing.T) {
	// The original's own vectors: seconds since the year 1, nanoseconds, node.
	node := [6]byte{0x79, 0xf6, 0x59, 0xcc, 0xb6, 0x85}
	at := time.Unix(9223372036+yearOne, 729262400)
	id := NewID(at, node)
	const text = "2b77a940-0002-25c1-7d04-79f659ccb685"
	if id.String() != text {
		t.Errorf("id %s, want %s", id, text)
	}
	if !id.Time().Equal(at) || id.Node() != node {
		t.Errorf("time %v, node %x", id.Time(), id.Node())
	}
	for _, s := range []string{text, strings.ToUpper(text), "2b77a9400002-25c1-7d04-79f659ccb685"} {
		if got, err := ParseID(s); err != nil || got != id {
			t.Errorf("%s: %s, %v", s, got, err)
		}
	}
	captured, err := ParseID("03866ae9-000e-e293-5ca3-000000000000")
	if want := time.Unix(63930850467+yearOne, 0x03866ae9); err != nil || !captured.Time().Equal(want) {
		t.Errorf("captured id's time %v (%v), want %v", captured.Time(), err, want)
	}
	for _, s := range []string{"", "x", text[1:], text + "0", "2b77a940-0002-25c1-7d04-79f659ccb68g", "2b77a940x0002-25c1-7d04-79f659ccb685",
		"2b77a940000225c17d0479f659ccb685", "2b77a9400002-25c1-7d04-79f659ccb68-", strings.Repeat("é", 18)} {
		if id, err := ParseID(s); err == nil {
			t.Errorf("%q is %s", s, id)
		}
	}
}

// TestGenerator: unique and ascending over repeated, slow and small backward clocks;
// after a large step back still unique, and of the right time.
func TestGenerator(t *testing.T) {
	now := time.Unix(1_795_253_600, 0)
	g := NewGenerator(RandomNode())
	g.now = func() time.Time { return now }
	seen := map[ID]bool{}
	next := func() ID {
		id := g.Next()
		if seen[id] {
			t.Fatalf("%s twice", id)
		}
		seen[id] = true
		return id
	}
	last := next()
	for i := range 2000 {
		switch i % 4 {
		case 1:
			now = now.Add(-100 * time.Millisecond)
		case 3:
			now = now.Add(50 * time.Millisecond)
		}
		id := next()
		if i%4 != 1 && now.After(last.Time().Add(-back)) && !id.Time().After(last.Time()) {
			t.Fatalf("%v after %v", id.Time(), last.Time())
		}
		last = id
	}
	for _, step := range []time.Duration{-2 * time.Hour, 3 * time.Hour, -3 * time.Hour} {
		now = now.Add(step)
		for range 100 {
			if id := next(); id.Time().Sub(now).Abs() > time.Millisecond {
				t.Fatalf("after a step of %v: %v, the clock says %v", step, id.Time(), now)
			}
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	id := NewID(time.Now(), RandomNode())
	fit := strings.Repeat("x", LogRoom("g", "s", "svc"))
	b, err := LogLine(id, "g", "s", "svc", fit).Append([]byte("before"))
	if err != nil || len(b) != len("before")+prefix+MaxSent {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for _, f := range []Frame{LogLine(id, "g", "s", "svc", fit+"x"), {Verb: 0, ID: id}, {Verb: 200, ID: id}} {
		if b, err := f.Append([]byte("before")); err == nil || string(b) != "before" {
			t.Errorf("%v: %d bytes, %v", f.Verb, len(b), err)
		}
	}
	large := LogLine(id, "g", "s", "svc", strings.Repeat("x", 60_000)) // as the original takes
	b, err = large.AppendLarge(nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := NewReader(bytes.NewReader(b)).Next()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Parse(payload); err != nil || !reflect.DeepEqual(got, large) {
		t.Error(err)
	}
	large.Data[3].Text = strings.Repeat("x", 66_000)
	if _, err := large.AppendLarge(nil); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		msg  string
		room int
		want int
	}{
		{"", 10, 1}, {"1234567890", 10, 1}, {"12345678901", 10, 2}, {"ééééé", 5, 3}, {"日本語日本語", 8, 3}, {"🂡🂡🂡", 5, 3},
		{strings.Repeat("\x80", 25), 10, 3}, {"abc", 0, 1}, {"abcde", -1, 2}, {"a\xffé\xc3", 4, 2},
	} {
		parts := Split(c.msg, c.room)
		if strings.Join(parts, "") != c.msg || len(parts) != c.want {
			t.Errorf("%q in %d: %q", c.msg, c.room, parts)
		}
		for _, p := range parts {
			if len(p) > max(c.room, utf8.UTFMax) || utf8.ValidString(c.msg) && !utf8.ValidString(p) {
				t.Errorf("%q in %d: part %q", c.msg, c.room, p)
			}
		}
	}
}

func TestOrdersAndResults(t *testing.T) {
	id, other := mustID(t), NewID(time.Now(), RandomNode())
	for _, o := range []Order{
		{ID: id, Kind: Internal, Argv: []string{"version"}},
		{ID: id, Kind: External, Argv: []string{"echo", "hi there", ""}},
		{ID: id, Kind: External, Options: []string{"timeout=30", "shell=1"}, Argv: []string{"a | b"}},
		{ID: id, Kind: External},
	} {
		if got, err := OrderOf(o.Frame()); err != nil || !reflect.DeepEqual(got, o) {
			t.Errorf("%v: %v, %v", o, got, err)
		}
	}
	for _, r := range []Result{
		{ID: other, Group: "g", Server: "s", Order: id, Stdout: []string{"out"}, Stderr: []string{""}},
		{ID: other, Group: "g", Server: "s", Order: id, Stdout: []string{"out"}, Stderr: []string{"e"}, State: StateDone, Exit: 3, Sequence: 7},
	} {
		if got, err := ResultOf(r.Frame()); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%v: %v, %v", r, got, err)
		}
	}
	plain, err := ResultOf(Frame{Verb: Response, ID: other, Data: Texts("g", "s", id.String(), "out")})
	if err != nil || !reflect.DeepEqual(plain.Stdout, []string{"out"}) {
		t.Error(plain, err)
	}
	for _, f := range []Frame{
		{Verb: Response, Data: Texts("g", "s", "no id", "out")}, {Verb: Response, Data: Texts("g", "s", id.String())},
		{Verb: Log, Data: Texts("g", "s", id.String(), "out")},
		{Verb: Response, Data: append(Texts("g", "s", id.String(), "out", "err"), Texts("x", "done", "0")...)},
		{Verb: Response, Data: append([]Item{List("g")}, Texts("s", id.String(), "out")...)},
	} {
		if r, err := ResultOf(f); err == nil {
			t.Errorf("%v is %v", f, r)
		}
	}
	for _, f := range []Frame{{Verb: Command}, {Verb: Log, Data: Texts(External)}, {Verb: Command, Data: []Item{List("x")}},
		{Verb: Command, Data: []Item{Text(External), Text("echo"), List("x")}}} {
		if o, err := OrderOf(f); err == nil {
			t.Errorf("%v is %v", f, o)
		}
	}
	if k := List("k", "1").Key(); k != "k1" || Text("k1").Key() != "k1" {
		t.Error(k)
	}
}
