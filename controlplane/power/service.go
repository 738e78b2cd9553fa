package power

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/controlplane/seal"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// Protocol is a way to speak to BMCs.
type Protocol struct {
	Open  Open
	Check func(Target) error // whether there could be such a BMC
}

// Config of a Service.
type Config struct {
	Store     *store.Store
	Sealer    *seal.Sealer
	Protocols map[string]Protocol
	Log       *slog.Logger
}

const (
	// operation bounds one thing done with a BMC, waiting for its turn included;
	// a SEL of thousands of entries and hundreds of sensors take minutes.
	operation = 5 * time.Minute
	// maxSessions bounds how many BMCs this server speaks to at a time.
	maxSessions = 64
	tries       = 3
)

// retryDelay is the wait before the second try; it doubles. A variable for tests.
var retryDelay = time.Second

// Service speaks to the BMCs of chassis. It is safe for concurrent use.
type Service struct {
	Config
	places chan struct{}

	mu    sync.Mutex
	turns map[string]*turn // by address
}

// turn is whose turn it is at a BMC.
type turn struct {
	taken   chan struct{} // holds one
	waiting int           // who is at it or waits for it
}

// New returns a Service.
func New(c Config) *Service {
	return &Service{Config: c, places: make(chan struct{}, maxSessions), turns: map[string]*turn{}}
}

// SetBMC records the BMC of a chassis with its password, which is sealed. probe
// has it asked first whether it lets that user in, and what it is.
func (s *Service) SetBMC(ctx context.Context, b store.BMC, password string, probe bool) (store.BMC, *Info, error) {
	t := target(b, password)
	p, err := s.protocol(t)
	if err != nil {
		return store.BMC{}, nil, err
	}
	if err := p.Check(t); err != nil {
		return store.BMC{}, nil, err
	}
	var info *Info
	if probe {
		err := s.with(ctx, t, true, func(ctx context.Context, c Controller) error {
			got, err := c.Info(ctx)
			info = &got
			return err
		})
		if err != nil {
			return store.BMC{}, nil, err
		}
	}
	b.Password = s.Sealer.Seal([]byte(password), sealedFor(b.Chassis))
	if err := s.Store.SetBMC(ctx, b); err != nil {
		return store.BMC{}, nil, err
	}
	b, err = s.Store.BMC(ctx, b.Chassis)
	return b, info, err
}

func sealedFor(chassis string) string { return "bmc/" + chassis }

func target(b store.BMC, password string) Target {
	return Target{Protocol: b.Protocol, Address: b.Address, Username: b.Username, Password: password,
		CertSHA256: b.CertSHA256, Insecure: b.Insecure, System: b.System}
}

func (s *Service) protocol(t Target) (Protocol, error) {
	p, ok := s.Protocols[t.Protocol]
	if !ok {
		return p, fmt.Errorf("BMC protocol %.40q: write %s or %s: %w", t.Protocol, IPMI, Redfish, ErrInvalid)
	}
	return p, nil
}

// Target returns the BMC of a chassis, with its password.
func (s *Service) Target(ctx context.Context, chassis string) (Target, error) {
	b, err := s.Store.BMC(ctx, chassis)
	if err != nil {
		return Target{}, err
	}
	password, err := s.Sealer.Open(b.Password, sealedFor(chassis))
	if err != nil {
		return Target{}, fmt.Errorf("password of BMC %s: %w: tell it again with teeth bmc set", b.Address, err)
	}
	return target(b, string(password)), nil
}

// do runs one operation with the BMC of a chassis.
func (s *Service) do(ctx context.Context, chassis string, again bool, f func(context.Context, Controller) error) error {
	t, err := s.Target(ctx, chassis)
	if err != nil {
		return err
	}
	return s.with(ctx, t, again, f)
}

