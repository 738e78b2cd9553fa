package definition

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

const (
	// MaxSize is the longest definition that is read, in bytes.
	MaxSize = 256 << 10
	// maxNesting is how deep lists and objects may nest in it.
	maxNesting = 32
	// maxNodes is how many values, lists and objects it may have.
	maxNodes = 20_000
	// MaxSteps is how many tasks a graph may have.
	MaxSteps   = 256
	maxName    = 256 // bytes of a friendly name
	maxText    = 4 << 10
	maxRetries = 100
)

// ParseTask reads one task, JSON or YAML, strictly. What refers to others is
// checked by Library.CheckTask.
func ParseTask(raw []byte) (Task, error) {
	var t Task
	if err := decode(raw, &t); err != nil {
		return Task{}, fmt.Errorf("task: %w", err)
	}
	return t, t.check()
}

// ParseGraph reads one graph, JSON or YAML, strictly. What refers to others is
// checked by Library.CheckGraph.
func ParseGraph(raw []byte) (Graph, error) {
	var g Graph
	if err := decode(raw, &g); err != nil {
		return Graph{}, fmt.Errorf("graph: %w", err)
	}
	return g, g.check()
}

// Kind tells which of the two a definition is, "task" or "graph", and its name.
func Kind(raw []byte) (kind, name string, err error) {
	var v map[string]any
	if err := decode(raw, &v); err != nil {
		return "", "", err
	}
	name, _ = v["injectableName"].(string)
	switch {
	case strings.HasPrefix(name, "Graph."):
		return "graph", name, nil
	case strings.HasPrefix(name, "Task."):
		return "task", name, nil
	}
	return "", "", invalid("injectableName is %.80q: want Task.… or Graph.…", name)
}

// decode reads one JSON or YAML document. YAML is turned into JSON, so that there
// is one reader and one meaning.
func decode(raw []byte, v any) error {
	if len(raw) > MaxSize {
		return invalid("it has %d bytes; at most %d are read", len(raw), MaxSize)
	}
	if !utf8.Valid(raw) {
		return invalid("it is not UTF-8")
	}
	if first := bytes.TrimLeft(raw, " \t\r\n"); len(first) == 0 {
		return invalid("it is empty")
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		return invalid("%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(new(yaml.Node)); err != io.EOF {
		return invalid("there is more than one document")
	}
	nodes := 0
	value, err := plain(&doc, maxNesting, &nodes)
	if err != nil {
		return invalid("%w", err)
	}
	text, err := json.Marshal(value)
	if err != nil {
		return invalid("%w", err)
	}
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	if err := strict.Decode(v); err != nil {
		return invalid("%w", words(err))
	}
	return nil
}

// words says what the JSON decoder found in terms of the document.
func words(err error) error {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return fmt.Errorf("%s is a JSON %s, which it cannot be", kind.Field, kind.Value)
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("key %.100s is not known", name)
	}
	return err
}

// plain turns a YAML node into the values that JSON has.
func plain(n *yaml.Node, depth int, nodes *int) (any, error) {
	if *nodes++; *nodes > maxNodes {
		return nil, fmt.Errorf("it has more than %d values", maxNodes)
	}
	if depth == 0 {
		return nil, fmt.Errorf("line %d: it nests deeper than %d", n.Line, maxNesting)
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return plain(n.Content[0], depth, nodes)
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			v, err := plain(c, depth-1, nodes)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.MappingNode:
		m := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
				return nil, fmt.Errorf("line %d: keys are to be plain texts", key.Line)
			}
			if _, twice := m[key.Value]; twice {
				return nil, fmt.Errorf("line %d: key %.100q is there twice", key.Line, key.Value)
			}
			v, err := plain(n.Content[i+1], depth-1, nodes)
			if err != nil {
				return nil, err
			}
			m[key.Value] = v
		}
		return m, nil
	case yaml.ScalarNode:
		return scalar(n)
	case yaml.AliasNode:
		return nil, fmt.Errorf("line %d: aliases are not taken", n.Line)
	}
	return nil, fmt.Errorf("line %d: not understood", n.Line)
}

func scalar(n *yaml.Node) (any, error) {
	switch n.Tag {
	case "!!str", "!!timestamp": // an unquoted date is the text it is
		return n.Value, nil
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		err := n.Decode(&b)
		return b, err
	case "!!int":
		var i int64
		if n.Decode(&i) == nil {
			return i, nil
		}
		var u uint64
		err := n.Decode(&u)
		return u, err
	case "!!float":
		var f float64
		if err := n.Decode(&f); err != nil {
			return nil, err
		}
		if f != f || f-f != 0 {
			return nil, fmt.Errorf("line %d: %s is no number JSON has", n.Line, n.Value)
		}
		return f, nil
	}
	return nil, fmt.Errorf("line %d: tag %.40q is not taken", n.Line, n.Tag)
}

