package modules

// match reports whether name matches the shell pattern, by the rules of
// fnmatch(3) without flags, which modules.alias is written for: '*' and '?'
// match any character, '/' and '.' included, '[…]' a set with ranges and
// negation. It is not filepath.Match, whose '*' stops at a '/', and it takes
// at most len(pattern)*len(name) steps whatever the pattern.
func match(pattern, name string) bool {
	p, n := 0, 0
	star, retry := -1, 0 // last '*' of the pattern, and where in name to try again after it
	for n < len(name) {
		if p < len(pattern) {
			if pattern[p] == '*' {
				star, retry = p, n
				p++
				continue
			}
			if w, ok := matchOne(pattern[p:], name[n]); ok {
				p += w
				n++
				continue
			}
		}
		if star < 0 {
			return false
		}
		retry++
		p, n = star+1, retry
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchOne matches one character against the element that starts the pattern
// and returns the length of that element.
func matchOne(pattern string, c byte) (width int, ok bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == c
		}
	case '[':
		if w, in, closed := matchSet(pattern, c); closed {
			return w, in
		}
	}
	return 1, pattern[0] == c
}

// matchSet matches c against the bracket expression that starts the pattern.
// One that is never closed is no expression: its '[' stands for itself.
func matchSet(pattern string, c byte) (width int, in, closed bool) {
	i, negate := 1, false
	if i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^') {
		negate = true
		i++
	}
	for first := true; i < len(pattern); first = false {
		if pattern[i] == ']' && !first {
			return i + 1, in != negate, true
		}
		lo := pattern[i]
		hi := lo
		if i+2 < len(pattern) && pattern[i+1] == '-' && pattern[i+2] != ']' {
			hi = pattern[i+2]
			i += 2
		}
		if lo <= c && c <= hi {
			in = true
		}
		i++
	}
	return 0, false, false
}

// underscores turns dashes into underscores outside of bracket expressions,
// which is how kmod makes names and aliases comparable: the file nvme-core.ko
// is the module nvme_core.
func underscores(s string) string {
	b := []byte(s)
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '-':
			b[i] = '_'
		case '[':
			if w, _, closed := matchSet(s[i:], 0); closed {
				i += w - 1
			}
		}
	}
	return string(b)
}
