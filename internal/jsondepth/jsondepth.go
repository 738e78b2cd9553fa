// Package jsondepth tells how deep JSON from strangers nests, before anything
// recurses over it.
package jsondepth

// Exceeds reports whether b nests objects and arrays deeper than most. b need not be
// valid JSON; what it says of text that is not is of no use.
func Exceeds(b []byte, most int) bool {
	depth, text := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case text:
		case c == '{' || c == '[':
			if depth++; depth > most {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
