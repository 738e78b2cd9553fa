package store

import (
	"context"
	"fmt"
	"time"
)

// awayLimit is how long an agent that is told to stop a task has for it.
const awayLimit = 2 * time.Minute

// Expire ends what is out of time: tasks beyond their deadline, and those whose
// agents were told so and go on. It returns the chassis that are to be looked at.
func (s *Store) Expire(ctx context.Context) (chassis []string, err error) {
	var due int
	now := time.Now().UnixMilli()
	const condition = `state = 'running' AND (deadline < ? AND cancel = 0 OR cancel = 2 AND cancelled < ?)`
	if err := s.r.QueryRowContext(ctx, `SELECT COUNT(*) FROM tasks WHERE `+condition, now, now-awayLimit.Milliseconds()).Scan(&due); err != nil || due == 0 {
		return nil, err
	}
	err = s.update(ctx, func(t *tx) error {
		chassis = nil
		late, err := t.tasksWhere(condition, t.now, t.now-awayLimit.Milliseconds())
		if err != nil {
			return err
		}
		for _, task := range late {
			// One that is ended by the end of another, in this loop, has its state.
			if task, err = t.task(task.ID); err != nil {
				return err
			}
			if task.Final() {
				continue
			}
			if err := t.expire(task); err != nil {
				return err
			}
			chassis = append(chassis, task.Chassis)
		}
		return nil
	})
	return chassis, err
}

func (t *tx) expire(task Task) error {
	limit := time.Duration(task.timeLimit) * time.Millisecond
	switch {
	case task.Kind == KindGraph:
		return t.cancelChild(task, cancelTimeout)
	case task.Kind != KindAgent:
		return t.finish(task, Timeout, fmt.Sprintf("not done within %v", limit), nil)
	case task.cancel == cancelTimeout:
		return t.finish(task, Timeout, fmt.Sprintf("not done within %v; the agent has not stopped and may still be at work", limit), nil)
	}
	var connected bool
	if err := t.QueryRow(`SELECT connected FROM chassis WHERE id = ?`, task.Chassis).Scan(&connected); err != nil {
		return err
	}
	if !connected {
		return t.finish(task, Timeout, fmt.Sprintf("not done within %v; the chassis is away and may still be at work", limit), nil)
	}
	return t.markCancel(task, cancelTimeout)
}
