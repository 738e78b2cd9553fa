package teeth

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Append appends m as a line, line feed included. It refuses what the peer's
// Parse would refuse, and with ErrLineTooLong what would be longer than MaxLine;
// dst is then returned as it was.
func (m Message) Append(dst []byte) ([]byte, error) {
	start := len(dst)
	b, err := m.append(dst)
	if err != nil {
		return dst, fmt.Errorf("encode message: %w", err)
	}
	if len(b)-start > MaxLine {
		return dst, fmt.Errorf("encode message of %d bytes: %w", len(b)-start, ErrLineTooLong)
	}
	return append(b, '\n'), nil
}

func (m Message) append(b []byte) ([]byte, error) {
	if m.Kind == KindFatal {
		b = append(b, `{"fatal_error": `...)
		return append(appendString(b, m.Fatal), '}'), nil
	}
	if m.Version == "" {
		return nil, errors.New("no version")
	}
	if !truthy(trim(m.ID)) {
		return nil, errors.New("no id")
	}
	b = append(b, `{"id": `...)
	b, err := appendJSON(b, m.ID, 1)
	if err != nil {
		return nil, fmt.Errorf("id: %w", err)
	}
	b = append(b, `, "version": `...)
	b = appendString(b, m.Version)
	switch m.Kind {
	case KindCommand:
		if m.Method == "" {
			return nil, errors.New("no method")
		}
		if p := trim(m.Params); len(p) == 0 || p[0] != '{' {
			return nil, fmt.Errorf("params of %s are not an object", m.Method)
		}
		b = append(b, `, "method": `...)
		b = append(appendString(b, m.Method), `, "params": `...)
		b, err = appendJSON(b, m.Params, 1)
	case KindResult:
		b, err = appendJSON(append(b, `, "result": `...), m.Result, 1)
	case KindError:
		b, err = m.Err.append(append(b, `, "error": `...))
	default:
		return nil, fmt.Errorf("unknown kind %d", m.Kind)
	}
	if err != nil {
		return nil, err
	}
	return append(b, '}'), nil
}

func (e *MethodError) append(b []byte) ([]byte, error) {
	if e == nil {
		return nil, errors.New("no error in an error reply")
	}
	b = append(b, `{"msg": `...)
	b = appendString(b, e.Msg)
	for _, k := range slices.Sorted(maps.Keys(e.Extra)) {
		if k == "msg" {
			continue
		}
		b = append(appendString(append(b, ", "...), k), ": "...)
		var err error
		if b, err = appendJSON(b, e.Extra[k], 2); err != nil {
			return nil, fmt.Errorf("error field %q: %w", k, err)
		}
	}
	return append(b, '}'), nil
}

// appendJSON appends the JSON text v in the form of Python's encoder. The text
// will stand inside depth objects.
func appendJSON(b []byte, v json.RawMessage, depth int) ([]byte, error) {
	v = trim(v)
	if err := check(v, MaxDepth-depth); err != nil {
		return nil, err
	}
	for i := 0; i < len(v); {
		switch c := v[i]; c {
		case '"':
			n := quotedLen(v[i:])
			b = appendQuoted(b, v[i:i+n])
			i += n
			continue
		case ' ', '\t', '\r', '\n':
		case ',', ':':
			b = append(b, c, ' ')
		default:
			b = append(b, c)
		}
		i++
	}
	return b, nil
}

// quotedLen returns the length of the JSON string that v starts with, both
// quotes included. v is valid JSON.
func quotedLen(v []byte) int {
	i := 1
	for ; v[i] != '"'; i++ {
		if v[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// appendQuoted appends the valid JSON string q with the escapes of Python's
// encoder. It works on UTF-16 code units, so that half a surrogate pair, which
// JSON can write and UTF-8 cannot, comes out as it went in.
func appendQuoted(b, q []byte) []byte {
	b = append(b, '"')
	for i := 1; i < len(q)-1; {
		c := q[i]
		if c != '\\' {
			r, n := utf8.DecodeRune(q[i:])
			b = appendRune(b, r)
			i += n
			continue
		}
		switch c = q[i+1]; c {
		case 'u':
			u, _ := strconv.ParseUint(string(q[i+2:i+6]), 16, 16)
			b = appendUnit(b, uint16(u))
			i += 6
			continue
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		}
		b = appendUnit(b, uint16(c))
		i += 2
	}
	return append(b, '"')
}

// appendString appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		b = appendRune(b, r)
	}
	return append(b, '"')
}

func appendRune(b []byte, r rune) []byte {
	if hi, lo := utf16.EncodeRune(r); hi != utf8.RuneError {
		return appendUnit(appendUnit(b, uint16(hi)), uint16(lo))
	}
	return appendUnit(b, uint16(r))
}

func appendUnit(b []byte, u uint16) []byte {
	switch u {
	case '"', '\\':
		return append(b, '\\', byte(u))
	case '\b':
		return append(b, `\b`...)
	case '\f':
		return append(b, `\f`...)
	case '\n':
		return append(b, `\n`...)
	case '\r':
		return append(b, `\r`...)
	case '\t':
		return append(b, `\t`...)
	}
	if u >= ' ' && u <= '~' {
		return append(b, byte(u))
	}
	const hex = "0123456789abcdef"
	return append(b, '\\', 'u', hex[u>>12], hex[u>>8&15], hex[u>>4&15], hex[u&15])
}
