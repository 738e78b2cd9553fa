package minion

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/teeth-metal/teeth/agent/minion/spool"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

const (
	// DefaultRate is how many records of up to rateUnit bytes are sent a second when
	// many have gathered.
	DefaultRate = 20000
	rateUnit    = 256

	maxName = 255 // bytes of a group, a server, a service or a label
	maxKey  = 4 << 10
)

// longest stands for a group and a server that are not known yet.
var longest = strings.Repeat("x", maxName)

// Target is where records go, and as whose.
type Target struct {
	Addresses []string    // host:port of StreamServers, tried in turn; none: only Options.Session
	TLS       *tls.Config // nil: in the clear
	Group     string
	Server    string // the agent's own id in the group
	Key       string // never logged
}

// check reports why a target cannot be used.
func (t Target) check() error {
	for _, a := range t.Addresses {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return fmt.Errorf("StreamServer %q is not host:port", a)
		}
	}
	for what, s := range map[string]string{"group": t.Group, "id": t.Server} {
		if s == "" || len(s) > maxName {
			return fmt.Errorf("the %s for the StreamServer has %d bytes: want 1 to %d", what, len(s), maxName)
		}
	}
	if len(t.Key) > maxKey {
		return fmt.Errorf("the key for the StreamServer has %d bytes: want at most %d", len(t.Key), maxKey)
	}
	return nil
}

// Peer is the server that a command came from.
type Peer struct {
	Address string
	Trusted bool // it has proved itself over TLS
	Streams bool // it takes more than one answer to a command
}

// Orders carries out a command, and gives its answers to answer, which may wait while
// there is no room for them; Result's ID, Group, Server and Order need not be set. A
// server that does not stream takes one answer. ctx is that of Client.Run: a command
// goes on when its connection ends.
type Orders func(ctx context.Context, o wire.Order, from Peer, answer func(wire.Result))

// Options of a Client.
type Options struct {
	Spool  *spool.Spool // the caller closes it
	Orders Orders       // nil: commands are refused
	// Session delivers frames to the control plane by another way, and returns nil
	// when they are kept durably there, ErrNoSession if there is none now; nil: there
	// never is one.
	Session func(ctx context.Context, frames []byte) error
	Rate    int          // records a second after an outage; 0: DefaultRate
	Log     *slog.Logger // may end in Client.Log: it is told of connections, not of records
}

// ErrNoSession is returned by Options.Session while there is none.
var ErrNoSession = errors.New("no session with the control plane")

// timers of the protocol; tests shorten them.
type timers struct {
	connect    time.Duration // for TCP and TLS
	answer     time.Duration // for the answer to authentication
	negotiate  time.Duration // for that to a heartbeat, before a server is taken for an original without
	heartbeat  time.Duration // between two
	silence    time.Duration // for the answer to one
	write      time.Duration
	user       time.Duration // for TCP's acknowledgements
	backoffMin time.Duration
	backoffMax time.Duration
	patience   time.Duration // without a connection, before records go over the session
	poll       time.Duration // of TCP's acknowledgements
}

// Client delivers records. Its methods may be called from any goroutine.
type Client struct {
	opt    Options
	spool  *spool.Spool
	ids    *wire.Generator
	limit  *rate.Limiter
	timers timers
	dial   func(ctx context.Context, address string) (net.Conn, error)
	slots  chan struct{} // of commands at work

	connected atomic.Pointer[Peer]
	hurry     atomic.Int32 // calls of Flush

	mu      sync.Mutex
	target  *Target
	changed chan struct{} // closed when target is replaced
	history history
}

