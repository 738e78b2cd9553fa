// Package database has what the control plane's databases share, whatever is in them:
// how to connect to PostgreSQL and to hear its notifications, how to tell its errors
// apart, how to hand a statement to it that SQLite takes as well, and how to bring a
// schema to the program's version.
package database

import (
	"strconv"
	"strings"
)

// Rebind numbers the ? of a query as PostgreSQL wants them, those in literals and
// comments aside.
func Rebind(query string) string {
	if strings.IndexByte(query, '?') < 0 {
		return query
	}
	b := make([]byte, 0, len(query)+16)
	n := 0
	for i := 0; i < len(query); i++ {
		switch c := query[i]; {
		case c == '?':
			n++
			b = append(b, '$')
			b = strconv.AppendInt(b, int64(n), 10)
		case c == '\'' || c == '"': // a doubled quote inside is two literals to us, which comes to the same
			end := strings.IndexByte(query[i+1:], c)
			if end < 0 {
				return string(append(b, query[i:]...))
			}
			b = append(b, query[i:i+end+2]...)
			i += end + 1
		case c == '-' && strings.HasPrefix(query[i:], "--"):
			end := strings.IndexByte(query[i:], '\n')
			if end < 0 {
				return string(append(b, query[i:]...))
			}
			b = append(b, query[i:i+end]...)
			i += end - 1
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

// Storable is a text as both databases take it: PostgreSQL has none that is not UTF-8
// or has a zero in it.
func Storable(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", "\uFFFD")
	}
	return s
}
