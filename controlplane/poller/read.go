package poller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// read reads what the poller is for.
func (s *Service) read(ctx context.Context, p store.Poller, m *memory) (result any, r reading, err error) {
	switch p.Kind {
	case Power:
		r.power, err = s.BMCs.State(ctx, p.Chassis)
		return map[string]any{"state": r.power}, r, err
	case SDR:
		r.sensors, err = s.BMCs.Sensors(ctx, p.Chassis)
		return map[string]any{"sensors": r.sensors}, r, err
	case SEL:
		log, err := s.readSEL(ctx, p, m)
		if m.Begun { // what was in the log before is no news
			r.events = log.Events
		}
		if err != nil {
			return nil, r, err
		}
		return s.withEarlier(ctx, p, log), r, nil
	case SNMP:
		q, err := s.query(p)
		if err != nil {
			return nil, r, err
		}
		var more bool
		if r.rows, more, err = q.Read(ctx); err != nil {
			return nil, r, err
		}
		return map[string]any{"rows": r.rows, "truncated": more}, r, nil
	}
	return nil, r, fmt.Errorf("poller kind %q: %w", p.Kind, ErrInvalid)
}

// readSEL reads the events that are new. Of a log that was cleared all are; its
// record ids begin anew, so that the one last seen may be there again and mean
// another event.
func (s *Service) readSEL(ctx context.Context, p store.Poller, m *memory) (power.EventLog, error) {
	log, err := s.BMCs.Events(ctx, p.Chassis, m.Event, 0)
	if err != nil {
		return log, err
	}
	erased := int64(0)
	if log.Erased != nil {
		erased = log.Erased.Unix()
	}
	if m.Event != "" && (erased != m.Erased || log.Total < m.Total && !log.Overflow) {
		if log, err = s.BMCs.Events(ctx, p.Chassis, "", 0); err != nil {
			return log, err
		}
		m.Event = ""
	}
	if n := len(log.Events); n > 0 {
		m.Event = log.Events[n-1].ID
	}
	m.Erased, m.Total = erased, log.Total
	return log, nil
}

// withEarlier adds the events of the last result, for who asks for what was read.
func (s *Service) withEarlier(ctx context.Context, p store.Poller, log power.EventLog) power.EventLog {
	last, err := s.Store.LastResult(ctx, p.ID)
	var before power.EventLog
	if err == nil && json.Unmarshal(last.Result, &before) == nil && log.Total >= before.Total && sameTime(log.Erased, before.Erased) {
		log.Events = slices.Concat(before.Events, log.Events)
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		s.Log.Debug("a poller's last result cannot be read", "poller", p.ID, "error", err)
	}
	if n := len(log.Events); n > keptEvents {
		log.Events, log.Truncated = log.Events[n-keptEvents:], true
	}
	return log
}

func sameTime(a, b *time.Time) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Equal(*b)
}
