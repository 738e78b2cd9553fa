// Package rackhd is the codec of the RackHD AMQP conventions, and of the tasks
// its nodes fetch over HTTP: message types, routing keys, bounds. It opens no
// connection.
//
// The conventions are RackHD's docs/dev_guide/amqp_conventions.rst ("the
// document") as the released services of RackHD 2.x speak them. A message is a
// JSON object with the content type "application/json" exactly, and its class in
// AMQP's type property. The released services lose all their subscriptions for
// seconds when the body is anything else, so Encode makes nothing else.
package rackhd

import "strings"

// Exchanges, all of type topic, durable. The first nine are those of the document.
const (
	Configuration   = "on.configuration"
	Events          = "on.events"
	HTTP            = "on.http"
	DHCP            = "on.dhcp"
	TFTP            = "on.tftp"
	Logging         = "on.logging"
	TaskGraphRunner = "on.task-graph-runner"
	Scheduler       = "on.scheduler"
	Task            = "on.task"

	Waterline = "on.waterline"
	Test      = "on.test"
	SSDP      = "on.ssdp"
	Heartbeat = "on.heartbeat"
)

// Exchanges returns the names of all that a RackHD service declares.
func Exchanges() []string {
	return []string{
		Configuration, Events, HTTP, DHCP, TFTP, Logging, TaskGraphRunner, Scheduler, Task,
		Waterline, Test, SSDP, Heartbeat,
	}
}

// DefaultDomain is the domain of graphs and tasks that name none.
const DefaultDomain = "default"

// nodeIDLength is that of MongoDB's object ids, which RackHD's programs check for.
const nodeIDLength = 24

// NodeID returns what RackHD's programs call a chassis: the first 24 hex digits
// of its id, which is a UUID. Without a chassis it is "".
func NodeID(chassis string) string {
	digits := strings.ToLower(strings.ReplaceAll(chassis, "-", ""))
	if len(digits) < nodeIDLength {
		return ""
	}
	return digits[:nodeIDLength]
}

// ChassisPrefix is the beginning, 28 characters, of the id of the chassis with
// this node id. It reports whether node is a node id.
func ChassisPrefix(node string) (string, bool) {
	if len(node) != nodeIDLength || !isHex(node) {
		return "", false
	}
	n := strings.ToLower(node)
	return n[:8] + "-" + n[8:12] + "-" + n[12:16] + "-" + n[16:20] + "-" + n[20:], true
}

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
