package backbone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	wire "github.com/teeth-metal/teeth/wire/backbone"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// Ways by which a status comes, and its host is told.
const (
	viaAMQP    = "amqp"
	viaSession = "session"
)

const (
	maxBatch = 256 // statuses that are stored together
	// maxStatus bounds what is kept of a status, in bytes. What is less needed is
	// left out of a longer one.
	maxStatus = 128 << 10
)

// incoming is a status on its way into the store.
type incoming struct {
	id        store.AppStatus
	status    wire.Status
	raw       json.RawMessage // what is kept
	report    *wire.Report
	told      *time.Time
	at        time.Time // when it came, by the database's clock
	transport string
	done      func(error) // is called when it is stored, or could not be
}

// read makes an incoming of a status' data.
func (m *Master) read(data json.RawMessage, transport string) (incoming, error) {
	s, err := wire.ParseStatus(data)
	if err != nil {
		return incoming{}, err
	}
	in := incoming{status: s, transport: transport, at: m.c.Store.Now(), raw: data}
	if in.report, err = s.Report(); err != nil {
		return incoming{}, err
	}
	if t, err := wire.ParseTime(s.Timestamp); err == nil {
		in.told = &t
	}
	if len(data) > maxStatus {
		short := s
		short.Extra, short.CertInfo, short.HypervisorInfo, short.Extensions = nil, nil, nil, nil
		if in.report != nil {
			if err := short.SetReport(*in.report); err != nil {
				return incoming{}, err
			}
		}
		if in.raw, err = json.Marshal(short); err != nil {
			return incoming{}, err
		}
		if len(in.raw) > maxStatus {
			return incoming{}, fmt.Errorf("status of host %.64q: %d bytes without its extensions, the most is %d: %w", s.HostID, len(in.raw), maxStatus, wire.ErrInvalid)
		}
	}
	return in, nil
}

// Status takes what a chassis' agent says of its apps over its session, and returns
// when it is stored.
func (m *Master) Status(ctx context.Context, chassis string, data json.RawMessage) error {
	in, err := m.read(data, viaSession)
	if err != nil {
		m.meters.statuses.WithLabelValues("malformed").Inc()
		return &teeth.MethodError{Msg: err.Error()}
	}
	// The session proves which chassis it is; what the status calls it does not.
	in.id = store.AppStatus{Host: chassis, Chassis: chassis}
	done := make(chan error, 1)
	in.done = func(err error) { done <- err }
	select {
	case m.incoming <- in:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take stores statuses, as many at once as have come while the last were stored, and
// queues hosts that may have to be told something.
func (m *Master) take(ctx context.Context) {
	for {
		var batch []incoming
		select {
		case in := <-m.incoming:
			batch = append(batch, in)
		case <-ctx.Done():
			return
		}
	more:
		for len(batch) < maxBatch {
			select {
			case in := <-m.incoming:
				batch = append(batch, in)
			default:
				break more
			}
		}
		err := m.store(ctx, batch)
		for _, in := range batch {
			in.done(err)
		}
	}
}

// storeRetry is the pause after the database was away. Statuses wait meanwhile, at the
// broker and at the agents.
const storeRetry = time.Second

func (m *Master) store(ctx context.Context, batch []incoming) error {
	ids := make([]store.AppStatus, len(batch))
	for i, in := range batch {
		ids[i] = in.id
	}
	verdicts := make([]verdict, len(batch))
	after := make([]store.AppHost, len(batch))
	var refused int
	for {
		var err error
		refused, err = m.c.Store.TakeAppStatuses(ctx, ids, func(i int, h *store.AppHost) bool {
			verdicts[i], after[i] = judge(h, batch[i], m.c.AgentsOnBroker), *h
			if verdicts[i] == astray {
				return false
			}
			apply(h, batch[i], verdicts[i])
			after[i] = *h
			return true
		})
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil {
			if ctx.Err() == nil {
				m.c.Log.Error("statuses of apps are lost; the next ones come within a minute", "statuses", len(batch), "error", err)
			}
			return err
		}
		select {
		case <-time.After(storeRetry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if refused > 0 {
		m.meters.statuses.WithLabelValues("stranger").Add(float64(refused))
		m.c.Log.Warn("hosts nobody knows say they have apps; there are too many of them to keep more", "statuses", refused)
	}
	for i, h := range after {
		switch {
		case h.ID == "":
			continue // one of those refused
		case verdicts[i] == astray:
			m.meters.statuses.WithLabelValues("astray").Inc()
			if m.loud.Allow() {
				m.c.Log.Warn("somebody at the broker says he is a chassis that is heard over its session, and is not believed", "host", batch[i].id.Host, "chassis", h.ID)
			}
			continue
		case verdicts[i] == stale:
			m.meters.statuses.WithLabelValues("stale").Inc()
			m.c.Log.Debug("a status older than the last one is left out", "host", batch[i].id.Host, "timestamp", batch[i].status.Timestamp)
			continue
		case verdicts[i] == clockSet:
			m.c.Log.Warn("the clock of a host was set back", "host", batch[i].id.Host, "timestamp", batch[i].status.Timestamp)
		}
		m.meters.statuses.WithLabelValues("taken").Inc()
		if h.Desired != nil && !h.Settled {
			m.queue.add(h.ID)
			if h.Transport == viaSession {
				m.queue.addAfter(h.ID, settling) // the session may not be open for commands yet
			}
		}
	}
	return nil
}

// settling is how long a new session takes until it is open for commands, mostly.
const settling = 2 * time.Second

// apply makes a status the host's last one.
func apply(h *store.AppHost, in incoming, v verdict) {
	at := in.at
	if v == stale {
		h.Behind, h.BehindAt = in.told, &at
		return
	}
	h.Behind, h.BehindAt = nil, nil
	h.State, h.Status, h.Transport = string(in.status.State), in.raw, in.transport
	h.Told, h.Received = in.told, &at
	h.BootID, h.Sequence = "", 0
	if in.report != nil {
		h.BootID, h.Sequence = in.report.BootID, in.report.Sequence
	}
	p := parse(store.AppHost{Desired: h.Desired, Revision: h.Revision})
	p.status, p.report = &in.status, in.report
	h.Settled = p.settled()
}
