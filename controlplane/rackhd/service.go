// Package rackhd speaks the RackHD AMQP conventions for the control plane: it
// publishes what has happened, and answers what RackHD's programs ask, on all
// nine exchanges of the conventions. docs/rackhd.md has every routing key.
//
// Where the conventions' document and the released services of RackHD 2.x have
// different names for a thing, both are published and both are answered.
package rackhd

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/controlplane/bus"
	"github.com/teeth-metal/teeth/controlplane/settings"
	"github.com/teeth-metal/teeth/controlplane/store"
	"github.com/teeth-metal/teeth/controlplane/workflow"
	"github.com/teeth-metal/teeth/controlplane/workflow/definition"
	"github.com/teeth-metal/teeth/wire/rackhd"
)

const (
	// answerWithin is how long a request may take: RackHD's programs wait 1 s.
	answerWithin = 800 * time.Millisecond
	// hardwareWithin is the same for BMCs and SNMP devices, whose results are
	// published, not answered.
	hardwareWithin = 60 * time.Second
)

// Engine runs graphs: a *workflow.Engine.
type Engine interface {
	Library(ctx context.Context) (workflow.Library, error)
	DefineGraph(ctx context.Context, raw []byte) (name string, err error)
	DefineTask(ctx context.Context, raw []byte) (name string, err error)
	RunGraph(ctx context.Context, r workflow.Request) (store.Graph, error)
	RunTask(ctx context.Context, task, chassis string, options map[string]any) (store.Graph, error)
	CancelGraph(ctx context.Context, id string) (store.Graph, error)
	PauseGraph(ctx context.Context, id string) (store.Graph, error)
	ResumeGraph(ctx context.Context, id string) (store.Graph, error)
	CancelTask(ctx context.Context, id string) (store.Task, error)
	FinishTask(ctx context.Context, id, state, msg string, result json.RawMessage) error
	Wake(chassis string)
}

var _ Engine = (*workflow.Engine)(nil)

// Hardware reaches what is outside the ramdisk.
type Hardware interface {
	// IPMI runs "power", "sel" or "sdr" on the BMC of a chassis and returns what
	// goes into the result under that name.
	IPMI(ctx context.Context, command, chassis string) (any, error)
	// SNMP gets or walks objects of the device that is configured for a chassis or
	// under a host name. The address comes from the store, never from the message.
	SNMP(ctx context.Context, q SNMPQuery) (any, error)
	// PollerResult returns the newest result of a poller.
	PollerResult(ctx context.Context, poller string) (any, error)
}

// SNMPQuery is what a message asks of an SNMP device.
type SNMPQuery struct {
	Chassis string // id; "" if the message has none
	Host    string // as the message has it; must be configured
	OIDs    []string
	Walk    bool
}

// Config of a Service. All but Hardware must be set.
type Config struct {
	Bus      bus.Bus
	Store    *store.Store
	Engine   Engine
	Settings *settings.Live
	Hardware Hardware // nil: requests for it are refused
	Version  string
	Log      *slog.Logger

	within time.Duration // for an answer; answerWithin unless a test sets it
}

// Service is the control plane's place on the bus.
type Service struct {
	c       Config
	started time.Time
	domains domains
}

// New returns a Service that does nothing before Run.
func New(c Config) *Service {
	if c.within == 0 {
		c.within = answerWithin
	}
	return &Service{c: c, started: time.Now()}
}

// Run answers requests, publishes events and heartbeats until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	for _, g := range s.groups() {
		if err := s.serve(ctx, g); err != nil {
			return err
		}
	}
	var parts sync.WaitGroup
	parts.Go(func() { s.publishNotices(ctx) })
	parts.Go(func() { s.beat(ctx) })
	parts.Wait()
	return nil
}

// group is requests that are consumed together. One server of the estate gets
// each, so that one acts.
type group struct {
	name     string
	exchange string
	workers  int
	within   time.Duration
	methods  []method
}

// method answers the requests with one routing key.
type method struct {
	key   string // pattern
	takes string // the only type taken; "": any
	// handle returns what is answered: a rackhd.Typed or an object. A nil answer
	// without an error is none: whoever asked concludes it from the silence.
	handle func(ctx context.Context, c call) (any, error)
}

// call is one request.
type call struct {
	bus.Message
	words []string // that the key's wildcards stand for
}

// decode reads the body.
func (c call) decode(v any) error { return rackhd.Decode(c.ContentType, c.Body, v) }

