package backbone

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/teeth-metal/teeth/internal/jsondepth"
)

// Satisfies reports whether a host with the current apps has what is desired, as the
// original decides it: the same names, and of each app version, running,
// service_states and config as desired, where an object has to contain what is
// desired and may contain more. Where the package comes from, its rank, digest,
// size, limits and manifest do not count.
//
// Unlike in the original, lists and nulls in a config are compared, too, by
// equality. There, an app that has one never converges.
func Satisfies(desired, current map[string]App) bool {
	if len(desired) != len(current) {
		return false
	}
	for name, d := range desired {
		c, ok := current[name]
		if !ok || !d.satisfiedBy(c) {
			return false
		}
	}
	return true
}

func (a App) satisfiedBy(c App) bool {
	if a.Version != c.Version {
		return false
	}
	if a.Running != nil && (c.Running == nil || *a.Running != *c.Running) {
		return false
	}
	for service, on := range a.ServiceStates {
		if now, ok := c.ServiceStates[service]; !ok || now != on {
			return false
		}
	}
	return ConfigSatisfied(a.Config, c.Config)
}

// ConfigSatisfied reports whether the object current contains all that the object
// desired has. Objects within objects are compared in the same way, all else by
// equality; numbers by value, so that 3 and 3.0 are equal.
func ConfigSatisfied(desired, current json.RawMessage) bool {
	d, err := values(desired)
	if err != nil {
		return false
	}
	c, err := values(current)
	return err == nil && contains(c, d)
}

// values decodes an object of bounded depth; an absent one is empty.
func values(raw json.RawMessage) (any, error) {
	if len(raw) == 0 {
		return map[string]any{}, nil
	}
	if jsondepth.Exceeds(raw, MaxDepth) {
		return nil, ErrInvalid
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, ErrInvalid
	}
	return v, nil
}

func contains(current, desired any) bool {
	d, ok := desired.(map[string]any)
	if !ok {
		return equal(current, desired)
	}
	c, ok := current.(map[string]any)
	if !ok {
		return false
	}
	for key, want := range d {
		have, ok := c[key]
		if !ok || !contains(have, want) {
			return false
		}
	}
	return true
}

func equal(a, b any) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		return ok && len(x) == len(y) && contains(a, b) && contains(b, a)
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !equal(x[i], y[i]) {
				return false
			}
		}
		return true
	case json.Number:
		y, ok := b.(json.Number)
		return ok && canonical(x) == canonical(y)
	}
	return a == b // text, truth values and null
}

// canonical is a number's value as digits and a power of ten, whatever its size:
// neither precision nor time is spent on "1e999999999".
func canonical(n json.Number) string {
	s := strings.ToLower(string(n))
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	mantissa, exponent, _ := strings.Cut(s, "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	e := int64(0)
	if exponent != "" {
		var err error
		if e, err = strconv.ParseInt(exponent, 10, 32); err != nil {
			return string(n) // absurd: equal only to itself
		}
	}
	digits := strings.TrimLeft(whole+fraction, "0")
	trimmed := strings.TrimRight(digits, "0")
	if trimmed == "" {
		return "0"
	}
	e += int64(len(digits)-len(trimmed)) - int64(len(fraction))
	return sign + trimmed + "e" + strconv.FormatInt(e, 10)
}
