package minion

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// TestRotation: a file that is renamed or removed is made anew, without a signal, and
// no line is missing.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sub", "minion.log")
	r := start(t, Config{Groups: []GroupConfig{toFile(path, false)}})
	p := acknowledged(t, r, "g1", server1, "k1")
	send := func(from, n int) {
		t.Helper()
		var frames []wire.Frame
		for i := range n {
			frames = append(frames, p.line("pg", fmt.Sprintf("line %d", from+i)))
		}
		p.send(frames...)
		p.through(frames[n-1].ID)
	}
	send(0, 100)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	send(100, 100)
	got := append(messagesOf(t, path+".1"), messagesOf(t, path)...)
	if !slices.Equal(got, numbered(0, 200)) || len(messagesOf(t, path+".1")) != 100 {
		t.Errorf("%d lines", len(got))
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	send(200, 100)
	if got := messagesOf(t, path); !slices.Equal(got, numbered(200, 100)) {
		t.Errorf("%q", got)
	}
	// Renamed in the middle of much.
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20 {
			os.Rename(path, fmt.Sprintf("%s.%02d", path, i+2))
			time.Sleep(5 * time.Millisecond)
		}
	}()
	for i := range 50 {
		send(300+100*i, 100)
	}
	<-done
	got = nil
	for i := range 20 {
		got = append(got, messagesOf(t, fmt.Sprintf("%s.%02d", path, i+2))...)
	}
	got = append(got, messagesOf(t, path)...)
	if !slices.Equal(got, numbered(200, 5100)) {
		t.Errorf("%d lines", len(got))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestTornLine: half a line that a crash has left is ended, and is no line that is
// known.
func TestTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "minion.log")
	ids := wire.NewGenerator(wire.RandomNode())
	first, torn := ids.Next(), ids.Next()
	content := appendLine(nil, first, server1, "pg", []byte("line 0"))
	content = append(content, bytes.TrimSuffix(appendLine(nil, torn, server1, "pg", []byte("line 1 of a crash")), []byte("crash\n"))...)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, Config{Groups: []GroupConfig{toFile(path, false)}})
	p := acknowledged(t, r, "g1", server1, "k1")
	p.send(wire.LogLine(first, "g1", server1, "pg", "line 0"), wire.LogLine(torn, "g1", server1, "pg", "line 1 of a crash"))
	p.through(torn)
	if got := messagesOf(t, path); !slices.Equal(got, []string{"line 0", "line 1 of a ", "line 1 of a crash"}) {
		t.Errorf("%q", got)
	}
	for name, where := range map[string]string{"a folder": t.TempDir(), "a device": "/dev/null"} {
		if _, err := New(Config{Groups: []GroupConfig{toFile(where, false)}}); err == nil || !strings.Contains(err.Error(), "regular file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForgedLines: no message makes a line of its own or steers a terminal.
func TestForgedLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "minion.log")
	r := start(t, Config{Groups: []GroupConfig{toFile(path, false)}})
	p := acknowledged(t, r, "g1", "../../etc/passwd", "k1")
	last := p.line("../x\ty\n", "a\nb\r\x1b[31m\x00\x7f\té\\")
	p.send(last, wire.Measurement(p.ids.Next(), "g1", p.server, "la\nbel", "1\t2", "3"))
	p.alive()
	until(t, "two lines", func() bool { return len(messagesOf(t, path)) == 2 })
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	if want := last.ID.String() + "\t../../etc/passwd\t../x\\ty\\n\ta\\nb\\r\\x1b[31m\\x00\\x7f\té\\"; lines[0] != want {
		t.Errorf("%q, want %q", lines[0], want)
	}
	if !strings.HasSuffix(lines[1], "\t../../etc/passwd\tla\\nbel\t1\\t2\t3") {
		t.Errorf("%q", lines[1])
	}
	if list, _ := os.ReadDir(filepath.Dir(path)); len(list) != 1 {
		t.Errorf("%d files", len(list))
	}
}

