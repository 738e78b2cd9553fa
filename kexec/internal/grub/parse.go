package grub

import (
	"fmt"
	"strings"
)

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

type tokenKind int

const (
	tEOF tokenKind = iota
	tEnd           // newline or semicolon
	tOpen
	tClose
	tWord
)

type token struct {
	kind tokenKind
	word word
	line int
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

// next reads one token into p.tok.
func (p *parser) next() error {
	for p.pos < len(p.text) {
		switch c := p.text[p.pos]; {
		case c == ' ' || c == '\t' || c == '\r':
			p.pos++
			continue
		case c == '\\' && strings.HasPrefix(p.text[p.pos+1:], "\n"):
			p.pos += 2
			p.line++
			continue
		case c == '#':
			if i := strings.IndexByte(p.text[p.pos:], '\n'); i >= 0 {
				p.pos += i
			} else {
				p.pos = len(p.text)
			}
			continue
		}
		break
	}
	p.tok = token{line: p.line}
	if p.pos >= len(p.text) {
		return nil
	}
	switch c := p.text[p.pos]; c {
	case '\n':
		p.line++
		fallthrough
	case ';':
		p.tok.kind = tEnd
		p.pos++
		return nil
	case '{':
		p.tok.kind = tOpen
		p.pos++
		return nil
	case '}':
		p.tok.kind = tClose
		p.pos++
		return nil
	case '|', '&', '<', '>':
		return p.errorf("%q has no meaning in GRUB", c)
	}
	p.tok.kind = tWord
	return p.word()
}

func (p *parser) word() error {
	w := word{}
	add := func(pt part) { w = append(w, pt) }
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		switch {
		case strings.IndexByte(" \t\r\n;{}|&<>", c) >= 0:
			p.tok.word = w
			return nil
		case c == '\'':
			i := strings.IndexByte(p.text[p.pos+1:], '\'')
			if i < 0 {
				return p.errorf("a quote (') is not closed")
			}
			s := p.text[p.pos+1 : p.pos+1+i]
			p.line += strings.Count(s, "\n")
			add(part{text: s, quoted: true})
			p.pos += i + 2
		case c == '"':
			if err := p.doubleQuoted(add); err != nil {
				return err
			}
		case c == '\\':
			p.pos++
			if p.pos < len(p.text) {
				if p.text[p.pos] == '\n' {
					p.line++
				} else {
					add(part{text: p.text[p.pos : p.pos+1], quoted: true})
				}
				p.pos++
			}
		case c == '$' && p.pos+1 < len(p.text) && (p.text[p.pos+1] == '"' || p.text[p.pos+1] == '\''):
			p.pos++ // $"…" asks for a translation; the text is the same to us
		case c == '$':
			if name, ok := p.variable(); ok {
				add(part{text: name, isVar: true})
			} else {
				add(part{text: "$"})
				p.pos++
			}
		default:
			i := strings.IndexAny(p.text[p.pos:], " \t\r\n;{}|&<>'\"\\$")
			if i < 0 {
				i = len(p.text) - p.pos
			}
			add(part{text: p.text[p.pos : p.pos+i]})
			p.pos += i
		}
	}
	p.tok.word = w
	return nil
}

func (p *parser) doubleQuoted(add func(part)) error {
	p.pos++
	var lit strings.Builder
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		switch {
		case c == '"':
			p.pos++
			add(part{text: lit.String(), quoted: true})
			return nil
		case c == '\\' && p.pos+1 < len(p.text):
			switch n := p.text[p.pos+1]; n {
			case '\n':
				p.line++
			case '$', '"', '\\':
				lit.WriteByte(n)
			default:
				lit.WriteByte(c)
				lit.WriteByte(n)
			}
			p.pos += 2
			continue
		case c == '$':
			if name, ok := p.variable(); ok {
				add(part{text: lit.String(), quoted: true})
				lit.Reset()
				add(part{text: name, isVar: true, quoted: true})
				continue
			}
		case c == '\n':
			p.line++
		}
		lit.WriteByte(c)
		p.pos++
	}
	return p.errorf(`a quote (") is not closed`)
}

// variable reads $name or ${name}; ok is false, and nothing read, where the
// dollar sign starts no name.
func (p *parser) variable() (name string, ok bool) {
	s := p.text[p.pos+1:]
	if s == "" {
		return "", false
	}
	if s[0] == '{' {
		i := strings.IndexByte(s, '}')
		if i < 2 || strings.ContainsAny(s[1:i], " \t\n'\"$") {
			return "", false
		}
		p.pos += i + 2
		return s[1:i], true
	}
	i := 1
	switch {
	case strings.IndexByte("@*#?", s[0]) >= 0:
	case isDigit(s[0]):
		for i < len(s) && isDigit(s[i]) {
			i++
		}
	case isName(s[0]):
		for i < len(s) && (isName(s[i]) || isDigit(s[i])) {
			i++
		}
	default:
		return "", false
	}
	p.pos += i + 1
	return s[:i], true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isName(c byte) bool  { return 'a' <= c|0x20 && c|0x20 <= 'z' || c == '_' }
