package agent

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/teeth-metal/teeth/agent/backbone"
	"github.com/teeth-metal/teeth/agent/backbone/broker"
	"github.com/teeth-metal/teeth/agent/boot"
	"github.com/teeth-metal/teeth/agent/session"
	wire "github.com/teeth-metal/teeth/wire/backbone"
	"github.com/teeth-metal/teeth/wire/teeth"
)

// way is how the slave and its master reach each other: over a broker, if the kernel
// command line or the control plane names one, else over the session.
type way struct {
	log *slog.Logger
	in  chan wire.Envelope
	up  chan struct{}

	mu     sync.Mutex
	fixed  bool   // the kernel command line has named the broker
	id     string // of this chassis, as the control plane knows it
	call   caller // nil: the control plane takes no statuses
	named  teeth.BackboneBroker
	broker *broker.Session // nil: the session is used
	stop   context.CancelFunc
	topics []string
}

// caller is session.Session's Call.
type caller func(ctx context.Context, method string, params any) (json.RawMessage, error)

var _ backbone.Transport = (*way)(nil)

func newWay(log *slog.Logger) *way {
	return &way{log: log, in: make(chan wire.Envelope, 16), up: make(chan struct{}, 1)}
}

// fix has a broker used whatever the control plane says.
func (w *way) fix(ctx context.Context, c broker.Config, pin string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fixed = true
	w.named = teeth.BackboneBroker{URL: c.URL, CASHA256: pin}
	return w.use(ctx, c)
}

func (w *way) isFixed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fixed
}

// use starts a session with the broker that is named. w.mu is held.
func (w *way) use(ctx context.Context, c broker.Config) error {
	if w.named.CASHA256 == "" && strings.HasPrefix(c.URL, "amqps:") {
		if pool, err := x509.SystemCertPool(); err != nil || pool.Equal(x509.NewCertPool()) {
			w.log.Error("the broker cannot be told from an impostor, as this image trusts no CA: give teeth.backbone_ca_sha256=HEX, the SHA-256 of the certificate of the broker's CA, on the kernel command line")
		}
	}
	if w.named.CASHA256 != "" && strings.HasPrefix(c.URL, "amqps:") {
		var err error
		if c.TLS, err = session.PinnedTLS(w.named.CASHA256, brokerHost(c.URL)); err != nil {
			return err
		}
	}
	s, err := broker.New(c)
	if err != nil {
		return err
	}
	ctx, w.stop = context.WithCancel(ctx)
	w.broker = s
	s.Installed(w.topics)
	boot.Go("backbone", func() { s.Run(ctx) })
	boot.Go("backbone messages", func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.Up():
				w.poke()
			case e := <-s.Receive():
				select {
				case w.in <- e:
				case <-ctx.Done():
					return
				}
			}
		}
	})
	return nil
}

// welcomed takes what the control plane has said: whether it takes statuses, and where
// else they are to be sent. pin is that of its CA.
func (w *way) welcomed(ctx context.Context, r teeth.HandshakeResult, id, pin string, call caller) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fixed {
		return
	}
	w.id, w.call = id, nil
	if r.Apps {
		w.call = call
	}
	var named teeth.BackboneBroker
	if r.Backbone != nil {
		if named = *r.Backbone; named.CASHA256 == "" {
			named.CASHA256 = pin
		}
	}
	if named == w.named {
		w.poke()
		return
	}
	if w.stop != nil {
		w.stop()
	}
	w.named, w.broker, w.stop = named, nil, nil
	if named.URL == "" {
		w.poke()
		return
	}
	// Our own master declares the queue, under the id of the chassis.
	err := w.use(ctx, broker.Config{URL: named.URL, Dialect: broker.MasterDeclared, HostID: id, Log: w.log})
	if err != nil {
		w.log.Error("the control plane's broker is of no use, apps are kept over the session", "err", err)
	}
}

// host is the broker's, "" without one.
func (w *way) host() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return brokerHost(w.named.URL)
}

// deliver takes a message that came over the session.
func (w *way) deliver(e wire.Envelope) error {
	select {
	case w.in <- e:
		return nil
	default:
		return errors.New("too many messages about apps wait for their turn: try again")
	}
}

func (w *way) poke() {
	select {
	case w.up <- struct{}{}:
	default:
	}
}

// Receive implements backbone.Transport.
func (w *way) Receive() <-chan wire.Envelope { return w.in }

// Up implements backbone.Transport.
func (w *way) Up() <-chan struct{} { return w.up }

// Identity implements backbone.Transport.
func (w *way) Identity() (string, wire.Dialect, bool) {
	w.mu.Lock()
	b, id := w.broker, w.id
	w.mu.Unlock()
	if b != nil {
		return b.Identity()
	}
	return id, wire.MasterDeclared, true
}

// MaxMessage implements backbone.Transport.
func (w *way) MaxMessage() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broker != nil {
		return wire.MaxBody
	}
	return min(wire.MaxBody, teeth.MaxLine-4<<10) // with what is around it
}

// Installed implements backbone.Transport.
func (w *way) Installed(names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.topics = slices.Clone(names)
	if w.broker != nil {
		w.broker.Installed(names)
	}
}

// Send implements backbone.Transport.
func (w *way) Send(ctx context.Context, e wire.Envelope) error {
	w.mu.Lock()
	b, call := w.broker, w.call
	w.mu.Unlock()
	switch {
	case b != nil:
		return b.Send(ctx, e)
	case call == nil || e.Opcode != wire.StatusReport:
		return backbone.ErrAway
	}
	_, err := call(ctx, teeth.MethodAppStatus, teeth.AppParams{Data: e.Data})
	if errors.Is(err, session.ErrLost) {
		return backbone.ErrAway
	}
	if err != nil {
		return fmt.Errorf("the control plane: %w", err)
	}
	return nil
}
