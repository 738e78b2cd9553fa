package repl

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/teeth-metal/teeth/wire/minion"
)

const usage = `VERB::D1::D2...        send a frame, after group and server id: L::SERVICE::MESSAGE,
                       T::LABEL::VALUE, C::heartbeat, R::COMMAND-ID::[OUTPUT]::[ERRORS]
raw::VERB::D1::D2...   send a frame without group and server id
N times { LINE }       send it N times
tail::SERVICE::PATH    follow a file and send its lines; untail::PATH stops it
debug                  show every frame with its bytes, or stop that
exit                   wait for answers, and end
[a,b] is a list of texts; \:: is two colons, \\ a backslash`

// what a line asks for.
type what int

const (
	nothing what = iota
	help
	exit
	debug
	follow
	unfollow
	frame
)

// line is one that was typed.
type line struct {
	what          what
	times         int
	raw           bool
	verb          minion.Verb
	data          []minion.Item
	service, path string
}

var repeated = regexp.MustCompile(`^(\d{1,9})\s+times\s+(.*)$`)

// parse reads a line.
func parse(text string) (line, error) {
	text = strings.TrimSpace(text)
	times := 1
	if m := repeated.FindStringSubmatch(text); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil || n > maxTimes {
			return line{}, fmt.Errorf("%s times: at most %d", m[1], maxTimes)
		}
		times, text = n, m[2]
		if inner, ok := strings.CutPrefix(text, "{"); ok {
			if inner, ok = strings.CutSuffix(inner, "}"); !ok {
				return line{}, errors.New("the } is missing")
			}
			text = strings.TrimSpace(inner)
		}
	}
	l, err := parseOne(text)
	if err == nil && times != 1 && l.what != frame {
		return line{}, fmt.Errorf("%.40q cannot be repeated: only frames can", text)
	}
	l.times = times
	return l, err
}

func parseOne(text string) (line, error) {
	switch text {
	case "":
		return line{}, nil
	case "help", "?":
		return line{what: help}, nil
	case "exit", "quit":
		return line{what: exit}, nil
	case "debug":
		return line{what: debug}, nil
	}
	parts := split(text)
	switch parts[0] {
	case "tail":
		if len(parts) != 3 {
			return line{}, errors.New("want tail::SERVICE::PATH")
		}
		return line{what: follow, service: parts[1], path: parts[2]}, nil
	case "untail":
		if len(parts) != 2 {
			return line{}, errors.New("want untail::PATH")
		}
		return line{what: unfollow, path: parts[1]}, nil
	}
	l := line{what: frame}
	if parts[0] == "raw" {
		l.raw, parts = true, parts[1:]
	}
	if len(parts) == 0 || len(parts[0]) != 1 || parts[0][0] < 'A' || parts[0][0] > 'Z' {
		return line{}, fmt.Errorf("%.40q is not understood: want VERB::D1::D2, with a verb that is one capital letter, or help", text)
	}
	l.verb = minion.Verb(parts[0][0])
	for _, p := range parts[1:] {
		inner, ok := strings.CutPrefix(p, "[")
		if inner, ok2 := strings.CutSuffix(inner, "]"); ok && ok2 {
			list := strings.Split(inner, ",")
			if inner == "" {
				list = []string{}
			}
			l.data = append(l.data, minion.List(list...))
			continue
		}
		l.data = append(l.data, minion.Text(p))
	}
	return l, nil
}

// split cuts a line at its double colons.
func split(text string) []string {
	parts := []string{""}
	add := func(s string) { parts[len(parts)-1] += s }
	for len(text) > 0 {
		switch {
		case strings.HasPrefix(text, `\\`):
			add(`\`)
			text = text[2:]
		case strings.HasPrefix(text, `\::`):
			add("::")
			text = text[3:]
		case strings.HasPrefix(text, "::"):
			parts = append(parts, "")
			text = text[2:]
		default:
			add(text[:1])
			text = text[1:]
		}
	}
	return parts
}
