package backbone

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/teeth-metal/teeth/app"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// maxError bounds what is said about one app, in bytes.
const maxError = 1 << 10

// observe takes over how the apps are, and tells transports of changes. s.mu is held.
func (s *Slave) observe(states []app.State) {
	apps, reports := make(map[string]wire.App, len(states)), make(map[string]wire.AppReport, len(states))
	for _, st := range states {
		var want wire.App
		if s.want != nil {
			want = s.want.apps[st.Name]
		}
		apps[st.Name] = describe(want, st)
		reports[st.Name] = wire.AppReport{ExitCode: st.ExitCode, Restarts: st.Restarts, Error: clip(st.Error)}
	}
	names := slices.Sorted(maps.Keys(apps))
	if s.apps == nil || !slices.Equal(names, slices.Sorted(maps.Keys(s.apps))) {
		for _, o := range s.outs {
			o.t.Installed(names)
		}
	}
	s.apps, s.reports = apps, reports
}

// emit sends a status to all masters. s.mu is held.
func (s *Slave) emit() {
	st := s.build()
	s.emitted = time.Now()
	for _, o := range s.outs {
		o.put(st)
	}
}

// build returns the status as of now. s.mu is held; what it returns does not change.
func (s *Slave) build() wire.Status {
	s.seq++
	st := wire.Status{
		State: s.state, Apps: s.apps, Info: &s.c.Info, Timestamp: wire.FormatTime(time.Now()),
		HostAgent: wire.HostAgent{Status: "running", Version: s.c.Version},
	}
	r := wire.Report{
		BootID: s.boot, Sequence: s.seq, Refused: s.refused, Attempt: s.attempt,
		Heartbeat: s.c.Heartbeat.Seconds(), Apps: maps.Clone(s.reports),
	}
	if s.want != nil {
		r.Revision = s.want.revision
		if s.state != wire.StateOK {
			st.DesiredApps = s.want.apps
		}
	}
	if s.state != wire.StateOK {
		r.Reason = clip(s.reason())
	}
	if r.Apps == nil {
		r.Apps = map[string]wire.AppReport{}
	}
	for name, text := range s.errs {
		if name != "" {
			a := r.Apps[name]
			a.Error = clip(text)
			r.Apps[name] = a
		}
	}
	if s.step != nil {
		a := r.Apps[s.step.app]
		a.Step, a.Done, a.Total = string(s.step.kind), s.step.done, s.step.total
		if a.Total > 0 {
			a.Percent = min(100*float64(a.Done)/float64(a.Total), 100)
		}
		r.Apps[s.step.app] = a
	}
	if err := st.SetReport(r); err != nil {
		s.c.Log.Error("a status lacks its report", "err", err)
	}
	if s.upgrade != "" {
		b, _ := json.Marshal(map[string]string{"error": clip(s.upgrade)}) // a text
		st.Extensions[wire.SetAgent] = wire.Extension{Status: "error", Data: b}
	}
	return st
}

// clip bounds a text at the boundary of a character.
func clip(s string) string {
	if len(s) <= maxError {
		return s
	}
	n := maxError
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + "…"
}

// bare is a URL for the log: without what may be a secret.
func bare(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}
