package task

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teeth-metal/teeth/progress"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// recorder keeps what a Manager reports.
type recorder struct {
	mu   sync.Mutex
	all  []teeth.TaskStatus
	when []time.Time
}

func (r *recorder) report(s teeth.TaskStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all, r.when = append(r.all, s), append(r.when, time.Now())
}

func (r *recorder) of(id string) []teeth.TaskStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []teeth.TaskStatus
	for _, s := range r.all {
		if s.TaskID == id {
			out = append(out, s)
		}
	}
	return out
}

func (r *recorder) last(t *testing.T, id string) teeth.TaskStatus {
	t.Helper()
	all := r.of(id)
	if len(all) == 0 {
		t.Fatalf("nothing reported of %s", id)
	}
	return all[len(all)-1]
}

// bubble runs f with a Manager under a fake clock and ends the Manager after.
func bubble(t *testing.T, f func(t *testing.T, m *Manager, r *recorder)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		r := &recorder{}
		m := NewManager(ctx, r.report, slog.New(slog.DiscardHandler))
		f(t, m, r)
		cancel()
		m.Wait()
	})
}

func start(t *testing.T, m *Manager, id, kind string, disruptive bool, run Func) {
	t.Helper()
	if err := m.Start(id, kind, disruptive, run); err != nil {
		t.Fatal(err)
	}
}

// untilCancelled is work that ends only with its context.
func untilCancelled(ctx context.Context, _ *Task) (any, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestLife(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, r *recorder) {
		start(t, m, "t1", "decom.disk_erase", true, func(ctx context.Context, task *Task) (any, error) {
			report := progress.Func(task.Progress)
			for i := range 100 {
				if i == 50 {
					task.Step("verify")
				}
				time.Sleep(200 * time.Millisecond)
				report(int64(i+1), 100)
			}
			return map[string]int{"bytes": 100}, nil
		})
		time.Sleep(30 * time.Second)

		all := r.of("t1")
		if len(all) < 19 || len(all) > 22 {
			t.Fatalf("%d updates in 20 seconds", len(all))
		}
		if first := all[0]; first.State != teeth.Running || first.Percent == nil || *first.Percent != 0 || first.ETA != nil {
			t.Errorf("first update %+v", first)
		}
		final := all[len(all)-1]
		if final.State != teeth.Complete || string(final.Result) != `{"bytes":100}` || final.Msg != "" || final.Step != "verify" {
			t.Errorf("final state %+v", final)
		}
		for i, s := range all {
			if err := s.Check(); err != nil {
				t.Error(err)
			}
			if s.Seq != uint64(i+1) {
				t.Errorf("update %d has seq %d", i, s.Seq)
			}
			if s.State.Final() {
				continue
			}
			if i > 0 {
				if d := r.when[i].Sub(r.when[i-1]); d < time.Second {
					t.Errorf("running update %d came after %v", i, d)
				}
				if *s.Percent < *all[i-1].Percent {
					t.Errorf("percent fell from %v to %v", *all[i-1].Percent, *s.Percent)
				}
			}
			if i >= 4 {
				// A tick may come just before or just after a step of 1 %.
				want := 20 - float64(i)
				if s.ETA == nil {
					t.Errorf("after %d s there is no estimate of the time left", i)
				} else if off := 1 + want*0.15; *s.ETA < want-off || *s.ETA > want+off {
					t.Errorf("after %d s the time left is %v, not about %v s", i, *s.ETA, want)
				}
			}
		}
	})
}

func TestHeartbeatWithoutProgress(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, r *recorder) {
		start(t, m, "t1", "k", false, untilCancelled)
		time.Sleep(65 * time.Second)
		if n := len(r.of("t1")); n != 7 {
			t.Errorf("%d updates in 65 s, want one at once and one every 10 s", n)
		}
	})
}

func TestPercentNeverFalls(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, r *recorder) {
		start(t, m, "t1", "k", false, func(ctx context.Context, task *Task) (any, error) {
			for _, p := range [][2]int64{{50, 100}, {20, 100}, {0, 0}, {-5, 100}, {1, -3}, {60, 100}, {500, 100}} {
				task.Progress(p[0], p[1])
				time.Sleep(3 * time.Second)
			}
			return nil, nil
		})
		time.Sleep(time.Minute)
		var got []float64
		for _, s := range r.of("t1") {
			if s.Percent != nil && (len(got) == 0 || got[len(got)-1] != *s.Percent) {
				got = append(got, *s.Percent)
			}
		}
		if s := fmt.Sprint(got); s != "[0 50 60 100]" && s != "[50 60 100]" {
			t.Errorf("percents %v", s)
		}
	})
}

