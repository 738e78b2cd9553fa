// Package dispatch sends commands of the records database to the agents they are for.
//
// Several servers may share the database. Each sends what is for the agents that are
// connected to it: it claims a run, in a transaction that at most one wins, and sends
// it then. So no command is sent twice, whoever dies when; one that was claimed and
// not sent, as its server has died in between, is lost, and is said to be so when the
// time is over in which it might have been answered.
package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/teeth-metal/teeth/controlplane/minion"
	"github.com/teeth-metal/teeth/controlplane/minion/records"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

const (
	// pollEvery is how often commands are looked for that nobody has told of.
	pollEvery = 5 * time.Second
	// settleEvery is how often it is looked whose time is over.
	settleEvery = 15 * time.Second
	// page is how many runs are looked at at a time.
	page = 1000
	// crowd is how many agents may come at once before it is cheaper to look at all
	// that waits.
	crowd = 50
)

// Agents are those that are connected to this server: minion.Server.
type Agents interface {
	// Connected returns the newest connection of a server id.
	Connected(server string) (minion.Agent, bool)
	// Send sends a frame. An error that wraps minion.ErrAway means that nothing of it was.
	Send(ctx context.Context, server string, f wire.Frame) error
}

// Dispatcher sends commands.
type Dispatcher struct {
	db     *records.DB
	agents Agents
	log    *slog.Logger

	mu   sync.Mutex
	came map[string]bool // agents that have connected
	wake chan struct{}
}

// New returns a Dispatcher that sends nothing until it runs.
func New(db *records.DB, agents Agents, log *slog.Logger) *Dispatcher {
	return &Dispatcher{db: db, agents: agents, log: log, came: map[string]bool{}, wake: make(chan struct{}, 1)}
}

// Connected has what waits for an agent sent to it. It returns at once.
func (p *Dispatcher) Connected(a minion.Agent) {
	p.mu.Lock()
	p.came[a.Server] = true
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run sends commands until ctx ends.
func (p *Dispatcher) Run(ctx context.Context) {
	poll, settle := time.NewTicker(pollEvery), time.NewTicker(settleEvery)
	defer poll.Stop()
	defer settle.Stop()
	all := true
	for {
		changed := p.db.Commands() // before the look, so that nothing falls between
		who := p.arrived()
		if all || len(who) > crowd {
			who = []string{""}
		}
		for _, server := range who {
			p.report(ctx, "commands are not sent", p.round(ctx, server))
		}
		all = true
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			all = false
		case <-changed:
			select { // several changes are one look
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		case <-poll.C:
		case <-settle.C:
			p.report(ctx, "commands whose time is over go on waiting", p.db.Settle(ctx, time.Now()))
		}
	}
}

func (p *Dispatcher) report(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil && !errors.Is(err, records.ErrClosed) {
		p.log.Error(what, "error", err)
	}
}

func (p *Dispatcher) arrived() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for server := range p.came {
		list = append(list, server)
	}
	clear(p.came)
	return list
}

// round sends what waits for a server, or for all ("") that are connected here.
func (p *Dispatcher) round(ctx context.Context, server string) error {
	skip := 0 // those that wait for agents elsewhere
	for {
		list, err := p.db.Ready(ctx, server, skip, page)
		if err != nil {
			return err
		}
		for _, r := range list {
			sent, err := p.send(ctx, r)
			if err != nil {
				return err
			}
			if !sent {
				skip++
			}
		}
		if len(list) < page {
			return nil
		}
	}
}

// send sends a run if its agent is here, and reports whether it waits no more.
func (p *Dispatcher) send(ctx context.Context, r records.Ready) (bool, error) {
	a, here := p.agents.Connected(r.Name)
	if !here {
		return false, nil
	}
	order := r.Order
	if !a.Acknowledges {
		order.Options = nil // it would take them for arguments
	}
	if _, err := order.Frame().Append(nil); err != nil { // of a row made by hand
		return true, p.db.Respond(ctx, minion.Agent{Server: r.Name}, wire.Result{
			Order: order.ID, Stderr: []string{"not sent: " + err.Error() + "\n"}, Exit: -1, State: records.Refused,
		})
	}
	if won, err := p.db.Claim(ctx, r.Order.ID); err != nil || !won {
		return true, err
	}
	err := p.agents.Send(ctx, r.Name, order.Frame())
	if errors.Is(err, minion.ErrAway) {
		// Also when ctx has ended: it would be lost otherwise.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return false, p.db.Unclaim(undo, r)
	}
	if err != nil {
		// It may have got there, so it is not sent again.
		p.log.Warn("it is not known whether a command was received", "server", r.Name, "command", r.Command, "run", r.Order.ID.String(), "error", err)
		return true, nil
	}
	p.log.Info("command sent", "server", r.Name, "command", r.Command, "run", r.Order.ID)
	return true, nil
}
