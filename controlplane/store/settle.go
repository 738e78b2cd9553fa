package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// begin records that the first task of a graph is started.
func (t *tx) begin(g Graph) error {
	if _, err := t.Exec(`UPDATE graphs SET state = 'running', started = ?, rev = ? WHERE id = ?`, t.now, t.nextRev(), g.ID); err != nil {
		return err
	}
	return t.notice(NoticeGraphStarted, g.Chassis, g.ID, map[string]any{"graphName": g.Name, "status": Running})
}

// settle decides what the states of a graph's tasks mean for those that wait, and
// whether the graph has ended. There is no other place that does.
func (t *tx) settle(id string) error {
	g, err := t.graph(id)
	if err != nil || g.Final() {
		return err
	}
	tasks, err := t.tasksWhere(`graph = ? AND superseded = 0 ORDER BY position`, id)
	if err != nil {
		return err
	}
	byLabel := map[string]*Task{}
	for i := range tasks {
		byLabel[tasks[i].Label] = &tasks[i]
	}
	for changed := true; changed; {
		changed = false
		for i := range tasks {
			task := &tasks[i]
			if task.State != Pending || task.ready && !g.Cancel {
				continue
			}
			switch can, reason := possible(task.Waits, byLabel); {
			case g.Cancel:
				err = t.skip(task, notRun+"its graph was cancelled")
			case can == met:
				task.ready = true
				t.work = append(t.work, task.Chassis)
				_, err = t.Exec(`UPDATE tasks SET ready = 1, rev = ? WHERE id = ?`, t.nextRev(), task.ID)
			case can == never:
				err = t.skip(task, notRun+reason)
			default:
				continue
			}
			if err != nil {
				return err
			}
			changed = true
		}
	}
	if slices.ContainsFunc(tasks, func(task Task) bool { return !task.Final() }) {
		return nil
	}
	state, msg := outcome(g, tasks)
	return t.endGraph(g, state, msg)
}

// notRun is how the message of a skipped task begins.
const notRun = "not run: "

// skip ends a task that can not or shall not run any more.
func (t *tx) skip(task *Task, msg string) error {
	task.State, task.Skipped, task.Msg = Cancelled, true, msg
	if _, err := t.Exec(`UPDATE tasks SET state = 'cancelled', skipped = 1, msg = ?, finished = ?, rev = ? WHERE id = ?`,
		msg, t.now, t.nextRev(), task.ID); err != nil {
		return err
	}
	_, err := t.Exec(`DELETE FROM phone_home WHERE task = ?`, task.ID)
	return err
}

type verdict int

const (
	undecided verdict = iota
	met
	never
)

// possible reports whether what a task waits for is there, can still come, or
// cannot any more, and then why.
func possible(w Waits, byLabel map[string]*Task) (verdict, string) {
	all, reason := met, ""
	for _, label := range slices.Sorted(maps.Keys(w.All)) {
		switch states := w.All[label]; one(states, byLabel[label]) {
		case undecided:
			all = undecided
		case never:
			task := byLabel[label]
			if task.Skipped {
				return never, strings.TrimPrefix(task.Msg, notRun) // the same
			}
			return never, fmt.Sprintf("%s before it ended with %s", label, task.State)
		}
	}
	if len(w.Any) == 0 {
		return all, reason
	}
	some := never
	for label, states := range w.Any {
		switch one(states, byLabel[label]) {
		case met:
			return all, ""
		case undecided:
			some = undecided
		}
	}
	if some == never {
		return never, "none of those it waited for ended as it wanted"
	}
	return undecided, ""
}

// one tells of a single task. One that was skipped has never run, so that no wait
// for its end is fulfilled.
func one(states []string, task *Task) verdict {
	switch {
	case task == nil:
		return never
	case !task.Final():
		return undecided
	case !task.Skipped && slices.Contains(states, task.State):
		return met
	}
	return never
}

// outcome is the state of a graph whose tasks have all ended. A task that did not
// succeed counts unless that is ignored, or another task was there for just that
// state: one that waits for any end, such as a cleanup, is not.
func outcome(g Graph, tasks []Task) (state, msg string) {
	rank := map[string]int{Cancelled: 1, Timeout: 2, Failed: 3}
	state = Succeeded
	for _, task := range tasks {
		if task.State == Succeeded || task.Skipped || task.ignoreFailure || handled(task, tasks) || rank[task.State] <= rank[state] {
			continue
		}
		state, msg = task.State, fmt.Sprintf("%s: %s", task.Label, task.Msg)
	}
	if g.Cancel && state != Failed {
		return Cancelled, "cancelled by the operator"
	}
	return state, msg
}

func handled(task Task, tasks []Task) bool {
	for _, other := range tasks {
		for _, waits := range []map[string][]string{other.Waits.All, other.Waits.Any} {
			states := waits[task.Label]
			if !other.Skipped && slices.Contains(states, task.State) && !slices.Contains(states, Succeeded) {
				return true
			}
		}
	}
	return false
}

