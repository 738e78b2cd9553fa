package backbone

import (
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
)

// verdict is what becomes of a status.
type verdict int

const (
	stale    verdict = iota // older than the last one that was taken
	fresh                   // newer
	clockSet                // newer, though its time is earlier: the host's clock was set back
	astray                  // over the broker, of a chassis that is heard over its session
)

const (
	// deaf is how long a host is not believed that its clock was set back, if
	// nothing else tells.
	deaf = 5 * time.Minute
	// Two statuses seconds apart whose times are as far apart are no backlog, which
	// comes all at once.
	apart    = 2 * time.Second
	slackMin = 2 * time.Second
)

// judge decides whether a status is newer than the one that was taken last.
//
//   - A slave of ours numbers its statuses; a new start of it counts anew.
//   - Over a session they come in order, and it proves who sends them. On a broker anybody
//     may call himself any host: a chassis that is heard over its session is not heard
//     there, unless agents are given the broker, so that they change to it.
//   - Else the time in it decides. One that is earlier than the last is refused, unless
//     the one before was refused, too, and both came as far apart as they say they were
//     made; or the host has not been heard for five minutes: then its clock was set back.
//   - One without a time, as slaves sent before 2015, is always taken.
func judge(h *store.AppHost, in incoming, agentsOnBroker bool) verdict {
	if h.Status != nil && h.Transport == viaSession && in.transport == viaAMQP && !agentsOnBroker && responding(*h, parse(*h).report, in.at) {
		return astray
	}
	if h.Status == nil || h.Host != in.id.Host || h.Transport != in.transport || in.transport == viaSession {
		return fresh
	}
	if r := in.report; r != nil && r.BootID != "" && h.BootID != "" {
		if r.BootID != h.BootID || r.Sequence > h.Sequence {
			return fresh
		}
		return stale
	}
	if in.told == nil || h.Told == nil || !in.told.Before(*h.Told) {
		return fresh
	}
	if h.Received != nil && in.at.Sub(*h.Received) > deaf {
		return clockSet
	}
	if h.Behind != nil && h.BehindAt != nil {
		theirs, ours := in.told.Sub(*h.Behind), in.at.Sub(*h.BehindAt)
		if ours >= apart && (theirs-ours).Abs() <= max(slackMin, ours/10) {
			return clockSet
		}
	}
	return stale
}