// check is of what can be seen in the task alone.
func (t Task) check() error {
	switch {
	case !taskPattern.MatchString(t.InjectableName):
		return invalid("task: injectableName is %.80q: want Task. and a name of letters, digits, '.', '_' and '-'", t.InjectableName)
	case t.RunJob == "" && t.ImplementsTask == "":
		return invalid("task %s: it has neither runJob nor implementsTask, so there is nothing it does", t.InjectableName)
	case t.RunJob != "" && t.ImplementsTask != "":
		return invalid("task %s: it has both runJob and implementsTask; one of them is to go", t.InjectableName)
	case t.RunJob != "" && !jobPattern.MatchString(t.RunJob):
		return invalid("task %s: runJob is %.80q: want Job. and a name", t.InjectableName, t.RunJob)
	case len(t.FriendlyName) > maxName || len(t.Description) > maxText:
		return invalid("task %s: its friendlyName or description is too long", t.InjectableName)
	}
	for key := range t.Options {
		if !keyPattern.MatchString(key) {
			return invalid("task %s: option %.80q: want letters, digits, '_' and '-'", t.InjectableName, key)
		}
	}
	for i, key := range t.RequiredOptions {
		if !keyPattern.MatchString(key) || slices.Contains(t.RequiredOptions[:i], key) {
			return invalid("task %s: requiredOptions: %.80q: want each option once, of letters, digits, '_' and '-'", t.InjectableName, key)
		}
	}
	return nil
}

// check is of what can be seen in the graph alone.
func (g Graph) check() error {
	fail := func(format string, args ...any) error {
		return invalid("graph %s: %w", g.InjectableName, fmt.Errorf(format, args...))
	}
	switch {
	case !graphPattern.MatchString(g.InjectableName):
		return invalid("graph: injectableName is %.80q: want Graph. and a name of letters, digits, '.', '_' and '-'", g.InjectableName)
	case len(g.Tasks) == 0:
		return fail("it has no tasks")
	case len(g.Tasks) > MaxSteps:
		return fail("it has %d tasks; at most %d are taken", len(g.Tasks), MaxSteps)
	case len(g.FriendlyName) > maxName || len(g.Description) > maxText:
		return fail("its friendlyName or description is too long")
	}
	labels := map[string]bool{}
	for i, s := range g.Tasks {
		switch {
		case !labelPattern.MatchString(s.Label) || s.Label == Defaults || s.Label == "anyOf":
			return fail("task %d: label is %.80q: want letters, digits, '_' and '-', and not \"defaults\" or \"anyOf\"", i+1, s.Label)
		case labels[s.Label]:
			return fail("two tasks have the label %q", s.Label)
		case s.TaskName == "" && s.TaskDefinition == nil:
			return fail("task %q: it has neither taskName nor taskDefinition", s.Label)
		case s.TaskName != "" && s.TaskDefinition != nil:
			return fail("task %q: it has both taskName and taskDefinition; one of them is to go", s.Label)
		case s.Retries < 0 || s.Retries > maxRetries:
			return fail("task %q: retries is %d: want 0 to %d", s.Label, s.Retries, maxRetries)
		}
		if s.TaskDefinition != nil {
			if err := s.TaskDefinition.check(); err != nil {
				return fail("task %q: %w", s.Label, err)
			}
		}
		labels[s.Label] = true
	}
	for label := range g.Options {
		if label != Defaults && !labels[label] {
			return fail("it has options for %.80q, and no task with that label", label)
		}
	}
	for _, s := range g.Tasks {
		for _, waits := range []map[string][]string{s.WaitOn.All, s.WaitOn.Any} {
			for label, states := range waits {
				if !labels[label] {
					return fail("task %q waits for %.80q, and there is no task with that label", s.Label, label)
				}
				if len(states) == 0 || slices.ContainsFunc(states, func(s string) bool { return !slices.Contains(States, s) }) {
					return fail("task %q waits for %.80q to be %.80q: want final states", s.Label, label, states)
				}
			}
		}
	}
	if cycle := g.cycle(); len(cycle) > 0 {
		return fail("its tasks wait for each other in a circle: %s", strings.Join(cycle, " waits for "))
	}
	return nil
}
