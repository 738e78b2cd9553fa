package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/wire/teeth"
)

const (
	maxID       = 256  // bytes of a task id
	maxRunning  = 64   // tasks at once
	maxTasks    = 1024 // tasks kept, running and finished
	maxRemember = 256  // finished tasks kept although the control plane has their final state
)

// Errors of a Manager.
var (
	// ErrBusy is a second disruptive task while one runs, or any task beyond
	// what an agent keeps.
	ErrBusy = errors.New("busy")

	// ErrUnknown is a task id that was never started in this boot, or was
	// forgotten since.
	ErrUnknown = errors.New("no such task")
)

// Manager runs tasks. Its methods may be called from any goroutine.
type Manager struct {
	ctx    context.Context
	report func(teeth.TaskStatus)
	log    *slog.Logger
	wg     sync.WaitGroup

	mu      sync.Mutex
	tasks   []*Task // oldest first
	refused string  // why no new task is started, or ""
	held    string  // what Hold keeps disruptive tasks away for, or ""
}

// NewManager returns a Manager whose tasks end when ctx does. It calls report
// with every update of a task, in order and at most once a second for a running
// one; report must return quickly. The log gets the stack of a task that
// panicked.
func NewManager(ctx context.Context, report func(teeth.TaskStatus), log *slog.Logger) *Manager {
	return &Manager{ctx: ctx, report: report, log: log}
}

// Start starts run as the task id, of the kind that people know it by (its
// method), and returns at once. Only one disruptive task runs at a time: another
// is ErrBusy, naming the first. A task that runs already is left alone; one that
// has finished has its final state reported again.
func (m *Manager) Start(id, kind string, disruptive bool, run Func) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("task id of %d bytes; it must have 1 to %d", len(id), maxID)
	}
	m.mu.Lock()
	if t := m.find(id); t != nil {
		m.mu.Unlock()
		return m.again(t, kind)
	}
	defer m.mu.Unlock()
	if err := m.room(disruptive); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(m.ctx)
	t := &Task{
		id: id, kind: kind, disruptive: disruptive, cancel: cancel, eta: newEstimator(time.Now()),
		done: make(chan struct{}), acked: make(chan struct{}),
	}
	m.tasks = append(m.tasks, t)
	m.wg.Go(func() { m.run(ctx, t, run) })
	return nil
}

// again answers a command that was sent before.
func (m *Manager) again(t *Task, kind string) error {
	if t.kind != kind {
		return fmt.Errorf("task %q is a %s, not a %s; a new task needs a new id", t.id, t.kind, kind)
	}
	if s := t.status(time.Now()); s.State.Final() {
		m.report(s)
	}
	return nil
}

// room reports why no task can start now. m.mu is held.
func (m *Manager) room(disruptive bool) error {
	if m.refused != "" {
		return fmt.Errorf("%w: %s", ErrBusy, m.refused)
	}
	if err := m.ctx.Err(); err != nil {
		return fmt.Errorf("%w: the agent is shutting down", ErrBusy)
	}
	if disruptive && m.held != "" {
		return fmt.Errorf("%w: %s, and only one disruptive piece of work is done at a time", ErrBusy, m.held)
	}
	running := 0
	for _, t := range m.tasks {
		if t.finished() {
			continue
		}
		if running++; disruptive && t.disruptive {
			return fmt.Errorf("%w: task %q (%s) is running, and only one disruptive task runs at a time", ErrBusy, t.id, t.kind)
		}
	}
	if running >= maxRunning {
		return fmt.Errorf("%w: %d tasks are running", ErrBusy, running)
	}
	m.forget()
	if len(m.tasks) >= maxTasks {
		return fmt.Errorf("%w: %d tasks wait for their final state to be acknowledged", ErrBusy, len(m.tasks))
	}
	return nil
}

// forget drops the oldest of the acknowledged tasks beyond maxRemember. m.mu is
// held.
func (m *Manager) forget() {
	acked := 0
	for _, t := range m.tasks {
		if isClosed(t.acked) {
			acked++
		}
	}
	m.tasks = slices.DeleteFunc(m.tasks, func(t *Task) bool {
		if acked <= maxRemember || !isClosed(t.acked) {
			return false
		}
		acked--
		return true
	})
}

