package rackhd

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/teeth-metal/teeth/controlplane/bus"
)

const (
	leadership  = "rackhd-events"
	leadFor     = 20 * time.Second
	publishWait = 10 * time.Second // well below leadFor: nobody else publishes meanwhile
	idle        = 2 * time.Second  // between looks at the store when nothing wakes us
	retryWait   = time.Second
	batch       = 200                   // notices published together
	gather      = 50 * time.Millisecond // between two batches
)

// publishNotices publishes what has happened, in order, until ctx ends. A notice
// leaves the store only when the broker has confirmed its messages: what happens
// while there is no broker is told when it is back. One server does it at a time.
func (s *Service) publishNotices(ctx context.Context) {
	for ctx.Err() == nil {
		_, changed := s.c.Store.Revision() // before the look, so that nothing falls between
		wait := idle
		more, err := s.publishSome(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.c.Log.Warn("events wait in the store: they cannot be published", "error", err)
			changed, wait = nil, retryWait
		case more:
			// What happens meanwhile is told together: each batch is two commits.
			changed, wait = nil, gather
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(wait):
		}
	}
}

// publishSome publishes one batch and reports whether there may be more.
func (s *Service) publishSome(ctx context.Context) (more bool, err error) {
	pending, err := s.c.Store.Notices(ctx, 0, batch)
	if err != nil || len(pending) == 0 {
		return false, err
	}
	until := time.Now().Add(leadFor)
	leads, err := s.c.Store.Lead(ctx, leadership, leadFor)
	if err != nil || !leads {
		return false, err
	}
	// Another server may have published them before this one led.
	if pending, err = s.c.Store.Notices(ctx, 0, batch); err != nil || len(pending) == 0 {
		return false, err
	}
	var messages []bus.Message
	for _, n := range pending {
		m, err := s.told(ctx, n)
		if errors.Is(err, errUntellable) {
			// It would be no better the next time, and hold up all others.
			s.c.Log.Error("an event is not published", "kind", n.Kind, "number", n.Number, "error", err)
			continue
		}
		if err != nil {
			return false, err
		}
		messages = append(messages, m...)
	}
	publishing, cancel := context.WithDeadline(ctx, time.Now().Add(publishWait))
	defer cancel()
	err = s.c.Bus.Publish(publishing, messages...)
	upTo := pending[len(pending)-1].Number
	if err != nil {
		upTo = 0 // only what is too much for the store goes
	} else if time.Now().After(until) {
		return true, nil // another server may be at them
	}
	untold, dropErr := s.c.Store.DropNotices(ctx, upTo)
	if untold > 0 {
		s.c.Log.Log(ctx, slog.LevelError+4, "events were lost: more have waited for the bus than the store keeps", "events", untold)
	}
	return err == nil, errors.Join(err, dropErr)
}

// beat says every few seconds that this server lives.
func (s *Service) beat(ctx context.Context) {
	for {
		every := time.Duration(s.c.Settings.Values().HeartbeatSeconds) * time.Second
		if s.c.Settings.Values().ExternalEvents {
			sending, cancel := context.WithTimeout(ctx, min(every, publishWait))
			err := s.publishHeartbeat(sending, every)
			cancel()
			if err != nil && ctx.Err() == nil && !errors.Is(err, bus.ErrFull) {
				s.c.Log.Debug("no heartbeat on the bus", "error", err)
			}
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return
		}
	}
}
