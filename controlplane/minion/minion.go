// Package minion is the StreamServer: the control plane's end of Minion's protocol.
// It accepts agents, holds them to their keys, puts the logs and telemetry they send
// where their group's services say (files, the standard output, the records
// database), and carries commands to them and their responses back.
//
// # Nothing is lost
//
// What a destination has not taken yet is kept in memory within bounds; when they are
// reached the connection is not read, and TCP makes the agent wait. A destination that
// fails is tried again until it takes what it was given. To an agent that knows our
// dialect (package wire/minion) a record is acknowledged when its destination has it
// durably; one that is sent again because the acknowledgement was lost is kept once.
//
// # Groups
//
// The group "chassis" is built in: an agent in it is a chassis of the estate, by its
// id, with a key that only it has (see [ChassisKey]). Other groups are in the
// original's configuration (see [ReadConfig]); all agents of one share a key.
package minion

import (
	"context"
	"errors"
	"time"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// ChassisGroup is the group of the estate's chassis. A chassis' server id is its
// chassis id, in lower case.
const ChassisGroup = "chassis"

// Entry is something an agent has sent to be kept: a log line or telemetry. Its texts
// are UTF-8 without NUL, and may hold any other control character.
type Entry struct {
	Verb   wire.Verb // wire.Log or wire.Telemetry
	ID     wire.ID   // the same if it was sent again
	Group  string
	Server string // who sent it, as authenticated

	Service string   // of a log line; of telemetry, the label
	Message string   // of a log line
	Values  []string // of telemetry; or one text that begins with wire.JSON

	At       time.Time // when it happened, by its id; if that makes no sense, Received
	Received time.Time

	result *wire.Result // of a response, which no Sink is given
}

// Sink is a place that keeps entries. Write returns nil when all are kept durably,
// and then each of them once, however often it was given: ids tell. When it fails,
// with none or some kept, the same entries are given again, for ever: so it fails only
// for what may pass, never for what is in an entry. It must not keep the slice.
// Calls follow one another, in the order of each agent's entries.
type Sink interface {
	Write(ctx context.Context, entries []Entry) error
}

// Responses takes the responses to commands. It returns nil when one is kept durably,
// and is called again for the same one, with the same id, when it fails, or when the
// agent has sent it again.
type Responses func(ctx context.Context, a Agent, r wire.Result) error

// Agent is an authenticated connection.
type Agent struct {
	Group, Server string
	Address       string // host:port it came from
	Acknowledges  bool   // it knows our dialect
	Since         time.Time
}

// ErrAway is wrapped by errors of a command for an agent that is not connected.
// Nothing has been sent.
var ErrAway = errors.New("not connected")
