// Package workflow decides what a chassis does next.
//
// A run is a sequence of tasks, each of which waits for the one before; when one
// fails or is cancelled, the rest is cancelled. All state is in the store: the
// engine may be killed at any moment and goes on where it was. A command is
// recorded as sent before it is sent, and sent again, under the same task id,
// whenever a chassis returns that does not know of it.
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
	Legacy() bool
	BootID() string
	Close(reason error)
}

// Config of an Engine.
type Config struct {
	Store *store.Store
	// Session returns the chassis' session if there is one.
	Session func(chassis string) (Session, bool)
	// BootURL returns the base URL under which a chassis reaches package
	// netboot's server, without a slash at the end.
	BootURL func(store.Chassis) (string, error)
	Log     *slog.Logger

	Answer time.Duration // for an agent to accept a command; 60 s unless set
	Poll   time.Duration // how often everything open is looked at; 30 s unless set
	// Silence is for how long a connected agent, which reports on its task every
	// 10 s, may say nothing of it; 5 minutes unless set.
	Silence time.Duration
}

// Engine gives chassis their tasks. It is safe for concurrent use.
type Engine struct {
	c Config

	mu    sync.Mutex
	awake map[string]bool        // chassis to look at
	locks map[string]*sync.Mutex // by chassis: one look at a time
	wake  chan struct{}
	heard map[string]heard // by chassis: of its task
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
	if c.Answer <= 0 {
		c.Answer = time.Minute
	}
	if c.Poll <= 0 {
		c.Poll = 30 * time.Second
	}
	if c.Silence <= 0 {
		c.Silence = 5 * time.Minute
	}
	return &Engine{
		c: c, awake: map[string]bool{}, locks: map[string]*sync.Mutex{}, wake: make(chan struct{}, 1), heard: map[string]heard{},
	}
}

