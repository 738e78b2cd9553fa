// Package boot is what the agent does as PID 1: from the kernel's first
// instruction of it to a machine with file systems, drivers, network, clock and
// a fed watchdog, and from there to an orderly reboot, or to last words when
// nothing orderly is left.
//
// A boot is a list of named phases. A phase that fails is logged and the boot
// goes on, unless the machine would be of no use, or a danger, without it.
package boot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/teeth-metal/teeth/agent/boot/conlog"
	"github.com/teeth-metal/teeth/agent/boot/lastwords"
	"github.com/teeth-metal/teeth/agent/boot/modules"
	"github.com/teeth-metal/teeth/agent/boot/network"
	"github.com/teeth-metal/teeth/agent/boot/watchdog"
)

// Phase is one step of the boot as it went.
type Phase struct {
	Name     string
	Duration time.Duration
	Err      error // nil if it went well
}

// Machine is the booted machine. Its fields do not change after Start; what
// changes has methods.
type Machine struct {
	Options  Options
	Identity Identity
	NIC      string // interface that has the address
	MAC      string // its hardware address, which is the name of the chassis
	Phases   []Phase
	Log      *slog.Logger

	ctx     context.Context
	stop    context.CancelCauseFunc
	kernel  string // release
	level   slog.LevelVar
	out     *conlog.Output
	loader  *modules.Loader // nil if the image has no modules
	loaded  atomic.Int32
	plugger *modules.Plugger
	net     *network.Manager
	dog     *watchdog.Dog
	beat    chan chan struct{} // the event loop answers; see healthy
	ending  sync.Mutex         // held, for ever, by whoever ends the machine

	mu         sync.Mutex
	health     func() bool
	leaseToken string // the newest that DHCP gave; see Trust
}

// step is a phase to be done. Its context ends with its stage: what is to go on
// after that uses the machine's.
type step struct {
	name      string
	essential bool // without it the boot ends
	run       func(*Machine, context.Context) error
}

// A stage is chains of steps that run side by side: the link of a NIC takes
// seconds to come up, and so do disks. The next stage waits for all of them.
type stage [][]step

// sequence is the boot.
var sequence = []stage{
	{
		{
			{"mounts", true, (*Machine).mounts},
			{"console", false, (*Machine).console},
			{"options", false, (*Machine).options},
			{"sentinel", true, (*Machine).sentinel},
			{"init", false, (*Machine).duties},
			{"identity", false, (*Machine).identity},
			{"module index", false, (*Machine).moduleIndex},
		},
	}, {
		{
			{"modules", false, (*Machine).modules},
			{"late mounts", false, (*Machine).lateMounts},
			{"watchdog", false, (*Machine).watchdog},
			{"disks", false, (*Machine).disks},
		}, {
			{"entropy", false, (*Machine).entropy},
			{"network", true, (*Machine).network},
			{"clock", false, (*Machine).clock},
		},
	},
}

// Start boots the machine. It must be called once, by PID 1. It returns when
// the network is up, however long that takes; an error is one that leaves
// nothing to go on with and belongs into LastWords.
func Start(ctx context.Context) (*Machine, error) {
	if os.Getpid() != 1 {
		return nil, fmt.Errorf("booting is for process 1, and this is process %d", os.Getpid())
	}
	m := &Machine{Log: slog.New(slog.DiscardHandler), beat: make(chan chan struct{})}
	m.ctx, m.stop = context.WithCancelCause(ctx)
	lastwords.Set(lastwords.Plan{Print: printEverywhere, Delay: defaultPanicDelay, End: restart})
	err := m.run(m.ctx, sequence)
	if m.ctx.Err() != nil {
		m.Reboot(context.Cause(m.ctx).Error())
	}
	return m, err
}

