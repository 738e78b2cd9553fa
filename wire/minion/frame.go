package minion

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Verb says what a frame is.
type Verb byte

// The verbs of the protocol. Nobody has defined what Query and Set mean; a peer
// ignores them, and verbs it does not know.
const (
	Log       Verb = 'L'
	Command   Verb = 'C'
	Response  Verb = 'R'
	Telemetry Verb = 'T'
	Query     Verb = 'Q'
	Set       Verb = 'S'
)

func (v Verb) String() string { return string(rune(v)) }

// Item is an element of data: a text or a list of texts.
type Item struct {
	Text   string
	List   []string
	IsList bool
}

// Text returns an Item that is a text.
func Text(s string) Item { return Item{Text: s} }

// List returns an Item that is a list.
func List(s ...string) Item { return Item{List: s, IsList: true} }

// Texts returns data of texts.
func Texts(s ...string) []Item {
	data := make([]Item, len(s))
	for i := range s {
		data[i].Text = s[i]
	}
	return data
}

// Frame is a message either way.
type Frame struct {
	Verb Verb
	ID   ID
	Data []Item
}

// ErrTooLong is wrapped by errors of what fits in no frame.
var ErrTooLong = errors.New("too long for a frame")

// ErrMalformed is wrapped by errors of a payload that is no message. The connection
// it came on must be closed.
var ErrMalformed = errors.New("malformed frame")

// Append appends the frame, its length first. One whose payload has more than
// MaxSent bytes is an error that wraps ErrTooLong, and b is returned as it was.
func (f Frame) Append(b []byte) ([]byte, error) { return f.append(b, MaxSent) }

// AppendLarge is Append up to MaxAccepted bytes, which our own peers take, and the
// original does, although the document does not say so.
func (f Frame) AppendLarge(b []byte) ([]byte, error) { return f.append(b, MaxAccepted) }

func (f Frame) append(b []byte, limit int) ([]byte, error) {
	if f.Verb == 0 || f.Verb >= utf8.RuneSelf {
		return b, fmt.Errorf("frame of verb %q: want an ASCII letter", f.Verb)
	}
	size := f.Size()
	if size > limit {
		return b, fmt.Errorf("%s frame %s of %d bytes, at most %d may be sent: %w", f.Verb, f.ID, size, limit, ErrTooLong)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, 0x93, 0xa1, byte(f.Verb), 0xd9, textSize)
	b = f.ID.AppendText(b)
	b = appendArray(b, len(f.Data))
	for _, item := range f.Data {
		if !item.IsList {
			b = appendText(b, item.Text)
			continue
		}
		b = appendArray(b, len(item.List))
		for _, s := range item.List {
			b = appendText(b, s)
		}
	}
	return b, nil
}

// overhead is the payload of a frame without data.
const overhead = 1 + 2 + 2 + textSize

// Size returns the payload's bytes.
func (f Frame) Size() int {
	n := overhead + headSize(len(f.Data), 16, 16)
	for _, item := range f.Data {
		if !item.IsList {
			n += TextSize(len(item.Text))
			continue
		}
		n += headSize(len(item.List), 16, 16)
		for _, s := range item.List {
			n += TextSize(len(s))
		}
	}
	return n
}

// TextSize returns what a text of n bytes takes in a payload.
func TextSize(n int) int { return n + headSize(n, 32, 256) }

// headSize is the size of what stands before n elements or bytes.
func headSize(n, short, middle int) int {
	switch {
	case n < short:
		return 1
	case n < middle:
		return 2
	case n < 1<<16:
		return 3
	}
	return 5
}

// appendArray writes no array32, since no frame holds so many elements.
func appendArray(b []byte, n int) []byte {
	if n < 16 {
		return append(b, 0x90|byte(n))
	}
	return append(b, 0xdc, byte(n>>8), byte(n))
}

func appendText(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, 0xa0|byte(n))
	case n < 256:
		b = append(b, 0xd9, byte(n))
	default:
		b = append(b, 0xda, byte(n>>8), byte(n))
	}
	return append(b, s...)
}

// Parse reads a payload. The frame has no part of it.
func Parse(payload []byte) (Frame, error) {
	var v View
	if err := Scan(payload, &v); err != nil {
		return Frame{}, err
	}
	return v.Frame(), nil
}