// Wake has the engine look at a chassis soon.
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
	var wg sync.WaitGroup
	defer wg.Wait()
	poll := time.NewTicker(e.c.Poll)
	defer poll.Stop()
	for {
		e.mu.Lock()
		awake := e.awake
		e.awake = map[string]bool{}
		e.mu.Unlock()
		for chassis := range awake {
			wg.Go(func() { e.advance(ctx, chassis) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		case <-poll.C:
			open, err := e.c.Store.ChassisWithOpenTasks(ctx)
			if err != nil && ctx.Err() == nil {
				e.c.Log.Error("cannot look for open tasks", "error", err)
			}
			for _, chassis := range open {
				e.Wake(chassis)
			}
		}
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
// never got the command, it is given again.
func (e *Engine) Connected(ctx context.Context, chassis string, st teeth.Status) error {
	l := e.lock(chassis)
	l.Lock()
	defer l.Unlock()
	known := map[string]bool{}
	for _, t := range st.Tasks {
		known[t.TaskID] = true
	}
	open, err := e.c.Store.OpenTasks(ctx, chassis)
	if err != nil {
		return err
	}
	for _, t := range open {
		if t.State == store.Pending || known[t.ID] {
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

// advance gives a chassis its next task, if it is there and has none.
func (e *Engine) advance(ctx context.Context, chassis string) {
	l := e.lock(chassis)
	l.Lock()
	defer l.Unlock()
	for ctx.Err() == nil {
		again, err := e.step(ctx, chassis)
		if err != nil && ctx.Err() == nil {
			e.c.Log.Error("cannot advance", "chassis", chassis, "error", err)
		}
		if !again || err != nil {
			return
		}
	}
}

// step reports whether there may be more to do at once.
func (e *Engine) step(ctx context.Context, chassis string) (again bool, err error) {
	session, ok := e.c.Session(chassis)
	if !ok {
		e.mu.Lock()
		if h, ok := e.heard[chassis]; ok { // it cannot be heard, which is no silence
			h.since = time.Now()
			e.heard[chassis] = h
		}
		e.mu.Unlock()
		return false, nil
	}
	open, err := e.c.Store.OpenTasks(ctx, chassis)
	if err != nil || len(open) == 0 {
		return false, err
	}
	switch t := open[0]; {
	case t.State == store.Pending:
		return e.send(ctx, session, t)
	case t.Cancel && !session.Legacy():
		return false, errors.Join(e.listen(ctx, session, t), e.cancel(ctx, session, t))
	default:
		return false, e.listen(ctx, session, t)
	}
}

// listen ends the session of an agent that has long said nothing of its task,
// and tells the operator. When it is back, it says what it knows: see Connected.
func (e *Engine) listen(ctx context.Context, session Session, t store.Task) error {
	e.mu.Lock()
	h := e.heard[t.Chassis]
	if h.task != t.ID || h.rev != t.Revision() {
		h = heard{task: t.ID, rev: t.Revision(), since: time.Now()}
	}
	silent, tell := time.Since(h.since) >= e.c.Silence, !h.told
	if silent {
		h.since, h.told = time.Now(), true
	}
	e.heard[t.Chassis] = h
	e.mu.Unlock()
	if !silent {
		return nil
	}
	session.Close(fmt.Errorf("nothing was said of task %s for %v", t.ID, e.c.Silence))
	if !tell {
		return nil
	}
	e.c.Log.Warn("the agent says nothing of its task", "chassis", t.Chassis, "task", t.ID, "method", t.Method, "for", e.c.Silence)
	return e.c.Store.AddEvent(ctx, store.Event{Chassis: t.Chassis, Time: time.Now(), Message: fmt.Sprintf(
		"control plane: the agent is connected and has said nothing of task %s (%s) for %v: if that goes on, look at its console and reboot it",
		t.ID, t.Method, e.c.Silence)})
}

func (e *Engine) send(ctx context.Context, session Session, t store.Task) (again bool, err error) {
	log := e.c.Log.With("chassis", t.Chassis, "task", t.ID, "method", t.Method)
	method, params := t.Method, t.Params
	if session.Legacy() {
		if params, err = legacyParams(t); err != nil {
			return true, e.c.Store.Finish(ctx, t.ID, store.Failed, err.Error())
		}
		method = teeth.Legacy(method)
	}
	if err := e.c.Store.MarkSent(ctx, t.ID, session.BootID()); err != nil {
		if errors.Is(err, store.ErrConflict) { // cancelled meanwhile
			return true, nil
		}
		return false, err
	}
	log.Info("task sent")
	callCtx, cancel := context.WithTimeout(ctx, e.c.Answer)
	defer cancel()
	_, err = session.Call(callCtx, method, params)
	var refusal *teeth.MethodError
	switch {
	case err == nil && session.Legacy():
		// It never sends a task_status.
		return true, e.c.Store.Finish(ctx, t.ID, store.Complete, "accepted; this agent does not report progress")
	case err == nil:
		return false, nil
	case errors.As(err, &refusal):
		return true, e.c.Store.Finish(ctx, t.ID, store.Failed, "refused by the agent: "+refusal.Msg)
	case errors.Is(err, teeth.ErrLineTooLong):
		return true, e.c.Store.Finish(ctx, t.ID, store.Failed, err.Error())
	case ctx.Err() != nil:
		return false, nil
	case errors.Is(err, context.DeadlineExceeded):
		session.Close(fmt.Errorf("no answer to %s within %v", method, e.c.Answer))
	}
	// Whether it was received shows when the chassis is back: see Connected.
	log.Warn("no answer from the agent", "error", err)
	return false, nil
}

// legacyParams are the params that the original agent knows.
func legacyParams(t store.Task) (json.RawMessage, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(t.Params, &keys); err != nil {
		return nil, fmt.Errorf("params of task %s: %w", t.ID, err)
	}
	var keep string
	switch t.Method {
	case teeth.MethodCacheImages:
		keep = "image_ids"
	case teeth.MethodPrepareImage, teeth.MethodRunImage:
		keep = "image_id"
	default:
		return nil, fmt.Errorf("the chassis runs the original agent (version %s), which does not know %s: boot it into this ramdisk",
			teeth.LegacyVersion, t.Method)
	}
	return json.Marshal(map[string]json.RawMessage{"task_id": keys["task_id"], keep: keys[keep]})
}

// Cancel cancels a task: at once if it is pending, else by telling its agent,
// now or as soon as it is back. The run's later tasks are cancelled with it.
func (e *Engine) Cancel(ctx context.Context, task string) (store.Task, error) {
	t, err := e.c.Store.RequestCancel(ctx, task)
	if err == nil && !t.Final() {
		e.Wake(t.Chassis)
	}
	return t, err
}

func (e *Engine) cancel(ctx context.Context, session Session, t store.Task) error {
	ctx, stop := context.WithTimeout(ctx, e.c.Answer)
	defer stop()
	_, err := session.Call(ctx, teeth.MethodTaskCancel, teeth.TaskParams{TaskID: t.ID})
	var refusal *teeth.MethodError
	if errors.As(err, &refusal) {
		// It has ended already, and says so in a task_status of its own.
		e.c.Log.Warn("the agent did not cancel its task", "chassis", t.Chassis, "task", t.ID, "error", refusal.Msg)
		return nil
	}
	return err
}
