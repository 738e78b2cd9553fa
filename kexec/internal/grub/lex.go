package grub

import "strings"

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
