// Package live shows on a terminal how far tasks are: a bar for each that is
// redrawn in place, or, where the output is not a terminal, a line whenever a
// task has changed its state or moved on by a tenth.
package live

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Task is what is shown of one task.
type Task struct {
	ID      string
	Title   string
	State   string
	Step    string
	Msg     string
	Percent float64        // 0 to 100
	ETA     *time.Duration // nil while unknown
	Final   bool
}

// View draws tasks. It is safe for use by several goroutines.
type View struct {
	mu    sync.Mutex
	out   io.Writer
	width int // columns of the terminal; 0: not a terminal
	drawn int // lines the last drawing took
	said  map[string]string
}

// New returns a View that draws on out, in place if that is a terminal.
func New(out io.Writer) *View {
	v := &View{out: out, said: map[string]string{}}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w >= 40 {
			v.width = w
		}
	}
	return v
}

// Show draws the tasks as they are now.
func (v *View) Show(tasks []Task) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.width == 0 {
		v.sayChanges(tasks)
		return
	}
	var b strings.Builder
	v.erase(&b)
	for _, t := range tasks {
		b.WriteString(fit(bar(t, v.width), v.width))
		b.WriteByte('\n')
	}
	v.drawn = len(tasks)
	io.WriteString(v.out, b.String())
}

// Say prints a line above the bars, which the next Show draws again below it.
func (v *View) Say(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var b strings.Builder
	v.erase(&b)
	v.drawn = 0
	fmt.Fprintf(&b, format+"\n", args...)
	io.WriteString(v.out, b.String())
}

// Settle leaves the bars as they are; what comes next goes below them.
func (v *View) Settle() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.drawn = 0
}

// erase moves to the first of the drawn lines and clears what is below.
func (v *View) erase(b *strings.Builder) {
	if v.drawn > 0 {
		fmt.Fprintf(b, "\x1b[%dA\x1b[J", v.drawn)
	}
}

func (v *View) sayChanges(tasks []Task) {
	for _, t := range tasks {
		// A tenth is said once, whatever happens to the time left.
		key := fmt.Sprintf("%s %d %s", t.State, int(t.Percent)/10, t.Msg)
		if v.said[t.ID] == key {
			continue
		}
		v.said[t.ID] = key
		fmt.Fprintf(v.out, "%-16s %-9s %3.0f %%%s%s\n", t.Title, t.State, t.Percent, timeLeft(t), note(t))
	}
}

func bar(t Task, width int) string {
	cells := min(max(width-60, 10), 40)
	full := min(int(t.Percent/100*float64(cells)), cells)
	return fmt.Sprintf("%-16s %-9s [%s%s] %3.0f %%%s%s", t.Title, t.State,
		strings.Repeat("#", full), strings.Repeat(".", cells-full), t.Percent, timeLeft(t), note(t))
}

func timeLeft(t Task) string {
	if t.Final || t.ETA == nil {
		return ""
	}
	return fmt.Sprintf(", %s left", t.ETA.Round(time.Second))
}

func note(t Task) string {
	switch {
	case t.Msg != "":
		return ": " + Printable(t.Msg)
	case t.Step != "" && !t.Final:
		return ", " + Printable(t.Step)
	}
	return ""
}

// Printable keeps what a chassis says from steering the operator's terminal.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// fit cuts a line to the terminal's width, since a wrapped one could not be
// redrawn in place.
func fit(s string, width int) string {
	if r := []rune(s); len(r) > width-1 {
		return string(r[:width-1])
	}
	return s
}
