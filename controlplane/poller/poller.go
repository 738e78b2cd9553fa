// Package poller reads power, event log and sensors of chassis, and objects of
// SNMP devices, again and again, and makes alerts of what its rules find.
//
// Pollers and what they have read are in the store. Each is leased to one server
// for one poll, so that servers share the work and one that dies is replaced.
package poller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/teeth-metal/teeth/controlplane/power"
	"github.com/teeth-metal/teeth/controlplane/seal"
	"github.com/teeth-metal/teeth/controlplane/snmp"
	"github.com/teeth-metal/teeth/controlplane/store"
)

// Kinds of poller.
const (
	Power = "power"
	SEL   = "sel"
	SDR   = "sdr" // sensors
	SNMP  = "snmp"
)

// Kinds are all of them.
var Kinds = []string{Power, SEL, SDR, SNMP}

// Bounds of an interval, and what it is unless said, in seconds.
const (
	minInterval     = 5
	maxInterval     = 24 * 60 * 60
	defaultInterval = 60
)

// Spec describes a poller.
type Spec struct {
	Chassis  string  `json:"chassis,omitempty"` // id; not of SNMP devices that are no chassis
	Kind     string  `json:"kind"`
	Name     string  `json:"name,omitempty"`
	Interval float64 `json:"interval,omitempty"` // seconds, 5 to 86400; default 60
	Paused   bool    `json:"paused,omitempty"`
	Rules    []Rule  `json:"rules,omitempty"`
	SNMP     *Query  `json:"snmp,omitempty"` // of kind snmp
}

// Query is what is read of an SNMP device. Its passwords and community are sealed
// in the store and told to nobody.
type Query struct {
	snmp.Target
	Get     []string `json:"get,omitempty"`  // objects
	Walk    []string `json:"walk,omitempty"` // all objects under these
	MaxRows int      `json:"max_rows,omitempty"`
}

const (
	maxWalks    = 16
	defaultRows = 1000
	maxRows     = 5000
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
}

const (
	maxWorkers = 32
	// pollTime bounds one poll; the lease outlasts it.
	pollTime = 5 * time.Minute
	lease    = pollTime + time.Minute
	// after so many failures in a row, Unreachable is raised.
	failuresToAlert = 3
	maxBackoff      = time.Hour
	keptEvents      = 200
)

// tick is how often it is looked what is due. A variable for tests.
var tick = time.Second

// New returns a Service that polls once it is Run.
func New(c Config) *Service {
	return &Service{Config: c, workers: make(chan struct{}, maxWorkers), meters: newMeters()}
}

// check says whether there can be such a poller, and fills in what was left out.
func (s *Spec) check() error {
	if !slices.Contains(Kinds, s.Kind) {
		return fmt.Errorf("poller kind %.20q: write one of %v: %w", s.Kind, Kinds, ErrInvalid)
	}
	if s.Interval == 0 {
		s.Interval = defaultInterval
	}
	if !(s.Interval >= minInterval && s.Interval <= maxInterval) {
		return fmt.Errorf("interval %v: write %d to %d seconds: %w", s.Interval, minInterval, maxInterval, ErrInvalid)
	}
	if len(s.Name) > 128 {
		return fmt.Errorf("poller's name: longer than 128 bytes: %w", ErrInvalid)
	}
	if s.Kind != SNMP {
		switch {
		case s.Chassis == "":
			return fmt.Errorf("a poller of kind %s needs a chassis: %w", s.Kind, ErrInvalid)
		case s.SNMP != nil:
			return fmt.Errorf("snmp is of pollers of kind snmp: %w", ErrInvalid)
		}
	} else if err := s.SNMP.check(); err != nil {
		return err
	}
	_, err := compile(s.Kind, s.Rules)
	return err
}

func (q *Query) check() error {
	if q == nil {
		return fmt.Errorf("a poller of kind snmp needs snmp: what to read of which device: %w", ErrInvalid)
	}
	if err := q.Target.Check(); err != nil {
		return err
	}
	if len(q.Get)+len(q.Walk) == 0 || len(q.Get) > snmp.MaxOIDs || len(q.Walk) > maxWalks {
		return fmt.Errorf("snmp: write 1 to %d objects to get, or up to %d to walk: %w", snmp.MaxOIDs, maxWalks, ErrInvalid)
	}
	if q.MaxRows == 0 {
		q.MaxRows = defaultRows
	}
	if q.MaxRows < 1 || q.MaxRows > maxRows {
		return fmt.Errorf("max_rows %d: write 1 to %d: %w", q.MaxRows, maxRows, ErrInvalid)
	}
	for _, oid := range slices.Concat(q.Get, q.Walk) {
		if err := snmp.CheckOID(oid); err != nil {
			return err
		}
	}
	return nil
}