// New returns a Client that Run starts.
func New(opt Options) (*Client, error) {
	if opt.Spool == nil || opt.Log == nil {
		return nil, errors.New("minion: Spool and Log must be set")
	}
	if opt.Rate <= 0 {
		opt.Rate = DefaultRate
	}
	return &Client{
		opt: opt, spool: opt.Spool,
		ids:   wire.NewGenerator(wire.RandomNode()),
		limit: rate.NewLimiter(rate.Limit(opt.Rate), max(opt.Rate/4, 2*wire.MaxAccepted/rateUnit)),
		timers: timers{
			connect: 15 * time.Second, answer: 30 * time.Second, negotiate: 30 * time.Second,
			heartbeat: time.Minute, silence: 57 * time.Second, write: time.Minute, user: 30 * time.Second,
			backoffMin: time.Second, backoffMax: time.Minute, patience: 5 * time.Second, poll: 100 * time.Millisecond,
		},
		dial:    dialTCP,
		slots:   make(chan struct{}, 128),
		changed: make(chan struct{}),
		history: history{node: wire.RandomNode()},
	}, nil
}

// SetTarget says where records go from now on. A connection to another target is
// closed; the same one again changes nothing.
func (c *Client) SetTarget(t Target) error {
	if err := t.check(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.target != nil && c.target.same(t) {
		return nil
	}
	c.target = &t
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

func (t *Target) same(o Target) bool {
	return strings.Join(t.Addresses, ",") == strings.Join(o.Addresses, ",") && (t.TLS == nil) == (o.TLS == nil) &&
		t.Group == o.Group && t.Server == o.Server && t.Key == o.Key
}

// Connected returns the StreamServer that has let the agent in, and false if there is
// none at the moment.
func (c *Client) Connected() (Peer, bool) {
	if p := c.connected.Load(); p != nil {
		return *p, true
	}
	return Peer{}, false
}

// Log queues a line of a service and returns at once. Line breaks in it make several
// records, and so does a line that is too long for one. What is no UTF-8, and NUL,
// which databases refuse, is replaced by U+FFFD.
func (c *Client) Log(service, line string) {
	c.log(service, line, func() wire.ID { return c.ids.Next() }, c.put)
}

// LogWait is Log for who can wait, such as the reader of a file: while the spool has
// little room it waits, instead of having older records dropped.
func (c *Client) LogWait(ctx context.Context, service, line string) error {
	var err error
	c.log(service, line, func() wire.ID { return c.ids.Next() }, func(f wire.Frame) {
		if err == nil {
			err = c.putWait(ctx, f)
		}
	})
	return err
}

// LogAt is Log for a line of the past, such as one that the kernel has kept.
func (c *Client) LogAt(at time.Time, service, line string) {
	c.log(service, line, func() wire.ID { return c.historicID(at) }, c.put)
}

func (c *Client) log(service, line string, id func() wire.ID, put func(wire.Frame)) {
	service = fit(service)
	room := wire.LogRoom(longest, longest, service)
	for part := range strings.SplitSeq(strings.TrimRight(line, "\r\n"), "\n") {
		for _, text := range wire.Split(clean(part), room) {
			put(wire.Frame{Verb: wire.Log, ID: id(), Data: wire.Texts(service, text)})
		}
	}
}

// Telemetry queues a measurement and returns at once. It fails if the values do not
// fit in a frame. A label that begins with wire.JSON is itself the value.
func (c *Client) Telemetry(label string, values ...string) error {
	if strings.HasPrefix(label, wire.JSON) {
		label = clean(label)
	} else {
		label = fit(label)
	}
	data := wire.Texts(label)
	for _, v := range values {
		data = append(data, wire.Text(clean(v)))
	}
	f := wire.Frame{Verb: wire.Telemetry, ID: c.ids.Next(), Data: data}
	if size := f.Size() + 2*wire.TextSize(maxName); size > wire.MaxSent {
		return fmt.Errorf("telemetry %q: %d bytes, at most %d can be sent", label, size, wire.MaxSent)
	}
	c.put(f)
	return nil
}

// Flush waits until everything that was said is delivered.
func (c *Client) Flush(ctx context.Context) error {
	c.hurry.Add(1)
	defer c.hurry.Add(-1)
	if err := c.spool.Wait(ctx, c.spool.Last()); err != nil {
		return fmt.Errorf("records for the StreamServer: %w", err)
	}
	return nil
}
