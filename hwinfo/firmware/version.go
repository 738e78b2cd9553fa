package firmware

import (
	"math/big"
	"strings"
)

// run is a number, or a word when number is nil.
type run struct {
	word   string
	number *big.Int
}

// The ranks of what can stand in one place of a version, from old to new. Where
// a version has ended there stands a zero.
const (
	rankPreRelease = iota
	rankZero
	rankWord
	rankNumber
)

func (r run) rank() int {
	switch {
	case r.number != nil && r.number.Sign() == 0:
		return rankZero
	case r.number != nil:
		return rankNumber
	}
	switch r.word {
	case "alpha", "beta", "dev", "pre", "rc":
		return rankPreRelease
	}
	return rankWord
}

var ended = run{number: new(big.Int)}

// Compare returns -1 when version a is older than b, 0 when they are equal and 1
// when a is newer, by the rule in the package comment.
func Compare(a, b string) int {
	ra, rb := parse(a), parse(b)
	for i := range max(len(ra), len(rb)) {
		x, y := ended, ended
		if i < len(ra) {
			x = ra[i]
		}
		if i < len(rb) {
			y = rb[i]
		}
		if c := x.compare(y); c != 0 {
			return c
		}
	}
	return 0
}

func (r run) compare(o run) int {
	if a, b := r.rank(), o.rank(); a != b {
		if a < b {
			return -1
		}
		return 1
	}
	if r.number != nil {
		return r.number.Cmp(o.number)
	}
	return strings.Compare(r.word, o.word)
}

// parse cuts a version into runs.
func parse(s string) []run {
	s = strings.ToLower(s)
	var runs []run
	for s != "" {
		switch c := s[0]; {
		case strings.HasPrefix(s, "0x") && len(s) > 2 && isHex(s[2]):
			n := span(s[2:], isHex)
			runs = append(runs, number(s[2:2+n], 16))
			s = s[2+n:]
		case isDigit(c):
			n := span(s, isDigit)
			runs = append(runs, number(s[:n], 10))
			s = s[n:]
		case isLetter(c):
			n := span(s, isLetter)
			if s[:n] != "v" || n == len(s) || !isDigit(s[n]) {
				runs = append(runs, run{word: s[:n]})
			}
			s = s[n:]
		default:
			s = s[1:]
		}
	}
	return runs
}

func number(digits string, base int) run {
	// The digits were counted off just now, so they are a number.
	n, _ := new(big.Int).SetString(digits, base)
	return run{number: n}
}

// span returns how many bytes s begins with that is holds for.
func span(s string, is func(byte) bool) int {
	n := 0
	for n < len(s) && is(s[n]) {
		n++
	}
	return n
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c && c <= 'z' }
func isHex(c byte) bool    { return isDigit(c) || 'a' <= c && c <= 'f' }
