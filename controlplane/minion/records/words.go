package records

import (
	"math"
	"regexp/syntax"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A word is letters and digits, without regard to case. Longer ones are cut off in the
// filter; a search compares the text itself in the end.
const maxWord = 64

// words calls do with every word of a text, in lower case. buf is room for one.
func words(text string, buf []byte, do func([]byte)) {
	buf = buf[:0]
	for i := 0; i < len(text); {
		c := text[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			case 'A' <= c && c <= 'Z':
				c += 'a' - 'A'
			default:
				if len(buf) > 0 {
					do(buf)
					buf = buf[:0]
				}
				continue
			}
			if len(buf) < maxWord {
				buf = append(buf, c)
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		i += n
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			if len(buf) > 0 {
				do(buf)
				buf = buf[:0]
			}
			continue
		}
		if len(buf) < maxWord {
			buf = utf8.AppendRune(buf, unicode.ToLower(r))
		}
	}
	if len(buf) > 0 {
		do(buf)
	}
}

// hash is FNV-1a with a finish that spreads it: filters outlive the process.
func hash(word []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range word {
		h = (h ^ uint64(c)) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return h
}

// filter is a Bloom filter (Bloom, 1970) of hashes: its bits, the first of a byte the
// lowest. With ten bits a word and seven probes one in a hundred words that are not in
// it seem to be.
type filter []byte

const (
	bitsPerWord = 10
	probes      = 7
)

func newFilter(hashes map[uint64]struct{}) filter {
	f := make(filter, max(8, int(math.Ceil(float64(len(hashes))*bitsPerWord/8))))
	for h := range hashes {
		f.each(h, func(at uint64) bool { f[at/8] |= 1 << (at % 8); return true })
	}
	return f
}

// has reports whether a hash may be in the filter.
func (f filter) has(h uint64) bool {
	return len(f) == 0 || f.each(h, func(at uint64) bool { return f[at/8]&(1<<(at%8)) != 0 })
}

// each calls do with the bits of a hash (Kirsch and Mitzenmacher, 2006).
func (f filter) each(h uint64, do func(uint64) bool) bool {
	step := h>>32 | 1
	for range probes {
		if !do(h % (uint64(len(f)) * 8)) {
			return false
		}
		h += step
	}
	return true
}

// wordsOf returns the words of a text, each once.
func wordsOf(text string) []string {
	var list []string
	seen := map[string]bool{}
	words(text, make([]byte, 0, maxWord+utf8.UTFMax), func(w []byte) {
		if !seen[string(w)] {
			seen[string(w)] = true
			list = append(list, string(w))
		}
	})
	return list
}

// literal returns the longest text that is in everything a regular expression matches,
// "" if there is none that can be told.
func literal(re *syntax.Regexp) string {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase != 0 {
			return ""
		}
		return string(re.Rune)
	case syntax.OpCapture, syntax.OpPlus:
		return literal(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return literal(re.Sub[0])
		}
	case syntax.OpConcat:
		best := ""
		for _, sub := range re.Sub {
			if l := literal(sub); len(l) > len(best) {
				best = l
			}
		}
		return best
	}
	return ""
}

// inner returns the words of a literal that are whole words wherever it is found: not
// its first and last, which may go on in the text around it.
func inner(lit string) []string {
	first := strings.IndexFunc(lit, notWord)
	last := strings.LastIndexFunc(lit, notWord)
	if first < 0 || first >= last {
		return nil
	}
	return wordsOf(lit[first:last])
}

func notWord(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }
