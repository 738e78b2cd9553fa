package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/teeth-metal/teeth/wire/minion"
)

// known makes ids for orders.
var known = minion.NewGenerator(minion.RandomNode())

// ours is our own server; original is one that is not.
var (
	ours     = Peer{Address: "server:6766", Trusted: true, Streams: true}
	original = Peer{Address: "server:47990", Trusted: true}
)

func runner(t *testing.T, c Config) *Runner {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func program(argv ...string) minion.Order {
	return minion.Order{ID: known.Next(), Kind: minion.External, Argv: argv}
}

func run(r *Runner, o minion.Order, from Peer) (all []minion.Result, stdout, stderr string) {
	r.Run(context.Background(), o, from, func(a minion.Result) {
		all = append(all, a)
		stdout += strings.Join(a.Stdout, "")
		stderr += strings.Join(a.Stderr, "")
	})
	return
}

func TestProgram(t *testing.T) {
	tests := []struct {
		name           string
		argv, options  []string
		stdout, stderr string
		exit           int
		state          string
	}{
		{"arguments are not split", []string{"printf", "[%s]", "hi there", "$HOME"}, nil, "[hi there][$HOME]", "", 0, "done"},
		{"shell", []string{"echo", "$((1+2))", "|", "tr", "3", "x"}, []string{"shell=1"}, "x\n", "", 0, "done"},
		{"exit code", []string{"sh", "-c", "echo bad >&2; exit 3"}, nil, "", "bad\n", 3, "done"},
		{"environment", []string{"env"}, []string{"env=A=B=C"}, strings.Join(environment, "\n") + "\nA=B=C\n", "", 0, "done"},
		{"no input", []string{"cat"}, nil, "", "", 0, "done"},
		{"no such program", []string{"no-such-program"}, nil, "", `"no-such-program": not found in ` + searchPath + "\n", 127, "done"},
		{"no UTF-8", []string{"printf", `a\377b\000c\303`}, nil, "a\uFFFDb\uFFFDc\uFFFD", "", 0, "done"},
		{"killed by itself", []string{"sh", "-c", "kill -USR1 $$"}, nil, "", "killed by signal: user defined signal 1\n", 128 + int(syscall.SIGUSR1), "killed"},
		{"limit", []string{"sh", "-c", "echo 0123456789; echo 0123456789"}, []string{"limit=15"}, "0123456789\n0123", "7 bytes more of output were not sent\n", 0, "done"},
		{"time limit", []string{"sh", "-c", "echo begun; sleep 100"}, []string{"timeout=0.5"}, "begun\n", "killed: it has not ended within 500ms\n", 128 + 9, "timeout"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := program(tt.argv...)
			o.Options = tt.options
			all, stdout, stderr := run(runner(t, Config{}), o, ours)
			last := all[len(all)-1]
			if stdout != tt.stdout || stderr != tt.stderr || last.Exit != tt.exit || last.State != tt.state {
				t.Errorf("got %q, %q, exit %d, %s", stdout, stderr, last.Exit, last.State)
			}
			for i, a := range all {
				if a.Sequence != i || a.Order != o.ID || i < len(all)-1 && a.State != minion.StateRunning {
					t.Errorf("part %d: %+v", i, a)
				}
			}
		})
	}
}

// A program whose shell has started another is killed with it.
func TestWholeGroupIsKilled(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	o := program("sh", "-c", "sleep 100 & echo $! >"+pid+"; wait")
	o.Options = []string{"timeout=1"}
	all, _, _ := run(runner(t, Config{}), o, ours)
	if s := all[len(all)-1].State; s != minion.StateTimeout {
		t.Fatal(s)
	}
	b, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		// It may stay as a zombie of whoever is process 1 here.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if errors.Is(err, os.ErrNotExist) || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("process %d lives on: %s", child, stat)
		}
	}
}

