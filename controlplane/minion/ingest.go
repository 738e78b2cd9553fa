package minion

import (
	"context"
	"fmt"
	"strings"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// maxIngest bounds the frames of one call of Ingest.
const maxIngest = 4096

// Ingest takes the frames (payloads, without their length) of an agent that has
// reached the control plane by another way, and authenticated itself there. It
// returns nil when all are kept durably. Their group and server must be those given. An
// error that wraps wire.ErrMalformed is the agent's fault; after any other it may send
// them again, and they are kept once.
func (s *Server) Ingest(ctx context.Context, groupID, server string, frames [][]byte) error {
	g := s.groups[groupID]
	if g == nil {
		return fmt.Errorf("records of server %s: there is no group %q", server, groupID)
	}
	if len(frames) > maxIngest {
		return fmt.Errorf("records of server %s: %w: %d frames at a time, at most %d", server, wire.ErrMalformed, len(frames), maxIngest)
	}
	return s.ingest(ctx, g, server, func(in *intake) error {
		var v wire.View
		for i, payload := range frames {
			err := wire.Scan(payload, &v)
			if err == nil && v.Verb != wire.Log && v.Verb != wire.Telemetry && v.Verb != wire.Response {
				err = fmt.Errorf("verb %s is no record's", v.Verb)
			}
			if err == nil {
				err = in.add(&v, len(payload))
			}
			if err != nil {
				return fmt.Errorf("records of server %s: frame %d: %w: %w", server, i+1, wire.ErrMalformed, err)
			}
		}
		return nil
	})
}

// IngestLog takes a log line of an agent that does not speak Minion's protocol. It
// returns nil when that is kept durably.
func (s *Server) IngestLog(ctx context.Context, groupID, server, service, message string, at time.Time) error {
	g := s.groups[groupID]
	if g == nil {
		return fmt.Errorf("log of server %s: there is no group %q", server, groupID)
	}
	return s.ingest(ctx, g, server, func(in *intake) error {
		node := wire.RandomNode()
		if at.Before(earliest) {
			at = time.Now()
		}
		var v wire.View
		for i, part := range wire.Split(message, maxLogPart) {
			f := wire.LogLine(wire.NewID(at.Add(time.Duration(i)), node), g.id, server, service, part)
			b, err := f.AppendLarge(nil)
			if err != nil {
				return err
			}
			if err := wire.Scan(b[2:], &v); err != nil {
				return err
			}
			if err := in.add(&v, len(b)); err != nil {
				return err
			}
		}
		return nil
	})
}

// maxLogPart is how long a part of a log line is at most, in bytes.
const maxLogPart = 32 << 10

// ingest is one at a time for each agent: what it sends again while the first time is
// not done must not be kept twice.
func (s *Server) ingest(ctx context.Context, g *group, server string, fill func(*intake) error) error {
	if g.id == ChassisGroup {
		server = strings.ToLower(server)
	}
	who := identity{g.id, server}
	unlock, err := s.lockAgent(ctx, who)
	if err != nil {
		return err
	}
	t := newTracker(s.c.ConnectionBytes)
	in := s.newIntake(g, server)
	in.exact = true
	if err := fill(in); err != nil {
		unlock()
		return err
	}
	b := in.finish(t)
	s.past.leave(who, t, t.leave())
	if b == nil {
		unlock()
		return nil
	}
	handed := make(chan error, 1)
	go func() {
		defer unlock()
		err := s.hand(b)
		if err == nil {
			err = t.wait(s.working)
		}
		handed <- err
	}()
	select {
	case err = <-handed:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("records of server %s: %w", server, err)
	}
	return nil
}

func (s *Server) lockAgent(ctx context.Context, who identity) (unlock func(), err error) {
	for {
		s.mu.Lock()
		busy := s.alone[who]
		if busy == nil {
			done := make(chan struct{})
			s.alone[who] = done
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.alone, who)
				s.mu.Unlock()
				close(done)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
