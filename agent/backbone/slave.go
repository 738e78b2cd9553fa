package backbone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// Config of a Slave. Times and numbers that are zero are replaced by the defaults.
type Config struct {
	Apps       Apps
	Transports []Transport // at least one
	// Dir is where the desired set is kept; "": it is not. It is made if need be.
	Dir     string
	Version string    // of the agent
	Info    wire.Info // of this host
	// OS is the name of the operating system by which a pkginfo has packages:
	// distribution_version, as ubuntu_22.04.
	OS string
	// Variables are what templates in URLs stand for; nil: none are known.
	Variables func() wire.Variables
	// Upgrade starts what set_agent asks for and returns; nil: it is refused.
	Upgrade func(context.Context, wire.AgentPackage) error
	Log     *slog.Logger

	Heartbeat   time.Duration // between statuses; 60 s
	MaxAttempts int           // to converge, before the state is failed; 30
	RetryMin    time.Duration // after the first attempt; it doubles; 5 s
	RetryMax    time.Duration // 5 min
	Progress    time.Duration // between statuses while a package is installed; 10 s
}

// Slave keeps the apps of this host as the master wants them.
type Slave struct {
	c     Config
	boot  string // id of this run
	outs  []*outlet
	inbox chan incoming
	kick  chan struct{} // there is something to do
	look  chan struct{} // see how the apps do, and say so
	rearm chan struct{} // retryAt has changed

	pings, repeats, questions *rate.Limiter // of what a master may have answered

	mu       sync.Mutex
	want     *desired // nil: whatever is there
	made     map[string]string
	serial   int // of the newest set that was accepted
	accepted time.Time
	told     int // serial of the set for which converging was said
	state    wire.State
	working  bool
	attempt  int // since the set was accepted
	failures int // in a row, of any set that is the same
	ended    time.Time
	retryAt  time.Time
	errs     map[string]string // by app; "" is the host's
	refused  *wire.Refusal
	upgrade  string // why set_agent was refused
	step     *step
	apps     map[string]wire.App
	reports  map[string]wire.AppReport
	seq      int64
	emitted  time.Time
}

// incoming is a message, or nil for a connection that has come up.
type incoming struct {
	from *outlet
	msg  *wire.Envelope
}

// New returns a Slave that does nothing before Run.
func New(c Config) (*Slave, error) {
	if c.Apps == nil || len(c.Transports) == 0 || c.Log == nil {
		return nil, errors.New("backbone: Apps, Transports and Log must be set")
	}
	for d, otherwise := range map[*time.Duration]time.Duration{
		&c.Heartbeat: time.Minute, &c.RetryMin: 5 * time.Second, &c.RetryMax: 5 * time.Minute, &c.Progress: 10 * time.Second,
	} {
		if *d <= 0 {
			*d = otherwise
		}
	}
	if c.MaxAttempts <= 0 {
		c.MaxAttempts = 30
	}
	if c.Variables == nil {
		c.Variables = func() wire.Variables { return wire.Variables{} }
	}
	s := &Slave{
		c: c, boot: uuid.NewString(), made: map[string]string{}, errs: map[string]string{}, state: wire.StateOK,
		inbox: make(chan incoming), kick: make(chan struct{}, 1), look: make(chan struct{}, 1), rearm: make(chan struct{}, 1),
		pings:     rate.NewLimiter(rate.Every(time.Second), 5),
		repeats:   rate.NewLimiter(rate.Every(c.RetryMin), 3),
		questions: rate.NewLimiter(rate.Every(10*time.Second), 3),
	}
	for _, t := range c.Transports {
		s.outs = append(s.outs, newOutlet(s, t))
	}
	return s, nil
}

// Run keeps the apps until ctx ends, whose error it returns. What is being installed
// then is given up; apps are not stopped.
func (s *Slave) Run(ctx context.Context) error {
	s.load()
	var parts sync.WaitGroup
	defer parts.Wait()
	for _, o := range s.outs {
		parts.Go(func() { s.survive("sending", func() { o.send(ctx) }) })
		parts.Go(func() { s.survive("receiving", func() { o.receive(ctx) }) })
	}
	parts.Go(func() { s.work(ctx) })
	poke(s.kick) // before there is a connection: an app may be what brings it
	beat := time.NewTicker(s.c.Heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-beat.C:
			s.status()
		case in := <-s.inbox:
			s.survive("a message", func() { s.handle(ctx, in) })
		}
	}
}

