package backbone

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Exchange is where all messages go. It is declared as type direct, not durable, not
// auto-delete, not internal, without arguments: anything else ends the original
// master for good.
const Exchange = "pf9-bbone"

// Routing keys besides a host's id.
const (
	KeyMaster = "master" // to masters
	KeySlaves = "slaves" // to all slaves; only ping is ever sent there
)

const (
	masterQueue = "bbmaster-q-"
	slaveQueue  = "bbslave-q-"
	maxName     = 255 // bytes of a queue's name and of a routing key: AMQP's short string
)

// MasterQueue is the name of a master's queue, by its host name. It is not durable,
// not exclusive, not auto-delete, and bound to [KeyMaster].
func MasterQueue(hostname string) string { return masterQueue + hostname }

// SlaveQueue is the name of a slave's queue in the dialect MasterDeclared. It is not
// durable, not exclusive, not auto-delete, and bound to [KeySlaves] and the host id.
func SlaveQueue(hostID string) string { return slaveQueue + hostID }

// CheckHostID refuses what cannot be a routing key and part of a queue's name, or
// would be somebody else's key.
func CheckHostID(id string) error {
	switch {
	case id == "":
		return invalidf("a host id must not be empty")
	case len(id) > maxName-len(slaveQueue):
		return invalidf("host id %.40q… has %d bytes, the most is %d: it is part of a queue's name", id, len(id), maxName-len(slaveQueue))
	case id == KeyMaster || id == KeySlaves:
		return invalidf("host id %q is the routing key of others", id)
	case !utf8.ValidString(id) || strings.ContainsFunc(id, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
		return invalidf("host id %q has spaces or control characters", id)
	}
	return nil
}
