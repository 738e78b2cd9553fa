package command

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// afterwards is how many bytes are kept of what comes when the program has ended: what
// is in its pipes, which hold 1 MiB at most each unless root has made them larger.
const afterwards = 2 << 20

// soon is how long a piece waits for more to be sent with it.
const soon = 300 * time.Millisecond

// output is what a program writes, on its way to the server: no more than about two
// pieces at a time. A writer waits while the server takes the last one.
type output struct {
	room   int  // bytes of a piece
	single bool // there is one piece, at the end
	limit  int64

	mu      sync.Mutex
	changed *sync.Cond
	streams [2]stream // stdout, stderr
	sent    int64     // bytes that were kept
	lost    int64     // bytes beyond the limit
	over    bool      // the program has ended: nothing waits any more
	closed  bool      // nobody takes pieces any more
	ready   chan struct{}
}

// stream is one of them.
type stream struct {
	o    *output
	text bytes.Buffer
	part []byte // beginning of a rune whose end is to come
}

func newOutput(limit int64, from Peer) *output {
	o := &output{room: from.Room, single: !from.Streams, limit: limit, ready: make(chan struct{}, 1)}
	if o.single {
		o.limit = min(limit, int64(o.room))
	}
	o.changed = sync.NewCond(&o.mu)
	o.streams[0].o, o.streams[1].o = o, o
	return o
}

func (o *output) kept() int { return o.streams[0].text.Len() + o.streams[1].text.Len() }

// Write implements io.Writer. It never fails: a program whose output is not wanted
// any more should go on.
func (s *stream) Write(p []byte) (int, error) {
	o := s.o
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		for !o.single && !o.closed && !o.over && o.kept() >= o.room {
			o.changed.Wait()
		}
		take := min(len(p), o.room)
		if o.over && o.kept() >= o.room+afterwards {
			o.lost += int64(take)
		} else {
			s.add(p[:take])
		}
		p = p[take:]
		if o.kept() > 0 {
			o.wake()
		}
	}
	return n, nil
}

// exited has nobody wait: what the program has left in its pipes is all there is.
func (o *output) exited() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.over = true
	o.changed.Broadcast()
}

func (o *output) wake() {
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// add keeps p as text. o.mu is held.
func (s *stream) add(p []byte) {
	if len(s.part) > 0 {
		p = append(s.part, p...)
		s.part = nil
	}
	if k := incomplete(p); k > 0 {
		s.part = append([]byte(nil), p[len(p)-k:]...)
		p = p[:len(p)-k]
	}
	s.keep(clean(p))
}

// keep adds text as far as the limit goes.
func (s *stream) keep(text string) {
	o := s.o
	if o.closed || o.lost > 0 {
		o.lost += int64(len(text))
		return
	}
	if room := o.limit - o.sent; int64(len(text)) > room {
		cut := cutAt(text, int(room))
		o.lost += int64(len(text) - cut)
		text = text[:cut]
	}
	o.sent += int64(len(text))
	s.text.WriteString(text)
}

// incomplete returns how many bytes at the end may be the beginning of a rune.
func incomplete(p []byte) int {
	for k := 1; k < utf8.UTFMax && k <= len(p); k++ {
		if c := p[len(p)-k]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(p[len(p)-k:]) {
				return k
			}
			return 0
		}
	}
	return 0
}

// clean makes text of what a program wrote. NUL is no text for PostgreSQL.
func clean(p []byte) string {
	return strings.ReplaceAll(strings.ToValidUTF8(string(p), "\uFFFD"), "\x00", "\uFFFD")
}

// take returns a piece of at most room bytes, and whether anything is left.
func (o *output) take() (stdout, stderr string, more bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	stdout = o.streams[0].take(o.room)
	stderr = o.streams[1].take(o.room - len(stdout))
	o.changed.Broadcast()
	return stdout, stderr, o.kept() > 0
}

func (s *stream) take(room int) string {
	text := s.text.Bytes()
	if len(text) > room {
		text = text[:cutAt(text, room)]
	}
	return string(s.text.Next(len(text)))
}

// cutAt returns where to cut text, which is longer than room, so that no rune is.
func cutAt[T string | []byte](text T, room int) int {
	cut := room
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return cut
}

// finish ends the texts after the program has ended. What it has left in the
// background may write on, and nobody reads it.
func (o *output) finish(notes []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.streams {
		s := &o.streams[i]
		part := s.part
		s.part = nil
		s.keep(clean(part))
	}
	o.closed = true
	o.changed.Broadcast()
	if o.lost > 0 {
		notes = append([]string{fmt.Sprintf("%d bytes more of output were not sent", o.lost)}, notes...)
	}
	for _, n := range notes {
		o.note(n)
	}
}

// again wakes the reader if there is more.
func (o *output) again() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.kept() > 0 {
		o.wake()
	}
}

// full reports whether there is a whole piece.
func (o *output) full() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.kept() >= o.room
}

// note adds a line of ours to stderr. Where there is one piece only, it takes the
// place of output. o.mu is held.
func (o *output) note(line string) {
	s := &o.streams[1]
	if text := s.text.Bytes(); len(text) > 0 && text[len(text)-1] != '\n' {
		line = "\n" + line
	}
	line += "\n"
	if o.single {
		for i := range o.streams {
			if over := o.kept() + len(line) - o.room; over > 0 {
				t := &o.streams[i]
				t.text.Truncate(cutAt(append(t.text.Bytes(), 0), max(t.text.Len()-over, 0)))
			}
		}
	}
	s.text.WriteString(line)
}