// Read reads what q says, and whether there is more of it than MaxRows.
func (q Query) Read(ctx context.Context) (rows []snmp.Row, more bool, err error) {
	if err := q.check(); err != nil {
		return nil, false, err
	}
	rows = []snmp.Row{}
	if len(q.Get) > 0 {
		if rows, err = snmp.Get(ctx, q.Target, q.Get); err != nil {
			return nil, false, err
		}
	}
	for _, root := range q.Walk {
		if len(rows) >= q.MaxRows {
			return rows, true, nil
		}
		found, cut, err := snmp.Walk(ctx, q.Target, root, q.MaxRows-len(rows))
		if err != nil {
			return nil, false, err
		}
		rows, more = append(rows, found...), more || cut
	}
	return rows, more, nil
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

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Run polls until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		if free := cap(s.workers) - len(s.workers); free > 0 {
			taken, err := s.Store.TakePollers(ctx, free, lease)
			if err != nil && ctx.Err() == nil {
				s.Log.Error("cannot see which pollers are due", "error", err)
			}
			for _, p := range taken {
				s.workers <- struct{}{}
				all.Go(func() {
					defer func() { <-s.workers }()
					s.poll(ctx, p)
				})
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// poll polls once and stores how it went.
func (s *Service) poll(ctx context.Context, p store.Poller) {
	log := s.Log.With("poller", p.ID, "kind", p.Kind, "chassis", p.Chassis)
	begun := time.Now()
	report := s.try(ctx, p)
	took, result := time.Since(begun), resultOK
	save, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if ctx.Err() != nil { // the server stops: another takes the poller
		if err := s.Store.ReleasePoller(save, p); err != nil {
			log.Error("cannot give back a poller", "error", err)
		}
		return
	}
	held, err := s.Store.ReportPoll(save, p, report)
	switch {
	case err != nil || !held:
		result = resultDropped
	case report.Error != "":
		result = resultFailed
	}
	s.meters.observe(p.Kind, result, took)
	switch {
	case err != nil:
		log.Error("cannot store what a poller has read", "error", err)
	case !held:
		log.Debug("a poll's result is dropped: the poller has been changed or taken over")
	case report.Error != "" && p.Failures == 0:
		log.Warn("poller fails", "error", report.Error)
	case report.Error == "" && p.Failures > 0:
		log.Info("poller works again", "failures", p.Failures)
	}
}

func (s *Service) try(ctx context.Context, p store.Poller) store.Poll {
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	period := seconds(p.Period)
	var rules []Rule
	err := json.Unmarshal(p.Rules, &rules)
	var compiled []rule
	if err == nil {
		compiled, err = compile(p.Kind, rules)
	}
	m := recall(p.State)
	var result any
	var r reading
	if err == nil {
		result, r, err = s.read(ctx, p, &m)
	}
	if err == nil {
		var b []byte
		if b, err = json.Marshal(result); err == nil {
			out := store.Poll{Result: b, Next: period + jitter(period)}
			out.Raise, out.Clear = evaluate(p.Kind, compiled, r, &m)
			m.Power = r.power
			out.State = m.store()
			out.Clear = append(out.Clear, store.Alert{Rule: Unreachable, Message: "answers again"})
			return out
		}
	}
	wait := period
	for range min(p.Failures, 10) {
		wait = min(2*wait, max(maxBackoff, period))
	}
	out := store.Poll{Error: cut(err.Error(), 1000), Next: wait + jitter(wait)}
	if p.Failures+1 >= failuresToAlert {
		out.Raise = []store.Alert{{Rule: Unreachable, Severity: power.Warning, Message: out.Error}}
	}
	return out
}

// jitter keeps pollers of one period from being due all at once.
func jitter(d time.Duration) time.Duration { return rand.N(d/10+1) - d/20 }
