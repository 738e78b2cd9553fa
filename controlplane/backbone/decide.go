package backbone

import (
	"encoding/json"
	"hash/fnv"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

const (
	// spacing is how long a host is left alone after it was told something, so that
	// what is changed in a row is told as one.
	spacing = time.Second
	// After a message that reached nobody.
	unreachedRetry    = 5 * time.Second
	maxUnreachedRetry = time.Minute
	// givenUp is the shortest pause for a host that has tried in vain and stopped.
	givenUp = 5 * time.Minute
)

// parsed is a host with what is in its texts. What does not parse is absent.
type parsed struct {
	store.AppHost
	desired map[string]wire.App // nil: nothing is desired
	status  *wire.Status
	report  *wire.Report
}

func parse(h store.AppHost) parsed {
	p := parsed{AppHost: h}
	if h.Desired != nil {
		// It was checked when it was stored.
		if json.Unmarshal(h.Desired, &p.desired) != nil || p.desired == nil {
			p.desired = map[string]wire.App{}
		}
	}
	if h.Status == nil {
		return p
	}
	if s, err := wire.ParseStatus(h.Status); err == nil {
		p.status = &s
		p.report, _ = s.Report()
	}
	return p
}

// settled reports whether the host has what is desired, and wants nothing else: one
// that has given up on an app which is desired no more has to be told so. A slave of
// ours says which revision it has, and with ok that it is done with it; that covers what
// the apps do not show, such as their limits and from which package they are.
func (p parsed) settled() bool {
	if p.status == nil || p.desired == nil || !wire.Satisfies(p.desired, p.status.Apps) {
		return false
	}
	if p.report != nil && p.report.Revision != 0 {
		return p.report.Revision == p.Revision && p.status.State == wire.StateOK
	}
	return p.status.State == wire.StateOK || p.sameDesired()
}

// sameDesired reports whether the slave says that it wants what is desired.
func (p parsed) sameDesired() bool {
	d := p.status.DesiredApps
	return d != nil && wire.Satisfies(p.desired, d) && wire.Satisfies(d, p.desired)
}

// refused is why the slave does not take what is desired; "" if it does.
func (p parsed) refused() string {
	if p.report == nil || p.report.Refused == nil || p.report.Refused.Revision != p.Revision || p.Revision == 0 {
		return ""
	}
	return p.report.Refused.Reason
}

// working reports whether the slave is about to bring about what is desired.
func (p parsed) working() bool {
	switch p.status.State {
	case wire.StateConverging, wire.StateRetrying:
	default:
		return false
	}
	if p.report != nil && p.report.Revision != 0 {
		return p.report.Revision == p.Revision
	}
	if p.status.DesiredApps != nil {
		return p.sameDesired()
	}
	return p.Sent == p.Revision && p.Error == "" // the document's slave does not say at what
}

// decide reports whether the host is to be told now what is desired of it; if not,
// and after is not 0, to ask again after that.
func (m *Master) decide(p parsed, now time.Time) (send bool, after time.Duration) {
	if p.desired == nil || p.status == nil || p.settled() || p.refused() != "" || p.working() || !responding(p.AppHost, p.report, now) {
		return false, 0
	}
	if p.SentAt == nil {
		return true, 0
	}
	since := now.Sub(*p.SentAt)
	if since < 0 { // our clock was set back
		since = 0
	}
	if p.Sent != p.Revision || p.Attempts == 0 {
		return since >= spacing, max(spacing-since, 0)
	}
	if p.Error != "" {
		pause := backoff(p, unreachedRetry, maxUnreachedRetry)
		return since >= pause, max(pause-since, 0)
	}
	// What it said before it was told is no answer.
	if p.Received == nil || !p.Received.After(*p.SentAt) {
		return false, 0
	}
	pause := backoff(p, m.c.Retry, m.c.MaxRetry)
	if p.status.State == wire.StateFailed {
		pause = max(pause, min(givenUp, m.c.MaxRetry))
	}
	return since >= pause, 0 // its next status asks again
}

// backoff is the pause after the attempts so far, with a tenth more or less that
// differs from host to host.
func backoff(p parsed, shortest, longest time.Duration) time.Duration {
	d := shortest
	for i := 1; i < p.Attempts && d < longest; i++ {
		d *= 2
	}
	d = min(d, longest)
	sum := fnv.New32a()
	sum.Write([]byte(p.ID))
	jitter := float64(sum.Sum32())/float64(1<<32) - 0.5
	return d + time.Duration(jitter*0.2*float64(d))
}
