package backbone

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/teeth-metal/teeth/internal/jsondepth"
)

// record is a JSON object whose fields are taken out one by one; what is left is
// unknown to us.
type record map[string]json.RawMessage

// object reads a message of a peer, within the bounds.
func object(body []byte) (record, error) {
	if len(body) > MaxBody {
		return nil, invalidf("%d bytes, the most is %d", len(body), MaxBody)
	}
	if jsondepth.Exceeds(body, MaxDepth) {
		return nil, invalidf("nested deeper than %d", MaxDepth)
	}
	var r record
	if err := json.Unmarshal(body, &r); err != nil || r == nil {
		return nil, invalidf("not a JSON object")
	}
	return r, nil
}

// raw takes a field as it is; nil if it is absent or null.
func (r record) raw(name string) json.RawMessage {
	v, ok := r[name]
	delete(r, name)
	if !ok || isNull(v) {
		return nil
	}
	return slices.Clone(v)
}

// take decodes a field into v, which stays as it is where the field is absent or
// null. want says in words what the field has to be.
func (r record) take(name string, v any, want string) error {
	raw := r.raw(name)
	if raw == nil {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: want %s, not %s", name, want, excerpt(raw))
	}
	return nil
}

// rest is what has not been taken; nil if there is nothing.
func (r record) rest() map[string]json.RawMessage {
	if len(r) == 0 {
		return nil
	}
	for name, v := range r {
		r[name] = slices.Clone(v)
	}
	return r
}

// put sets a field. A value that cannot be encoded fails in marshal.
func (r record) put(name string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		b = nil
	}
	r[name] = b
}

// marshal encodes the fields and those of extra that are none of them, sorted by
// name.
func (r record) marshal(extra map[string]json.RawMessage) ([]byte, error) {
	for name, v := range extra {
		if _, known := r[name]; !known {
			r[name] = v
		}
	}
	for name, v := range r {
		if len(v) == 0 {
			return nil, fmt.Errorf("%s: no JSON value", printable(name))
		}
	}
	return json.Marshal(map[string]json.RawMessage(r))
}

func isNull(b []byte) bool { return string(bytes.TrimSpace(b)) == "null" }

func isObject(b []byte) bool {
	b = bytes.TrimSpace(b)
	return len(b) > 0 && b[0] == '{'
}

// excerpt is a value for an error message.
func excerpt(b []byte) string {
	const most = 40
	b = bytes.TrimSpace(b)
	if len(b) > most {
		return printable(string(b[:most])) + "…"
	}
	return printable(string(b))
}

// printable bounds text of a peer and removes what could steer a terminal.
func printable(s string) string {
	const most = 128
	if len(s) > most {
		s = s[:most]
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
}
