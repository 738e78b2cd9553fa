package grub

import "fmt"

const (
	maxDepth = 64    // blocks within blocks
	maxNodes = 50000 // commands in one file
)

// A script is a list of commands as grub-mkconfig and people write them. The
// grammar is that of the GRUB manual, "Shell-like scripting".
type script []node

type node interface{}

type (
	command struct {
		line  int
		words []word
		block script // of menuentry and submenu
		hasBl bool
	}
	ifElse struct {
		conds []script
		thens []script // one for each cond
		other script
	}
	loop struct {
		kind string // "for", "while" or "until"
		name string // of the variable
		over []word
		cond script
		body script
	}
	function struct {
		name string
		body script
	}
)

// A word is what becomes one argument, or several where an unquoted variable
// holds spaces.
type word []part

type part struct {
	text   string // literal text, or a variable's name
	isVar  bool
	quoted bool
}

func (w word) literal() (string, bool) {
	if len(w) == 1 && !w[0].isVar && !w[0].quoted {
		return w[0].text, true
	}
	return "", false
}

type parser struct {
	text  string
	pos   int
	line  int
	tok   token
	nodes int
}

// parse turns the text of a configuration file into commands.
func parse(text string) (script, error) {
	p := &parser{text: text, line: 1}
	if err := p.next(); err != nil {
		return nil, err
	}
	s, err := p.list(0)
	if err != nil {
		return nil, err
	}
	if p.tok.kind != tEOF {
		return nil, p.unexpected()
	}
	return s, nil
}

func (p *parser) errorf(format string, a ...any) error {
	return fmt.Errorf("line %d: %s", p.tok.line, fmt.Sprintf(format, a...))
}

func (p *parser) unexpected() error {
	switch p.tok.kind {
	case tEOF:
		return p.errorf("the file ends within a block")
	case tOpen:
		return p.errorf(`unexpected "{"`)
	case tClose:
		return p.errorf(`unexpected "}"`)
	case tWord:
		if s, ok := p.tok.word.literal(); ok {
			return p.errorf("unexpected %.40q", s)
		}
	}
	return p.errorf("syntax error")
}

var closers = map[string]bool{"then": true, "elif": true, "else": true, "fi": true, "do": true, "done": true}

// list reads commands up to a closing word or brace, which it leaves.
func (p *parser) list(depth int) (script, error) {
	if depth > maxDepth {
		return nil, p.errorf("more than %d blocks within each other", maxDepth)
	}
	var s script
	for {
		switch p.tok.kind {
		case tEnd:
			if err := p.next(); err != nil {
				return nil, err
			}
			continue
		case tEOF, tClose:
			return s, nil
		case tWord:
			if k, ok := p.tok.word.literal(); ok && closers[k] {
				return s, nil
			}
		}
		if p.nodes++; p.nodes > maxNodes {
			return nil, p.errorf("more than %d commands", maxNodes)
		}
		n, err := p.node(depth)
		if err != nil {
			return nil, err
		}
		s = append(s, n)
	}
}

func (p *parser) node(depth int) (node, error) {
	if p.tok.kind != tWord {
		return nil, p.unexpected()
	}
	key, _ := p.tok.word.literal()
	switch key {
	case "if":
		return p.ifElse(depth)
	case "for", "while", "until":
		return p.loop(key, depth)
	case "function":
		if err := p.next(); err != nil {
			return nil, err
		}
		name, ok := p.tok.word.literal()
		if p.tok.kind != tWord || !ok {
			return nil, p.errorf("a function needs a name")
		}
		if err := p.next(); err != nil {
			return nil, err
		}
		if err := p.skipEnds(); err != nil {
			return nil, err
		}
		body, err := p.braces(depth)
		return function{name, body}, err
	}
	c := command{line: p.tok.line}
	for p.tok.kind == tWord {
		c.words = append(c.words, p.tok.word)
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	if p.tok.kind == tOpen && (key == "menuentry" || key == "submenu") {
		body, err := p.braces(depth)
		if err != nil {
			return nil, err
		}
		c.block, c.hasBl = body, true
	}
	if p.tok.kind == tOpen {
		return nil, p.unexpected()
	}
	return c, nil
}

func (p *parser) skipEnds() error {
	for p.tok.kind == tEnd {
		if err := p.next(); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) braces(depth int) (script, error) {
	if p.tok.kind != tOpen {
		return nil, p.unexpected()
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	body, err := p.list(depth + 1)
	if err != nil {
		return nil, err
	}
	if p.tok.kind != tClose {
		return nil, p.unexpected()
	}
	return body, p.next()
}

// expect takes the closing word k.
func (p *parser) expect(k string) error {
	if got, ok := p.tok.word.literal(); p.tok.kind != tWord || !ok || got != k {
		if p.tok.kind == tEOF {
			return p.errorf("the file ends where %q belongs", k)
		}
		return p.unexpected()
	}
	return p.next()
}

func (p *parser) ifElse(depth int) (node, error) {
	var n ifElse
	for {
		if err := p.next(); err != nil { // "if" or "elif"
			return nil, err
		}
		cond, err := p.list(depth + 1)
		if err != nil {
			return nil, err
		}
		if err := p.expect("then"); err != nil {
			return nil, err
		}
		then, err := p.list(depth + 1)
		if err != nil {
			return nil, err
		}
		n.conds, n.thens = append(n.conds, cond), append(n.thens, then)
		if k, ok := p.tok.word.literal(); p.tok.kind == tWord && ok {
			switch k {
			case "elif":
				continue
			case "else":
				if err := p.next(); err != nil {
					return nil, err
				}
				if n.other, err = p.list(depth + 1); err != nil {
					return nil, err
				}
			}
		}
		return n, p.expect("fi")
	}
}

func (p *parser) loop(kind string, depth int) (node, error) {
	n := loop{kind: kind}
	if err := p.next(); err != nil {
		return nil, err
	}
	var err error
	if kind == "for" {
		name, ok := p.tok.word.literal()
		if p.tok.kind != tWord || !ok {
			return nil, p.errorf(`"for" needs the name of a variable`)
		}
		n.name = name
		if err := p.next(); err != nil {
			return nil, err
		}
		if err := p.expect("in"); err != nil {
			return nil, err
		}
		for p.tok.kind == tWord {
			n.over = append(n.over, p.tok.word)
			if err := p.next(); err != nil {
				return nil, err
			}
		}
		if err := p.skipEnds(); err != nil {
			return nil, err
		}
	} else if n.cond, err = p.list(depth + 1); err != nil {
		return nil, err
	}
	if err := p.expect("do"); err != nil {
		return nil, err
	}
	if n.body, err = p.list(depth + 1); err != nil {
		return nil, err
	}
	return n, p.expect("done")
}
