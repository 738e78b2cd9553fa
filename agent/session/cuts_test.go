package session

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/teeth-metal/teeth/agent/task"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// A task that runs while the connection is cut again and again, as a control
// plane sees it: with the answer lost, the message lost, or both delivered. The
// control plane starts the task anew after every cut, because it cannot know
// whether its command arrived.
func TestTaskAcrossCuts(t *testing.T) {
	for seed := range uint64(20) {
		bubbleWithTasks(t, func(t *testing.T, b *bench, tasks *task.Manager) {
			rng := rand.New(rand.NewPCG(seed, 0))
			var stored []teeth.TaskStatus // what the control plane has committed
			percent, finals := -1.0, 0
			for len(b.deliveries()) == 0 || waiting(b) > 0 {
				p := b.accept().welcome()
				start, err := teeth.NewCommand("start", teeth.MethodDiskErase, teeth.TaskParams{TaskID: "t1"})
				if err != nil {
					t.Fatal(err)
				}
				p.message(start)
				cut := time.After(time.Duration(rng.Int64N(int64(40 * time.Second))))
				for open := true; open; {
					select {
					case <-cut: // also after the final state: a start that came late has it repeated
						open = false
						continue
					case m, ok := <-p.in:
						if !ok {
							t.Fatal("the agent closed the connection")
						}
						if m.Kind == teeth.KindResult {
							continue // to start
						}
						if m.Method != teeth.MethodTaskStatus {
							p.pong(m)
							continue
						}
						var s teeth.TaskStatus
						if err := json.Unmarshal(m.Params, &s); err != nil {
							t.Fatal(err)
						}
						if s.State == teeth.Running {
							if finals > 0 || *s.Percent < percent {
								t.Fatalf("%+v after %v %% and %d final states", s, percent, finals)
							}
							percent = *s.Percent
						} else if finals++; rng.IntN(3) > 0 {
							if rng.IntN(2) > 0 {
								stored = append(stored, s) // and the answer is lost
							}
							open = false
							continue
						}
						stored = append(stored, s)
						p.result(m, struct{}{})
						synctest.Wait()
					}
				}
				p.nc.Close()
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if err := tasks.WaitAcknowledged(ctx, "t1"); err != nil {
				t.Error(err)
			}
			if left := tasks.Snapshot(); len(left) != 0 {
				t.Errorf("still kept: %+v", left)
			}
			b.accept().welcome().quiet(time.Minute) // it is not sent once more
			last := stored[len(stored)-1]
			for _, s := range stored {
				if s.State.Final() && (s.Seq != last.Seq || string(s.Result) != "1") {
					t.Errorf("final states differ, or the work was done twice: %+v, %+v", s, last)
				}
			}
		})
	}
}

// bubbleWithTasks is bubble with a task.Manager wired as the agent does it. Its
// one command erases for two minutes.
func bubbleWithTasks(t *testing.T, f func(t *testing.T, b *bench, tasks *task.Manager)) {
	var tasks *task.Manager
	var b *bench
	runs := 0
	erase := func(ctx context.Context, t *task.Task) (any, error) {
		runs++
		for i := range int64(120) {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			t.Progress(i+1, 120)
		}
		return runs, nil
	}
	cfg := testConfig()
	cfg.Handler = handlerFunc(func(_ context.Context, method string, params json.RawMessage) (any, error) {
		var p teeth.TaskParams
		if err := teeth.DecodeParams(method, params, &p, "task_id"); err != nil {
			return nil, err
		}
		return struct{}{}, tasks.Start(p.TaskID, method, true, erase)
	})
	bubble(t, cfg, func(t *testing.T, bb *bench) {
		b = bb
		b.acknowledge = func(id string) { tasks.Acknowledge(id) }
		ctx, cancel := context.WithCancelCause(context.Background())
		tasks = task.NewManager(ctx, func(s teeth.TaskStatus) { b.Report(s) }, slog.New(slog.DiscardHandler))
		defer tasks.Wait()
		defer cancel(errors.New("the test is over"))
		f(t, b, tasks)
	})
}

// waiting returns how many states are not acknowledged.
func waiting(b *bench) int {
	b.outbox.mu.Lock()
	defer b.outbox.mu.Unlock()
	return len(b.outbox.statuses)
}
