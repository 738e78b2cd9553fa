// Package sku tells kinds of machine apart. A SKU has rules over the inventory
// that package hwinfo takes, in the manner of RackHD; an approved chassis gets the
// SKU whose rules all match it, and the SKU's graph is run once for it.
package sku

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/teeth-metal/teeth/internal/pattern"
)

// ErrInvalid is wrapped by errors of what was asked for.
var ErrInvalid = errors.New("invalid")

// Rule compares what is at a path of the inventory. All conditions that it has
// must hold; a path that leads nowhere matches nothing but the negative ones.
// Numbers are compared as numbers where both sides are, else as texts.
type Rule struct {
	// Path is dotted: "system.manufacturer", "disks.0.size", "nics.*.driver". A
	// number is an index; * is any: of some element the conditions must hold, the
	// negative ones of every.
	Path        string   `json:"path"`
	Equals      any      `json:"equals,omitempty"`
	In          []any    `json:"in,omitempty"`
	NotIn       []any    `json:"notIn,omitempty"`
	Contains    *string  `json:"contains,omitempty"` // as part of a text, or an element of a list
	NotContains *string  `json:"notContains,omitempty"`
	GreaterThan *float64 `json:"greaterThan,omitempty"`
	LessThan    *float64 `json:"lessThan,omitempty"`
	Min         *float64 `json:"min,omitempty"`
	Max         *float64 `json:"max,omitempty"`
	// Regular expressions (RE2), anywhere in the first 4 KiB of the text.
	Regex    string `json:"regex,omitempty"`
	NotRegex string `json:"notRegex,omitempty"`
}

const (
	maxRules = 100
	maxPath  = 256
	maxText  = 1000
	maxFound = 10_000 // values that a path with * may lead to
)

// Rules are compiled.
type Rules []rule

type rule struct {
	Rule
	path            []string
	regex, notRegex *pattern.Pattern
}

// Compile checks rules.
func Compile(rules []Rule) (Rules, error) {
	if len(rules) == 0 || len(rules) > maxRules {
		return nil, fmt.Errorf("%d rules: a SKU has 1 to %d: %w", len(rules), maxRules, ErrInvalid)
	}
	var list Rules
	for i, r := range rules {
		c, err := compile(r)
		if err != nil {
			return nil, fmt.Errorf("rule %d (%.64q): %w: %w", i+1, r.Path, err, ErrInvalid)
		}
		list = append(list, c)
	}
	return list, nil
}

func compile(r Rule) (rule, error) {
	c := rule{Rule: r, path: strings.Split(r.Path, ".")}
	if r.Path == "" || len(r.Path) > maxPath || strings.Contains("."+r.Path+".", "..") {
		return c, errors.New(`path: write the names of fields with dots between, as in "system.manufacturer"`)
	}
	if strings.Count(r.Path, "*") > 2 {
		return c, errors.New("path: at most two *")
	}
	if r.Equals == nil && r.In == nil && r.NotIn == nil && r.Contains == nil && r.NotContains == nil && r.GreaterThan == nil &&
		r.LessThan == nil && r.Min == nil && r.Max == nil && r.Regex == "" && r.NotRegex == "" {
		return c, errors.New("no condition: write equals, in, notIn, contains, notContains, greaterThan, lessThan, min, max, regex or notRegex")
	}
	for _, v := range append(append([]any{r.Equals}, r.In...), r.NotIn...) {
		switch v.(type) {
		case nil, string, float64, bool, json.Number, int:
		default:
			return c, errors.New("equals, in and notIn compare with texts, numbers, true and false")
		}
	}
	for _, p := range []struct {
		text string
		to   **pattern.Pattern
	}{{r.Regex, &c.regex}, {r.NotRegex, &c.notRegex}} {
		if p.text == "" {
			continue
		}
		var err error
		if *p.to, err = pattern.Compile(p.text, maxText); err != nil {
			return c, err
		}
	}
	return c, nil
}

// Match reports whether all rules hold for an inventory, as decoded from JSON.
func (rs Rules) Match(inventory any) bool {
	for _, r := range rs {
		if !r.match(inventory) {
			return false
		}
	}
	return len(rs) > 0
}

// match: some value must meet the positive conditions, if there are any, and all
// of them the negative ones.
func (r rule) match(inventory any) bool {
	values := find(inventory, r.path, nil)
	met := !r.positive()
	for _, v := range values {
		if !r.negatives(v) {
			return false
		}
		met = met || r.positives(v)
	}
	return met
}

func (r rule) positive() bool {
	return r.Equals != nil || r.In != nil || r.Contains != nil || r.GreaterThan != nil || r.LessThan != nil || r.Min != nil || r.Max != nil || r.regex != nil
}

func (r rule) positives(v any) bool {
	text, isText := textOf(v)
	n, isNumber := numberOf(v)
	switch {
	case r.Equals != nil && !same(v, r.Equals),
		r.In != nil && !among(v, r.In),
		r.Contains != nil && !contains(v, *r.Contains),
		r.GreaterThan != nil && !(isNumber && n > *r.GreaterThan),
		r.LessThan != nil && !(isNumber && n < *r.LessThan),
		r.Min != nil && !(isNumber && n >= *r.Min),
		r.Max != nil && !(isNumber && n <= *r.Max),
		r.regex != nil && !(isText && r.regex.Match(text)):
		return false
	}
	return true
}

func (r rule) negatives(v any) bool {
	text, isText := textOf(v)
	return !(r.NotIn != nil && among(v, r.NotIn) ||
		r.NotContains != nil && contains(v, *r.NotContains) ||
		r.notRegex != nil && isText && r.notRegex.Match(text))
}

// find appends the values that a path leads to.
func find(v any, path []string, found []any) []any {
	if len(found) >= maxFound {
		return found
	}
	if len(path) == 0 {
		if v == nil {
			return found
		}
		return append(found, v)
	}
	switch x := v.(type) {
	case map[string]any:
		if path[0] == "*" {
			for _, e := range x {
				found = find(e, path[1:], found)
			}
		} else if e, ok := x[path[0]]; ok {
			found = find(e, path[1:], found)
		}
	case []any:
		if path[0] == "*" {
			for _, e := range x {
				found = find(e, path[1:], found)
			}
		} else if i, err := strconv.Atoi(path[0]); err == nil && i >= 0 && i < len(x) {
			found = find(x[i], path[1:], found)
		}
	}
	return found
}

func textOf(v any) (string, bool) {
	switch x := v.(type) {
	case string:
		return x, true
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64), true
	case int:
		return strconv.Itoa(x), true
	case json.Number:
		return x.String(), true
	case bool:
		return strconv.FormatBool(x), true
	}
	return "", false
}

func numberOf(v any) (float64, bool) {
	switch x := v.(type) {
	case float64:
		return x, true
	case int:
		return float64(x), true
	case json.Number:
		f, err := x.Float64()
		return f, err == nil
	case string:
		f, err := strconv.ParseFloat(x, 64)
		return f, err == nil
	}
	return 0, false
}

func same(v, want any) bool {
	if a, ok := numberOf(v); ok {
		if b, ok := numberOf(want); ok {
			return a == b
		}
	}
	a, ok := textOf(v)
	b, ok2 := textOf(want)
	return ok && ok2 && a == b
}

func among(v any, list []any) bool {
	for _, w := range list {
		if same(v, w) {
			return true
		}
	}
	return false
}

func contains(v any, part string) bool {
	if list, ok := v.([]any); ok {
		return among(part, list)
	}
	text, ok := textOf(v)
	return ok && strings.Contains(text, part)
}
