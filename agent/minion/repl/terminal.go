package repl

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/term"
)

const (
	prompt     = "minion> "
	maxHistory = 500
	maxLine    = 64 << 10
)

// Typed makes a Config's Line and Out of a program's input and output: with a prompt,
// editing and the history of earlier conversations (in file history; "" keeps none) on
// a terminal, line by line otherwise. restore is to be called at the end.
func Typed(in *os.File, out io.Writer, history string) (line func() (string, error), to io.Writer, restore func() error, err error) {
	if !term.IsTerminal(int(in.Fd())) {
		lines := bufio.NewScanner(in)
		lines.Buffer(nil, maxLine)
		return func() (string, error) {
			if lines.Scan() {
				return lines.Text(), nil
			}
			if lines.Err() != nil {
				return "", lines.Err()
			}
			return "", io.EOF
		}, out, func() error { return nil }, nil
	}
	state, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("terminal: %w", err)
	}
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, out}, prompt)
	resized := make(chan os.Signal, 1)
	resized <- syscall.SIGWINCH // as it is now
	signal.Notify(resized, syscall.SIGWINCH)
	go func() {
		for range resized {
			// A terminal that does not know its size, as some consoles, has the usual one.
			if w, h, err := term.GetSize(int(in.Fd())); err == nil && w > 0 {
				_ = t.SetSize(w, h) // writes to the terminal, which then has other troubles
			}
		}
	}()
	past := &past{}
	if history != "" {
		past.load(history)
	}
	t.History = past
	restore = func() error {
		signal.Stop(resized)
		close(resized)
		err := term.Restore(int(in.Fd()), state)
		if history != "" {
			if serr := past.save(history); err == nil {
				err = serr
			}
		}
		return err
	}
	return t.ReadLine, t, restore, nil
}

// past is the lines that were typed, oldest first.
type past struct{ lines []string }

func (p *past) Len() int        { return len(p.lines) }
func (p *past) At(i int) string { return p.lines[len(p.lines)-1-i] }
func (p *past) Add(line string) {
	if line == "" || len(p.lines) > 0 && p.lines[len(p.lines)-1] == line {
		return
	}
	p.lines = append(p.lines, line)
	if len(p.lines) > maxHistory {
		p.lines = p.lines[len(p.lines)-maxHistory:]
	}
}

// load reads the lines of earlier conversations. Without them one begins anew.
func (p *past) load(file string) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
	for lines.Scan() {
		p.Add(lines.Text())
	}
}

func (p *past) save(file string) error {
	return os.WriteFile(file, []byte(strings.Join(p.lines, "\n")+"\n"), 0o600)
}
