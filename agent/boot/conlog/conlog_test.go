package conlog

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// records keeps every Write apart, as /dev/kmsg does.
type records struct {
	mu sync.Mutex
	r  []string
}

func (r *records) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.r = append(r.r, string(b))
	return len(b), nil
}

func (r *records) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.r...)
}

func TestHandler(t *testing.T) {
	tests := []struct {
		name string
		log  func(*slog.Logger)
		kmsg []string
		tty  []string // after the time stamp
	}{
		{"plain", func(l *slog.Logger) { l.Info("up") }, []string{"<14>teeth: INFO up\n"}, []string{"INFO  up\n"}},
		{"attributes", func(l *slog.Logger) { l.Warn("lease", "nic", "eth0", "why", "a b") },
			[]string{"<12>teeth: WARN lease nic=eth0 why=\"a b\"\n"}, []string{"WARN  lease nic=eth0 why=\"a b\"\n"}},
		{"names of our own", func(l *slog.Logger) { l.Info("x", "msg", "kept", "level", 3, "time", 4) },
			[]string{"<14>teeth: INFO x msg=kept level=3 time=4\n"}, []string{"INFO  x msg=kept level=3 time=4\n"}},
		{"with and group", func(l *slog.Logger) { l.With("a", 1).WithGroup("g").Error("e", "b", 2) },
			[]string{"<12>teeth: ERROR e a=1 g.b=2\n"}, []string{"ERROR e a=1 g.b=2\n"}},
		{"below the level", func(l *slog.Logger) { l.Debug("no") }, nil, nil},
		{"escape sequences", func(l *slog.Logger) { l.Info("a\x1b[2Jb\nforged", "h", "c\x1b[1md") },
			[]string{"<14>teeth: INFO a.[2Jb.forged h=\"c\\x1b[1md\"\n"}, []string{"INFO  a.[2Jb.forged h=\"c\\x1b[1md\"\n"}},
		{"too long for one record", func(l *slog.Logger) { l.Info(strings.Repeat("x", 1000)) },
			[]string{"<14>teeth: INFO " + strings.Repeat("x", 900) + "\n", "<14>teeth: INFO " + strings.Repeat("x", 100) + "\n"},
			[]string{"INFO  " + strings.Repeat("x", 1000) + "\n"}},
	}
	stamp := regexp.MustCompile(`^\[ *\d+\.\d{6}\] teeth: `)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			kmsg, tty := &records{}, &records{}
			out := NewOutput(kmsg, map[string]io.Writer{"ttyS0": tty})
			tt.log(slog.New(NewHandler(out, slog.LevelInfo)))
			if !out.Flush(10 * time.Second) {
				t.Fatal("console not flushed")
			}
			if got := kmsg.all(); strings.Join(got, "|") != strings.Join(tt.kmsg, "|") {
				t.Errorf("kernel log %q, want %q", got, tt.kmsg)
			}
			got := tty.all()
			for i := range got {
				if !stamp.MatchString(got[i]) {
					t.Errorf("no time stamp: %q", got[i])
				}
				got[i] = stamp.ReplaceAllString(got[i], "")
			}
			if strings.Join(got, "|") != strings.Join(tt.tty, "|") {
				t.Errorf("console %q, want %q", got, tt.tty)
			}
		})
	}
}

func TestLineBreaks(t *testing.T) {
	kmsg := &records{}
	NewOutput(kmsg, nil).Line(slog.LevelError, "a\nb\n")
	if got := strings.Join(kmsg.all(), ""); got != "<12>teeth: ERROR a\n<12>teeth: ERROR b\n" {
		t.Errorf("got %q", got)
	}
}

// blocked is a console held by flow control until it is released.
type blocked struct {
	release chan struct{}
	records
}

func (b *blocked) Write(p []byte) (int, error) { <-b.release; return b.records.Write(p) }

