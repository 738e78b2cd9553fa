// Package backbone is the codec of Backbone: the messages between a master, which
// says which apps a host is to have, and its slaves, which make it so and tell how
// it went. It opens no connection.
//
// There is no version on the wire. Three dialects of the original are known, see
// [Dialect]; what they have in common is one JSON object for each message, with
// an "opcode", published on the AMQP exchange [Exchange] without properties.
//
// Peers of ours add fields that the original ignores: "revision" beside a
// set_config's opcode, "digest", "size", "limits" and "manifest" in an app's spec,
// and the extension [ReportName] in a status. Unknown fields are kept where an
// object is passed on: an app's spec comes back in desired_apps as it was received.
package backbone

import (
	"errors"
	"fmt"
)

// ErrInvalid is wrapped by all errors of this package that are about a message.
var ErrInvalid = errors.New("invalid Backbone message")

// invalid is an ErrInvalid that reads as its reason alone: people get to see it.
type invalid struct{ error }

func (e invalid) Unwrap() error        { return e.error }
func (e invalid) Is(target error) bool { return target == ErrInvalid }

func invalidf(format string, args ...any) error { return invalid{fmt.Errorf(format, args...)} }

// Dialect is one of the three ways in which the original has spoken.
type Dialect int

// The dialects in the order of time.
const (
	// Document is that of March 2014, the published document's: the slave declares
	// the exchange and an exclusive queue of its own, which it binds to [KeySlaves],
	// its host id and the names of its apps. Its states are ok, converging, errors.
	Document Dialect = iota
	// Retrying has the same queues; the states are ok, converging, retrying,
	// failed, and a status that is not ok has desired_apps. Since later in March 2014.
	Retrying
	// MasterDeclared has the states of Retrying; the master declares and binds
	// [SlaveQueue], and the slave only consumes from it. Since February 2015.
	MasterDeclared
)

// String returns the dialect's name as it is written in settings.
func (d Dialect) String() string {
	switch d {
	case Document:
		return "document"
	case Retrying:
		return "2014"
	case MasterDeclared:
		return "2015"
	}
	return "unknown"
}
