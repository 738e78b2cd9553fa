package definition

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Roots of what a template can name.
const (
	RootOptions = "options" // of the task itself
	RootChassis = "chassis" // that the graph is for
	RootGraph   = "graph"   // this instance
	RootTask    = "task"    // this instance
	RootContext = "context" // results of earlier tasks, by label
	RootServer  = "server"  // url: of the boot listener, as the chassis sees it
)

// fields are what can be named under the roots that have fixed names.
var fields = map[string][]string{
	RootChassis: {"id", "name", "mac", "macs", "uuid", "serial", "address", "version", "inventory"},
	RootGraph:   {"id", "name"},
	RootTask:    {"id", "label", "name"},
	RootServer:  {"url"},
}

// MaxFilled bounds, in bytes, the options of one task once they are filled in.
const MaxFilled = 1 << 20

var (
	templatePattern = regexp.MustCompile(`\{\{\s*([^{}]*?)\s*\}\}`)
	pathPattern     = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+$`)
)

// paths returns what the templates in v name. The text "{{" must begin one.
func paths(v any) ([]string, error) {
	var all []string
	err := walk(v, func(s string) error {
		found := templatePattern.FindAllStringSubmatch(s, -1)
		if strings.Count(s, "{{") != len(found) {
			return fmt.Errorf("%.80q: a template is {{ name.name }}, and {{ begins one", s)
		}
		for _, f := range found {
			if !pathPattern.MatchString(f[1]) {
				return fmt.Errorf("template {{ %.80s }}: want names with dots between, such as options.x", f[1])
			}
			all = append(all, f[1])
		}
		return nil
	})
	return all, err
}

func walk(v any, text func(string) error) error {
	switch v := v.(type) {
	case string:
		return text(v)
	case []any:
		for _, e := range v {
			if err := walk(e, text); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if err := walk(v[k], text); err != nil {
				return err
			}
		}
	}
	return nil
}

// Late reports whether options have templates that can be filled in only when the
// task starts: those that name results of earlier tasks, or the task's own id.
func Late(options map[string]any) bool {
	all, err := paths(options)
	return err == nil && slices.ContainsFunc(all, func(p string) bool {
		return strings.HasPrefix(p, RootContext+".") || strings.HasPrefix(p, RootTask+".")
	})
}

// Scope is what templates can name, by root and below. RootOptions is not set.
type Scope map[string]any

// Fill fills in the templates of a task's options. Given are options that were
// given for this run: they take the place of those with the same names, and are
// data in which {{ means nothing. A value that is one template keeps the type of
// what it names. Options that are null are left out.
func Fill(options, given map[string]any, scope Scope) (map[string]any, error) {
	f := filler{options: options, given: given, scope: scope, done: map[string]any{}, busy: map[string]bool{}, budget: MaxFilled}
	out := map[string]any{}
	for _, key := range slices.Sorted(maps.Keys(options)) {
		v, err := f.option(key)
		if err != nil {
			return nil, fmt.Errorf("option %q: %w", key, err)
		}
		if v != nil {
			out[key] = v
		}
	}
	for key, v := range given {
		if v == nil {
			delete(out, key)
			continue
		}
		out[key] = v
	}
	return out, nil
}

type filler struct {
	options, given map[string]any
	scope          Scope
	done           map[string]any
	busy           map[string]bool
	budget         int
}

func (f *filler) option(key string) (any, error) {
	if v, ok := f.given[key]; ok {
		return v, nil
	}
	if v, ok := f.done[key]; ok {
		return v, nil
	}
	if f.busy[key] {
		return nil, fmt.Errorf("template {{ options.%s }}: options name each other in a circle", key)
	}
	f.busy[key] = true
	defer delete(f.busy, key)
	v, err := f.fill(f.options[key])
	if err == nil {
		f.done[key] = v
	}
	return v, err
}

func (f *filler) fill(v any) (any, error) {
	switch v := v.(type) {
	case string:
		return f.text(v)
	case []any:
		out := make([]any, 0, len(v))
		for _, e := range v {
			e, err := f.fill(e)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			e, err := f.fill(v[k])
			if err != nil {
				return nil, err
			}
			out[k] = e
		}
		return out, nil
	}
	return v, nil
}

func (f *filler) text(s string) (any, error) {
	if m := templatePattern.FindStringSubmatch(s); m != nil && m[0] == s {
		v, err := f.lookup(m[1])
		if err != nil {
			return nil, err
		}
		_, err = f.spend(v)
		return v, err
	}
	var failed error
	out := templatePattern.ReplaceAllStringFunc(s, func(t string) string {
		if failed != nil {
			return ""
		}
		v, err := f.lookup(templatePattern.FindStringSubmatch(t)[1])
		if err != nil {
			failed = err
			return ""
		}
		if v == nil {
			failed = fmt.Errorf("template %.80s: that option is not set", t)
			return ""
		}
		text, err := f.spend(v)
		if err != nil {
			failed = err
		}
		return text
	})
	return out, failed
}

// spend returns v as it stands inside a text, and counts it.
func (f *filler) spend(v any) (string, error) {
	text, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			return "", err
		}
		text = string(b)
	}
	if f.budget -= len(text); f.budget < 0 {
		return "", fmt.Errorf("filled in it would be longer than %d KiB", MaxFilled>>10)
	}
	return text, nil
}

func (f *filler) lookup(path string) (any, error) {
	names := strings.Split(path, ".")
	missing := func() error { return fmt.Errorf("template {{ %.80s }}: there is no such value", path) }
	if len(names) < 2 {
		return nil, missing()
	}
	var v any
	if names[0] == RootOptions {
		if _, known := f.options[names[1]]; !known {
			if _, known = f.given[names[1]]; !known {
				return nil, missing()
			}
		}
		var err error
		if v, err = f.option(names[1]); err != nil {
			return nil, err
		}
		names = names[2:]
	} else {
		v = f.scope[names[0]]
		names = names[1:]
	}
	for _, name := range names {
		switch at := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = at[name]; !ok {
				return nil, missing()
			}
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(at) {
				return nil, missing()
			}
			v = at[i]
		default:
			return nil, missing()
		}
	}
	if v == nil && !strings.HasPrefix(path, RootOptions+".") {
		return nil, missing()
	}
	return v, nil
}
