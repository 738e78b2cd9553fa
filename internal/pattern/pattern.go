// Package pattern compiles regular expressions that a user has written and matches
// what a device has said, within bounds of both.
//
// RE2 needs time in proportion to the expression times the text, which is no
// protection where both are somebody else's: "(.*){999}" a few times over makes
// seconds of a page of text.
package pattern

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

const (
	// maxSteps bounds the instructions that an expression compiles to. One without
	// repetitions by number has about one for each of its characters.
	maxSteps = 2000
	// MaxText is how much of a text is looked at, in bytes.
	MaxText = 4096
)

// Pattern is a compiled expression.
type Pattern struct{ re *regexp.Regexp }

// Compile compiles an expression of at most longest bytes in the syntax of RE2.
func Compile(text string, longest int) (*Pattern, error) {
	if len(text) > longest {
		return nil, fmt.Errorf("regular expression: longer than %d bytes", longest)
	}
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, err
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, err
	}
	if n := len(program.Inst); n > maxSteps {
		return nil, fmt.Errorf("regular expression %.60q: matching it takes %d steps for each character, at most %d are allowed: repeat less", text, n, maxSteps)
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, err
	}
	return &Pattern{re}, nil
}

// Match reports whether the expression is found anywhere in the first MaxText bytes
// of a text.
func (p *Pattern) Match(text string) bool {
	if len(text) > MaxText {
		text = strings.ToValidUTF8(text[:MaxText], "")
	}
	return p.re.MatchString(text)
}
