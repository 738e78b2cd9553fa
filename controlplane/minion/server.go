package minion

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/controlplane/api/quota"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// Config of a Server. Zero limits and times are replaced by the defaults.
type Config struct {
	Groups []GroupConfig // see ReadConfig
	// Records keeps what goes to the records database; nil: no group may send any
	// there, and chassis' records are dropped unless Groups says where they go.
	Records Sink
	// Secret is what chassis' keys are made of (see ChassisKey); "": there are none.
	Secret string
	// Chassis reports whether a server id is a chassis of the estate's, and whether that
	// may work. A group with one key for all may not speak for a chassis.
	Chassis func(ctx context.Context, server string) (known, approved bool, err error)
	Log     *slog.Logger

	MaxConnections int     // 20000 unless set
	MaxPerAddress  int     // from one IPv4 address or IPv6 /64; 1024 unless set
	Rate           float64 // connections of one address a second, after a burst of four times as many; 100 unless set
	// MaxGreeting is how many connections may be there that have not authenticated, a
	// 32nd of them from one address; 4096 unless set.
	MaxGreeting  int
	MaxPerServer int // of one server id; 8 unless set. The oldest is closed for the newest.
	// ConnectionBytes is what may be in flight of one connection, and QueueBytes of one
	// destination; 8 MiB and 64 MiB unless set. When there is more, connections wait.
	ConnectionBytes, QueueBytes int
	Handshake                   time.Duration // for TLS, and then for the request to authenticate; 10 s
	HalfFrame                   time.Duration // for the rest of a frame that has begun; 30 s
	Idle                        time.Duration // without a frame; 10 min
	Recheck                     time.Duration // between two looks whether agents may still be connected; 1 min
	Write                       time.Duration // for a frame to be taken; 10 s
	Drain                       time.Duration // for destinations to take what is there when the server ends; 10 s

	Stdout, Stderr *os.File // os.Stdout and os.Stderr unless set
}

// Server is a StreamServer. It is safe for concurrent use.
type Server struct {
	c         Config
	meter     meters
	ids       *wire.Generator
	groups    map[string]*group
	queues    map[string]*queue // of files and streams, by destination
	records   *queue            // nil without a sink
	responses *queue
	workers   []func(hurry context.Context)
	known     known
	past      past
	rates     *quota.Rates[netip.Addr]
	peers     *quota.Peers  // greeting: they have not authenticated
	quiet     *rate.Limiter // of what is logged of those that are refused
	slots     chan struct{} // holds one for each handshake being served

	working context.Context // until destinations take nothing any more
	ended   context.CancelFunc

	mu     sync.Mutex
	agents map[string][]*conn // by server id; the newest last
	conns  sync.WaitGroup
	ending bool // Run waits for them
	hook   hooks
	alone  map[identity]chan struct{} // Ingest, one at a time of each
}

type hooks struct {
	connect, heartbeat []func(Agent)
	responses          Responses
}

// Bounds of TLS handshakes.
const (
	maxServed = 128 // at a time: each costs processor time
	// maxHeld is how long one counts among those. A longer one waits for its peer, who
	// may be in no hurry, and must not keep others out.
	maxHeld = 2 * time.Second
)

// New returns a Server that serves nobody yet: Run and Serve do.
func New(c Config) (*Server, error) {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	number := func(n *int, to int) {
		if *n <= 0 {
			*n = to
		}
	}
	set(&c.Handshake, 10*time.Second)
	set(&c.HalfFrame, 30*time.Second)
	set(&c.Idle, 10*time.Minute)
	set(&c.Recheck, time.Minute)
	set(&c.Write, 10*time.Second)
	set(&c.Drain, 10*time.Second)
	number(&c.MaxConnections, 20000)
	number(&c.MaxPerAddress, 1024)
	number(&c.MaxGreeting, 4096)
	number(&c.MaxPerServer, 8)
	number(&c.ConnectionBytes, 8<<20)
	number(&c.QueueBytes, 64<<20)
	if c.Rate <= 0 {
		c.Rate = 100
	}
	if c.Stdout == nil {
		c.Stdout = os.Stdout
	}
	if c.Stderr == nil {
		c.Stderr = os.Stderr
	}
	s := &Server{
		c: c, meter: newMeters(), ids: wire.NewGenerator(wire.RandomNode()), queues: map[string]*queue{},
		rates: quota.NewRates[netip.Addr](c.Rate, int(4*c.Rate)+1, 1<<16),
		quiet: rate.NewLimiter(rate.Every(time.Second), 10), slots: make(chan struct{}, maxServed),
		peers:  quota.NewPeers(quota.Bounds{Total: c.MaxConnections, PerAddress: c.MaxPerAddress, Greeting: c.MaxGreeting}),
		agents: map[string][]*conn{}, alone: map[identity]chan struct{}{},
	}
	s.working, s.ended = context.WithCancel(context.Background())
	s.responses = s.entries("responses", responseSink{s})
	if c.Records != nil {
		s.records = s.entries("records database", c.Records)
	}
	if err := s.openGroups(c.Groups); err != nil {
		return nil, err
	}
	return s, nil
}

