package records

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/teeth-metal/teeth/controlplane/internal/database"
	wire "github.com/teeth-metal/teeth/wire/minion"
)

// Log is a line that is kept.
type Log struct {
	Seq      int64     `json:"seq"` // ascends in the order of arrival
	ID       string    `json:"id"`
	Server   string    `json:"server"`
	Service  string    `json:"service"`
	Message  string    `json:"message"`
	Time     time.Time `json:"time"`     // by the agent's clock
	Received time.Time `json:"received"` // by the database's
}

// Search selects lines. What is empty selects all.
type Search struct {
	Servers  []string // any of them
	Services []string // any of them
	// Since and Until: the line's own time, or that of its arrival, is between them.
	Since, Until time.Time
	Text         string         // words, all of which are in the message, in any order and case
	Regexp       *regexp.Regexp // matches the message
	After        int64          // seq is greater than this
	Limit        int            // at most so many lines; 0: MaxLines
	// Newest selects the newest lines and not the oldest. They are in ascending order
	// all the same.
	Newest bool
	Before int64 // if not 0, seq is less than this
}

// Page is what a search has found, in ascending order of Seq.
type Page struct {
	Lines []Log
	// Next is the After with which the same search goes on, or comes back later. Of the
	// newest lines that is what follows all of them.
	Next int64
	// More: there may be more lines that are selected. A page can have few lines, or
	// none, and more be there, when its time was over.
	More bool
	// Earlier is the Before with which a search for the newest lines goes on.
	Earlier int64
}

const (
	// MaxLines is the most lines of a page; it has fewer when they are long.
	MaxLines  = 5000
	pageBytes = 8 << 20
	// searchTime is how long a page may take.
	searchTime = 5 * time.Second
	// window is how many lines a query looks at, where no index says which have what
	// is looked for; of some servers it is so many of all lines.
	window        = 100_000
	serversWindow = 2_000_000
)

// span is a range of seq, both ends included.
type span struct{ first, last int64 }

// condition is the SQL of a search, without the range of seq, and what SQL cannot say.
type condition struct {
	sql  string
	args []any
	// hashes are of words that are in every line that is looked for.
	hashes []uint64
	match  func(message string) bool // nil: all
}

func (d *DB) condition(s Search) condition {
	var c condition
	in := func(column string, values []any) {
		c.sql += ` AND ` + column + ` IN (` + strings.TrimSuffix(strings.Repeat(`?,`, len(values)), `,`) + `)`
		c.args = append(c.args, values...)
	}
	if len(s.Servers) > 0 {
		var ids []any
		for _, server := range s.Servers {
			ids = append(ids, d.d.server(ServerID(server)))
		}
		in(`server_id`, ids)
	}
	if len(s.Services) > 0 {
		var names []any
		for _, n := range s.Services {
			names = append(names, database.Storable(n))
		}
		in(`service`, names)
	}
	if !s.Since.IsZero() || !s.Until.IsZero() {
		since, until := d.d.time(later(s.Since, earliest)), d.d.time(s.until())
		c.sql += ` AND (created_at BETWEEN ? AND ? OR updated_at BETWEEN ? AND ?)`
		c.args = append(c.args, since, until, since, until)
	}
	terms := wordsOf(s.Text)
	for _, w := range terms {
		c.hashes = append(c.hashes, hash([]byte(w)))
		if strings.IndexFunc(w, func(r rune) bool { return r > unicode.MaxASCII }) < 0 {
			if d.d == postgreSQL { // a word has neither of LIKE's wildcards
				c.sql += ` AND msg ILIKE ?`
			} else {
				c.sql += ` AND msg LIKE ?`
			}
			c.args = append(c.args, `%`+w+`%`)
		}
	}
	if s.Regexp != nil {
		if re, err := syntax.Parse(s.Regexp.String(), syntax.Perl); err == nil {
			if lit := database.Storable(literal(re.Simplify())); lit != "" {
				for _, w := range inner(lit) {
					c.hashes = append(c.hashes, hash([]byte(w)))
				}
				if d.d == postgreSQL {
					c.sql += ` AND position(? IN msg) > 0`
				} else {
					c.sql += ` AND instr(msg, ?) > 0`
				}
				c.args = append(c.args, lit)
			}
		}
	}
	if s.Regexp != nil || len(terms) > 0 {
		c.match = func(message string) bool {
			if s.Regexp != nil && !s.Regexp.MatchString(message) {
				return false
			}
			return len(terms) == 0 || hasAll(message, terms)
		}
	}
	return c
}

// hasAll reports whether a text has all of the words.
func hasAll(text string, terms []string) bool {
	missing := slices.Clone(terms)
	words(text, nil, func(w []byte) {
		if i := slices.Index(missing, string(w)); i >= 0 {
			missing = slices.Delete(missing, i, i+1)
		}
	})
	return len(missing) == 0
}

func (s Search) until() time.Time {
	if s.Until.IsZero() {
		return latest.AddDate(100, 0, 0)
	}
	return s.Until
}

// Find returns a page of lines.
func (d *DB) Find(ctx context.Context, s Search) (Page, error) {
	p, err := d.find(ctx, s)
	if err != nil {
		return Page{}, fmt.Errorf("search log lines: %w", d.unavailable(err))
	}
	return p, nil
}