func TestOneDisruptiveTask(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, r *recorder) {
		start(t, m, "t1", "decom.disk_erase", true, untilCancelled)
		err := m.Start("t2", "standbye.prepare_image", true, untilCancelled)
		if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), `"t1" (decom.disk_erase)`) {
			t.Errorf("second disruptive task: %v", err)
		}
		start(t, m, "t3", "decom.qc", false, untilCancelled) // harmless ones go beside it
		if err := m.Cancel("t1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		start(t, m, "t2", "standbye.prepare_image", true, untilCancelled)
	})
}

func TestStartIsIdempotent(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, r *recorder) {
		runs := 0
		run := func(ctx context.Context, _ *Task) (any, error) {
			runs++
			time.Sleep(5 * time.Second)
			return runs, nil
		}
		start(t, m, "t1", "k", true, run)
		start(t, m, "t1", "k", true, run)
		if err := m.Start("t1", "other", true, run); err == nil {
			t.Error("one id for two kinds")
		}
		time.Sleep(10 * time.Second)
		want := r.last(t, "t1")
		if want.State != teeth.Complete || string(want.Result) != "1" {
			t.Fatalf("%+v", want)
		}
		for _, acked := range []bool{false, true} { // an acknowledged erase is not done again either
			if acked {
				m.Acknowledge("t1")
			}
			before := len(r.of("t1"))
			start(t, m, "t1", "k", true, run)
			synctest.Wait()
			if got := r.of("t1"); len(got) != before+1 || got[before].Seq != want.Seq || string(got[before].Result) != "1" {
				t.Errorf("acknowledged %v: sent again: %+v", acked, got[before:])
			}
		}
		if runs != 1 {
			t.Errorf("ran %d times", runs)
		}
	})
}

func TestCancel(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, r *recorder) {
		start(t, m, "t1", "k", true, untilCancelled)
		start(t, m, "t2", "k", false, func(ctx context.Context, _ *Task) (any, error) {
			<-ctx.Done()
			return "done before it noticed", nil
		})
		for _, id := range []string{"t1", "t2"} {
			if err := m.Cancel(id); err != nil {
				t.Error(err)
			}
		}
		synctest.Wait()
		if s := r.last(t, "t1"); s.State != teeth.Failed || !strings.Contains(s.Msg, "cancelled by the control plane") {
			t.Errorf("%+v", s)
		}
		if s := r.last(t, "t2"); s.State != teeth.Complete {
			t.Errorf("%+v", s)
		}
		if err := m.Cancel("t1"); err == nil {
			t.Error("cancelled twice")
		}
		if err := m.Cancel("t9"); !errors.Is(err, ErrUnknown) {
			t.Error(err)
		}
	})
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		r := &recorder{}
		m := NewManager(ctx, r.report, slog.New(slog.DiscardHandler))
		start(t, m, "t1", "k", true, untilCancelled)
		cancel()
		m.Wait()
		if s := r.last(t, "t1"); s.State != teeth.Failed || !strings.Contains(s.Msg, "shutting down") {
			t.Errorf("%+v", s)
		}
		if err := m.Start("t2", "k", false, untilCancelled); !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
	})
}

func TestPanicIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := &recorder{}
		m := NewManager(context.Background(), r.report, slog.New(slog.NewTextHandler(&log, nil)))
		start(t, m, "t1", "decom.qc", true, func(context.Context, *Task) (any, error) {
			var s []int
			return s[3], nil
		})
		start(t, m, "t2", "k", false, func(context.Context, *Task) (any, error) {
			runtime.Goexit()
			return nil, nil
		})
		m.Wait()
		if s := r.last(t, "t1"); s.State != teeth.Failed || !strings.Contains(s.Msg, "decom.qc panicked: runtime error: index out of range") {
			t.Errorf("%+v", s)
		}
		if s := r.last(t, "t2"); s.State != teeth.Failed || s.Msg != "k ended without a result" {
			t.Errorf("%+v", s)
		}
		if !strings.Contains(log.String(), "TestPanicIsAnError") {
			t.Errorf("no stack in the log: %s", &log)
		}
		start(t, m, "t3", "k", true, func(context.Context, *Task) (any, error) { return nil, nil })
		m.Wait()
	})
}