// endGraph records a graph's final state, and tells the task whose work it was.
func (t *tx) endGraph(g Graph, state, msg string) error {
	if g.State == Pending && state != Cancelled { // of no tasks that ran
		if err := t.begin(g); err != nil {
			return err
		}
	}
	if _, err := t.Exec(`UPDATE graphs SET state = ?, msg = ?, paused = 0, finished = ?, rev = ? WHERE id = ?`, state, msg, t.now, t.nextRev(), g.ID); err != nil {
		return err
	}
	if err := t.notice(NoticeGraphEnded, g.Chassis, g.ID, map[string]any{"graphName": g.Name, "status": state}); err != nil {
		return err
	}
	if g.Parent == "" {
		_, err := t.Exec(`UPDATE chassis SET failed = ?, rev = ? WHERE id = ?`, flag(state == Failed || state == Timeout), t.nextRev(), g.Chassis)
		return err
	}
	parent, err := t.task(g.Parent)
	if err != nil || parent.Final() {
		return err
	}
	if parent.cancel != 0 && state != Succeeded {
		state = ended(parent)
	}
	result, err := json.Marshal(map[string]string{"graph": g.ID, "state": state})
	if err != nil {
		return err
	}
	return t.finish(parent, state, msg, result)
}

// RequestCancel cancels a pending task at once; one that is being done is marked
// and returned as it is, for its doer to be told. With force it ends at once
// whatever its doer does. ErrConflict: it is finished.
func (s *Store) RequestCancel(ctx context.Context, id string, force bool) (Task, error) {
	var task Task
	err := s.update(ctx, func(t *tx) error {
		var err error
		if task, err = t.task(id); err != nil {
			return err
		}
		if task.Final() {
			return fmt.Errorf("task %s is already finished (%s): %w", id, task.State, ErrConflict)
		}
		if err = t.cancelTask(task, force); err == nil {
			task, err = t.task(id)
		}
		return err
	})
	return task, err
}

func (t *tx) cancelTask(task Task, force bool) error {
	switch {
	case task.State == Pending:
		return t.finish(task, Cancelled, "cancelled by the operator", nil)
	case task.Kind == KindGraph:
		if err := t.cancelChildren(task, force); err != nil {
			return err
		}
		if task, err := t.task(task.ID); err != nil || task.Final() {
			return err
		}
		return t.markCancel(task, cancelAsked)
	case task.Kind == KindOutside, task.Kind == KindConnected:
		return t.finish(task, Cancelled, "cancelled by the operator", nil)
	case force && task.Kind == KindAgent:
		return t.finish(task, Cancelled, "given up by the operator; the chassis may still be at work on it", nil)
	case force:
		return t.finish(task, Cancelled, "given up by the operator", nil)
	}
	return t.markCancel(task, cancelAsked)
}

// cancelChild ends the graph that is a task's work, for a reason of the task's.
func (t *tx) cancelChild(task Task, why int) error {
	if err := t.markCancel(task, why); err != nil {
		return err
	}
	return t.cancelChildren(task, false)
}

func (t *tx) cancelChildren(task Task, force bool) error {
	ids, err := t.graphIDs(`parent = ?`, task.ID)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := t.cancelGraph(id, force); err != nil {
			return err
		}
	}
	return nil
}

// unfinished is a graph that is still to be worked on; ErrConflict: it has ended.
func (t *tx) unfinished(id string) (Graph, error) {
	g, err := t.graph(id)
	if err == nil && g.Final() {
		err = fmt.Errorf("graph %s is already finished (%s): %w", g.ID, g.State, ErrConflict)
	}
	return g, err
}

// CancelGraph has a graph end: what is pending is cancelled at once, what is
// being done is marked for its doer to be told, or with force ended at once.
// ErrConflict: it has ended.
func (s *Store) CancelGraph(ctx context.Context, id string, force bool) error {
	return s.update(ctx, func(t *tx) error {
		if _, err := t.unfinished(id); err != nil {
			return err
		}
		return t.cancelGraph(id, force)
	})
}

func (t *tx) cancelGraph(id string, force bool) error {
	if _, err := t.Exec(`UPDATE graphs SET cancel = 1, rev = ? WHERE id = ?`, t.nextRev(), id); err != nil {
		return err
	}
	running, err := t.tasksWhere(`graph = ? AND state = 'running'`, id)
	if err != nil {
		return err
	}
	for _, task := range running {
		if task, err = t.task(task.ID); err != nil {
			return err
		}
		if task.Final() {
			continue
		}
		if err := t.cancelTask(task, force); err != nil {
			return err
		}
	}
	return t.settle(id)
}

// abandon ends the graphs of a chassis that will not be heard of any more, so that
// others, of which they are parts, go on.
func (t *tx) abandon(chassis string) error {
	ids, err := t.graphIDs(`chassis = ?`, chassis)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if g, err := t.graph(id); err != nil {
			return err
		} else if g.Final() {
			continue
		}
		if err := t.cancelGraph(id, true); err != nil {
			return err
		}
	}
	return nil
}

// PauseGraph keeps tasks of a graph, and of those inside it, from being started,
// or no longer does. What is being done goes on. ErrConflict: it has ended.
func (s *Store) PauseGraph(ctx context.Context, id string, paused bool) error {
	return s.update(ctx, func(t *tx) error {
		g, err := t.unfinished(id)
		if err != nil {
			return err
		}
		if g.Parent != "" {
			return fmt.Errorf("graph %s is part of graph %s: pause or resume that: %w", g.ID, g.Root, ErrConflict)
		}
		ids, err := t.graphIDs(`root = ?`, g.Root)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if _, err := t.Exec(`UPDATE graphs SET paused = ?, rev = ? WHERE id = ?`, flag(paused), t.nextRev(), id); err != nil {
				return err
			}
		}
		return nil
	})
}

// graphIDs are the unfinished graphs that where selects.
func (t *tx) graphIDs(where string, args ...any) ([]string, error) {
	rows, err := t.Query(`SELECT id FROM graphs WHERE state IN ('pending', 'running') AND `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}