// TestRepeats of an agent that acknowledges: counted, never more than is acknowledged.
func TestRepeats(t *testing.T) {
	path := filepath.Join(t.TempDir(), "minion.log")
	r := start(t, Config{Groups: []GroupConfig{toFile(path, true)}})
	p := acknowledged(t, r, "g1", server1, "k1")
	burst := make([]wire.Frame, 0, 503)
	for range 500 {
		burst = append(burst, p.line("pg", "same"))
	}
	burst = append(burst, p.line("other", "same"), p.line("pg", "same"), p.line("pg", "end"))
	p.send(burst...)
	p.through(burst[502].ID)
	total := 0
	for _, m := range messagesOf(t, path) {
		var n int
		switch _, err := fmt.Sscanf(m, "Previous message repeated %d times.", &n); {
		case m == "same", m == "end":
			total++
		case err == nil:
			total += n
		default:
			t.Errorf("%q", m)
		}
	}
	if total != 503 {
		t.Errorf("%d lines, want 503", total)
	}
	if n := len(messagesOf(t, path)); n > 50 {
		t.Errorf("%d lines for 3 messages", n)
	}
	// One alone that is repeated in a later batch is there when it is acknowledged.
	f := p.line("pg", "end")
	p.send(f)
	p.through(f.ID)
	if got := messagesOf(t, path); got[len(got)-1] != "end" || got[len(got)-2] != "end" {
		t.Errorf("%q", got[len(got)-2:])
	}
	// Of an original the count comes with the next message, its heartbeat or its end.
	o := login(t, r, "g1", chassis1, "k1")
	o.send(o.line("pg", "original"), o.line("pg", "original"), o.line("pg", "original"))
	o.nc.Close()
	until(t, "the count", func() bool {
		got := messagesOf(t, path)
		return got[len(got)-1] == "Previous message repeated 2 times."
	})
}

// TestDropsAreCounted: a group without a destination for something loses it, and says
// so once.
func TestDropsAreCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "minion.log")
	g := toFile(path, true)
	g.Services[0].Default, g.Telemetry[0].Label = false, "load"
	r := start(t, Config{Groups: []GroupConfig{g}})
	p := acknowledged(t, r, "g1", server1, "k1")
	for range 5 {
		p.send(p.line("nobody's", "x"), wire.Measurement(p.ids.Next(), "g1", server1, "other", "1"))
	}
	last := p.line("pg", "kept")
	p.send(last)
	p.through(last.ID)
	if s, l := count(r.meter.dropped.WithLabelValues("service")), count(r.meter.dropped.WithLabelValues("label")); s != 5 || l != 5 {
		t.Errorf("%v and %v dropped", s, l)
	}
	if n := strings.Count(r.log.String(), "are dropped"); n != 1 {
		t.Errorf("said %d times: %s", n, r.log)
	}
	if got := messagesOf(t, path); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("%q", got)
	}
}

// TestStandardOutput: a service may go there; stdout and stderr are told apart.
func TestStandardOutput(t *testing.T) {
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	r := start(t, Config{Stdout: open("out"), Stderr: open("err"), Groups: []GroupConfig{{ID: "g1", Key: "k1", Services: []ServiceConfig{
		{Names: []string{"out"}, To: Destination{typeIO, "stdout"}}, {Names: []string{"err"}, To: Destination{typeIO, "stderr"}},
	}}}})
	p := acknowledged(t, r, "g1", server1, "k1")
	last := p.line("err", "c")
	p.send(p.line("out", "a"), p.line("out", "b"), last)
	p.through(last.ID)
	if out, errs := messagesOf(t, filepath.Join(dir, "out")), messagesOf(t, filepath.Join(dir, "err")); !slices.Equal(out, []string{"a", "b"}) || !slices.Equal(errs, []string{"c"}) {
		t.Errorf("%q and %q", out, errs)
	}
}
