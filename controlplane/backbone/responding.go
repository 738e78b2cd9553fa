package backbone

import (
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// heartbeat is how often slaves say something, unless they say how often they do.
const heartbeat = 60 * time.Second

// responding reports whether a host has said something lately: within three and a half
// heartbeats, or five while it works on its apps, as it may say nothing meanwhile. With
// the usual minute that is the 210 s and 300 s of the original.
func responding(h store.AppHost, report *wire.Report, now time.Time) bool {
	if h.Received == nil {
		return false
	}
	period := heartbeat
	if report != nil && report.Heartbeat >= 1 && report.Heartbeat <= 3600 {
		period = time.Duration(report.Heartbeat * float64(time.Second))
	}
	limit := period * 7 / 2
	if wire.State(h.State).Working() {
		limit = period * 5
	}
	return now.Sub(*h.Received) <= limit
}
