package backbone

import (
	"context"
	"errors"
	"fmt"
	"time"

	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// outlet is the way to the master over one transport.
type outlet struct {
	s     *Slave
	t     Transport
	queue chan any // wire.Status or wire.Envelope
}

const (
	waiting  = 32 // messages that wait to be sent; of more the oldest are dropped
	sendTime = 30 * time.Second
)

func newOutlet(s *Slave, t Transport) *outlet {
	return &outlet{s: s, t: t, queue: make(chan any, waiting)}
}

// put queues a message. Each status has all that the older ones say.
func (o *outlet) put(m any) {
	for {
		select {
		case o.queue <- m:
			return
		default:
		}
		select {
		case <-o.queue:
		default:
		}
	}
}

// send sends what is queued until ctx ends.
func (o *outlet) send(ctx context.Context) {
	var told time.Time
	for {
		var e wire.Envelope
		select {
		case <-ctx.Done():
			return
		case m := <-o.queue:
			switch m := m.(type) {
			case wire.Status:
				e = o.envelope(m)
			case wire.Envelope:
				e = m
			}
		}
		if e.Opcode == "" {
			continue
		}
		sending, cancel := context.WithTimeout(ctx, sendTime)
		err := o.t.Send(sending, e)
		cancel()
		switch {
		case err == nil || ctx.Err() != nil || errors.Is(err, ErrAway):
		case time.Since(told) > 10*time.Minute: // once, and now and then
			told = time.Now()
			o.s.c.Log.Warn("the master is not told how the apps are", "err", err)
		default:
			o.s.c.Log.Debug("the master is not told how the apps are", "err", err)
		}
	}
}

// envelope makes of a status what the master behind this transport expects.
func (o *outlet) envelope(st wire.Status) wire.Envelope {
	var d wire.Dialect
	var sure bool
	st.HostID, d, sure = o.t.Identity()
	if d == wire.Document {
		// It has no other way to show that it has not taken a configuration.
		if r, err := st.Report(); err == nil && r != nil && r.Refused != nil && st.State == wire.StateOK {
			st.State = wire.StateErrors
		}
		st.DesiredApps = nil
		if sure { // a later master takes no status without
			st.HostAgent = wire.HostAgent{}
		}
	} else {
		st.Apps = withoutURL(st.Apps)
	}
	st.State = st.State.In(d)
	e, err := wire.NewStatus(st)
	if err == nil {
		var b []byte
		if b, err = e.Append(nil); err == nil && len(b) > o.t.MaxMessage() {
			err = fmt.Errorf("it has %d bytes, the most is %d", len(b), o.t.MaxMessage())
		}
	}
	if err != nil {
		o.s.c.Log.Error("a status is sent without the configuration of apps", "err", err)
		st.DesiredApps = nil
		bare := make(map[string]wire.App, len(st.Apps))
		for name, a := range st.Apps {
			a.Config = []byte("{}")
			bare[name] = a
		}
		st.Apps = bare
		if e, err = wire.NewStatus(st); err != nil {
			return wire.Envelope{}
		}
	}
	return e
}

// withoutURL returns the apps as later dialects have them.
func withoutURL(apps map[string]wire.App) map[string]wire.App {
	out := make(map[string]wire.App, len(apps))
	for name, a := range apps {
		a.URL = ""
		out[name] = a
	}
	return out
}

// receive hands on what the master says until ctx ends.
func (o *outlet) receive(ctx context.Context) {
	for {
		in := incoming{from: o}
		select {
		case <-ctx.Done():
			return
		case m := <-o.t.Receive():
			in.msg = &m
		case <-o.t.Up():
		}
		select {
		case <-ctx.Done():
			return
		case o.s.inbox <- in:
		}
	}
}