// with opens a session when it is this operation's turn, and ends it. What fails
// for want of an answer is tried anew: the session always, as it changes nothing,
// and f if again says that doing it twice does no harm.
func (s *Service) with(ctx context.Context, t Target, again bool, f func(context.Context, Controller) error) error {
	p, err := s.protocol(t)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, operation)
	defer cancel()
	leave, err := s.enter(ctx, t.Address)
	if err != nil {
		return fmt.Errorf("BMC %s: other work keeps it busy: %w", t.Address, err)
	}
	defer leave()
	for try, delay := 1, retryDelay; ; try, delay = try+1, 2*delay {
		begun := false
		err := func() error {
			c, err := p.Open(ctx, t)
			if err != nil {
				return err
			}
			defer func() {
				if err := c.Close(ctx); err != nil { // what was asked for is done all the same
					s.Log.Debug("session with a BMC did not end well", "bmc", t.Address, "error", err)
				}
			}()
			begun = true
			return f(ctx, c)
		}()
		if err == nil || !errors.Is(err, ErrUnreachable) || begun && !again || try == tries || ctx.Err() != nil {
			return err
		}
		s.Log.Debug("BMC is asked again", "bmc", t.Address, "try", try, "error", err)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return err
		}
	}
}

// enter waits for the turn at a BMC.
func (s *Service) enter(ctx context.Context, address string) (leave func(), err error) {
	s.mu.Lock()
	t := s.turns[address]
	if t == nil {
		t = &turn{taken: make(chan struct{}, 1)}
		s.turns[address] = t
	}
	t.waiting++
	s.mu.Unlock()
	quit := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if t.waiting--; t.waiting == 0 {
			delete(s.turns, address)
		}
	}
	select {
	case t.taken <- struct{}{}:
	case <-ctx.Done():
		quit()
		return nil, ctx.Err()
	}
	select {
	case s.places <- struct{}{}:
	case <-ctx.Done():
		<-t.taken
		quit()
		return nil, ctx.Err()
	}
	return func() {
		<-s.places
		<-t.taken
		quit()
	}, nil
}

// State returns whether a chassis has power.
func (s *Service) State(ctx context.Context, chassis string) (state State, err error) {
	err = s.do(ctx, chassis, true, func(ctx context.Context, c Controller) error {
		state, err = c.State(ctx)
		return err
	})
	return state, err
}

// Set has the BMC start a power action. It does not wait until it is carried out.
func (s *Service) Set(ctx context.Context, chassis string, a Action) error {
	// A second reset or cycle would hit a chassis that has begun to boot; a second
	// press of the button may mean something else to its system.
	again := a == TurnOn || a == TurnOff
	return s.do(ctx, chassis, again, func(ctx context.Context, c Controller) error { return c.Set(ctx, a) })
}

// poll is how often the power is looked at while it is waited for.
const poll = 2 * time.Second

// SetAndWait is Set, and waits until the chassis has the power that the action
// leads to, or ctx ends.
func (s *Service) SetAndWait(ctx context.Context, chassis string, a Action) error {
	if err := s.Set(ctx, chassis, a); err != nil {
		return err
	}
	for {
		state, err := s.State(ctx, chassis)
		if err == nil && state == a.goal() {
			return nil
		}
		if err != nil && !errors.Is(err, ErrUnreachable) {
			return err
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("power is %s", state)
			}
			return fmt.Errorf("chassis %s: power %s was ordered and is not done: %w (%w)", chassis, a, context.Cause(ctx), err)
		}
	}
}

// SetBoot overrides what a chassis boots from.
func (s *Service) SetBoot(ctx context.Context, chassis string, b Boot) error {
	if err := b.Check(); err != nil {
		return err
	}
	return s.do(ctx, chassis, true, func(ctx context.Context, c Controller) error { return c.SetBoot(ctx, b) })
}

// Events reads the event log of a chassis; see Controller.
func (s *Service) Events(ctx context.Context, chassis, after string, limit int) (log EventLog, err error) {
	err = s.do(ctx, chassis, true, func(ctx context.Context, c Controller) error {
		log, err = c.Events(ctx, after, limit)
		return err
	})
	return log, err
}

// Sensors reads the sensors of a chassis.
func (s *Service) Sensors(ctx context.Context, chassis string) (list []Sensor, err error) {
	err = s.do(ctx, chassis, true, func(ctx context.Context, c Controller) error {
		list, err = c.Sensors(ctx)
		return err
	})
	return list, err
}

// Info asks the BMC of a chassis what it is.
func (s *Service) Info(ctx context.Context, chassis string) (info Info, err error) {
	err = s.do(ctx, chassis, true, func(ctx context.Context, c Controller) error {
		info, err = c.Info(ctx)
		return err
	})
	return info, err
}
