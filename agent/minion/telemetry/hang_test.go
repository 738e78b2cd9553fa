package telemetry

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A file system that hangs hides no other, and is not asked again before it has
// answered: each question would hold one more thread.
func TestFileSystemHangs(t *testing.T) {
	var s sent
	tl, err := New(Config{Send: s.send, Builtin: []Builtin{{Label: "disk_usage"}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	answer, answered := make(chan bool), make(chan bool)
	var asked atomic.Int64
	tl.statLimit = 50 * time.Millisecond
	tl.statfs = func(path string, st *unix.Statfs_t) error {
		if path == "/" {
			asked.Add(1)
			<-answer
			defer close(answered)
			return errors.New("gone")
		}
		st.Blocks, st.Bsize = 10, 4096
		return nil
	}
	for range 3 {
		if err := tl.disks(t.Context()); err == nil || !strings.Contains(err.Error(), " on / does not say") {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n != 1 || len(s.of("disk_usage")) < 3 {
		t.Errorf("asked %d times; %d others", n, len(s.of("disk_usage")))
	}
	close(answer)
	<-answered
}
