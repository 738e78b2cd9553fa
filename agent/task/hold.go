package task

import (
	"context"
	"fmt"
)

// Hold takes the place of the one disruptive task for work that is nobody's task
// here, until release is called; release may be called more than once. It fails
// with ErrBusy when Start would. ctx ends at a shutdown, or with release. What says
// what the work is.
func (m *Manager) Hold(what string) (ctx context.Context, release func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.room(true); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", what, err)
	}
	m.held = what
	ctx, cancel := context.WithCancel(m.ctx)
	m.wg.Add(1)
	released := false
	return ctx, func() {
		cancel()
		m.mu.Lock()
		defer m.mu.Unlock()
		if !released {
			released = true
			m.held = ""
			m.wg.Done()
		}
	}, nil
}
