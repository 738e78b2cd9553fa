package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// MarkSent records, before it happens, that a pending task is given to the agent
// of boot bootID. It fails with ErrConflict if the task is not pending (any
// more). A task that overwrites disks ends the chassis' service here.
func (s *Store) MarkSent(ctx context.Context, id, bootID string) error {
	return s.update(ctx, func(t *tx) error {
		res, err := t.Exec(`UPDATE tasks SET state = 'sent', boot_id = ?, seq = 0, rev = ? WHERE id = ? AND state = 'pending'`,
			bootID, t.nextRev(), id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("task %s is not pending: %w", id, ErrConflict))
		}
		task, err := t.task(id)
		if err != nil || task.Method != teeth.MethodDiskErase && task.Method != teeth.MethodPrepareImage {
			return err
		}
		// The system that is about to be overwritten may not call back any more.
		if _, err := t.Exec(`DELETE FROM phone_home WHERE chassis = ? AND task NOT IN (SELECT id FROM tasks WHERE run = ?)`,
			task.Chassis, task.Run); err != nil {
			return err
		}
		_, err = t.Exec(`UPDATE chassis SET installed = NULL, in_service = NULL, rev = ? WHERE id = ?`, t.nextRev(), task.Chassis)
		return err
	})
}

// Requeue makes a task that was sent, and that the agent does not know, pending
// again. A cancelled one ends here.
func (s *Store) Requeue(ctx context.Context, id string) error {
	return s.update(ctx, func(t *tx) error {
		task, err := t.task(id)
		if err != nil || task.Final() {
			return err
		}
		if task.Cancel {
			return t.finish(task, Cancelled, "cancelled before it was done", nil)
		}
		_, err = t.Exec(`UPDATE tasks SET state = 'pending', eta = NULL, step = '', seq = 0, rev = ? WHERE id = ?`, t.nextRev(), id)
		return err
	})
}

// ApplyStatus records an agent's update. It reports whether the update changed
// anything: what comes after the final state, or out of order, does not. A task
// that chassis was never given is ErrNotFound. When the task fails, those that
// wait for it are cancelled in the same transaction.
func (s *Store) ApplyStatus(ctx context.Context, chassis, bootID string, st teeth.TaskStatus) (applied bool, err error) {
	err = s.update(ctx, func(t *tx) error {
		applied = false
		task, err := t.task(st.TaskID)
		if err != nil {
			return err
		}
		if task.Chassis != chassis {
			return fmt.Errorf("task %q is not of chassis %s: %w", st.TaskID, chassis, ErrNotFound)
		}
		if task.Final() {
			return nil
		}
		applied = true
		switch st.State {
		case teeth.Complete:
			return t.finish(task, Complete, st.Msg, st.Result)
		case teeth.Failed:
			if task.Cancel {
				return t.finish(task, Cancelled, st.Msg, st.Result)
			}
			return t.finish(task, Failed, st.Msg, st.Result)
		}
		if st.Seq != 0 && bootID == task.BootID && int64(st.Seq) <= task.seq {
			applied = false
			return nil
		}
		percent := task.Percent
		if st.Percent != nil {
			percent = min(max(*st.Percent, 0), 100)
		}
		_, err = t.Exec(`UPDATE tasks SET state = 'running', percent = ?, eta = ?, step = ?, msg = ?, seq = ?, boot_id = ?,
			started = COALESCE(started, ?), rev = ? WHERE id = ?`,
			percent, st.ETA, st.Step, st.Msg, int64(st.Seq), bootID, t.now, t.nextRev(), task.ID)
		return err
	})
	return applied, err
}

// Finish records a final state that is not the agent's own report: one of
// Complete, Failed and Cancelled. It does nothing to a task that has one.
func (s *Store) Finish(ctx context.Context, id, state, msg string) error {
	return s.update(ctx, func(t *tx) error {
		task, err := t.task(id)
		if err != nil || task.Final() {
			return err
		}
		return t.finish(task, state, msg, nil)
	})
}

// RequestCancel cancels a pending task at once; one that the agent has is marked
// and returned as it is, for the agent to be told. ErrConflict: it is finished.
func (s *Store) RequestCancel(ctx context.Context, id string) (Task, error) {
	var task Task
	err := s.update(ctx, func(t *tx) error {
		var err error
		if task, err = t.task(id); err != nil {
			return err
		}
		switch {
		case task.Final():
			return fmt.Errorf("task %s is already finished (%s): %w", id, task.State, ErrConflict)
		case task.State == Pending:
			err = t.finish(task, Cancelled, "cancelled by the operator", nil)
		default:
			// One that is away may still be at work: only it can say that it is not.
			_, err = t.Exec(`UPDATE tasks SET cancel = 1, rev = ?, msg = CASE
				WHEN EXISTS (SELECT 1 FROM chassis c WHERE c.id = tasks.chassis AND c.connected <> 0) THEN msg
				ELSE 'to be cancelled when the chassis is back: it is not connected' END WHERE id = ?`, t.nextRev(), id)
		}
		if err == nil {
			task, err = t.task(id)
		}
		return err
	})
	return task, err
}

func (t *tx) task(id string) (Task, error) {
	task, err := scanTask(t.QueryRow(`SELECT `+taskColumns+` FROM tasks WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("task %.64q: %w", id, ErrNotFound)
	}
	return task, err
}

func (t *tx) finish(task Task, state, msg string, result json.RawMessage) error {
	percent := task.Percent
	if state == Complete {
		percent = 100
	}
	kept := sql.NullString{String: string(result), Valid: len(result) > 0 && string(result) != "null"}
	_, err := t.Exec(`UPDATE tasks SET state = ?, percent = ?, eta = NULL, msg = ?, result = ?,
		started = COALESCE(started, ?), finished = ?, rev = ? WHERE id = ?`,
		state, percent, msg, kept, t.now, t.now, t.nextRev(), task.ID)
	if err != nil {
		return err
	}
	if state == Complete {
		installed := sql.NullInt64{Int64: t.now, Valid: task.Method == teeth.MethodRunImage}
		_, err = t.Exec(`UPDATE chassis SET installed = COALESCE(?, installed), last_seen = ?, rev = ? WHERE id = ?`,
			installed, t.now, t.nextRev(), task.Chassis)
		return err
	}
	reason := fmt.Sprintf("not run: %s before it ended with %s", task.Method, state)
	rows, err := t.Query(`SELECT id FROM tasks WHERE run = ? AND position > ? AND state = 'pending'`, task.Run, task.Position)
	if err != nil {
		return err
	}
	defer rows.Close()
	var waiting []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return err
		}
		waiting = append(waiting, id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, id := range waiting {
		if _, err := t.Exec(`UPDATE tasks SET state = 'cancelled', msg = ?, finished = ?, rev = ? WHERE id = ?`,
			reason, t.now, t.nextRev(), id); err != nil {
			return err
		}
	}
	failed := 0
	if state == Failed {
		failed = 1
	}
	// The system that was to call back will not be installed.
	if _, err := t.Exec(`DELETE FROM phone_home WHERE task IN (SELECT id FROM tasks WHERE run = ?)`, task.Run); err != nil {
		return err
	}
	_, err = t.Exec(`UPDATE chassis SET failed = ?, last_seen = ?, rev = ? WHERE id = ?`, failed, t.now, t.nextRev(), task.Chassis)
	return err
}