// Megabytes come in parts that fit, in order, cut between runes; a server that is
// slow slows the program down.
func TestStream(t *testing.T) {
	line := strings.Repeat("äöü€", 20)
	const lines = 20000
	o := program("sh", "-c", fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo "$i %s"; i=$((i+1)); done`, lines, line))
	o.Options = []string{"limit=10000000"}
	from := ours
	from.Room = 4000
	var got strings.Builder
	parts := 0
	runner(t, Config{}).Run(context.Background(), o, from, func(a minion.Result) {
		parts++
		if n := len(a.Stdout[0]) + len(a.Stderr[0]); n > from.Room {
			t.Errorf("a part of %d bytes", n)
		}
		if !strings.HasSuffix(strings.ToValidUTF8(a.Stdout[0], "!"), a.Stdout[0]) {
			t.Errorf("a rune was cut")
		}
		got.WriteString(a.Stdout[0])
	})
	var want strings.Builder
	for i := range lines {
		fmt.Fprintf(&want, "%d %s\n", i, line)
	}
	if got.String() != want.String() {
		t.Errorf("%d bytes came, want %d", got.Len(), want.Len())
	}
	if parts < want.Len()/from.Room || parts > 2*want.Len()/from.Room {
		t.Errorf("%d parts for %d bytes", parts, want.Len())
	}
}

// What a program says early is sent while it runs.
func TestStreamIsLive(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "go-on")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	var states []string
	runner(t, Config{}).Run(context.Background(), program("sh", "-c", "echo early; cat "+fifo+"; echo late"), ours, func(a minion.Result) {
		states = append(states, a.State+" "+a.Stdout[0])
		if a.Stdout[0] == "early\n" { // only now can it go on
			if err := os.WriteFile(fifo, nil, 0); err != nil {
				t.Error(err)
			}
		}
	})
	if want := []string{"running early\n", "done late\n"}; fmt.Sprint(states) != fmt.Sprint(want) {
		t.Errorf("%q", states)
	}
}

// An original gets one answer that fits a frame, with the exit code as text.
func TestOriginalGetsOneAnswer(t *testing.T) {
	o := program("sh", "-c", "yes 0123456789 | head -c 100000; echo oops >&2; exit 4")
	all, stdout, stderr := run(runner(t, Config{}), o, original)
	if len(all) != 1 {
		t.Fatalf("%d answers", len(all))
	}
	a := all[0]
	a.ID, a.Group, a.Server = known.Next(), strings.Repeat("g", 40), strings.Repeat("s", 40)
	f := a.Frame()
	if len(f.Data) != 5 || f.Size() > minion.MaxSent {
		t.Errorf("%d elements, %d bytes", len(f.Data), f.Size())
	}
	if !strings.HasPrefix(stdout, "0123456789\n") || !strings.HasSuffix(stderr, "exit status 4\n") || !strings.Contains(stderr, "bytes more of output were not sent") {
		t.Errorf("%.20q… %q", stdout, stderr)
	}
	if len(stdout)+len(stderr) > defaultRoom {
		t.Errorf("%d and %d bytes", len(stdout), len(stderr))
	}
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	for _, option := range []string{"timeout=0", "timeout=x", "timeout=1e9", "timeout=NaN", "limit=0", "limit=-1", "limit=99999999999", "shell=maybe", "env=A", "env==B", "env=A=\x00", "later=1"} {
		o := program("echo", "ran")
		o.Options = []string{option}
		all, stdout, stderr := run(runner(t, Config{}), o, ours)
		if len(all) != 1 || all[0].State != minion.StateRefused || stdout != "" || !strings.Contains(stderr, "want") && !strings.Contains(stderr, "not known") {
			t.Errorf("%s: %+v", option, all)
		}
	}
	for _, o := range []minion.Order{
		{Kind: "other", Argv: []string{"echo"}}, {Kind: minion.External}, {Kind: minion.External, Argv: []string{""}},
		{Kind: minion.External, Argv: []string{"echo", "a\x00b"}}, {Kind: minion.External, Argv: make([]string, maxArgs+1)}, {Kind: minion.Internal, Argv: []string{"no-such"}},
	} {
		o.ID = known.Next()
		if all, _, stderr := run(runner(t, Config{}), o, ours); len(all) != 1 || all[0].State != minion.StateRefused || stderr == "" {
			t.Errorf("%+v: %+v", o, all)
		}
	}
}

// What is refused is not started, is answered, and is in the log.
func TestRefusedAndAudited(t *testing.T) {
	var log bytes.Buffer
	r := runner(t, Config{
		Log: slog.New(slog.NewTextHandler(&log, nil)), Policy: Policy{Allow: []Pattern{{"true"}}}, Secret: []string{"set-config"},
		Internal: map[string]Func{"set-config": func(context.Context, []string) (string, error) { return "", errors.New("no") }},
	})
	trace := filepath.Join(t.TempDir(), "trace")
	o := program("touch", trace)
	all, _, stderr := run(r, o, ours)
	if _, err := os.Stat(trace); err == nil || len(all) != 1 || all[0].State != "refused" || !strings.Contains(stderr, "policy") {
		t.Errorf("%v, %+v", err, all)
	}
	for _, want := range []string{o.ID.String(), trace, "state=refused", "server=server:6766", "policy"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in the log: %s", want, &log)
		}
	}
	set := minion.Order{ID: known.Next(), Kind: minion.Internal, Argv: []string{"set-config", "group_key: sesame"}}
	if all, _, stderr := run(r, set, ours); all[0].Exit != 1 || stderr != "no" {
		t.Errorf("%+v", all)
	}
	if strings.Contains(log.String(), "sesame") {
		t.Error("a secret is in the log")
	}
}

func TestSameCommandTwice(t *testing.T) {
	r, o := runner(t, Config{}), program("echo", "x")
	if all, _, _ := run(r, o, ours); len(all) != 1 {
		t.Error(all)
	}
	if all, _, _ := run(r, o, ours); len(all) != 0 {
		t.Error("it ran again", all)
	}
	for range 2 * remembered {
		r.first(known.Next())
	}
	if len(r.seen) > remembered || len(r.ids) > remembered {
		t.Error(len(r.seen), len(r.ids))
	}
}

// So many run at once, some more wait, the rest is refused; nothing is lost.
func TestAtOnce(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	begun := make(chan struct{}, 100)
	goOn := make(chan struct{})
	r := runner(t, Config{AtOnce: 2, Internal: map[string]Func{"wait": func(context.Context, []string) (string, error) {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		begun <- struct{}{}
		<-goOn
		mu.Lock()
		running--
		mu.Unlock()
		return "", nil
	}}})
	states := map[string]int{}
	var wg sync.WaitGroup
	refused := make(chan struct{}, 100)
	for range 30 {
		wg.Go(func() {
			r.Run(context.Background(), minion.Order{ID: known.Next(), Kind: minion.Internal, Argv: []string{"wait"}}, ours, func(a minion.Result) {
				mu.Lock()
				states[a.State]++
				mu.Unlock()
				if a.State == "refused" {
					refused <- struct{}{}
				}
			})
		})
	}
	for range 2 {
		<-begun
	}
	for range 12 { // 18 have room
		<-refused
	}
	close(goOn)
	wg.Wait()
	if most != 2 || states["done"] != 18 || states["refused"] != 12 {
		t.Errorf("%d at once, %v", most, states)
	}
}

// The end of the agent kills what runs, and says so.
func TestAgentEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var last minion.Result
	runner(t, Config{}).Run(ctx, program("sh", "-c", "echo up; sleep 100"), ours, func(a minion.Result) {
		last = a
		cancel()
	})
	if last.State != "killed" || last.Stderr[0] != "killed: the agent is ending\n" {
		t.Errorf("%+v", last)
	}
}

// What a program leaves in the background with its output open delays the answer by
// a moment, and blocks nothing.
func TestBackground(t *testing.T) {
	began := time.Now()
	all, stdout, _ := run(runner(t, Config{}), program("sh", "-c", "sleep 30 & echo $!"), ours)
	if pid, err := strconv.Atoi(strings.TrimSpace(stdout)); err == nil {
		defer syscall.Kill(pid, syscall.SIGKILL)
	}
	if last := all[len(all)-1]; last.State != "done" || last.Exit != 0 || time.Since(began) > 15*time.Second {
		t.Errorf("%+v after %v", last, time.Since(began))
	}
}

func FuzzParse(f *testing.F) {
	f.Add("external", "timeout=1", "echo", "x")
	f.Add("internal", "env=A=B", "status", "")
	f.Add("", "limit=", "\x00", "")
	f.Fuzz(func(t *testing.T, kind, option, name, arg string) {
		c, err := parse(minion.Order{Kind: kind, Options: []string{option}, Argv: []string{name, arg}})
		if err == nil && (c.timeout <= 0 || c.timeout > MaxTimeout || c.limit <= 0 || c.limit > MaxLimit) {
			t.Errorf("%+v", c)
		}
	})
}

func FuzzOutput(f *testing.F) {
	f.Add([]byte("äöü"), 3, 5)
	f.Add([]byte("a\xff\x00\xe2\x82\xac\xe2\x82"), 1, 4)
	f.Fuzz(func(t *testing.T, b []byte, step, room int) {
		if step < 1 || room < 8 || room > 1<<16 || len(b) > 1<<16 {
			return
		}
		o := newOutput(1<<30, Peer{Streams: true, Room: room})
		var got strings.Builder
		for rest := b; len(rest) > 0; {
			n := min(step, len(rest))
			o.mu.Lock()
			o.streams[0].add(rest[:n])
			o.mu.Unlock()
			rest = rest[n:]
			if o.full() {
				piece, _, _ := o.take()
				got.WriteString(piece)
			}
		}
		last := conclude(o, part{}, func(p part) { got.WriteString(p.stdout) })
		got.WriteString(last.stdout)
		if want := clean(b); strings.ReplaceAll(got.String(), "\uFFFD", "") != strings.ReplaceAll(want, "\uFFFD", "") {
			t.Errorf("%q, want %q", got.String(), want)
		}
	})
}

// What a program had written when it ended is sent, however slow the server is to take
// what was before.
func TestSlowServerGetsAll(t *testing.T) {
	const bytes = 80_000
	waited := false
	got := 0
	var last minion.Result
	o := program("sh", "-c", fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x", bytes))
	runner(t, Config{}).Run(t.Context(), o, ours, func(a minion.Result) {
		for _, text := range a.Stdout {
			got += len(text)
		}
		// The second piece, not the first: by then the program fills its pipe.
		if !waited && a.Sequence == 1 {
			waited = true
			time.Sleep(lingering + lingering/4)
		}
		last = a
	})
	if !waited || got != bytes || last.State != minion.StateDone || last.Exit != 0 {
		t.Errorf("%d bytes of %d; %+v", got, bytes, last.State)
	}
}
