package minion

import (
	"bytes"
	"strings"
	"time"
	"unicode/utf8"

	wire "github.com/teeth-metal/teeth/wire/minion"
)

// Lines of files and streams are the original's: id, server, service and message with
// tabs between. A message may not begin a line of its own, nor steer the terminal of
// who reads it: control characters but tabs are written as \n, \r or \xNN.

// appendLine appends the line of a log message. Server and service are escaped.
func appendLine(b []byte, id wire.ID, server, service string, message []byte) []byte {
	b = appendHead(b, id, server, service)
	b = appendEscaped(b, message, true)
	return append(b, '\n')
}

func appendHead(b []byte, id wire.ID, server, service string) []byte {
	b = id.AppendText(b)
	b = append(b, '\t')
	b = append(b, server...)
	b = append(b, '\t')
	b = append(b, service...)
	return append(b, '\t')
}

func appendEscaped(b, text []byte, tabs bool) []byte {
	from := 0
	for i, c := range text {
		if c >= ' ' && c != 0x7f || c == '\t' && tabs {
			continue
		}
		b = append(b, text[from:i]...)
		from = i + 1
		switch c {
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, '\\', 'x', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		}
	}
	return append(b, text[from:]...)
}

// escaped is a name as a field of a line.
func escaped(name string) string { return string(appendEscaped(nil, []byte(name), false)) }

// lineID returns the id that a line begins with.
func lineID(line []byte) (wire.ID, bool) {
	head, _, ok := bytes.Cut(line, []byte{'\t'})
	if !ok {
		return wire.ID{}, false
	}
	id, err := wire.ParseID(string(head))
	return id, err == nil
}

// clean returns a text that every database takes: UTF-8 without NUL.
func clean(b []byte) string {
	if utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 {
		return string(b)
	}
	return strings.ReplaceAll(strings.ToValidUTF8(string(b), "\uFFFD"), "\x00", "\uFFFD")
}

// Bounds of a time in an id that is believed. A chassis whose clock is not set says
// 1970; what is from the future came now.
var earliest = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

const ahead = time.Minute

// happened returns when an entry is from.
func happened(id wire.ID, received time.Time) time.Time {
	if t := id.Time(); t.After(earliest) && t.Before(received.Add(ahead)) {
		return t
	}
	return received
}