func (m *Manager) run(ctx context.Context, t *Task, run Func) {
	var watcher sync.WaitGroup
	watcher.Go(func() { t.watch(m.report) })

	result, err := m.call(ctx, t, run)
	switch {
	case err == nil: // it completed, whatever was asked of it since
	case m.ctx.Err() != nil:
		err = fmt.Errorf("the agent is shutting down: %w", err)
	case ctx.Err() != nil:
		err = fmt.Errorf("cancelled by the control plane: %w", err)
	}
	t.cancel()
	close(t.done)
	watcher.Wait() // the final state comes last
	m.report(t.finish(result, err))
}

// call turns a panic of run into an error: the agent is PID 1 and must live on.
// run has a goroutine of its own, so that runtime.Goexit ends no more than that.
func (m *Manager) call(ctx context.Context, t *Task, run Func) (result any, err error) {
	err = fmt.Errorf("%s ended without a result", t.kind)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		defer func() {
			if p := recover(); p != nil {
				m.log.Error("task panicked", "task", t.id, "kind", t.kind, "panic", p, "stack", string(debug.Stack()))
				err = fmt.Errorf("%s panicked: %v", t.kind, p)
			}
		}()
		result, err = run(ctx, t)
	}()
	wg.Wait()
	return result, err
}

// Cancel ends the context of a running task. Its final state, error unless it
// completed all the same, is reported when its Func has returned.
func (m *Manager) Cancel(id string) error {
	m.mu.Lock()
	t := m.find(id)
	m.mu.Unlock()
	if t == nil {
		return fmt.Errorf("cancel task %q: %w", id, ErrUnknown)
	}
	if s := t.status(time.Now()); s.State.Final() {
		return fmt.Errorf("cancel task %q: it has ended with state %s", id, s.State)
	}
	t.cancel()
	return nil
}

// Snapshot returns the tasks that run, and those whose final state the control
// plane has not acknowledged, oldest first.
func (m *Manager) Snapshot() []teeth.TaskStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	all := []teeth.TaskStatus{}
	for _, t := range m.tasks {
		if !isClosed(t.acked) {
			all = append(all, t.status(now))
		}
	}
	return all
}

// Acknowledge records that the control plane has the final state of a task. One
// that is unknown, running or acknowledged already is left as it is.
func (m *Manager) Acknowledge(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.find(id); t != nil && t.finished() && !isClosed(t.acked) {
		close(t.acked)
	}
}

// WaitAcknowledged waits until the control plane has the final state of a task.
// The agent does so before it leaves for another kernel.
func (m *Manager) WaitAcknowledged(ctx context.Context, id string) error {
	m.mu.Lock()
	t := m.find(id)
	m.mu.Unlock()
	if t == nil {
		return fmt.Errorf("wait for task %q: %w", id, ErrUnknown)
	}
	select {
	case <-t.acked:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the final state of task %q to be acknowledged: %w", id, ctx.Err())
	}
}

// State returns the state of a task as it is now.
func (m *Manager) State(id string) (teeth.State, error) {
	m.mu.Lock()
	t := m.find(id)
	m.mu.Unlock()
	if t == nil {
		return "", fmt.Errorf("state of task %q: %w", id, ErrUnknown)
	}
	return t.status(time.Now()).State, nil
}

// Refuse makes Start refuse every new task with ErrBusy and that reason, for
// instance because the machine is about to reboot. An empty reason ends it.
func (m *Manager) Refuse(reason string) {
	m.mu.Lock()
	m.refused = reason
	m.mu.Unlock()
}

// Wait waits until no task runs. The caller has ended the Manager's context.
func (m *Manager) Wait() { m.wg.Wait() }

// find returns the task with that id, or nil. m.mu is held.
func (m *Manager) find(id string) *Task {
	for _, t := range m.tasks {
		if t.id == id {
			return t
		}
	}
	return nil
}

// finished reports whether there is a final state.
func (t *Task) finished() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.final != nil
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
