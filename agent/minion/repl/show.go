package repl

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/teeth-metal/teeth/wire/minion"
)

// say writes a line of ours.
func (r *Repl) say(format string, a ...any) {
	r.out.Lock()
	defer r.out.Unlock()
	fmt.Fprintf(r.c.Out, format+"\n", a...) // there is nobody else to tell
}

// show writes a frame: what comes always, except acknowledgements, and with debug
// what goes and the bytes, too.
func (r *Repl) show(direction string, f minion.Frame, whole []byte) {
	r.mu.Lock()
	debug := r.debug
	r.mu.Unlock()
	if !debug {
		routine := len(f.Data) > 1 && (f.Data[1].Text == minion.RecordedThrough || f.Data[1].Text == minion.Acknowledging)
		if direction == "<-" && !(f.Verb == minion.Response && routine) {
			r.say("%s %s", direction, r.decoded(f))
		}
		return
	}
	r.say("%s %s\n   %d bytes: %s", direction, r.decoded(f), len(whole), r.hex(whole))
}

// decoded is a frame for people. Texts are quoted: they come from elsewhere, and go
// to a terminal.
func (r *Repl) decoded(f minion.Frame) string {
	items := make([]string, len(f.Data))
	for i, item := range f.Data {
		if !item.IsList {
			items[i] = r.quote(item.Text)
			continue
		}
		texts := make([]string, len(item.List))
		for j, s := range item.List {
			texts[j] = r.quote(s)
		}
		items[i] = "[" + strings.Join(texts, ", ") + "]"
	}
	verb := string(rune(f.Verb))
	if f.Verb < ' ' || f.Verb > '~' {
		verb = strconv.Quote(verb)
	}
	return fmt.Sprintf("%s %s %s", verb, f.ID, strings.Join(items, " "))
}

// mask stands for the key.
const mask = "(key)"

func (r *Repl) quote(s string) string {
	if r.c.Key != "" && s == r.c.Key {
		return mask
	}
	if len(r.c.Key) >= 4 { // a shorter one is in everything
		s = strings.ReplaceAll(s, r.c.Key, mask)
	}
	return strconv.Quote(s)
}

// hex is the bytes of a frame, with the key's as **.
func (r *Repl) hex(b []byte) string {
	hidden := make([]bool, len(b))
	if key := []byte(r.c.Key); len(key) > 0 {
		// As a text it has its length before it, which tells short keys from other bytes.
		for _, pattern := range [][]byte{append(head(len(key)), key...), key} {
			if len(pattern) < 4 && len(pattern) == len(key) {
				continue
			}
			for at := 0; ; {
				i := bytes.Index(b[at:], pattern)
				if i < 0 {
					break
				}
				end := at + i + len(pattern)
				for j := end - len(key); j < end; j++ {
					hidden[j] = true
				}
				at = end
			}
		}
	}
	var s strings.Builder
	for i, c := range b {
		if i > 0 {
			s.WriteByte(' ')
		}
		if hidden[i] {
			s.WriteString("**")
			continue
		}
		s.WriteString(hex.EncodeToString([]byte{c}))
	}
	return s.String()
}

// head is what stands before a text of n bytes.
func head(n int) []byte {
	switch {
	case n < 32:
		return []byte{0xa0 | byte(n)}
	case n < 256:
		return []byte{0xd9, byte(n)}
	}
	return []byte{0xda, byte(n >> 8), byte(n)}
}

// complaints shows what a follower of files has to say.
type complaints struct{ say func(string, ...any) }

func (c complaints) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (c complaints) Handle(_ context.Context, rec slog.Record) error {
	text := rec.Message
	rec.Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf(" %s=%q", a.Key, a.Value.String())
		return true
	})
	c.say("%s", text)
	return nil
}
func (c complaints) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c complaints) WithGroup(string) slog.Handler      { return c }
