package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// ErrLost is wrapped by errors of a call that no session took, or whose session ended
// before it was answered: whether it was carried out is not known.
var ErrLost = errors.New("no session with the control plane")

// call is who waits for the answer to a command.
type call struct {
	answered chan struct{}
	result   json.RawMessage
	err      error
}

func (c *call) answer(m teeth.Message) {
	if m.Kind == teeth.KindError {
		c.fail(m.Err)
		return
	}
	c.result = m.Result
	close(c.answered)
}

func (c *call) fail(err error) {
	c.err = err
	close(c.answered)
}

// Call sends a command over the session there is and returns its answer; an error
// that the control plane answers is a *teeth.MethodError. Unlike what is reported or
// logged it is not sent again on another connection. Only methods that the server has
// said it knows may be called: another would end the session.
func (s *Session) Call(ctx context.Context, method string, params any) (json.RawMessage, error) {
	b, err := json.Marshal(params)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	if !s.Connected() {
		return nil, fmt.Errorf("%s: %w", method, ErrLost)
	}
	c := &call{answered: make(chan struct{})}
	select {
	case s.calls <- &item{method: method, params: b, call: c}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", method, ctx.Err())
	}
	select {
	case <-c.answered:
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: not answered: %w", method, ctx.Err())
	}
	if c.err != nil {
		return nil, fmt.Errorf("%s: %w", method, c.err)
	}
	return c.result, nil
}

// abandonCalls tells those who wait that the connection has ended. Nobody reads or
// writes any more.
func (c *conn) abandonCalls() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, it := range c.pending {
		if it.call != nil {
			delete(c.pending, id)
			it.call.fail(ErrLost)
		}
	}
}
