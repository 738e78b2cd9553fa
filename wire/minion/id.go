package minion

import (
	"encoding/binary"
	"fmt"
	"time"
)

// ID names a frame. An agent's ids are of 32 bits nanoseconds, 48 bits seconds since
// the year 1 and 48 bits that tell agents apart: they look like a UUID of RFC 9562
// and are none. The ids of commands are UUIDs of a database.
type ID [16]byte

// yearOne is the Unix time of 0001-01-01 UTC, from which an id counts.
const yearOne = -62135596800

// NewID returns the id of a moment on a node.
func NewID(t time.Time, node [6]byte) ID {
	var id ID
	seconds := uint64(t.Unix() - yearOne)
	binary.BigEndian.PutUint32(id[0:], uint32(t.Nanosecond()))
	binary.BigEndian.PutUint16(id[4:], uint16(seconds>>32))
	binary.BigEndian.PutUint32(id[6:], uint32(seconds))
	copy(id[10:], node[:])
	return id
}

// Time returns the moment in the id, in UTC. What it says of an id that a clock did
// not make, a command's for instance, is meaningless.
func (id ID) Time() time.Time {
	seconds := int64(binary.BigEndian.Uint16(id[4:]))<<32 | int64(binary.BigEndian.Uint32(id[6:]))
	return time.Unix(seconds+yearOne, int64(binary.BigEndian.Uint32(id[0:]))).UTC()
}

// Node returns the part of the id that tells agents apart.
func (id ID) Node() (node [6]byte) {
	copy(node[:], id[10:])
	return node
}

// IsZero reports whether no id was set.
func (id ID) IsZero() bool { return id == ID{} }

// textSize is the length of an id as text, oldSize that of the old agent's form.
const (
	textSize = 36
	oldSize  = 35
)

const digits = "0123456789abcdef"

// String returns the id as 8-4-4-4-12 hexadecimal digits in lower case.
func (id ID) String() string { return string(id.AppendText(nil)) }

// AppendText appends what String returns.
func (id ID) AppendText(b []byte) []byte {
	for i, c := range id {
		switch i {
		case 4, 6, 8, 10:
			b = append(b, '-')
		}
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}

// unhex has the value of each hexadecimal digit, 255 for any other byte.
var unhex = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i := range 10 {
		t['0'+i] = byte(i)
	}
	for i := range 6 {
		t['a'+i], t['A'+i] = byte(10+i), byte(10+i)
	}
	return t
}()

// ParseID reads an id in the form of String, or 12-4-4-12, which old agents write.
func ParseID(s string) (ID, error) { return parseID(s) }

func parseID[T string | []byte](s T) (id ID, err error) {
	var ok bool
	switch {
	case len(s) == textSize && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-':
		ok = hexInto(id[0:4], s[0:8]) && hexInto(id[4:6], s[9:13]) && hexInto(id[6:8], s[14:18]) &&
			hexInto(id[8:10], s[19:23]) && hexInto(id[10:16], s[24:36])
	case len(s) == oldSize && s[12] == '-' && s[17] == '-' && s[22] == '-':
		ok = hexInto(id[0:6], s[0:12]) && hexInto(id[6:8], s[13:17]) && hexInto(id[8:10], s[18:22]) && hexInto(id[10:16], s[23:35])
	}
	if !ok {
		return ID{}, fmt.Errorf("%w: id %.40q: want 8-4-4-4-12 hexadecimal digits", ErrMalformed, string(s[:min(len(s), 40)]))
	}
	return id, nil
}

func hexInto[T string | []byte](to []byte, s T) bool {
	var bad byte
	for i := range to {
		high, low := unhex[s[2*i]], unhex[s[2*i+1]]
		bad |= high | low
		to[i] = high<<4 | low&15
	}
	return bad < 16
}
