package backbone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/teeth-metal/teeth/controlplane/store"
	wire "github.com/teeth-metal/teeth/wire/backbone"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// What a message costs of the rate.
const (
	costUnit = 16 << 10 // bytes
	maxCost  = 1 + wire.MaxBody/costUnit
)

// errElsewhere: the host is told by another server, or by none at the moment. It is
// no failure of telling it.
var errElsewhere = errors.New("not reached from this server")

// work tells hosts what is desired of them, one after the other.
func (m *Master) work(ctx context.Context) {
	for {
		id, ok := m.queue.next(ctx)
		if !ok {
			return
		}
		err := m.look(ctx, id)
		m.queue.done(id)
		if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
			m.c.Log.Error("cannot tell a host which apps it is to have", "host", id, "error", err)
		}
	}
}

// look tells a host what is desired of it now, if it has to be told. What is desired is
// read here, so that of several changes only the last one is told.
func (m *Master) look(ctx context.Context, id string) error {
	h, err := m.c.Store.AppHost(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case errors.Is(err, store.ErrUnavailable):
		m.queue.addAfter(id, storeRetry)
		return nil
	case err != nil:
		return err
	}
	p := parse(h)
	switch send, after := m.decide(p, m.c.Store.Now()); {
	case !send && after > 0:
		m.queue.addAfter(id, after)
		return nil
	case !send || !m.reaches(h):
		return nil
	}
	if err := m.limit.WaitN(ctx, 1+len(h.Desired)/costUnit); err != nil {
		return nil // ctx has ended
	}
	sent := store.AppSent{ID: id, Revision: h.Revision, At: m.c.Store.Now(), Attempts: h.Attempts + 1}
	if h.Sent != h.Revision {
		sent.Attempts = 1
	}
	switch err := m.tell(ctx, p); {
	case errors.Is(err, errElsewhere), ctx.Err() != nil:
		return nil
	case err != nil:
		sent.Error = err.Error()
		m.meters.sent.WithLabelValues("failed").Inc()
		m.c.Log.Warn("a host could not be told which apps it is to have", "host", h.Host, "attempt", sent.Attempts, "error", err)
	default:
		m.meters.sent.WithLabelValues("ok").Inc()
		m.c.Log.Info("a host was told which apps it is to have", "host", h.Host, "revision", h.Revision, "apps", len(p.desired), "attempt", sent.Attempts)
	}
	if err := m.c.Store.SaveAppSent(ctx, sent); err != nil {
		return err
	}
	if sent.Error != "" {
		p.Sent, p.Attempts, p.Error, p.SentAt = sent.Revision, sent.Attempts, sent.Error, &sent.At
		_, after := m.decide(p, sent.At)
		m.queue.addAfter(id, max(after, unreachedRetry))
	}
	return nil
}

// reaches reports whether it is up to this server to tell the host.
func (m *Master) reaches(h store.AppHost) bool {
	switch h.Transport {
	case viaSession:
		_, ok := m.c.Session(h.Chassis)
		return ok
	case viaAMQP:
		return m.broker != nil && m.leads.Load() && m.broker.up()
	}
	return false
}

// tell sends a host its apps.
func (m *Master) tell(ctx context.Context, p parsed) error {
	ctx, cancel := context.WithTimeout(ctx, sendWait)
	defer cancel()
	if p.Transport == viaSession {
		return m.call(ctx, p.Chassis, teeth.MethodAppConfig, teeth.AppParams{Data: p.Desired, Revision: p.Revision})
	}
	e := wire.Envelope{Opcode: wire.SetConfig, Data: p.Desired, Revision: p.Revision}
	body, err := e.Append(nil)
	if err != nil {
		return err
	}
	err = m.broker.publish(ctx, p.Host, body)
	if !errors.Is(err, errUnrouted) {
		return err
	}
	if !declares(p.status) {
		return fmt.Errorf("%w: its slave has a queue of its own, and is away", err)
	}
	if err := m.broker.declare(ctx, p.Host); err != nil {
		return err
	}
	return m.broker.publish(ctx, p.Host, body)
}

// declares reports whether the slave may be one that waits for its queue to be
// declared. Those of the document, and of the months after it, have one of their own:
// for them another one would fill up without end.
func declares(s *wire.Status) bool {
	return s.State != wire.StateErrors && s.HostAgent != (wire.HostAgent{})
}

func (m *Master) call(ctx context.Context, chassis, method string, params any) error {
	session, ok := m.c.Session(chassis)
	if !ok {
		return errElsewhere
	}
	_, err := session.Call(ctx, method, params)
	return err
}

// Ping asks a host to say at once how its apps are. It returns when the question is on
// its way; the answer is the host's next status.
func (m *Master) Ping(ctx context.Context, id string) error {
	h, err := m.c.Store.AppHost(ctx, id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, sendWait)
	defer cancel()
	switch {
	case h.Status == nil:
		return fmt.Errorf("host %s has never said anything of its apps: %w", id, store.ErrConflict)
	case !m.reaches(h):
		return fmt.Errorf("host %s is not reached from this server: its status comes by itself within a minute: %w", id, store.ErrConflict)
	case h.Transport == viaSession:
		err = m.call(ctx, h.Chassis, teeth.MethodAppPing, json.RawMessage(`{}`))
	default:
		err = m.broker.ping(ctx, h.Host)
	}
	if errors.Is(err, errElsewhere) || errors.Is(err, errUnrouted) {
		return fmt.Errorf("host %s is away: %w: %w", id, err, store.ErrConflict)
	}
	return err
}
