// Package backbone is the agent as a slave of Backbone: it takes the set of apps that
// the host is to have, makes it so with package app, and tells the master how it
// goes. It knows no broker; see [Transport] and package agent/backbone/broker.
//
// A set_config replaces the whole set. It is checked as a whole first: a bad one
// changes nothing, and the status says which field of which app is to be mended. Of
// sets that overlap the newest wins: what is being installed for an older one is
// stopped, unless the newer one wants the same; what is being configured or removed
// ends first. The set is kept on disk, and is what the agent goes by when it starts,
// before it has a connection.
//
// Apps that are not wanted are removed first, then those that are there are changed,
// then new ones are installed, each by rank. One that fails holds up no other. While
// something differs from what is wanted, another attempt follows after a delay that
// doubles; after the last one the state is failed until the next set_config.
//
// Unlike the original, the slave answers while it works, compares lists and nulls, and
// does not let a master that sends the same again and again make it work without a
// pause.
package backbone

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/teeth-metal/teeth/app"
	"github.com/teeth-metal/teeth/progress"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// ErrAway is what a Transport's Send returns while it has no connection. What was to
// be sent is lost; the slave says all anew when the connection is back.
var ErrAway = errors.New("no connection to the master")

// Transport carries messages between the slave and a master.
type Transport interface {
	// Receive returns the channel of messages to this slave, in their order.
	Receive() <-chan wire.Envelope
	// Up returns a channel that gets a value when a connection, or another identity,
	// has come up: the slave announces itself then.
	Up() <-chan struct{}
	// Send sends a message to the master. It returns when the peer next to us has it.
	Send(ctx context.Context, e wire.Envelope) error
	// Identity returns under which id the master knows this host, and in which
	// dialect it is spoken to. As long as that is a guess, a status has what any
	// master needs.
	Identity() (hostID string, d wire.Dialect, sure bool)
	// MaxMessage returns how many bytes a message may have.
	MaxMessage() int
	// Installed tells the names of the apps that are installed, sorted. It returns at
	// once.
	Installed(apps []string)
}

// Apps are the apps of the host. *app.Host is one. Only Install has to heed the end
// of its context at once, and leaves the host as it was then.
type Apps interface {
	Installed(ctx context.Context) ([]app.State, error)
	// Install makes an app what spec says, whether another version is there or none.
	Install(ctx context.Context, spec app.Spec, report progress.Func) error
	Remove(ctx context.Context, name string) error
	Configure(ctx context.Context, name string, config json.RawMessage) error
	// Set starts and stops services: all, or if services is not nil those that it names.
	Set(ctx context.Context, name string, running bool, services map[string]bool) error
}