func (d *DB) find(ctx context.Context, s Search) (Page, error) {
	if s.Limit <= 0 || s.Limit > MaxLines {
		s.Limit = MaxLines
	}
	end := time.Now().Add(searchTime)
	c := d.condition(s)
	p, room := Page{Lines: []Log{}, Next: s.After}, pageBytes
	head, err := d.Head(ctx)
	if err != nil {
		return p, err
	}
	if s.Before > 0 {
		head = min(head, s.Before-1)
	}
	spans, err := d.spans(ctx, s, c, head)
	if err != nil {
		return p, err
	}
	if s.Newest {
		slices.Reverse(spans)
	}
	wide := int64(window)
	if len(s.Servers) > 0 {
		wide = serversWindow
	}
	for i, sp := range spans {
		for sp.first <= sp.last {
			part := sp
			if s.Newest {
				part.first = max(sp.first, sp.last-wide+1)
			} else {
				part.last = min(sp.last, sp.first+wide-1)
			}
			lines, reached, err := d.look(ctx, c, part, s.Limit-len(p.Lines), &room, s.Newest)
			if err != nil {
				return p, err
			}
			p.Lines = append(p.Lines, lines...)
			if s.Newest {
				sp.last, p.Earlier = reached-1, reached
			} else {
				sp.first, p.Next = reached+1, reached
			}
			if len(p.Lines) == s.Limit || room <= 0 || time.Now().After(end) {
				p.More = sp.first <= sp.last || i+1 < len(spans)
				return d.finish(p, s, head), nil
			}
		}
	}
	p.Next = max(head, s.After)
	return d.finish(p, s, head), nil
}

// finish puts the newest lines in order; what follows them is what comes from now on.
func (d *DB) finish(p Page, s Search, head int64) Page {
	if s.Newest {
		slices.Reverse(p.Lines)
		p.Next = max(head, s.After)
		p.More = p.More && len(p.Lines) < s.Limit
	}
	return p
}

// Head is the seq of the newest line, 0 if there is none.
func (d *DB) Head(ctx context.Context) (head int64, err error) {
	err = d.r.QueryRowContext(ctx, `SELECT seq FROM logs ORDER BY seq DESC LIMIT 1`).Scan(&head)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return head, err
}

// spans returns the ranges in which there may be lines that are looked for.
func (d *DB) spans(ctx context.Context, s Search, c condition, head int64) ([]span, error) {
	if s.After >= head {
		return nil, nil
	}
	var list []span
	add := func(sp span) {
		if n := len(list); n > 0 && list[n-1].last+1 == sp.first {
			list[n-1].last = sp.last
		} else if sp.first <= sp.last {
			list = append(list, sp)
		}
	}
	var summarised int64
	if err := d.r.QueryRowContext(ctx, `SELECT COALESCE(MAX(last_seq), 0) FROM log_segments`).Scan(&summarised); err != nil {
		return nil, err
	}
	column := `NULL`
	if len(c.hashes) > 0 {
		column = `words`
	}
	since, until := d.d.time(later(s.Since, earliest)), d.d.time(s.until())
	rows, err := d.r.QueryContext(ctx, d.d.rebind(`SELECT first_seq, last_seq, `+column+` FROM log_segments
		WHERE last_seq > ? AND (last_at >= ? AND first_at <= ? OR last_arrival >= ? AND first_arrival <= ?) ORDER BY first_seq`),
		s.After, since, until, since, until)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var sp span
		var words sql.RawBytes
		if err := rows.Scan(&sp.first, &sp.last, &words); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(c.hashes, func(h uint64) bool { return !filter(words).has(h) }) {
			add(span{max(sp.first, s.After+1), sp.last})
		}
	}
	add(span{max(summarised, s.After) + 1, head})
	return list, rows.Err()
}

// look returns up to limit lines of a range, whose messages take no more than room,
// and how far it has looked.
func (d *DB) look(ctx context.Context, c condition, sp span, limit int, room *int, newest bool) (lines []Log, reached int64, err error) {
	order, reached := ``, sp.last
	if newest {
		order, reached = ` DESC`, sp.first
	}
	read := limit
	if c.match != nil { // the database cannot tell all, but most
		read = limit + 1000
	}
	rows, err := d.r.QueryContext(ctx, d.d.rebind(`SELECT seq, id, server_id, service, msg, created_at, updated_at FROM logs
		WHERE seq BETWEEN ? AND ?`+c.sql+` ORDER BY seq`+order+` LIMIT ?`), append(append([]any{sp.first, sp.last}, c.args...), read)...)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for n := 1; rows.Next(); n++ {
		var l Log
		var id, server wire.ID
		var at, received stamp
		if err := rows.Scan(&l.Seq, idOf{&id, unsorted}, idOf{&server, plain}, &l.Service, &l.Message, &at, &received); err != nil {
			return nil, 0, err
		}
		if c.match == nil || c.match(l.Message) {
			l.ID, l.Server, l.Time, l.Received = id.String(), server.String(), at.Time, received.Time
			lines = append(lines, l)
			*room -= len(l.Message)
		}
		if n == read || len(lines) == limit || *room <= 0 {
			return lines, l.Seq, nil
		}
	}
	return lines, reached, rows.Err()
}