func (s *Service) groups() []group {
	return []group{
		{"rackhd.configuration", rackhd.Configuration, 1, s.c.within, s.configurationMethods()},
		{"rackhd.dhcp", rackhd.DHCP, 4, s.c.within, s.dhcpMethods()},
		{"rackhd.task-graph-runner", rackhd.TaskGraphRunner, 4, s.c.within, s.runnerMethods()},
		{"rackhd.scheduler", rackhd.Scheduler, 2, s.c.within, s.schedulerMethods()},
		{"rackhd.task", rackhd.Task, 8, s.c.within, s.taskMethods()},
		{"rackhd.hardware", rackhd.Task, 16, hardwareWithin, s.hardwareMethods()},
	}
}

func (s *Service) serve(ctx context.Context, g group) error {
	keys := make([]string, len(g.methods))
	for i, m := range g.methods {
		keys[i] = m.key
	}
	return s.c.Bus.Subscribe(ctx, bus.Subscription{
		Exchange: g.exchange, Keys: keys, Group: g.name, Workers: g.workers,
		Handle: func(ctx context.Context, m bus.Message) *bus.Message {
			ctx, cancel := context.WithTimeout(ctx, g.within)
			defer cancel()
			return s.answer(ctx, g, m)
		},
	})
}

// answer never returns what is no object, and says what is wrong with a request
// to whoever sent it.
func (s *Service) answer(ctx context.Context, g group, m bus.Message) *bus.Message {
	i := slices.IndexFunc(g.methods, func(o method) bool { return bus.Match(o.key, m.Key) })
	if i < 0 {
		return nil // bound by another version of this program
	}
	result, err := s.call(ctx, g.methods[i], m)
	if err == nil && result == nil {
		return nil
	}
	if err == nil {
		var out bus.Message
		if out, err = message("", "", result); err == nil {
			return &out
		}
	}
	event := errorEvent(err)
	level := slog.LevelInfo
	if event.Status >= 500 {
		level = slog.LevelWarn
	}
	s.c.Log.Log(ctx, level, "a request from the bus is refused", "exchange", m.Exchange, "key", m.Key, "error", err)
	out, err := message("", "", event)
	if err != nil {
		s.c.Log.Error("cannot answer a request from the bus", "key", m.Key, "error", err)
		return nil
	}
	return &out
}

func (s *Service) call(ctx context.Context, o method, m bus.Message) (any, error) {
	if o.takes != "" && m.Type != o.takes {
		return nil, badRequest("Invalid Request Type (%.40s): %s takes %s", m.Type, m.Key, o.takes)
	}
	if err := rackhd.Check(m.ContentType, m.Body); err != nil {
		return nil, err
	}
	return o.handle(ctx, call{m, wildcards(o.key, m.Key)})
}

// message encodes a body for the bus.
func message(exchange, key string, body any) (bus.Message, error) {
	typ, b, err := rackhd.Encode(body)
	if err != nil {
		return bus.Message{}, err
	}
	return bus.Message{Exchange: exchange, Key: key, Type: typ, ContentType: rackhd.ContentType, Body: b}, nil
}

// publish sends what is told once and need not arrive.
func (s *Service) publish(ctx context.Context, exchange, key string, body any) error {
	m, err := message(exchange, key, body)
	if err != nil {
		return err
	}
	return s.c.Bus.Publish(ctx, m)
}

// refusal is an error with RackHD's name for its class.
type refusal struct {
	name   string
	status int
	error
}

func (r refusal) Unwrap() error { return r.error }

// classes are RackHD's names for errors of ours; the first that fits holds.
var classes = []struct {
	is     error
	name   string
	status int
}{
	{context.DeadlineExceeded, "RequestTimedOutError", 504},
	{store.ErrNotFound, "NotFoundError", 404},
	{settings.ErrUnknown, "NotFoundError", 404},
	{store.ErrConflict, "ConflictError", 409},
	{store.ErrAmbiguous, "BadRequestError", 400},
	{settings.ErrInvalid, "BadRequestError", 400},
	{rackhd.ErrInvalid, "BadRequestError", 400},
	{definition.ErrUnknown, "NotFoundError", 404},
	{workflow.ErrInvalid, "BadRequestError", 400},
}

// errorEvent says what went wrong as RackHD's programs expect it.
func errorEvent(err error) rackhd.ErrorEvent {
	var r refusal
	for _, c := range classes {
		if errors.Is(err, c.is) {
			r = refusal{name: c.name, status: c.status}
			break
		}
	}
	if r.name == "" && !errors.As(err, &r) {
		r = refusal{name: "InternalServerError", status: 500}
	}
	text := err.Error()
	if len(text) > 1000 {
		text = text[:1000]
	}
	return rackhd.NewError(r.name, text, r.status)
}
