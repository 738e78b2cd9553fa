package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/teeth-metal/teeth/wire/minion"
)

// remembered is how many ids of commands are kept.
const remembered = 4096

// notStarted is the exit code of what was not started, as a shell's.
const notStarted = 126

// Func carries out an internal command; args come after its name. It returns what
// it has to say.
type Func func(ctx context.Context, args []string) (stdout string, err error)

// Config of a Runner.
type Config struct {
	Policy   Policy
	Internal map[string]Func // by name
	// Secret names internal commands whose arguments are not for the log.
	Secret []string
	AtOnce int    // programs at once; 0: DefaultAtOnce
	Shell  string // "/bin/sh" unless set
	Dir    string // where programs are started; "/" unless set
	Log    *slog.Logger
}

// Runner carries out commands. Its methods may be called from any goroutine.
type Runner struct {
	c       Config
	slots   *semaphore.Weighted
	waiting atomic.Int64

	mu   sync.Mutex
	seen map[minion.ID]bool
	ids  []minion.ID // of seen, oldest first
}

// New returns a Runner.
func New(c Config) (*Runner, error) {
	if c.Log == nil {
		return nil, errors.New("command: Log must be set")
	}
	if c.AtOnce <= 0 {
		c.AtOnce = DefaultAtOnce
	}
	if c.Shell == "" {
		c.Shell = "/bin/sh"
	}
	if c.Dir == "" {
		c.Dir = "/"
	}
	for _, p := range c.Policy.Allow {
		if err := p.check(); err != nil {
			return nil, err
		}
	}
	return &Runner{c: c, slots: semaphore.NewWeighted(int64(c.AtOnce)), seen: map[minion.ID]bool{}}, nil
}

// Run carries out an order and gives every answer to answer, with neither the
// frame's id nor group and server filled in; answer may block, but no longer than
// ctx. Run returns when the last one was given. ctx is the agent's, not that of a
// connection: a program goes on while its server is away. An order whose id has been
// seen before is left alone, and has no answer.
func (r *Runner) Run(ctx context.Context, o minion.Order, from Peer, answer func(minion.Result)) {
	if from.Room < 256 {
		from.Room = defaultRoom
	}
	c, err := parse(o)
	log := r.c.Log.With("command", c.id, "type", c.kind, "argv", r.shown(c), "server", from.Address)
	if !r.first(o.ID) {
		log.Warn("command came a second time and is not carried out again")
		return
	}
	give := func(a part) { answer(a.result(o.ID, from)) }
	began := time.Now()
	last := refused(err)
	if err == nil {
		last = r.carryOut(ctx, c, from, give, log)
	}
	give(last)
	level := slog.LevelInfo
	attrs := []any{"state", last.state, "exit", last.exit, "took", time.Since(began).Round(time.Millisecond).String()}
	if last.state != minion.StateDone {
		level = slog.LevelWarn
	}
	if last.state == minion.StateRefused {
		attrs = append(attrs, "reason", last.stderr)
	}
	log.Log(ctx, level, "command ended", attrs...)
}

// part is a piece of what a command has written, or how it ended. Its texts are
// UTF-8 without NUL: what cannot stand in it is replaced by U+FFFD.
type part struct {
	stdout, stderr string
	exit           int
	state          string
	seq            int
}

// result is the part as that peer takes it. An original has no exit code: it is the
// last line of what it gets.
func (p part) result(order minion.ID, to Peer) minion.Result {
	r := minion.Result{Order: order, Stdout: []string{p.stdout}, Stderr: []string{p.stderr}}
	if to.Streams {
		r.Exit, r.State, r.Sequence = p.exit, p.state, p.seq
	}
	return r
}

func refused(why error) part {
	if why == nil {
		return part{}
	}
	return part{stderr: clean([]byte(why.Error())), exit: notStarted, state: minion.StateRefused}
}

func (r *Runner) carryOut(ctx context.Context, c command, from Peer, give func(part), log *slog.Logger) part {
	if err := r.c.Policy.check(c, from); err != nil {
		return refused(err)
	}
	internal, known := r.c.Internal[c.argv[0]]
	if c.kind == minion.Internal && !known {
		return refused(fmt.Errorf("there is no internal command %.40q", c.argv[0]))
	}
	// What waits in line for ever would be forgotten by whoever sent it.
	if most := int64(r.c.AtOnce) * 9; r.waiting.Add(1) > most {
		r.waiting.Add(-1)
		return refused(fmt.Errorf("busy: %d commands run or wait already", most))
	}
	defer r.waiting.Add(-1)
	if ctx.Err() != nil || r.slots.Acquire(ctx, 1) != nil {
		return refused(errors.New("the agent is ending"))
	}
	defer r.slots.Release(1)
	log.Info("command starts")
	ctx, stop := context.WithTimeout(ctx, c.timeout)
	defer stop()
	if c.kind == minion.Internal {
		return r.internal(ctx, c, from, internal, give)
	}
	return r.external(ctx, c, from, give)
}

// internal runs a function of the agent's.
func (r *Runner) internal(ctx context.Context, c command, from Peer, f Func, give func(part)) part {
	said, err := f(ctx, c.argv[1:])
	last := part{state: minion.StateDone}
	o := newOutput(c.limit, from)
	if err != nil {
		last.exit = 1
		o.streams[1].add([]byte(err.Error()))
	}
	o.streams[0].add([]byte(said))
	return conclude(o, last, give)
}

// conclude gives what is left of the output, and returns the last part.
func conclude(o *output, last part, give func(part), notes ...string) part {
	if o.single && last.exit != 0 {
		notes = append(notes, fmt.Sprintf("exit status %d", last.exit))
	}
	o.finish(notes)
	for {
		var more bool
		last.stdout, last.stderr, more = o.take()
		if !more {
			return last
		}
		give(part{stdout: last.stdout, stderr: last.stderr, state: minion.StateRunning, seq: last.seq})
		last.seq++
	}
}

// shown is the arguments for the log.
func (r *Runner) shown(c command) []string {
	const most, longest = 64, 400
	if c.kind == minion.Internal && len(c.argv) > 1 && slices.Contains(r.c.Secret, c.argv[0]) {
		return []string{c.argv[0], fmt.Sprintf("(%d arguments)", len(c.argv)-1)}
	}
	out := make([]string, 0, min(len(c.argv), most))
	for i, a := range c.argv {
		if i == most {
			return append(out, fmt.Sprintf("(%d more)", len(c.argv)-i))
		}
		if len(a) > longest {
			a = a[:longest] + "…"
		}
		out = append(out, clean([]byte(a)))
	}
	return out
}

// first notes an id and reports whether it is new.
func (r *Runner) first(id minion.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[id] {
		return false
	}
	if len(r.ids) >= remembered {
		delete(r.seen, r.ids[0])
		r.ids = r.ids[1:]
	}
	r.seen[id] = true
	r.ids = append(r.ids, id)
	return true
}
