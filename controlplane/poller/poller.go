// Package poller reads power, event log and sensors of chassis, and objects of
// SNMP devices, again and again, and makes alerts of what its rules find.
//
// Pollers and what they have read are in the store. Each is leased to one server
// for one poll, so that servers share the work. The lease is short and renewed while
// the poll goes on: of a server that dies the others have its pollers within
// seconds, however long a poll may take.
package poller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/seal"
	"github.com/teeth-metal/teeth/controlplane/snmp"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// View is a poller as it is shown.
type View struct {
	store.Poller
	SNMP *Query `json:"snmp,omitempty"` // without secrets
}

// config is a Query as it is stored.
type config struct {
	Query
	Sealed string `json:"sealed,omitempty"` // the Target, JSON
}

// BMCs is what pollers need of chassis; *power.Service is one.
type BMCs interface {
	State(ctx context.Context, chassis string) (power.State, error)
	Events(ctx context.Context, chassis, after string, limit int) (power.EventLog, error)
	Sensors(ctx context.Context, chassis string) ([]power.Sensor, error)
}

// Config of a Service.
type Config struct {
	Store  *store.Store
	Sealer *seal.Sealer
	BMCs   BMCs
	Log    *slog.Logger
}

// Service keeps pollers and polls.
type Service struct {
	Config
	workers chan struct{}
	meters  meters

	mu   sync.Mutex
	held map[string]poll // by lease: under way
}

// poll is one that is under way.
type poll struct {
	of  store.Poller
	end context.CancelFunc
}

const (
	maxWorkers = 32
	pollTime   = 5 * time.Minute // bounds one poll
	// after so many failures in a row, Unreachable is raised.
	failuresToAlert = 3
	maxBackoff      = time.Hour
	keptEvents      = 200
)

// Variables for tests.
var (
	// tick is how often it is looked what is due.
	tick = time.Second
	// ruleTime bounds the rules' work on what was read.
	ruleTime = 10 * time.Second
	// lease is for how long a server has a poller without saying that it still
	// polls, which it does four times as often.
	lease = store.DeadAfter
)

// New returns a Service that polls once it is Run.
func New(c Config) *Service {
	return &Service{Config: c, workers: make(chan struct{}, maxWorkers), meters: newMeters(), held: map[string]poll{}}
}

func sealedFor(poller string) string { return "poller/" + poller }

// fields fills in what is stored of a Spec.
func (s *Service) fields(p store.Poller, spec Spec) (store.Poller, error) {
	if spec.Rules == nil {
		spec.Rules = []Rule{}
	}
	rules, err := json.Marshal(spec.Rules)
	if err != nil {
		return p, fmt.Errorf("rules: %w: %w", err, ErrInvalid)
	}
	var c config
	if q := spec.SNMP; q != nil {
		secret, err := json.Marshal(q.Target)
		if err != nil {
			return p, err
		}
		c = config{Query: *q, Sealed: s.Sealer.Seal(secret, sealedFor(p.ID))}
		c.Query.Target = public(q.Target)
	}
	if p.Config, err = json.Marshal(c); err != nil {
		return p, err
	}
	p.Chassis, p.Kind, p.Name, p.Period, p.Paused, p.Rules = spec.Chassis, spec.Kind, spec.Name, spec.Interval, spec.Paused, rules
	return p, nil
}

// public is a target without its secrets.
func public(t snmp.Target) snmp.Target {
	t.Community, t.AuthPassword, t.PrivPassword = "", "", ""
	return t
}

// query returns what a poller of kind snmp reads, with its secrets.
func (s *Service) query(p store.Poller) (Query, error) {
	var c config
	if err := json.Unmarshal(p.Config, &c); err != nil {
		return Query{}, fmt.Errorf("poller %s: %w", p.ID, err)
	}
	secret, err := s.Sealer.Open(c.Sealed, sealedFor(p.ID))
	if err != nil {
		return Query{}, fmt.Errorf("poller %s: %w: define it anew", p.ID, err)
	}
	if err := json.Unmarshal(secret, &c.Query.Target); err != nil {
		return Query{}, fmt.Errorf("poller %s: %w", p.ID, err)
	}
	return c.Query, nil
}

// Show returns a poller as it is shown.
func (s *Service) Show(p store.Poller) View {
	v := View{Poller: p}
	var c config
	if p.Kind == SNMP && json.Unmarshal(p.Config, &c) == nil {
		c.Query.Target = public(c.Query.Target)
		v.SNMP = &c.Query
	}
	return v
}

// Add defines a poller. It is polled first within seconds.
func (s *Service) Add(ctx context.Context, spec Spec) (View, error) {
	if err := spec.check(); err != nil {
		return View{}, err
	}
	p, err := s.fields(store.Poller{ID: uuid.NewString()}, spec)
	if err != nil {
		return View{}, err
	}
	p, err = s.Store.AddPoller(ctx, p, rand.N(min(10*time.Second, seconds(spec.Interval))/2))
	return s.Show(p), err
}

// Change defines a poller anew; kind and chassis stay. Without SNMP what is read
// of its device stays.
func (s *Service) Change(ctx context.Context, id string, spec Spec) (View, error) {
	p, err := s.Store.Poller(ctx, id)
	if err != nil {
		return View{}, err
	}
	if spec.Kind != "" && spec.Kind != p.Kind || spec.Chassis != "" && spec.Chassis != p.Chassis {
		return View{}, fmt.Errorf("kind and chassis of a poller do not change: define another: %w", ErrInvalid)
	}
	spec.Kind, spec.Chassis = p.Kind, p.Chassis
	if p.Kind == SNMP && spec.SNMP == nil {
		q, err := s.query(p)
		if err != nil {
			return View{}, err
		}
		spec.SNMP = &q
	}
	if err := spec.check(); err != nil {
		return View{}, err
	}
	if p, err = s.fields(p, spec); err != nil {
		return View{}, err
	}
	p, err = s.Store.ChangePoller(ctx, p)
	return s.Show(p), err
}

// LastResult returns what a poller has read last.
func (s *Service) LastResult(ctx context.Context, id string) (store.PollerResult, error) {
	p, err := s.Store.Poller(ctx, id)
	if err != nil {
		return store.PollerResult{}, err
	}
	return s.Store.LastResult(ctx, p.ID)
}

// DeviceOf returns the device that pollers read of a chassis or at an address,
// for who may ask it other things; store.ErrNotFound if none is defined.
func (s *Service) DeviceOf(ctx context.Context, chassis, address string) (snmp.Target, error) {
	for after := ""; ; {
		list, err := s.Store.ListPollers(ctx, chassis, after, store.MaxPage)
		if err != nil {
			return snmp.Target{}, err
		}
		for _, p := range list {
			after = p.ID
			if p.Kind != SNMP {
				continue
			}
			if v := s.Show(p); v.SNMP == nil || address != "" && v.SNMP.Address != address {
				continue
			}
			q, err := s.query(p)
			return q.Target, err
		}
		if len(list) < store.MaxPage {
			return snmp.Target{}, fmt.Errorf("no poller is defined of an SNMP device of chassis %q, address %.80q: %w", chassis, address, store.ErrNotFound)
		}
	}
}
