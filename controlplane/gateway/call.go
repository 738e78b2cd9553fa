package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/teeth-metal/teeth/wire/teeth"
)

// ErrNotConnected is wrapped by errors of commands that could not be answered
// because the chassis has no session, or lost it. Whether the agent has received
// the command is then unknown.
var ErrNotConnected = errors.New("not connected")

// maxPending bounds the commands of one session that wait for their result.
const maxPending = 256

// Call sends a command and waits for its result. A refusal by the agent is a
// *teeth.MethodError; an error that wraps ErrNotConnected or the context's leaves
// open whether the agent has the command. Methods that the original agent would
// end its session on are refused here.
func (s *Session) Call(ctx context.Context, method string, params any) (json.RawMessage, error) {
	if s.legacy && !legacyKnows(method) {
		return nil, &teeth.MethodError{Msg: fmt.Sprintf("the agent's version %s does not know %s", teeth.LegacyVersion, method)}
	}
	if !s.approved.Load() && method != teeth.MethodStatus && method != teeth.MethodPing {
		return nil, &teeth.MethodError{Msg: fmt.Sprintf("chassis %s is not approved", s.chassis)}
	}
	id := teeth.NewID()
	m, err := teeth.NewCommand(id, method, params)
	if err != nil {
		return nil, err
	}
	if !s.secure && method == teeth.MethodRunImage && hasConfigDrive(m.Params) {
		return nil, &teeth.MethodError{Msg: "the session is not over TLS, and a config drive holds secrets: boot the chassis without teeth.insecure"}
	}
	reply := make(chan teeth.Message, 1)
	s.mu.Lock()
	if s.ended == nil && len(s.pending) < maxPending {
		if s.pending == nil {
			s.pending = map[string]chan teeth.Message{}
		}
		// It stays when ctx ends, so that a late reply is not an unknown one.
		s.pending[id] = reply
	} else {
		err = s.gone()
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	switch err := s.write(m); {
	case errors.Is(err, teeth.ErrLineTooLong):
		return nil, fmt.Errorf("%s to chassis %s: %w", method, s.chassis, err)
	case err != nil:
		s.end(err)
		return nil, fmt.Errorf("%s to chassis %s: %w: %w", method, s.chassis, ErrNotConnected, err)
	}
	select {
	case m = <-reply:
	case <-ctx.Done():
		return nil, fmt.Errorf("%s to chassis %s: no result: %w", method, s.chassis, ctx.Err())
	case <-s.done:
		s.mu.Lock()
		defer s.mu.Unlock()
		return nil, fmt.Errorf("%s to chassis %s: %w", method, s.chassis, s.gone())
	}
	if m.Kind == teeth.KindError {
		m.Err.Msg = printable(m.Err.Msg, maxMessage) // operators will read it
		return nil, m.Err
	}
	return m.Result, nil
}

func (s *Session) deliver(m teeth.Message) error {
	var id string
	json.Unmarshal(m.ID, &id) // one that is no string is none of ours
	s.mu.Lock()
	reply, ok := s.pending[id]
	delete(s.pending, id)
	s.mu.Unlock()
	if !ok {
		return &teeth.ViolationError{Fatal: teeth.FatalUnknownID}
	}
	reply <- m
	return nil
}

// gone is called with s.mu held.
func (s *Session) gone() error {
	if s.ended == nil {
		return fmt.Errorf("%d commands wait for their result: %w", len(s.pending), ErrNotConnected)
	}
	return fmt.Errorf("%w: %w", ErrNotConnected, s.ended)
}

func (s *Session) status(ctx context.Context, inventory bool) (teeth.Status, error) {
	params := teeth.StatusParams{Inventory: inventory && !s.legacy}
	result, err := s.Call(ctx, teeth.MethodStatus, params)
	if err != nil {
		return teeth.Status{}, err
	}
	var st teeth.Status
	if err := json.Unmarshal(result, &st); err != nil {
		return teeth.Status{}, fmt.Errorf("status of chassis %s: %w", s.chassis, err)
	}
	return st, nil
}

func hasConfigDrive(params json.RawMessage) bool {
	var p struct {
		ConfigDrive json.RawMessage `json:"configdrive"`
	}
	return json.Unmarshal(params, &p) != nil || len(p.ConfigDrive) > 0 && string(p.ConfigDrive) != "null"
}

func legacyKnows(method string) bool {
	switch teeth.Canonical(method) {
	case teeth.MethodStatus, teeth.MethodCacheImages, teeth.MethodPrepareImage, teeth.MethodRunImage:
		return method == teeth.Legacy(method) // it knows only one spelling
	}
	return false
}
