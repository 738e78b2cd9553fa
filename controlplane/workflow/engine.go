// Package workflow decides what a chassis does next.
//
// Work is a graph of tasks (package definition), each of which starts when those
// it waits for have ended as it wants. All state is in the store, and what the end
// of a task means for its graph is decided there, in the transaction that records
// it: the engine may be killed at any moment and goes on where it was. A command
// to an agent is recorded as started before it is sent, and sent again, under the
// same task id, whenever a chassis returns that does not know of it. A job that a
// server does itself is leased to it, and done anew by another if it dies; one
// that has ended is never done again.
//
// Several servers may share a store. Whichever has a chassis' session sends it
// commands; any does the other jobs.
package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Session is a chassis' connection, as package gateway has it.
type Session interface {
	// Call returns a *teeth.MethodError if the agent refuses the command.
	Call(ctx context.Context, method string, params any) (json.RawMessage, error)
	ID() string // as the store knows it
	Legacy() bool
	BootID() string
	Close(reason error)
}

// Config of an Engine.
type Config struct {
	Store *store.Store
	// Session returns the chassis' session if this server has one.
	Session func(chassis string) (Session, bool)
	// BootURL returns the base URL under which a chassis reaches package
	// netboot's server, without a slash at the end.
	BootURL func(store.Chassis) (string, error)
	// ImageKey makes the capabilities of downloads of images, as netboot's
	// CapabilityKey checks them; "": none are needed.
	ImageKey string
	Log      *slog.Logger

	Answer time.Duration // for an agent to accept a command; 60 s unless set
	Poll   time.Duration // how often everything open is looked at; 30 s unless set
	// Watch is how often it is looked for tasks that are out of time, and for those
	// of servers that have died; 2 s unless set.
	Watch time.Duration
	// Silence is for how long a connected agent, which reports on its task every
	// 10 s, may say nothing of it; 5 minutes unless set.
	Silence time.Duration
}

// Engine gives chassis their tasks. It is safe for concurrent use.
type Engine struct {
	c    Config
	jobs map[string]Job // not changed once Run is called

	mu      sync.Mutex
	awake   map[string]bool        // chassis to look at
	locks   map[string]*sync.Mutex // by chassis: one look at a time
	wake    chan struct{}
	heard   map[string]heard              // by chassis: of its task
	strays  map[string][]string           // by chassis: tasks its agent does that have ended here
	working map[string]context.CancelFunc // by lease: local tasks
	told    map[string]string             // by chassis: session and task of the newest cancel
	timed   map[string]bool               // tasks whose next attempt a timer waits for

	local   sync.WaitGroup
	running context.Context // that of Run
}

// heard is the newest revision of a task and when it was first seen.
type heard struct {
	task  string
	rev   int64
	since time.Time
	told  bool
}

// New returns an Engine. It gives out nothing until Run is called.
func New(c Config) *Engine {
	for d, otherwise := range map[*time.Duration]time.Duration{
		&c.Answer: time.Minute, &c.Poll: 30 * time.Second, &c.Watch: 2 * time.Second, &c.Silence: 5 * time.Minute,
	} {
		if *d <= 0 {
			*d = otherwise
		}
	}
	return &Engine{
		c: c, jobs: map[string]Job{}, awake: map[string]bool{}, locks: map[string]*sync.Mutex{}, wake: make(chan struct{}, 1),
		heard: map[string]heard{}, strays: map[string][]string{}, working: map[string]context.CancelFunc{}, timed: map[string]bool{}, told: map[string]string{},
	}
}

// Wake has the engine look at a chassis soon; "" stands for the tasks of none.
func (e *Engine) Wake(chassis string) {
	e.mu.Lock()
	e.awake[chassis] = true
	e.mu.Unlock()
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	var looks sync.WaitGroup
	defer e.local.Wait()
	defer looks.Wait()
	e.mu.Lock()
	e.running = ctx
	e.mu.Unlock()
	poll := time.NewTicker(e.c.Poll)
	defer poll.Stop()
	watch := time.NewTicker(e.c.Watch)
	defer watch.Stop()
	e.wakeOpen(ctx) // what was under way when the server ended
	for {
		e.mu.Lock()
		awake := e.awake
		e.awake = map[string]bool{}
		e.mu.Unlock()
		for chassis := range awake {
			looks.Go(func() { e.advance(ctx, chassis) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		case <-e.c.Store.Work():
			for _, chassis := range e.c.Store.TakeWork() {
				e.Wake(chassis)
			}
		case <-e.c.Store.Remote():
			e.wakeOpen(ctx)
		case <-poll.C:
			e.wakeOpen(ctx)
		case <-watch.C:
			e.tidy(ctx)
		}
	}
}

func (e *Engine) wakeOpen(ctx context.Context) {
	open, err := e.c.Store.ChassisWithOpenTasks(ctx)
	if err != nil && ctx.Err() == nil {
		e.c.Log.Error("cannot look for open tasks", "error", err)
	}
	for _, chassis := range open {
		e.Wake(chassis)
	}
}

// tidy ends what is out of time and takes over what dead servers were doing.
func (e *Engine) tidy(ctx context.Context) {
	late, err := e.c.Store.Expire(ctx)
	left, err2 := e.c.Store.Reclaim(ctx)
	if err := errors.Join(err, err2); err != nil && ctx.Err() == nil {
		e.c.Log.Error("cannot look for tasks that are late or left", "error", err)
	}
	for _, chassis := range append(late, left...) {
		e.Wake(chassis)
	}
}

func (e *Engine) lock(chassis string) *sync.Mutex {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.locks[chassis] == nil {
		e.locks[chassis] = new(sync.Mutex)
	}
	return e.locks[chassis]
}

// Connected compares what a chassis that has just connected says it is doing
// with what it was told to do. What it does not know, because it was rebooted or
// never got the command, it is given again; what has been given up meanwhile it
// is to stop.
func (e *Engine) Connected(ctx context.Context, chassis string, st teeth.Status) error {
	l := e.lock(chassis)
	l.Lock()
	defer l.Unlock()
	known := map[string]bool{}
	var strays []string
	unfinished := 0
	for _, t := range st.Tasks {
		known[t.TaskID] = true
		if t.State.Final() {
			continue
		}
		if unfinished++; unfinished > maxUnfinished {
			return fmt.Errorf("the agent says that it has more than %d tasks under way", maxUnfinished)
		}
		task, err := e.c.Store.Task(ctx, t.TaskID)
		switch {
		case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrAmbiguous):
		case err != nil:
			return err
		case task.ID == t.TaskID && task.Chassis == chassis && task.Final():
			strays = append(strays, task.ID)
		}
	}
	e.mu.Lock()
	e.strays[chassis] = strays
	if len(strays) == 0 {
		delete(e.strays, chassis)
	}
	e.mu.Unlock()
	open, err := e.c.Store.OpenTasks(ctx, chassis)
	if err != nil {
		return err
	}
	for _, t := range open {
		if t.State == store.Pending || t.Kind != store.KindAgent || known[t.ID] {
			continue
		}
		e.c.Log.Info("the chassis does not know its task", "chassis", chassis, "task", t.ID, "method", t.Method,
			"sent_to_boot", t.BootID, "boot_id", st.BootID)
		if err := e.c.Store.Requeue(ctx, t.ID); err != nil {
			return err
		}
	}
	return nil
}
