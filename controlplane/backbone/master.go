// Package backbone is the master of Backbone: it keeps what apps each host is to
// have, tells the hosts' slaves, and knows how far they are.
//
// Delivery is at most once both ways, so that what counts is state, not messages. A
// slave says every minute which apps it has. A host whose apps are not as desired,
// and that is not working on it, is told again; never more often than one status asks
// for, with a growing pause for each host and at a bounded rate for all.
//
// A slave is told over AMQP, or over the session of its chassis: the way its last
// status came. Servers that share a database divide the work: one of them is the
// broker's master at a time, and each tells the chassis that are connected to it.
package backbone

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/internal/amqplink"
)

// Session is a chassis' connection whose agent keeps apps (see gateway.Session).
type Session interface {
	Call(ctx context.Context, method string, params any) (json.RawMessage, error)
}

// Config of a Master. Zero values are replaced by the defaults.
type Config struct {
	Store *store.Store
	// Session returns the session of a chassis that is connected to this server and
	// keeps apps.
	Session func(chassis string) (Session, bool)
	// Broker is where slaves are that speak AMQP; nil: there are none.
	Broker *amqplink.Config
	// AgentsOnBroker is whether agents of chassis are given the broker. If not, what is
	// said there of a chassis counts only while that is not heard over its session.
	AgentsOnBroker bool
	Log            *slog.Logger

	// Rate is how many messages a second go to slaves; 250. Those of more than
	// 16 KiB count as several.
	Rate float64
	// Retry is the shortest pause before a host is told the same again; it doubles
	// up to MaxRetry. 30 s, 15 min.
	Retry, MaxRetry time.Duration
	Sweep           time.Duration // how often hosts that are not as desired are looked at anyway; 30 s
	Lease           time.Duration // for which a server is the broker's master; 30 s
}

// Master is safe for concurrent use.
type Master struct {
	c        Config
	broker   *broker // nil: there is none
	incoming chan incoming
	queue    *queue
	limit    *rate.Limiter
	loud     *rate.Limiter // of what strangers can have us log
	known    identities
	meters   meters
	leads    atomic.Bool
}

const (
	workers  = 32               // messages on their way at once
	sendWait = 10 * time.Second // for a broker or a session to take one
	forget   = 7 * 24 * time.Hour
	burst    = 2 // seconds' worth of messages that may go at once
)

// New checks the configuration. It connects nowhere; Run does.
func New(c Config) (*Master, error) {
	for d, otherwise := range map[*time.Duration]time.Duration{
		&c.Retry: 30 * time.Second, &c.MaxRetry: 15 * time.Minute, &c.Sweep: 30 * time.Second, &c.Lease: 30 * time.Second,
	} {
		if *d <= 0 {
			*d = otherwise
		}
	}
	if c.Rate <= 0 {
		c.Rate = 250
	}
	m := &Master{
		c: c, incoming: make(chan incoming, maxBatch), queue: newQueue(), meters: newMeters(),
		limit: rate.NewLimiter(rate.Limit(c.Rate), max(int(burst*c.Rate), maxCost)),
		loud:  rate.NewLimiter(rate.Every(10*time.Second), 10),
	}
	if c.Broker != nil {
		var err error
		if m.broker, err = newBroker(m, *c.Broker); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Run does a master's work until ctx ends.
func (m *Master) Run(ctx context.Context) error {
	parts := newGroup(ctx)
	parts.run(m.take)
	parts.run(m.watch)
	parts.run(m.sweep)
	for range workers {
		parts.run(m.work)
	}
	if m.broker != nil {
		parts.run(m.lead)
	}
	return parts.wait()
}

// watch queues hosts of which something else is desired, whichever server was told.
func (m *Master) watch(ctx context.Context) {
	since, changed := m.c.Store.Revision() // what is older the first sweep sees
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
		var now int64
		now, changed = m.c.Store.Revision()
		ids, err := m.c.Store.AppHostsChanged(ctx, since)
		if err != nil {
			if ctx.Err() == nil {
				m.c.Log.Error("cannot look for hosts whose apps are to change; a sweep will", "error", err)
			}
			continue
		}
		since = now
		m.queue.add(ids...)
	}
}

// sweep looks at all hosts that are not as desired, every so often: for those that
// could not be told before.
func (m *Master) sweep(ctx context.Context) {
	tick := time.NewTicker(m.c.Sweep)
	defer tick.Stop()
	pruned := time.Now()
	for {
		m.sweepOnce(ctx)
		if time.Since(pruned) > time.Hour {
			pruned = time.Now()
			if n, err := m.c.Store.PruneAppHosts(ctx, m.c.Store.Now().Add(-forget)); err != nil && ctx.Err() == nil {
				m.c.Log.Error("cannot forget hosts that are gone", "error", err)
			} else if n > 0 {
				m.c.Log.Info("hosts of which nothing is desired have said nothing for a week, and are forgotten", "hosts", n)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (m *Master) sweepOnce(ctx context.Context) {
	ids, err := m.c.Store.AppHostsUnsettled(ctx)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
			m.c.Log.Error("cannot look for hosts whose apps are not as desired", "error", err)
		}
		return
	}
	m.meters.unsettled.Set(float64(len(ids)))
	m.queue.add(ids...)
}

// lead has this server be the broker's master whenever no other one is.
func (m *Master) lead(ctx context.Context) {
	var t *term
	end := func() {
		if t != nil {
			t.end()
			t = nil
			m.leads.Store(false)
		}
	}
	defer end()
	until := time.Time{}
	tick := time.NewTicker(m.c.Lease / 3)
	defer tick.Stop()
	for {
		asked := time.Now()
		try, cancel := context.WithTimeout(ctx, m.c.Lease/3)
		leads, err := m.c.Store.Lead(try, "backbone", m.c.Lease)
		cancel()
		switch {
		case err == nil && leads:
			until = asked.Add(m.c.Lease)
			if t == nil {
				m.leads.Store(true)
				t = newTerm(ctx, m.broker.run)
			}
		case err == nil, time.Now().After(until.Add(-m.c.Lease / 3)):
			// Another one is, or may be soon.
			if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
				m.c.Log.Error("cannot stay the master of Backbone's broker", "error", err)
			}
			end()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// term is the time for which this server is the broker's master.
type term struct {
	stop context.CancelFunc
	done chan struct{}
}

func newTerm(ctx context.Context, run func(context.Context)) *term {
	ctx, stop := context.WithCancel(ctx)
	t := &term{stop, make(chan struct{})}
	go func() {
		defer close(t.done)
		run(ctx)
	}()
	return t
}

func (t *term) end() {
	t.stop()
	<-t.done
}

// Err says why slaves on the broker cannot be told anything; nil if they can, or
// another server does it, or there is no broker.
func (m *Master) Err() error {
	if m.broker == nil || !m.leads.Load() {
		return nil
	}
	return m.broker.err()
}