// entries returns the queue of a sink.
func (s *Server) entries(name string, sink Sink) *queue {
	q := newQueue(name, name, s.c.QueueBytes, false)
	w := &entryWriter{q: q, sink: sink, trouble: s.trouble, meter: &s.meter}
	s.workers = append(s.workers, w.run)
	return q
}

func (s *Server) stream(name string) medium {
	if name == "stderr" {
		return stream{s.c.Stderr}
	}
	return stream{s.c.Stdout}
}

// all returns the queues of all destinations.
func (s *Server) all() []*queue {
	list := []*queue{s.responses}
	if s.records != nil {
		list = append(list, s.records)
	}
	for _, key := range slices.Sorted(maps.Keys(s.queues)) {
		list = append(list, s.queues[key])
	}
	return list
}

// Run keeps destinations at work until ctx ends, connections have ended, and what was
// read is kept, or Config.Drain is over. It is called once.
func (s *Server) Run(ctx context.Context) error {
	hurry, cancel := context.WithCancel(context.Background())
	defer cancel()
	var workers sync.WaitGroup
	for _, run := range s.workers {
		workers.Go(func() { run(hurry) })
	}
	if s.c.Chassis != nil {
		workers.Go(func() { s.recheck(ctx) })
	}
	<-ctx.Done()
	late := time.AfterFunc(s.c.Drain, func() {
		s.ended()
		cancel()
	})
	defer late.Stop()
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.conns.Wait()
	for _, q := range s.all() {
		q.close()
	}
	workers.Wait()
	s.ended()
	for _, q := range s.all() {
		if q.lost > 0 {
			s.drop("shutdown", q.lost)
			s.c.Log.Error("records are lost: their destination failed until the server ended, and their agents do not send them again",
				"destination", q.name, "records", q.lost, "error", q.failing)
		}
	}
	return nil
}

// OnConnect has f called for every agent that has authenticated, when it is known
// whether it acknowledges. These functions return at once; set them before Serve.
func (s *Server) OnConnect(f func(Agent)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook.connect = append(s.hook.connect, f)
}

// OnHeartbeat has f called for every sign of life that an agent wants recorded.
func (s *Server) OnHeartbeat(f func(Agent)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook.heartbeat = append(s.hook.heartbeat, f)
}

// OnResponse has f take the responses to commands.
func (s *Server) OnResponse(f Responses) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook.responses = f
}

func (s *Server) hooks() hooks {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hook
}

// Key returns the key of a chassis; "" without a secret.
func (s *Server) Key(chassis string) string {
	if s.c.Secret == "" {
		return ""
	}
	return ChassisKey(s.c.Secret, chassis)
}

// Connected reports whether an agent is connected to this server, and the newest of
// its connections.
func (s *Server) Connected(server string) (Agent, bool) {
	c := s.newest(server)
	if c == nil {
		return Agent{}, false
	}
	return c.agent(), true
}

// Agents returns all that are connected.
func (s *Server) Agents() []Agent {
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.agents))
	for _, list := range s.agents {
		conns = append(conns, list[len(list)-1])
	}
	s.mu.Unlock()
	agents := make([]Agent, 0, len(conns))
	for _, c := range conns {
		agents = append(agents, c.agent())
	}
	return agents
}

// newest returns the connection that commands go to. One that has only just come may be
// a test of a configuration, which is gone before it could answer.
func (s *Server) newest(server string) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range slices.Backward(s.agents[server]) {
		if c.settled.Load() && c.reason() == nil { // one that has ended may still hand on what it was given
			return c
		}
	}
	return nil
}

// Send sends a frame, a command that is, to an agent. Whether the agent has got it is
// unknown after an error that does not wrap ErrAway.
func (s *Server) Send(ctx context.Context, server string, f wire.Frame) error {
	c := s.newest(server)
	if c == nil {
		return fmt.Errorf("agent %s: %w", server, ErrAway)
	}
	b, err := f.Append(nil)
	if err != nil {
		return err
	}
	if err := c.write(ctx, b); err != nil {
		return fmt.Errorf("agent %s: %w", server, err)
	}
	return nil
}

// Err says which destinations take nothing, so that agents wait: they fail, or have not
// answered for half a minute.
func (s *Server) Err() error {
	var errs []error
	for _, q := range s.all() {
		if _, since, err := q.look(); err != nil {
			errs = append(errs, fmt.Errorf("%s fails since %s: %w", q.name, since.UTC().Format(time.RFC3339), err))
		}
	}
	return errors.Join(errs...)
}

// trouble is called when a try of a destination has failed, or one that failed
// succeeds again.
func (s *Server) trouble(q *queue, err error, say bool) {
	if err == nil {
		s.c.Log.Info("a destination takes records again", "destination", q.name)
		return
	}
	s.meter.failures.WithLabelValues(q.label).Inc()
	if say {
		s.c.Log.Error("a destination fails; agents wait", "destination", q.name, "error", err)
	}
}

func (s *Server) drop(reason string, n int) {
	s.meter.dropped.WithLabelValues(reason).Add(float64(n))
}

// refused logs what a peer that is not trusted can cause as often as it likes.
func (s *Server) refused(address net.Addr, reason error) {
	if s.quiet.Allow() {
		s.c.Log.Warn("minion agent refused", "address", address.String(), "error", reason)
	}
}
