package backbone

import (
	"cmp"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/app"
	wire "github.com/teeth-metal/teeth/wire/backbone"
)

// kind is what an action does.
type kind string

const (
	remove    kind = "remove"
	install   kind = "install"
	configure kind = "configure"
	set       kind = "set"
)

// action is one step towards the desired set.
type action struct {
	kind kind
	app  string
	spec app.Spec // but of remove
}

// plan returns what has to be done to states, in order: what is not wanted goes
// first, then changes of what is there, then what is new, each by rank. Of each app it
// is the next action only. Nothing is planned without a desired set.
func (s *Slave) plan(d *desired, states []app.State) []action {
	if d == nil {
		return nil
	}
	var removals, changes, additions []action
	there := make(map[string]bool, len(states))
	for _, st := range states {
		there[st.Name] = true
		spec, wanted := d.specs[st.Name]
		if !wanted {
			removals = append(removals, action{kind: remove, app: st.Name})
			continue
		}
		if k := s.change(d.apps[st.Name], &spec, st); k != "" {
			changes = append(changes, action{k, st.Name, spec})
		}
	}
	for name, spec := range d.specs {
		if !there[name] {
			additions = append(additions, action{install, name, spec})
		}
	}
	for _, list := range [][]action{removals, changes, additions} {
		slices.SortFunc(list, func(a, b action) int {
			return cmp.Or(cmp.Compare(a.spec.Rank, b.spec.Rank), strings.Compare(a.app, b.app))
		})
	}
	return slices.Concat(removals, changes, additions)
}

// change returns what has to be done to an app that is there, "" if nothing.
func (s *Slave) change(want wire.App, spec *app.Spec, st app.State) kind {
	if want.Running == nil && want.ServiceStates == nil {
		spec.Running = st.Running // nothing is said of it: it stays as it is
	}
	before, known := s.made[st.Name]
	switch {
	case st.Version != spec.Version,
		spec.Digest != "" && differs(spec.Digest, st.Digest),
		known && before != made(*spec):
		return install
	case !wire.ConfigSatisfied(want.Config, st.Config),
		// What is no longer wanted is still there.
		st.ConfigSet != nil && !wire.ConfigSatisfied(st.ConfigSet, want.Config):
		return configure
	case want.Running != nil && *want.Running != running(want, st):
		return set
	}
	for service, on := range want.ServiceStates {
		if now, ok := st.Services[service]; !ok || now != on {
			return set
		}
	}
	return ""
}

// differs reports whether two digests are of the same kind and of different packages.
func differs(want, have string) bool {
	algorithm, _, _ := strings.Cut(want, ":")
	same, _, _ := strings.Cut(have, ":")
	return strings.EqualFold(algorithm, same) && !strings.EqualFold(want, have)
}

// running is whether the app runs, to somebody who wants it to, or not to: one of
// several services that does not run is as bad as one that does.
func running(want wire.App, st app.State) bool {
	if want.Running == nil || *want.Running {
		return st.Running
	}
	for _, on := range st.Services {
		if on {
			return true
		}
	}
	return st.Running
}

// describe is an app as a status tells it: in the terms in which it is wanted, so that
// the master can compare.
func describe(want wire.App, st app.State) wire.App {
	a := wire.App{Version: st.Version, Config: st.Config, URL: st.URL}
	if len(a.Config) == 0 {
		a.Config = []byte("{}")
	}
	if want.ServiceStates != nil {
		a.ServiceStates = st.Services
		if a.ServiceStates == nil {
			a.ServiceStates = map[string]bool{}
		}
		return a
	}
	now := running(want, st)
	a.Running = &now
	return a
}
