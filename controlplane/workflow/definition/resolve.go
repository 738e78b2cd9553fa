package definition

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Resolved is a task of a graph with all that its definition and a run's options
// say of it.
type Resolved struct {
	Label    string
	Name     string
	Friendly string
	Job      string
	Options  map[string]any // from definitions; strings may hold templates
	Given    map[string]any // for this run; data
	Wait     WaitOn
	Terminal []string // states that no other task waits for

	IgnoreFailure bool
	Timeout       time.Duration
	Retries       int
	RetryDelay    time.Duration
}

const defaultRetryDelay = 5 * time.Second

// Resolve returns the tasks of a graph that is to run with options: by label, and
// under "defaults" for every task that knows them. An option that is not known is
// an error, since it is a mistake in what may destroy data. Jobs tells whether
// there is somebody to do a job.
func (l Library) Resolve(g Graph, options map[string]map[string]any, jobs func(string) bool) ([]Resolved, error) {
	steps := g.steps()
	for _, label := range slices.Sorted(maps.Keys(options)) {
		if _, ok := steps[label]; !ok && label != Defaults {
			return nil, invalid("options for %.80q: graph %s has no task with that label", label, g.InjectableName)
		}
	}
	bases := map[string]base{}
	for _, s := range g.Tasks {
		b, err := l.step(s)
		if err != nil {
			return nil, fmt.Errorf("graph %s: %w", g.InjectableName, err)
		}
		bases[s.Label] = b
	}
	for _, key := range slices.Sorted(maps.Keys(options[Defaults])) {
		if key != timeoutOption && !known(bases, key) {
			return nil, invalid("option %.80q: none of the tasks of graph %s knows it", key, g.InjectableName)
		}
	}
	var out []Resolved
	left := map[string]WaitOn{} // optional tasks that are left out
	for _, s := range g.Tasks {
		r, missing, err := g.resolve(s, bases[s.Label], options, jobs)
		switch {
		case err != nil:
			return nil, fmt.Errorf("graph %s: task %q: %w", g.InjectableName, s.Label, err)
		case missing != nil && s.Optional:
			left[s.Label] = s.WaitOn
			continue
		case missing != nil:
			return nil, fmt.Errorf("graph %s: task %q: %w", g.InjectableName, s.Label, missing)
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		return nil, invalid("graph %s: all of its tasks are optional and left out, so there is nothing to do", g.InjectableName)
	}
	for i := range out {
		out[i].Wait = out[i].Wait.without(left)
	}
	for i := range out {
		out[i].Terminal = terminal(out[i].Label, out)
	}
	return out, nil
}

func (g Graph) resolve(s Step, b base, options map[string]map[string]any, jobs func(string) bool) (r Resolved, missing, err error) {
	r = Resolved{
		Label: s.Label, Name: b.InjectableName, Friendly: b.FriendlyName, Job: b.job, Wait: s.WaitOn,
		IgnoreFailure: s.IgnoreFailure, Timeout: time.Duration(s.Timeout), Retries: s.Retries, RetryDelay: time.Duration(s.RetryDelay),
		Options: maps.Clone(b.Options), Given: selected(options[Defaults], b),
	}
	if r.RetryDelay == 0 {
		r.RetryDelay = defaultRetryDelay
	}
	maps.Copy(r.Options, g.defaultsFor(b))
	maps.Copy(r.Options, g.Options[s.Label])
	for key := range options[s.Label] {
		if !b.known[key] && key != timeoutOption {
			return r, nil, invalid("option %.80q is not one that %s knows: it knows %s", key, b.InjectableName, listed(b.known))
		}
	}
	maps.Copy(r.Given, options[s.Label])
	for _, from := range []map[string]any{r.Options, r.Given} {
		v, ok := from[timeoutOption]
		delete(from, timeoutOption)
		if !ok || v == nil {
			continue
		}
		text, err := json.Marshal(v)
		if err != nil {
			return r, nil, err
		}
		if r.Timeout, err = parseDuration(text); err != nil {
			return r, nil, invalid("option %s: %w", timeoutOption, err)
		}
	}
	if !jobs(r.Job) {
		return r, invalid("nothing here does %s: the part of the server that does is not switched on", r.Job), nil
	}
	for _, key := range b.RequiredOptions {
		if r.Given[key] == nil && (r.Options[key] == nil || has(r.Given, key)) {
			return r, invalid("option %q is missing: give it in \"defaults\" or in %q", key, s.Label), nil
		}
	}
	return r, nil, nil
}

func has(m map[string]any, key string) bool { _, ok := m[key]; return ok }

// without returns what is to be waited for when some tasks are left out: in the
// place of each, what it would have waited for.
func (w WaitOn) without(left map[string]WaitOn) WaitOn {
	if len(left) == 0 {
		return w
	}
	out := WaitOn{}
	replace := func(into *map[string][]string, label string, states []string) {
		if *into == nil {
			*into = map[string][]string{}
		}
		(*into)[label] = states
	}
	seen := map[string]bool{}
	var take func(w WaitOn)
	take = func(w WaitOn) {
		for label, states := range w.All {
			if inner, gone := left[label]; !gone {
				if _, set := out.All[label]; !set {
					replace(&out.All, label, states)
				}
			} else if !seen[label] {
				seen[label] = true
				take(inner)
			}
		}
		for label, states := range w.Any {
			if _, gone := left[label]; !gone {
				replace(&out.Any, label, states)
			}
		}
	}
	take(w)
	return out
}

// terminal returns the states of a task that none waits for.
func terminal(label string, all []Resolved) []string {
	open := slices.Clone(States)
	for _, r := range all {
		for _, waits := range []map[string][]string{r.Wait.All, r.Wait.Any} {
			open = slices.DeleteFunc(open, func(s string) bool { return slices.Contains(waits[label], s) })
		}
	}
	return open
}
