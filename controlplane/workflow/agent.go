package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// maxUnfinished is how many tasks an agent may say it is at: it does one at a time,
// and each that it names is looked up.
const maxUnfinished = 64

// send gives an agent its task.
func (e *Engine) send(ctx context.Context, session Session, t store.Task, how store.Start) (again bool, err error) {
	if how.Command != nil {
		t.Method, t.Params = how.Command.Method, how.Command.Params
	}
	log := e.c.Log.With("chassis", t.Chassis, "task", t.ID, "method", t.Method)
	method, params := t.Method, t.Params
	switch {
	case t.Method == teeth.MethodStatus && session.Legacy():
		params = json.RawMessage("{}")
	case t.Method == teeth.MethodStatus:
	case session.Legacy():
		if params, err = legacyParams(t); err == nil {
			params, err = withTaskID(params, t.ID)
		}
		method = teeth.Legacy(method)
	default:
		params, err = withTaskID(params, t.ID)
	}
	if err != nil {
		return true, e.c.Store.Finish(ctx, t.ID, "", store.Failed, err.Error(), nil)
	}
	if _, err := e.c.Store.MarkStarted(ctx, t.ID, how); err != nil {
		if errors.Is(err, store.ErrConflict) { // cancelled meanwhile, or this session is the chassis' no more
			log.Info("task not sent", "reason", err)
			return false, nil
		}
		if errors.Is(err, store.ErrNotFound) { // its image was removed
			return true, e.c.Store.Finish(ctx, t.ID, "", store.Failed, err.Error(), nil)
		}
		return false, err
	}
	log.Info("task sent")
	callCtx, cancel := context.WithTimeout(ctx, e.c.Answer)
	defer cancel()
	answer, err := session.Call(callCtx, method, params)
	var refusal *teeth.MethodError
	switch {
	case err == nil && method == teeth.MethodStatus:
		return true, e.saveStatus(ctx, t, answer)
	case err == nil && session.Legacy():
		// It never sends a task_status.
		return true, e.c.Store.Finish(ctx, t.ID, "", store.Succeeded, "accepted; this agent does not report progress", nil)
	case err == nil:
		return false, nil
	case errors.As(err, &refusal):
		return true, e.c.Store.Finish(ctx, t.ID, "", store.Failed, "refused by the agent: "+refusal.Msg, nil)
	case errors.Is(err, teeth.ErrLineTooLong):
		return true, e.c.Store.Finish(ctx, t.ID, "", store.Failed, err.Error(), nil)
	case ctx.Err() != nil:
		return false, nil
	case errors.Is(err, context.DeadlineExceeded):
		session.Close(fmt.Errorf("no answer to %s within %v", method, e.c.Answer))
	}
	// Whether it was received shows when the chassis is back: see Connected.
	log.Warn("no answer from the agent", "error", err)
	return false, nil
}

// saveStatus ends a task whose answer is its result.
func (e *Engine) saveStatus(ctx context.Context, t store.Task, answer json.RawMessage) error {
	var st teeth.Status
	if err := json.Unmarshal(answer, &st); err != nil {
		return e.c.Store.Finish(ctx, t.ID, "", store.Failed, fmt.Sprintf("its status cannot be read: %v", err), nil)
	}
	if err := e.c.Store.SaveStatus(ctx, t.Chassis, st); err != nil {
		return err
	}
	result, err := json.Marshal(map[string]any{"mode": st.Mode, "uptime": st.Uptime, "version": st.Version, "boot_id": st.BootID})
	if err != nil {
		return err
	}
	return e.c.Store.Finish(ctx, t.ID, "", store.Succeeded, "", result)
}

// withTaskID puts a task's id into the params of its command.
func withTaskID(params json.RawMessage, id string) (json.RawMessage, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(params, &keys); err != nil {
		return nil, fmt.Errorf("params of task %s: %w", id, err)
	}
	quoted, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	keys["task_id"] = quoted
	return json.Marshal(keys)
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
	return json.Marshal(map[string]json.RawMessage{keep: keys[keep]})
}

// absent notes that a chassis cannot be heard, which is no silence.
func (e *Engine) absent(chassis string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h, ok := e.heard[chassis]; ok {
		h.since = time.Now()
		e.heard[chassis] = h
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

// stopStrays has an agent stop what has been given up while it was away.
func (e *Engine) stopStrays(ctx context.Context, session Session, chassis string) error {
	e.mu.Lock()
	strays := e.strays[chassis]
	delete(e.strays, chassis)
	e.mu.Unlock()
	if session.Legacy() {
		return nil
	}
	for _, id := range strays {
		e.c.Log.Warn("the chassis is still at work on a task that was given up: it is told to stop", "chassis", chassis, "task", id)
		if err := e.cancel(ctx, session, id); err != nil {
			return err // when it is back it says again what it does
		}
	}
	return nil
}

// cancelOnce tells an agent to stop a task, once in a session.
func (e *Engine) cancelOnce(ctx context.Context, session Session, t store.Task) error {
	what := session.ID() + " " + t.ID
	e.mu.Lock()
	told := e.told[t.Chassis] == what
	e.told[t.Chassis] = what
	e.mu.Unlock()
	if told {
		return nil
	}
	return e.cancel(ctx, session, t.ID)
}

func (e *Engine) cancel(ctx context.Context, session Session, task string) error {
	ctx, stop := context.WithTimeout(ctx, e.c.Answer)
	defer stop()
	_, err := session.Call(ctx, teeth.MethodTaskCancel, teeth.TaskParams{TaskID: task})
	var refusal *teeth.MethodError
	if errors.As(err, &refusal) {
		// It has ended already, and says so in a task_status of its own.
		e.c.Log.Warn("the agent did not cancel its task", "task", task, "error", refusal.Msg)
		return nil
	}
	return err
}