// run goes through the stages. The first essential step that fails, or the end
// of ctx, ends it.
func (m *Machine) run(ctx context.Context, stages []stage) error {
	for _, st := range stages {
		ctx, cancel := context.WithCancelCause(ctx)
		var wg sync.WaitGroup
		for _, c := range st {
			wg.Add(1)
			lastwords.Go("boot: "+c[0].name, func() {
				defer wg.Done()
				if err := m.chain(ctx, c); err != nil {
					cancel(err)
				}
			})
		}
		wg.Wait()
		err := context.Cause(ctx)
		cancel(nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// chain does steps one after the other and records each.
func (m *Machine) chain(ctx context.Context, steps []step) error {
	for _, s := range steps {
		began := time.Now()
		err := s.run(m, ctx)
		p := Phase{s.name, time.Since(began), err}
		m.mu.Lock()
		m.Phases = append(m.Phases, p)
		m.mu.Unlock()
		log := m.Log.With("phase", p.Name, "took", p.Duration.Round(time.Millisecond))
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			log.Info("phase done")
		case s.essential:
			return fmt.Errorf("boot: %s: %w", s.name, err)
		default:
			log.Warn("phase failed, going on", "err", err)
		}
	}
	return nil
}

// Context ends when the machine is told to shut down (ctrl-alt-del, SIGTERM,
// SIGPWR); its cause says by what. Whoever has the Machine then has 20 seconds
// to wind up and call Reboot, before that is done without asking.
func (m *Machine) Context() context.Context { return m.ctx }

// Network returns the state of the network now; the lease in it is renewed as
// time passes.
func (m *Machine) Network() network.State {
	if m.net == nil {
		return network.State{}
	}
	return m.net.State()
}

// Servers returns the addresses of the control plane, host:port, in the order
// to try: those of the kernel command line, or else those the DHCP server
// names. They may change as the lease does.
func (m *Machine) Servers() []string {
	if len(m.Options.Servers) > 0 {
		return slices.Clone(m.Options.Servers)
	}
	if l := m.Network().Lease; l != nil {
		return l.ControlPlane(DefaultPort)
	}
	return nil
}

// Trust returns the pin of the control plane's CA and the token that admits this
// chassis: those of the kernel command line or, where it has none, those of the
// DHCP server. DHCP is believed as far as the boot network is, which is as far as
// with a command line that came over it; a pin on the command line of a medium is
// not overruled. A token stays although renewals of the lease do not repeat it.
func (m *Machine) Trust() (caSHA256, token string) {
	caSHA256, token = m.Options.CASHA256, m.Options.Token
	l := m.Network().Lease
	if caSHA256 == "" && !m.Options.Insecure && l != nil {
		caSHA256 = l.CASHA256()
	}
	if token != "" {
		return caSHA256, token
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if l != nil && l.Token() != "" {
		m.leaseToken = l.Token()
	}
	return caSHA256, m.leaseToken
}

// Tap has f called with every line of the agent's log, those of the boot first. f must
// return at once and must not log.
func (m *Machine) Tap(f func(conlog.Line)) {
	if m.out != nil {
		m.out.Tap(f)
	}
}

// SetHealth makes the watchdog ask f as well, every quarter of its timeout:
// while f says false the watchdog is not fed. f must answer at once.
func (m *Machine) SetHealth(f func() bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.health = f
}

// healthy asks the event loop for a sign of life, then the function of
// SetHealth.
func (m *Machine) healthy() bool {
	const patience = 5 * time.Second
	answer := make(chan struct{}, 1)
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case m.beat <- answer:
	case <-t.C:
		return false
	}
	select {
	case <-answer:
	case <-t.C:
		return false
	}
	m.mu.Lock()
	f := m.health
	m.mu.Unlock()
	return f == nil || f()
}

// Go runs f in a goroutine whose panic ends the machine with last words that
// carry name. Agent code must start its goroutines this way.
func Go(name string, f func()) { lastwords.Go(name, f) }

// Recover is to be deferred at the top of main: it turns a panic into last
// words.
func Recover(name string) {
	if v := recover(); v != nil {
		lastwords.SayPanic(name, v)
	}
}

// LastWords says on the consoles, in the kernel log and through every function
// given to OnLastWords why this machine cannot go on, syncs, waits and reboots.
// It does not return.
func LastWords(cause error) { lastwords.Say(cause.Error()) }

// OnLastWords registers a way to carry last words further. The function gets
// ten seconds, and may be called from any goroutine.
func OnLastWords(f func(ctx context.Context, text string)) { lastwords.Add(f) }