// survive keeps the agent, which is process 1, from falling over a panic here.
func (s *Slave) survive(what string, do func()) {
	defer func() {
		if p := recover(); p != nil {
			s.c.Log.Error("Backbone panicked", "at", what, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	do()
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// status has a status sent: at once while there is work, else after a look at the apps.
func (s *Slave) status() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.working {
		s.emit()
		return
	}
	poke(s.look)
}

func (s *Slave) handle(ctx context.Context, in incoming) {
	if in.msg == nil {
		s.announce(in.from)
		return
	}
	m := *in.msg
	switch m.Opcode {
	case wire.SetConfig:
		s.setConfig(m)
	case wire.Ping, wire.Heartbeat:
		if s.pings.Allow() { // else one has been sent a moment ago
			s.status()
		}
	case wire.SetAgent:
		s.setAgent(ctx, m)
	case wire.GetSupport, wire.SupportCommand:
		s.answer(in.from, m)
	default:
		if s.questions.Allow() {
			s.c.Log.Warn("a message of the master is ignored: its opcode is not known", "opcode", fmt.Sprintf("%.64q", m.Opcode))
		}
	}
}

// announce says on a new connection how things are.
func (s *Slave) announce(o *outlet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.apps != nil { // else the first look is on its way
		o.put(s.build())
	}
}

// stale is how long a set_config with a lower revision is one that was overtaken.
// After that it is a master's that has begun anew.
const stale = time.Minute

// setConfig takes a desired set.
func (s *Slave) setConfig(m wire.Envelope) {
	apps, err := wire.ParseApps(m.Data)
	var d *desired
	if err == nil {
		d, err = s.resolve(apps)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.refuse(m.Revision, err)
		return
	}
	if s.want != nil && m.Revision > 0 && m.Revision < s.want.revision && time.Since(s.accepted) < stale {
		s.c.Log.Warn("a set_config is ignored: a newer one has come before it", "revision", m.Revision, "newer", s.want.revision)
		s.repeat()
		return
	}
	d.revision = m.Revision
	same := d.same(s.want)
	if same && d.revision == s.want.revision && s.refused == nil {
		s.again(false)
		return
	}
	s.refused, s.accepted = nil, time.Now()
	if same {
		d.serial = s.want.serial
		s.want = d
		s.save()
		s.again(true)
		return
	}
	s.serial++
	d.serial = s.serial
	s.want = d
	s.attempt, s.failures, s.retryAt, s.errs = 0, 0, time.Time{}, map[string]string{}
	s.save()
	s.c.Log.Info("new set of apps", "apps", len(d.apps), "revision", d.revision)
	if s.step != nil && s.step.kind == install && (d.specs[s.step.app].Name == "" || source(d.specs[s.step.app]) != source(s.step.spec)) {
		s.step.stop(errSuperseded)
	}
	if s.working {
		s.converging()
	}
	poke(s.kick)
}

// again deals with a set that is the one there is already. The protocol has it begin
// anew; a master that sends it as the answer to every status must not make this host
// busy for ever. There is news, if it has another revision or takes the place of one
// that was refused. s.mu is held.
func (s *Slave) again(news bool) {
	switch {
	case s.working:
		s.attempt = min(s.attempt, 1)
		if news {
			s.emit()
			return
		}
		s.repeat()
	case s.state == wire.StateOK:
		if news || s.repeats.Allow() {
			poke(s.kick)
		}
	default:
		if news {
			s.emit()
		}
		s.attempt, s.state = 0, wire.StateRetrying
		if soon := later(time.Now(), s.ended.Add(s.c.RetryMin)); s.retryAt.IsZero() || soon.Before(s.retryAt) {
			s.retryAt = soon
		}
		poke(s.rearm)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// repeat says what was said before, unless it was a moment ago. s.mu is held.
func (s *Slave) repeat() {
	if s.repeats.Allow() {
		s.emit()
	}
}

// refuse tells why a set_config changes nothing. s.mu is held.
func (s *Slave) refuse(revision int64, err error) {
	r := &wire.Refusal{Revision: revision, Reason: err.Error()}
	known := s.refused != nil && *s.refused == *r
	s.refused = r
	if known {
		s.repeat()
		return
	}
	s.c.Log.Error("a set_config is refused, all stays as it is", "err", err, "revision", revision)
	s.emit()
}

// setAgent has the agent replaced, where that is possible.
func (s *Slave) setAgent(ctx context.Context, m wire.Envelope) {
	var p wire.AgentPackage
	err := json.Unmarshal(m.Data, &p)
	switch {
	case err != nil || p.Version == "" || p.URL == "":
		err = errors.New("data: want an object with name, version and url")
	case s.c.Upgrade == nil:
		err = errors.New("this agent is part of the image that the host has booted: boot another image")
	default:
		err = s.c.Upgrade(ctx, p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upgrade = ""
	if err != nil {
		s.upgrade = "set_agent is refused: " + err.Error()
	}
	if !s.questions.Allow() {
		return
	}
	if err != nil {
		s.c.Log.Warn("set_agent is refused", "version", fmt.Sprintf("%.64q", p.Version), "err", err)
	}
	s.emit()
}