func TestBlockedConsole(t *testing.T) {
	held, free := &blocked{release: make(chan struct{})}, &records{}
	out := NewOutput(nil, map[string]io.Writer{"ttyS0": held, "tty0": free})
	log := slog.New(NewHandler(out, slog.LevelInfo))
	const lines = queueLines + 500
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range lines {
			log.Info("x")
			time.Sleep(10 * time.Microsecond) // so that the free one keeps up
		}
	}()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		t.Fatal("a blocked console blocks the program")
	}
	if out.Flush(50 * time.Millisecond) {
		t.Error("Flush says that a blocked console took all")
	}
	close(held.release)
	if !out.Flush(20 * time.Second) {
		t.Fatal("not flushed")
	}
	log.Info("after")
	if !out.Flush(20 * time.Second) {
		t.Fatal("not flushed")
	}
	text := strings.Join(held.all(), "")
	if !regexp.MustCompile(`\[console ttyS0 lost \d+ lines\]`).MatchString(text) || !strings.Contains(text, "after") {
		t.Errorf("no word about lost lines")
	}
	if n := strings.Count(strings.Join(free.all(), ""), "INFO"); n != lines+1 {
		t.Errorf("the free console has %d lines of %d", n, lines+1)
	}
}

func TestOpenConsoles(t *testing.T) {
	dev, sysfs := t.TempDir(), t.TempDir()
	active := filepath.Join(sysfs, "class/tty/console/active")
	if err := os.MkdirAll(filepath.Dir(active), 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(active, "tty0 ttyS0\n")
	for _, n := range []string{"tty0", "ttyS0", "ttyS1"} {
		write(filepath.Join(dev, n), "")
	}
	got, err := OpenConsoles(dev, sysfs, []string{"ttyS1", "ttyS0", "ttyX"})
	if len(got) != 3 || err == nil || !strings.Contains(err.Error(), "ttyX") {
		t.Errorf("got %v, %v", got, err)
	}
	for n, w := range got {
		if _, err := io.WriteString(w, n); err != nil {
			t.Error(err)
		}
		w.(io.Closer).Close()
		if b, _ := os.ReadFile(filepath.Join(dev, n)); string(b) != n {
			t.Errorf("%s has %q", n, b)
		}
	}
	write(filepath.Join(dev, "console"), "")
	got, err = OpenConsoles(dev, t.TempDir(), nil)
	if len(got) != 1 || got["console"] == nil || err != nil {
		t.Errorf("without any: %v, %v", got, err)
	}
	got["console"].(io.Closer).Close()
}

func TestOpenKmsg(t *testing.T) {
	dev, proc := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(dev, "kmsg"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w, err := OpenKmsg(dev, proc)
	if w == nil || err == nil || !strings.Contains(err.Error(), "rate limit") {
		t.Errorf("without sysctl: %v, %v", w, err)
	}
	w.(io.Closer).Close()
	limit := filepath.Join(proc, "sys/kernel/printk_devkmsg")
	if err := os.MkdirAll(filepath.Dir(limit), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(limit, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w, err = OpenKmsg(dev, proc)
	if err != nil {
		t.Fatal(err)
	}
	w.(io.Closer).Close()
	if b, _ := os.ReadFile(limit); string(b) != "on\n" {
		t.Errorf("limit %q", b)
	}
}

func TestTap(t *testing.T) {
	out := NewOutput(nil, nil)
	for i := range keepLines + 10 {
		out.Line(slog.LevelInfo, fmt.Sprint("before ", i))
	}
	var got []Line
	out.Tap(func(l Line) { got = append(got, l) })
	out.Line(slog.LevelError, "a\nb\n")
	if len(got) != keepLines+2 || got[0].Text != "before 10" || got[keepLines].Text != "a" || got[keepLines+1].Level != slog.LevelError {
		t.Fatalf("%d lines, first %+v, last %+v", len(got), got[0], got[len(got)-1])
	}
	if !slices.IsSortedFunc(got, func(a, b Line) int { return cmp.Compare(a.At, b.At) }) || got[0].At <= 0 {
		t.Error("lines are not in the order of their times")
	}
}