func TestFinalStateFitsInALine(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, r *recorder) {
		start(t, m, "long", "k", false, func(context.Context, *Task) (any, error) {
			return nil, errors.New(strings.Repeat("ü\x7f\xff", 1<<20))
		})
		start(t, m, "big", "k", false, func(context.Context, *Task) (any, error) {
			return strings.Repeat("x", teeth.MaxLine), nil
		})
		start(t, m, "unencodable", "k", false, func(context.Context, *Task) (any, error) {
			return func() {}, nil
		})
		synctest.Wait()
		for _, id := range []string{"long", "big", "unencodable"} {
			s := r.last(t, id)
			if s.State != teeth.Failed || s.Msg == "" || len(s.Result) != 0 {
				t.Errorf("%s: %.200v", id, s)
			}
			cmd, err := teeth.NewCommand("i", teeth.MethodTaskStatus, s)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cmd.Append(nil); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
		if s := r.last(t, "long"); !strings.HasSuffix(s.Msg, "bytes more)") {
			t.Errorf("cut without a word: %q", s.Msg[len(s.Msg)-20:])
		}
	})
}

func TestSnapshotAndAcknowledge(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, r *recorder) {
		if b, err := json.Marshal(m.Snapshot()); string(b) != "[]" || err != nil {
			t.Errorf("%s, %v", b, err)
		}
		start(t, m, "t1", "k", false, func(context.Context, *Task) (any, error) { return nil, errors.New("EIO") })
		synctest.Wait()
		start(t, m, "t2", "k", true, func(ctx context.Context, task *Task) (any, error) {
			task.Progress(1, 4)
			return untilCancelled(ctx, task)
		})
		synctest.Wait()
		m.Acknowledge("t2") // runs: nothing to acknowledge
		got := m.Snapshot()
		if len(got) != 2 || got[0].State != teeth.Failed || got[0].Msg != "EIO" || got[1].State != teeth.Running || *got[1].Percent != 25 {
			t.Fatalf("%+v", got)
		}
		waited := make(chan error, 1)
		go func() { waited <- m.WaitAcknowledged(context.Background(), "t1") }()
		synctest.Wait()
		select {
		case <-waited:
			t.Fatal("did not wait")
		default:
		}
		m.Acknowledge("t1")
		m.Acknowledge("t1")
		if err := <-waited; err != nil {
			t.Error(err)
		}
		if got := m.Snapshot(); len(got) != 1 || got[0].TaskID != "t2" {
			t.Errorf("%+v", got)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := m.WaitAcknowledged(ctx, "t2"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := m.WaitAcknowledged(ctx, "t9"); !errors.Is(err, ErrUnknown) {
			t.Error(err)
		}
	})
}

func TestRefuse(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, r *recorder) {
		start(t, m, "t1", "k", false, untilCancelled)
		m.Refuse("rebooting into the installed system")
		if err := m.Start("t2", "k", false, untilCancelled); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "rebooting") {
			t.Error(err)
		}
		start(t, m, "t1", "k", false, untilCancelled)
		m.Refuse("")
		start(t, m, "t2", "k", false, untilCancelled)
	})
}

func TestBounds(t *testing.T) {
	bubble(t, func(t *testing.T, m *Manager, r *recorder) {
		for _, id := range []string{"", strings.Repeat("x", maxID+1)} {
			if m.Start(id, "k", false, untilCancelled) == nil {
				t.Errorf("id of %d bytes", len(id))
			}
		}
		quick := func(context.Context, *Task) (any, error) { return nil, nil }
		n := 0
		for ; n < 2*maxTasks; n++ {
			if err := m.Start(fmt.Sprint(n), "k", false, quick); err != nil {
				if !errors.Is(err, ErrBusy) {
					t.Error(err)
				}
				break
			}
			synctest.Wait()
		}
		if n != maxTasks {
			t.Errorf("%d unacknowledged tasks kept, want %d", n, maxTasks)
		}
		for i := range n {
			m.Acknowledge(fmt.Sprint(i))
		}
		for i := range maxRunning {
			start(t, m, fmt.Sprint("r", i), "k", false, untilCancelled)
		}
		if err := m.Start("one more", "k", false, untilCancelled); !errors.Is(err, ErrBusy) {
			t.Errorf("beyond %d running tasks: %v", maxRunning, err)
		}
		if len(m.tasks) > maxRemember+maxRunning {
			t.Errorf("%d tasks kept", len(m.tasks))
		}
	})
}
