package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// advance starts what a chassis can do next.
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
	open, err := e.c.Store.OpenTasks(ctx, chassis)
	if err != nil {
		return false, err
	}
	var session Session
	if chassis != "" {
		if s, ok := e.c.Session(chassis); ok {
			session = s
		}
	}
	if session == nil {
		e.absent(chassis)
	} else if err := e.stopStrays(ctx, session, chassis); err != nil {
		return false, err
	}
	busy := false // an agent does one task at a time
	var problems []error
	for _, t := range open {
		var more bool
		switch {
		case t.State == store.Running:
			busy = busy || t.Kind == store.KindAgent
			more, err = e.attend(ctx, session, t)
		case !t.Ready() || t.Kind == store.KindAgent && (session == nil || busy):
			continue
		case e.early(t):
			continue
		default:
			busy = busy || t.Kind == store.KindAgent
			more, err = e.begin(ctx, session, t)
		}
		again = again || more
		problems = append(problems, err)
	}
	return again, errors.Join(problems...)
}

// attend looks after a task that is being done.
func (e *Engine) attend(ctx context.Context, session Session, t store.Task) (again bool, err error) {
	switch t.Kind {
	case store.KindLocal:
		if t.Cancel {
			e.stop(t.Lease)
		}
	case store.KindConnected:
		return e.connected(ctx, session, t)
	case store.KindAgent:
		if session == nil {
			return false, nil
		}
		if err = e.listen(ctx, session, t); t.Cancel && !session.Legacy() {
			err = errors.Join(err, e.cancelOnce(ctx, session, t))
		}
	}
	return false, err
}

// begin starts a task that is ready.
func (e *Engine) begin(ctx context.Context, session Session, t store.Task) (again bool, err error) {
	how := store.Start{}
	if t.Late {
		if how.Options, how.Command, err = e.fillIn(ctx, t); err != nil {
			return true, e.refuse(ctx, t, err)
		}
		t.Options = how.Options
	}
	switch t.Kind {
	case store.KindAgent:
		how.Session, how.BootID = session.ID(), session.BootID()
		return e.send(ctx, session, t, how)
	case store.KindLocal:
		return e.startLocal(ctx, t, how)
	case store.KindGraph:
		in, err := e.inner(ctx, t.Chassis, t.Graph, t.Options)
		if err == nil {
			_, err = e.c.Store.StartSubgraph(ctx, t.ID, in)
		}
		if err == nil {
			e.Wake(in.Chassis)
			return true, nil
		}
		if now, e2 := e.c.Store.Task(ctx, t.ID); e2 != nil || !now.Ready() {
			return false, e2
		}
		return true, e.refuse(ctx, t, err)
	}
	_, err = e.c.Store.MarkStarted(ctx, t.ID, how)
	if errors.Is(err, store.ErrConflict) { // cancelled or paused meanwhile, or begun by another server
		return false, nil
	}
	return err == nil, err
}

// refuse fails a task that cannot be begun, for a reason that will not pass by
// itself.
func (e *Engine) refuse(ctx context.Context, t store.Task, reason error) error {
	if !errors.Is(reason, ErrInvalid) && !errors.Is(reason, store.ErrNotFound) && !errors.Is(reason, store.ErrConflict) &&
		!errors.Is(reason, errUnknown) {
		return reason
	}
	e.c.Log.Warn("task cannot be begun", "chassis", t.Chassis, "task", t.ID, "label", t.Label, "error", reason)
	return e.c.Store.Finish(ctx, t.ID, "", store.Failed, reason.Error(), nil)
}

// early reports whether another attempt's time has not come, and sees to it that
// it is looked at then.
func (e *Engine) early(t store.Task) bool {
	wait := time.Until(t.NotBefore)
	if wait <= 0 {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.timed[t.ID] {
		e.timed[t.ID] = true
		time.AfterFunc(wait, func() {
			e.mu.Lock()
			delete(e.timed, t.ID)
			e.mu.Unlock()
			e.Wake(t.Chassis)
		})
	}
	return true
}

// connectedOptions are those of Job.Wait.Connected.
type connectedOptions struct {
	// After is the label of a task: the chassis must have booted since that was
	// started. "": it need only be there.
	After string `json:"after"`
}

// connected ends a task that waits for its chassis to be there.
func (e *Engine) connected(ctx context.Context, session Session, t store.Task) (again bool, err error) {
	if session == nil {
		return false, nil
	}
	var o connectedOptions
	if err := decodeOptions(t.Options, &o); err != nil {
		return false, err
	}
	if o.After != "" {
		g, err := e.c.Store.Graph(ctx, t.Graph)
		if err != nil {
			return false, err
		}
		for _, other := range g.Tasks {
			if other.Label == o.After && other.Started != nil && other.BootID == session.BootID() {
				return false, nil
			}
		}
	}
	result, err := json.Marshal(map[string]string{"boot_id": session.BootID()})
	if err != nil {
		return false, err
	}
	return true, e.c.Store.Finish(ctx, t.ID, "", store.Succeeded, "", result)
}

// fillIn fills in the options of a task that had to wait for it.
func (e *Engine) fillIn(ctx context.Context, t store.Task) (json.RawMessage, *store.Command, error) {
	g, err := e.c.Store.Graph(ctx, t.Graph)
	if err != nil {
		return nil, nil, err
	}
	var c store.Chassis
	if t.Chassis != "" {
		if c, err = e.c.Store.Chassis(ctx, t.Chassis); err != nil {
			return nil, nil, err
		}
	}
	options, err := e.fill(c, g, t)
	if err != nil {
		return nil, nil, invalid("%w", err)
	}
	n := store.NewTask{Label: t.Label, Kind: t.Kind, Job: t.Job, Options: options}
	if err := e.check(ctx, c, &n, false); err != nil {
		return nil, nil, err
	}
	return options, &n.Command, nil
}
