package tail

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// reader runs a Tail and keeps what it hands on.
type reader struct {
	t      *testing.T
	c      Config
	mu     sync.Mutex
	lines  []string
	refuse error // what lines are answered with; nil: they are taken
	cancel context.CancelFunc
	ended  chan struct{}
}

func follow(t *testing.T, dir string, more func(*Config)) *reader {
	r := &reader{t: t}
	r.c = Config{
		Files: []File{{"web", filepath.Join(dir, "log")}}, State: filepath.Join(dir, "state.json"), Poll: 5 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler),
		Line: func(_ context.Context, _, line string) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.refuse != nil {
				return r.refuse
			}
			r.lines = append(r.lines, line)
			return nil
		},
	}
	if more != nil {
		more(&r.c)
	}
	r.start()
	t.Cleanup(func() { r.stop() })
	return r
}

// followGated follows while there is something in gate: a test takes it out so that
// the reader does not look, and puts it back.
func followGated(t *testing.T, dir string) (r *reader, gate chan struct{}) {
	gate = make(chan struct{}, 1)
	gate <- struct{}{}
	r = follow(t, dir, func(c *Config) {
		c.Room = func(ctx context.Context) error {
			select {
			case <-gate:
				gate <- struct{}{}
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return r, gate
}

func (r *reader) start() {
	r.t.Helper()
	tail, err := New(r.c)
	if err != nil {
		r.t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	r.ended = make(chan struct{})
	go func() {
		defer close(r.ended)
		tail.Run(ctx)
	}()
}

func (r *reader) stop() {
	r.cancel()
	<-r.ended
}

// want waits until exactly these lines came, since the beginning.
func (r *reader) want(lines ...string) {
	r.t.Helper()
	r.wait(len(lines))
	// Some more looks, for what comes too often.
	time.Sleep(10 * r.c.Poll)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.lines, lines) {
		r.t.Fatalf("got  %q\nwant %q", r.lines, lines)
	}
}

func (r *reader) wait(n int) {
	r.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		got := len(r.lines)
		r.mu.Unlock()
		if got >= n {
			return
		}
		if time.Now().After(end) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.t.Fatalf("%d lines, want %d: %q", got, n, r.lines)
		}
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// settle waits until the file was opened: it has a position.
func (r *reader) settle() {
	r.t.Helper()
	time.Sleep(20 * r.c.Poll)
}

func TestFromEndOfWhatExists(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	put(t, log, "old\n")
	r := follow(t, dir, nil)
	r.settle()
	put(t, log, "new\nhal")
	r.want("new")
	put(t, log, "f\r\n\n")
	r.want("new", "half", "")
}

func TestAppearsLater(t *testing.T) {
	dir := t.TempDir()
	r := follow(t, dir, nil)
	r.settle()
	put(t, filepath.Join(dir, "log"), "first\nsecond\n")
	r.want("first", "second")
}

// Position is kept over a restart; a line that was not complete is read again.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	put(t, log, "")
	r := follow(t, dir, nil)
	r.settle()
	put(t, log, "1\n2\nhal")
	r.want("1", "2")
	r.stop()
	put(t, log, "f\n3\n")
	r.start()
	r.want("1", "2", "half", "3")
}

// A new file on the inode of one that was removed is not taken for it.
func TestInodeUsedAgain(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	put(t, log, "a")
	r := follow(t, dir, nil)
	r.settle()
	put(t, log, "\nold\n")
	r.wait(2)
	r.stop()
	must(t, os.WriteFile(log, []byte("new 1\nnew 2\n"), 0o600)) // keeps the inode
	r.start()
	r.want("", "old", "new 1", "new 2")
}

// If lines are not safe, the state file does not say that they were read.
func TestPositionIsNotAheadOfLines(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	put(t, log, "")
	safe := true
	var mu sync.Mutex
	r := follow(t, dir, func(c *Config) {
		c.Sync = func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if !safe {
				return syscall.EIO
			}
			return nil
		}
	})
	r.settle()
	put(t, log, "1\n")
	r.want("1")
	r.stop()
	r.start()
	mu.Lock()
	safe = false
	mu.Unlock()
	put(t, log, "2\n")
	r.want("1", "2")
	r.stop() // "crash"
	mu.Lock()
	safe = true
	mu.Unlock()
	r.start()
	r.want("1", "2", "2")
}

// A line that could not be taken is read again, and no other is.
func TestLineThatIsNotTaken(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	r := follow(t, dir, nil)
	r.settle()
	put(t, log, "1\n2\n")
	r.want("1", "2")
	r.mu.Lock()
	r.refuse = syscall.ENOSPC
	r.mu.Unlock()
	put(t, log, "3\nhal")
	r.settle()
	r.want("1", "2")
	r.mu.Lock()
	r.refuse = nil
	r.mu.Unlock()
	put(t, log, "f\n")
	r.want("1", "2", "3", "half")
}

func TestLongLine(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	r := follow(t, dir, func(c *Config) { c.MaxLine = 10 })
	r.settle()
	put(t, log, "0123456789012345678901234\naaaaaaaaaö\nx\n")
	r.want("0123456789", "0123456789", "01234", "aaaaaaaaa", "ö", "x")
}

func TestNotPlainFiles(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	must(t, syscall.Mkfifo(log, 0o600))
	r := follow(t, dir, nil)
	r.settle()
	must(t, os.Remove(log))
	r.settle()
	put(t, log, "1\n")
	r.want("1")
}

func TestRemovedIsClosed(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	put(t, log, "")
	tl, err := New(Config{Files: []File{{"s", log}}, Line: func(context.Context, string, string) error { return nil }, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	w := &follower{t: tl, File: tl.c.Files[0], log: tl.c.Log, first: true}
	defer w.close()
	must(t, w.look(t.Context()))
	must(t, os.Rename(log, log+".1"))
	must(t, w.look(t.Context()))
	if w.removed = w.removed.Add(-abandoned); w.f == nil {
		t.Fatal("closed although it has another name")
	}
	must(t, os.Remove(log+".1"))
	w.removed = time.Now().Add(-2 * abandoned)
	must(t, w.look(t.Context()))
	if w.f != nil {
		t.Error("a removed file stays open")
	}
}

func TestStateThatMakesNoSense(t *testing.T) {
	dir := t.TempDir()
	log, state := filepath.Join(dir, "log"), filepath.Join(dir, "state.json")
	for _, text := range []string{"{", "null", "[]", `{"` + log + `":{"offset":-1}}`, `{"` + log + `":{"offset":1,"bytes":99999999}}`} {
		must(t, os.WriteFile(state, []byte(text), 0o600))
		must(t, os.WriteFile(log, []byte("old\n"), 0o600))
		r := follow(t, dir, nil)
		r.settle()
		put(t, log, "new\n")
		r.want("new")
		r.stop()
	}
}

func TestConfigThatMakesNoSense(t *testing.T) {
	for _, files := range [][]File{{{"", "/x"}}, {{"s", "x"}}, {{"s", "/x"}, {"u", "//x"}}, make([]File, maxFiles+1)} {
		if _, err := New(Config{Files: files, Line: func(context.Context, string, string) error { return nil }, Log: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("%v was taken", files[:1])
		}
	}
}
