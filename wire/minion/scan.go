package minion

import (
	"fmt"
	"unicode/utf8"
)

// View is a frame whose texts are parts of the payload it was scanned from: what a
// server that takes hundreds of thousands a second can afford.
type View struct {
	Verb Verb
	ID   ID
	Data []ViewItem

	lists [][]byte // backs the lists in Data
}

// ViewItem is an element of a View's data: a text or a list of texts.
type ViewItem struct {
	Text   []byte
	List   [][]byte
	IsList bool
}

// keepItems is how many elements a View keeps room for between frames.
const keepItems = 256

// Frame returns a copy that does not depend on the payload.
func (v *View) Frame() Frame {
	f := Frame{Verb: v.Verb, ID: v.ID, Data: make([]Item, len(v.Data))}
	for i, item := range v.Data {
		if !item.IsList {
			f.Data[i].Text = string(item.Text)
			continue
		}
		f.Data[i] = Item{IsList: true, List: make([]string, len(item.List))}
		for j, s := range item.List {
			f.Data[i].List[j] = string(s)
		}
	}
	return f
}

// Scan reads a payload into v, whose room it uses again. v is valid as long as the
// payload is not changed. An error wraps ErrMalformed.
//
// Every form of MessagePack for a length is read. Nothing but texts and lists of texts
// is data, and nothing may follow the data.
func Scan(payload []byte, v *View) error {
	if cap(v.Data) > keepItems {
		v.Data = nil
	}
	if cap(v.lists) > keepItems {
		v.lists = nil
	}
	v.Data, v.lists = v.Data[:0], v.lists[:0]
	if len(payload) > MaxAccepted {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(payload), MaxAccepted)
	}
	s := scanner{b: payload}
	if n := s.array("frame"); s.err == nil && n != 3 {
		return fmt.Errorf("%w: an array of %d, want verb, id and data", ErrMalformed, n)
	}
	verb := s.text("verb")
	if s.err == nil && (len(verb) != 1 || verb[0] == 0 || verb[0] >= utf8.RuneSelf) {
		return fmt.Errorf("%w: verb %.10q: want one letter", ErrMalformed, verb)
	}
	text := s.text("id")
	if s.err != nil {
		return s.err
	}
	id, err := parseID(text)
	if err != nil {
		return err
	}
	v.Verb, v.ID = Verb(verb[0]), id
	for range s.array("data") {
		if !s.isArray() {
			text := s.text("data")
			if s.err != nil {
				return s.err
			}
			v.Data = append(v.Data, ViewItem{Text: text})
			continue
		}
		n := s.array("list")
		if len(v.lists)+n > cap(v.lists) {
			// What refers to the room before keeps it.
			v.lists = make([][]byte, 0, max(2*n, 16))
		}
		from := len(v.lists)
		for range n {
			text := s.text("list")
			if s.err != nil {
				return s.err
			}
			v.lists = append(v.lists, text)
		}
		v.Data = append(v.Data, ViewItem{IsList: true, List: v.lists[from:len(v.lists):len(v.lists)]})
	}
	if s.err == nil && len(s.b) > 0 {
		return fmt.Errorf("%w: %d bytes follow the data", ErrMalformed, len(s.b))
	}
	return s.err
}

// scanner takes values off the front of b until one is wrong.
type scanner struct {
	b   []byte
	err error
}

func (s *scanner) isArray() bool {
	return len(s.b) > 0 && (s.b[0]&0xf0 == 0x90 || s.b[0] == 0xdc || s.b[0] == 0xdd)
}

// array takes an array's head and returns how many elements follow, each of which
// has at least a byte: so the payload's size bounds what is made for them.
func (s *scanner) array(what string) int {
	if s.err != nil {
		return 0
	}
	if len(s.b) > 0 && s.b[0]&0xf0 == 0x90 {
		n := int(s.b[0] & 15)
		s.b = s.b[1:]
		return s.bounded(n, what)
	}
	if len(s.b) > 0 && (s.b[0] == 0xdc || s.b[0] == 0xdd) {
		return s.bounded(s.length(2*int(s.b[0]-0xdb), what), what)
	}
	s.fail(what, "an array")
	return 0
}

// text takes a text.
func (s *scanner) text(what string) []byte {
	if s.err != nil {
		return nil
	}
	n := 0
	switch {
	case len(s.b) > 0 && s.b[0]&0xe0 == 0xa0:
		n = int(s.b[0] & 31)
		s.b = s.b[1:]
	case len(s.b) > 0 && s.b[0] >= 0xd9 && s.b[0] <= 0xdb:
		n = s.length(1<<(s.b[0]-0xd9), what)
	default:
		s.fail(what, "a text")
		return nil
	}
	if n = s.bounded(n, what); s.err != nil {
		return nil
	}
	text := s.b[:n:n]
	s.b = s.b[n:]
	return text
}

// length takes a type's byte and the length of size bytes that follows it.
func (s *scanner) length(size int, what string) int {
	if len(s.b) < 1+size {
		s.err = fmt.Errorf("%w: it ends in the length of its %s", ErrMalformed, what)
		return 0
	}
	n := uint64(0)
	for _, c := range s.b[1 : 1+size] {
		n = n<<8 | uint64(c)
	}
	s.b = s.b[1+size:]
	return int(min(n, MaxAccepted+1))
}

func (s *scanner) bounded(n int, what string) int {
	if s.err == nil && n > len(s.b) {
		s.err = fmt.Errorf("%w: its %s claims %d and %d bytes are left", ErrMalformed, what, n, len(s.b))
	}
	if s.err != nil {
		return 0
	}
	return n
}

func (s *scanner) fail(what, want string) {
	if len(s.b) == 0 {
		s.err = fmt.Errorf("%w: it ends before its %s", ErrMalformed, what)
		return
	}
	s.err = fmt.Errorf("%w: its %s begins with byte %#02x, which is not %s", ErrMalformed, what, s.b[0], want)
}
