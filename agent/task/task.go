package task

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	// interval is the shortest time between two running updates of a task.
	interval = time.Second

	// heartbeat is the longest: the original agent's reporting interval.
	heartbeat = 10 * time.Second

	// maxMsg bounds the text of an error in bytes, so that with every byte
	// escaped it still fits in a line.
	maxMsg = 16 << 10
)

// Func is the work of a task. It returns what goes into the result of the final
// state, to be encoded as JSON, or nil. When ctx ends it must return soon.
type Func func(ctx context.Context, t *Task) (result any, err error)

// Task is one task. Its methods may be called from any goroutine; after Func has
// returned they do nothing.
type Task struct {
	id, kind   string
	disruptive bool
	cancel     context.CancelFunc
	done       chan struct{} // Func has returned
	acked      chan struct{} // the control plane has the final state

	mu       sync.Mutex
	fraction float64
	step     string
	eta      estimator
	seq      uint64
	final    *teeth.TaskStatus
}

// ID returns the id that the control plane gave the task.
func (t *Task) ID() string { return t.id }

// Progress records how much of the whole task is done; it is a progress.Func.
// The percentage never goes down: a step that starts over holds it until it has
// caught up. Use progress.Func.Part to give each step its share.
func (t *Task) Progress(done, total int64) {
	if total <= 0 {
		return
	}
	f := min(max(float64(done)/float64(total), 0), 1)
	t.mu.Lock()
	t.fraction = max(t.fraction, f)
	t.mu.Unlock()
}

// Step records what the task does now, for people.
func (t *Task) Step(name string) {
	t.mu.Lock()
	t.step = name
	t.mu.Unlock()
}

// status returns the final state, or a running one as of now.
func (t *Task) status(now time.Time) teeth.TaskStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.final != nil {
		return *t.final
	}
	t.eta.update(now, t.fraction)
	percent := math.Floor(t.fraction*1000) / 10
	s := teeth.TaskStatus{TaskID: t.id, State: teeth.Running, Percent: &percent, Step: t.step, Seq: t.seq}
	if left, ok := t.eta.left(); ok {
		eta := math.Ceil(left.Seconds())
		s.ETA = &eta
	}
	return s
}

// next is status under a new Seq.
func (t *Task) next(now time.Time) teeth.TaskStatus {
	t.mu.Lock()
	t.seq++
	t.mu.Unlock()
	return t.status(now)
}

// watch reports the running task until Func has returned.
func (t *Task) watch(report func(teeth.TaskStatus)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	now := time.Now()
	last, sent := t.next(now), now
	report(last)
	for {
		select {
		case <-t.done:
			return
		case now = <-tick.C:
		}
		s := t.status(now)
		if *s.Percent == *last.Percent && s.Step == last.Step && now.Sub(sent) < heartbeat {
			continue
		}
		last, sent = t.next(now), now
		report(last)
	}
}

// finish makes the final state out of what Func returned.
func (t *Task) finish(result any, err error) teeth.TaskStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq++
	s := teeth.TaskStatus{TaskID: t.id, State: teeth.Complete, Step: t.step, Seq: t.seq}
	if err == nil && result != nil {
		s.Result, err = json.Marshal(result)
		if err == nil {
			err = fits(s)
		}
		if err != nil {
			err = fmt.Errorf("%s is done, but its result cannot be sent: %w", t.kind, err)
		}
	}
	if err != nil {
		s.State, s.Result, s.Msg = teeth.Failed, nil, clip(err.Error())
	}
	t.final = &s
	return s
}

// fits reports why s cannot be sent as a line.
func fits(s teeth.TaskStatus) error {
	m, err := teeth.NewCommand(teeth.NewID(), teeth.MethodTaskStatus, s)
	if err == nil {
		_, err = m.Append(nil)
	}
	return err
}

// clip shortens an error text to maxMsg and says so.
func clip(s string) string {
	if s = strings.ToValidUTF8(s, "\uFFFD"); len(s) <= maxMsg {
		return s
	}
	return strings.ToValidUTF8(s[:maxMsg], "") + fmt.Sprintf(" … (%d bytes more)", len(s)-maxMsg)
}
