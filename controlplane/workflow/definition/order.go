package definition

import (
	"fmt"
	"maps"
	"slices"
)

// labels returns those that a step waits for, sorted.
func (w WaitOn) labels() []string {
	all := slices.Sorted(maps.Keys(w.All))
	for _, label := range slices.Sorted(maps.Keys(w.Any)) {
		if !slices.Contains(all, label) {
			all = append(all, label)
		}
	}
	return all
}

func (g Graph) steps() map[string]Step {
	m := make(map[string]Step, len(g.Tasks))
	for _, s := range g.Tasks {
		m[s.Label] = s
	}
	return m
}

// cycle returns labels that wait for each other, the first of them once more at
// the end, or nil.
func (g Graph) cycle() []string {
	steps := g.steps()
	state := map[string]int{} // 1: on the path, 2: seen
	var path []string
	var visit func(label string) []string
	visit = func(label string) []string {
		state[label] = 1
		path = append(path, label)
		for _, next := range steps[label].WaitOn.labels() {
			if state[next] == 1 {
				return append(slices.Clone(path[slices.Index(path, next):]), next)
			}
			if state[next] == 0 {
				if found := visit(next); found != nil {
					return found
				}
			}
		}
		path = path[:len(path)-1]
		state[label] = 2
		return nil
	}
	for _, s := range g.Tasks {
		if state[s.Label] == 0 {
			if found := visit(s.Label); found != nil {
				return found
			}
		}
	}
	return nil
}

// upstream returns the labels of all tasks that may have ended before s starts.
func (g Graph) upstream(s Step) map[string]bool {
	steps := g.steps()
	seen := map[string]bool{}
	var visit func(Step)
	visit = func(s Step) {
		for _, label := range s.WaitOn.labels() {
			if !seen[label] {
				seen[label] = true
				visit(steps[label])
			}
		}
	}
	visit(s)
	return seen
}

// needs is what must have happened for a task to run: tasks by label, and the
// states they ended in.
type needs map[string][]string

// add narrows n by a wait for label to end in one of states, and by what label
// itself needs. It returns the label for which no state is left, or "".
func (n needs) add(label string, states []string, of needs) string {
	for other, allowed := range of {
		if !n.narrow(other, allowed) {
			return other
		}
	}
	if !n.narrow(label, states) {
		return label
	}
	return ""
}

func (n needs) narrow(label string, states []string) bool {
	if have, ok := n[label]; ok {
		states = slices.DeleteFunc(slices.Clone(have), func(s string) bool { return !slices.Contains(states, s) })
	}
	n[label] = states
	return len(states) > 0
}

// checkReachable refuses a task that waits for what excludes each other. The
// graph has no cycles.
func (g Graph) checkReachable() error {
	steps := g.steps()
	done := map[string]needs{}
	var visit func(label string) (needs, error)
	visit = func(label string) (needs, error) {
		if n, ok := done[label]; ok {
			return n, nil
		}
		never := func(by string) error {
			return invalid("graph %s: task %q can never run: it would need %q to end in two ways at once", g.InjectableName, label, by)
		}
		n := needs{}
		waits := steps[label].WaitOn
		for _, other := range slices.Sorted(maps.Keys(waits.All)) {
			of, err := visit(other)
			if err != nil {
				return nil, err
			}
			if by := n.add(other, waits.All[other], of); by != "" {
				return nil, never(by)
			}
		}
		last := ""
		possible := len(waits.Any) == 0
		for _, other := range slices.Sorted(maps.Keys(waits.Any)) {
			of, err := visit(other)
			if err != nil {
				return nil, err
			}
			by := maps.Clone(n).add(other, waits.Any[other], of)
			possible = possible || by == ""
			if by != "" {
				last = by
			}
		}
		if !possible {
			return nil, never(last)
		}
		done[label] = n
		return n, nil
	}
	for _, s := range g.Tasks {
		if _, err := visit(s.Label); err != nil {
			return fmt.Errorf("%w", err)
		}
	}
	return nil
}
