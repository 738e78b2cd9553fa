package kmsg

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teeth-metal/teeth/internal/need"
)

func TestParse(t *testing.T) {
	for record, want := range map[string]Line{
		"6,1,0,-;Command line: quiet\n":                                    {Sequence: 1, Priority: 6, Text: "Command line: quiet"},
		"14,250,1234567,-,caller=T1;teeth: INFO x\n SUBSYSTEM=pci\n DEV\n": {Sequence: 250, Priority: 6, Facility: 1, At: 1234567 * time.Microsecond, Text: "teeth: INFO x"},
		`4,2,0,c;gr\xc3\xbc\xc3\x9f \x1b[2J a;b\x5cn \x`:                   {Sequence: 2, Priority: 4, Text: `grüß \x1b[2J a;b\n \x`},
	} {
		if got, err := Parse(record); err != nil || got != want {
			t.Errorf("%q: %+v, %v", record, got, err)
		}
	}
	for _, bad := range []string{"", ";", "6;x", "6,1;x", "x,1,2;y", "6,-1,2;y", "6,1,99999999999999999999;y"} {
		if got, err := Parse(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("6,1,0,-;Command line: quiet\n")
	f.Add(`4,2,0,c;\xc3\x`)
	f.Fuzz(func(t *testing.T, s string) {
		l, err := Parse(s)
		if err == nil && (l.Priority < 0 || l.Priority > 7 || l.At < 0 || len(l.Text) > len(s)) {
			t.Errorf("%+v", l)
		}
	})
}

// TestSequence has messages that come again, as after the device was opened anew, and
// some that are gone.
func TestSequence(t *testing.T) {
	var got []string
	r := NewReader("", slog.New(slog.DiscardHandler), func(l Line) { got = append(got, fmt.Sprintf("%d-%d", l.Sequence, l.Lost)) })
	for _, seq := range []int{7, 8, 9, 7, 8, 9, 10, 15, 14, 16} {
		r.take(fmt.Sprintf("6,%d,0,-;x\n", seq))
	}
	r.take("rubbish")
	if s := strings.Join(got, " "); s != "7-0 8-0 9-0 10-0 15-4 16-0" {
		t.Error(s)
	}
}

func TestNoDevice(t *testing.T) {
	r := NewReader(t.TempDir()+"/none", slog.New(slog.DiscardHandler), func(Line) { t.Error("a line") })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	draining, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	r.Drain(draining)
	cancel()
	<-done
}

// TestKernel reads the log of this machine's kernel, to which it writes.
func TestKernel(t *testing.T) {
	out, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	need.Right(t, err)
	defer out.Close()
	const limit = "/proc/sys/kernel/printk_devkmsg" // ten lines in five seconds
	was, err := os.ReadFile(limit)
	need.Right(t, err)
	need.Right(t, os.WriteFile(limit, []byte("on\n"), 0))
	t.Cleanup(func() {
		if err := os.WriteFile(limit, was, 0); err != nil {
			t.Error(err)
		}
	})
	mark := fmt.Sprintf("teeth kmsg test %d", time.Now().UnixNano())
	say := func(i int) {
		if _, err := fmt.Fprintf(out, "<15>%s %d\n", mark, i); err != nil {
			need.Right(t, err)
		}
	}
	say(0) // before
	var mu sync.Mutex
	var got []string
	var last Line
	r := NewReader("/dev/kmsg", slog.New(slog.NewTextHandler(t.Output(), nil)), func(l Line) {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasPrefix(l.Text, mark) {
			got = append(got, strings.TrimPrefix(l.Text, mark+" "))
			last = l
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	r.Drain(t.Context()) // though it may not have begun
	for i := 1; i <= 20; i++ {
		say(i)
		r.Drain(t.Context())
		mu.Lock()
		if len(got) != i+1 {
			t.Errorf("%d messages of %d after a drain", len(got), i+1)
		}
		mu.Unlock()
	}
	cancel()
	<-done
	r.Drain(t.Context()) // returns, though nobody reads
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	if last.Facility != 1 || last.Priority != 7 || last.At <= 0 || last.At > time.Duration(now.Nano())+time.Minute {
		t.Errorf("%+v at %v", last, time.Duration(now.Nano()))
	}
}
