package backbone

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/teeth-metal/teeth/controlplane/store"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// States of a host besides those of a slave's status.
const (
	StateMissing = "missing" // it has never said anything
	StateRefused = "refused" // its slave does not take what is desired
)

// Host is a host and how its apps are, as operators see it.
type Host struct {
	ID         string `json:"id"` // of the chassis, or the host's own
	Name       string `json:"name,omitempty"`
	Chassis    string `json:"chassis,omitempty"`
	Host       string `json:"host,omitempty"` // what its slave calls it
	Hostname   string `json:"hostname,omitempty"`
	State      string `json:"state"`      // missing, refused, or as its slave says: ok, converging, retrying, errors, failed
	Responding bool   `json:"responding"` // it has said something lately
	Desired    bool   `json:"desired"`    // something is desired of it; if not, its apps are left alone
	Settled    bool   `json:"settled"`    // its apps are as desired
	Transport  string `json:"transport,omitempty"`
	Agent      string `json:"agent,omitempty"` // version of the slave's software
	Reason     string `json:"reason,omitempty"`

	Revision  int64      `json:"revision,omitempty"` // of what is desired
	Changed   *time.Time `json:"changed,omitempty"`
	ChangedBy string     `json:"changed_by,omitempty"`
	Received  *time.Time `json:"received,omitempty"`  // when its last status came
	Timestamp *time.Time `json:"timestamp,omitempty"` // of that, by its own clock
	Sent      *time.Time `json:"sent,omitempty"`      // when it was told last
	Attempts  int        `json:"attempts,omitempty"`  // to tell it what is desired now
	Error     string     `json:"error,omitempty"`     // of the last of them

	Apps []App `json:"apps"`

	DesiredApps json.RawMessage `json:"desired_apps,omitempty"` // left out in lists
	Status      json.RawMessage `json:"status,omitempty"`       // the last one, as it came; left out in lists
}

// App is one app of a host: as it is, and as it is desired.
type App struct {
	Name     string          `json:"name"`
	State    string          `json:"state"` // ok, differs, absent, or unwanted: nobody here asked for it
	Version  string          `json:"version,omitempty"`
	Running  *bool           `json:"running,omitempty"`
	Services map[string]bool `json:"services,omitempty"`

	DesiredVersion string  `json:"desired_version,omitempty"`
	DesiredRunning *bool   `json:"desired_running,omitempty"`
	Step           string  `json:"step,omitempty"` // of what is done to it now
	Percent        float64 `json:"percent,omitempty"`
	ExitCode       *int    `json:"exit_code,omitempty"`
	Restarts       int     `json:"restarts,omitempty"`
	Error          string  `json:"error,omitempty"`
}

// States of an App.
const (
	appOK       = "ok"
	appDiffers  = "differs"
	appAbsent   = "absent"
	appUnwanted = "unwanted"
)

// view shows a host; details are the texts as they are.
func view(h store.AppHost, now time.Time, details bool) Host {
	p := parse(h)
	v := Host{
		ID: h.ID, Name: h.Name, Chassis: h.Chassis, Host: h.Host, State: h.State, Responding: responding(h, p.report, now),
		Desired: p.desired != nil, Settled: p.desired != nil && p.settled(), Transport: h.Transport,
		Changed: h.Changed, ChangedBy: h.ChangedBy, Received: h.Received, Timestamp: h.Told, Sent: h.SentAt,
		Apps: []App{},
	}
	if v.Desired {
		v.Revision, v.Error = h.Revision, h.Error
		if h.Sent == h.Revision {
			v.Attempts = h.Attempts
		}
	}
	current, reports := map[string]wire.App{}, map[string]wire.AppReport{}
	if p.status == nil {
		v.State = StateMissing
	} else {
		current, v.Agent = p.status.Apps, p.status.HostAgent.Version
		if p.status.Info != nil {
			v.Hostname = p.status.Info.Hostname
		}
		if p.report != nil {
			v.Reason, reports = p.report.Reason, p.report.Apps
		}
		if reason := p.refused(); reason != "" && v.Desired {
			v.State, v.Reason = StateRefused, reason
		}
	}
	names := maps.Clone(p.desired)
	if names == nil {
		names = map[string]wire.App{}
	}
	for name, a := range current {
		if _, ok := names[name]; !ok {
			names[name] = a
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		v.Apps = append(v.Apps, viewApp(name, p, current, reports[name]))
	}
	if details {
		v.DesiredApps, v.Status = h.Desired, h.Status
	}
	return v
}

func viewApp(name string, p parsed, current map[string]wire.App, r wire.AppReport) App {
	now, there := current[name]
	want, desired := p.desired[name]
	a := App{
		Name: name, State: appOK, Version: now.Version, Running: now.Running, Services: now.ServiceStates,
		Step: r.Step, Percent: r.Percent, ExitCode: r.ExitCode, Restarts: r.Restarts, Error: r.Error,
	}
	if desired {
		a.DesiredVersion, a.DesiredRunning = want.Version, want.Running
	}
	switch {
	case !there:
		a.State = appAbsent
	case desired && !wire.Satisfies(map[string]wire.App{name: want}, map[string]wire.App{name: now}):
		a.State = appDiffers
	case !desired && p.desired != nil:
		a.State = appUnwanted
	}
	return a
}
