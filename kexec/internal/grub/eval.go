package grub

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/teeth-metal/teeth/kexec/internal/rootfs"
)

const (
	maxSteps  = 100_000  // commands run in all
	maxCalls  = 32       // functions and files within each other
	maxText   = 64 << 10 // bytes of one expanded argument list or variable
	maxVars   = 1 << 20  // bytes of all variables
	maxWork   = 64 << 20 // bytes expanded in all
	maxConfig = 1 << 20  // bytes of one configuration file
	maxFiles  = 64       // configuration files in all
	maxMenu   = 1024     // entries of one menu
)

var errLimit = errors.New("the GRUB configuration asks for too much")

// How a script stops before its end.
var (
	errReturn   = errors.New("return")
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
	errBoot     = errors.New("boot")         // what is loaded is to be booted
	errMenu     = errors.New("menu reached") // a configuration file has filled m.menu
)

// isJump reports whether err only moves control to a place further out.
func isJump(err error) bool {
	return errors.Is(err, errReturn) || errors.Is(err, errBreak) || errors.Is(err, errContinue)
}

type machine struct {
	ctx    context.Context
	vols   []*Volume
	file   string // being run
	vars   map[string]string
	funcs  map[string]script
	params []string // $1 …
	status int      // $?
	menu   *menu

	linux   *File
	initrds []File
	cmdline string
	failed  error  // the first linux or initrd command that could not do its work
	unread  error  // the first configuration file that could not be run
	other   string // a command that starts something else

	scopes, loops                      int // functions and loops that are being run
	steps, calls, files, work, varSize int
}

func (m *machine) set(name, value string) error {
	if len(value) > maxText {
		return fmt.Errorf("%w: variable %.40q is longer than %d bytes", errLimit, name, maxText)
	}
	if old, ok := m.vars[name]; ok {
		m.varSize -= len(name) + len(old)
	}
	m.varSize += len(name) + len(value)
	if m.varSize > maxVars {
		return fmt.Errorf("%w: more than %d bytes of variables", errLimit, maxVars)
	}
	m.vars[name] = value
	return nil
}

func (m *machine) unset(name string) {
	if old, ok := m.vars[name]; ok {
		m.varSize -= len(name) + len(old)
		delete(m.vars, name)
	}
}

func (m *machine) get(name string) string {
	switch name {
	case "?":
		return strconv.Itoa(m.status)
	case "#":
		return strconv.Itoa(len(m.params))
	case "*", "@":
		return strings.Join(m.params, " ")
	}
	if isDigit(name[0]) {
		if n, err := strconv.Atoi(name); err == nil && 1 <= n && n <= len(m.params) {
			return m.params[n-1]
		}
		return ""
	}
	return m.vars[name]
}

// expand turns words into arguments: an unquoted variable is split at spaces,
// and vanishes when empty.
func (m *machine) expand(words []word) ([]string, error) {
	var args []string
	total := 0
	for _, w := range words {
		var cur strings.Builder
		have := false
		end := func() {
			if have {
				args = append(args, cur.String())
			}
			cur.Reset()
			have = false
		}
		for _, p := range w {
			text := p.text
			if p.isVar {
				text = m.get(p.text)
			}
			if total += len(text) + 1; total > maxText {
				return nil, fmt.Errorf("%w: a command longer than %d bytes", errLimit, maxText)
			}
			switch {
			case p.isVar && p.quoted && p.text == "@":
				for i, s := range m.params {
					if i > 0 {
						end()
					}
					cur.WriteString(s)
					have = true
				}
			case p.isVar && !p.quoted:
				if text != "" && strings.IndexByte(" \t\n", text[0]) >= 0 {
					end()
				}
				for i, f := range strings.Fields(text) {
					if i > 0 {
						end()
					}
					cur.WriteString(f)
					have = true
				}
				if text != "" && strings.IndexByte(" \t\n", text[len(text)-1]) >= 0 {
					end()
				}
			default:
				cur.WriteString(text)
				have = true
			}
		}
		end()
	}
	if m.work += total; m.work > maxWork {
		return nil, fmt.Errorf("%w: more than %d bytes of text", errLimit, maxWork)
	}
	return args, nil
}

// run runs s. An error ends the whole script; a command that merely fails sets
// the status, and GRUB goes on.
func (m *machine) run(s script) error {
	for _, n := range s {
		if err := m.step(); err != nil {
			return err
		}
		var err error
		switch n := n.(type) {
		case command:
			err = m.command(n)
		case ifElse:
			err = m.ifElse(n)
		case loop:
			err = m.loop(n)
		case function:
			m.funcs[n.name] = n.body
			m.status = 0
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) step() error {
	if m.steps++; m.steps > maxSteps {
		return fmt.Errorf("%w: more than %d steps", errLimit, maxSteps)
	}
	return m.ctx.Err()
}

func (m *machine) ifElse(n ifElse) error {
	for i, cond := range n.conds {
		if err := m.run(cond); err != nil {
			return err
		}
		if m.status == 0 {
			return m.run(n.thens[i])
		}
	}
	m.status = 0
	return m.run(n.other)
}

func (m *machine) loop(n loop) error {
	m.loops++
	defer func() { m.loops-- }()
	body := func() (stop bool, err error) {
		if err := m.step(); err != nil {
			return true, err
		}
		switch err := m.run(n.body); {
		case errors.Is(err, errBreak):
			return true, nil
		case errors.Is(err, errContinue):
			return false, nil
		default:
			return err != nil, err
		}
	}
	if n.kind == "for" {
		over, err := m.expand(n.over)
		if err != nil {
			return err
		}
		for _, v := range over {
			if err := m.set(n.name, v); err != nil {
				return err
			}
			if stop, err := body(); stop {
				return err
			}
		}
		return nil
	}
	for {
		if err := m.run(n.cond); err != nil {
			return err
		}
		if (m.status == 0) != (n.kind == "while") {
			m.status = 0
			return nil
		}
		if stop, err := body(); stop {
			return err
		}
	}
}

// call runs a function's body or a sourced file.
func (m *machine) call(body script) error {
	if m.calls++; m.calls > maxCalls {
		return fmt.Errorf("%w: more than %d calls within each other", errLimit, maxCalls)
	}
	defer func() { m.calls-- }()
	return m.run(body)
}

// function calls a function with its arguments as $1 ….
func (m *machine) function(body script, args []string) error {
	saved := m.params
	m.params = args
	m.scopes++
	defer func() { m.params = saved; m.scopes-- }()
	m.status = 0
	err := m.call(body)
	if errors.Is(err, errReturn) {
		return nil
	}
	return err
}

// source runs the commands of a file as if they stood here.
func (m *machine) source(name string) error {
	f, err := m.resolve(name)
	if err != nil {
		return err
	}
	if m.files++; m.files > maxFiles {
		return fmt.Errorf("%w: more than %d configuration files", errLimit, maxFiles)
	}
	text, err := rootfs.ReadFile(f.Volume.FS, f.Path, maxConfig)
	if err != nil {
		return err
	}
	s, err := parse(string(text))
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	outer := m.file
	m.file = f.Path
	defer func() { m.file = outer }()
	return m.call(s)
}

// config runs a configuration file with a menu of its own. Where that holds
// entries the result is errMenu: GRUB would now show it.
func (m *machine) config(name string) error {
	outer := m.menu
	m.menu = new(menu)
	err := m.source(name)
	if isJump(err) {
		m.menu = outer
	}
	if err != nil {
		return err
	}
	if len(m.menu.entries) == 0 {
		m.menu = outer
		return nil
	}
	return errMenu
}
