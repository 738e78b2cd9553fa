package apt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sources are the entries of sources.list(5) that are Debian's own archive.
type sources struct {
	lines  []line
	stanza []stanza
}

// line is one entry in the one-line style: deb [options] uri suite component...
type line struct {
	head       string // up to and with the suite
	components []string
}

// stanza is one entry in the deb822 style: fields in order, values with their
// continuation lines.
type stanza []field

type field struct{ key, value string }

// rolling are suite names that are not code names.
var rolling = []string{"stable", "oldstable", "testing", "unstable", "sid"}

// readSources reads the system's configuration. Third-party archives, which
// have suites of other names, are left out: they have no kernel for us, and an
// outage there should not stop a build.
func readSources(etc string) (sources, error) {
	var s sources
	suites := slices.Clone(rolling)
	if c := codename(filepath.Join(etc, "os-release")); c != "" {
		suites = append(suites, c)
	}
	files, err := filepath.Glob(filepath.Join(etc, "apt/sources.list.d/*"))
	if err != nil {
		return s, err
	}
	files = append([]string{filepath.Join(etc, "apt/sources.list")}, files...)
	for _, name := range files {
		ext := filepath.Ext(name)
		if ext != ".list" && ext != ".sources" {
			continue
		}
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return s, err
		}
		if ext == ".list" {
			s.addLines(string(b), suites)
		} else {
			s.addStanzas(string(b), suites)
		}
	}
	if len(s.lines)+len(s.stanza) == 0 {
		return s, fmt.Errorf("no archive with the suites %s in %s/apt: build on Debian, or bring your own kernel", strings.Join(suites, ", "), etc)
	}
	return s, nil
}

func codename(osRelease string) string {
	b, err := os.ReadFile(osRelease)
	if err != nil {
		return ""
	}
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, "VERSION_CODENAME="); ok {
			return strings.Trim(strings.TrimSpace(v), `"'`)
		}
	}
	return ""
}

func ours(suite string, suites []string) bool {
	return slices.ContainsFunc(suites, func(s string) bool {
		rest, ok := strings.CutPrefix(suite, s)
		return ok && (rest == "" || rest[0] == '-' || rest[0] == '/')
	})
}

func (s *sources) addLines(text string, suites []string) {
	for l := range strings.Lines(text) {
		l, _, _ = strings.Cut(strings.TrimSpace(l), "#")
		f := strings.Fields(l)
		if len(f) == 0 || f[0] != "deb" {
			continue
		}
		at := 1
		if at < len(f) && strings.HasPrefix(f[at], "[") {
			for at < len(f) && !strings.HasSuffix(f[at], "]") {
				at++
			}
			at++
		}
		if at+2 >= len(f) || !ours(f[at+1], suites) || !slices.Contains(f[at+2:], "main") {
			continue
		}
		s.lines = append(s.lines, line{strings.Join(f[:at+2], " "), f[at+2:]})
	}
}

func (s *sources) addStanzas(text string, suites []string) {
	var cur stanza
	flush := func() {
		if cur.wanted(suites) {
			s.stanza = append(s.stanza, cur)
		}
		cur = nil
	}
	for l := range strings.Lines(text) {
		l = strings.TrimRight(l, " \t\r\n")
		switch {
		case l == "":
			flush()
		case l[0] == '#':
		case l[0] == ' ' || l[0] == '\t':
			if len(cur) > 0 {
				cur[len(cur)-1].value += "\n" + l
			}
		default:
			if key, value, ok := strings.Cut(l, ":"); ok {
				cur = append(cur, field{key, strings.TrimSpace(value)})
			}
		}
	}
	flush()
}

func (st stanza) words(key string) []string {
	for _, f := range st {
		if strings.EqualFold(f.key, key) {
			return strings.Fields(f.value)
		}
	}
	return nil
}

func (st stanza) wanted(suites []string) bool {
	if e := st.words("Enabled"); len(e) > 0 && slices.Contains([]string{"no", "false", "0", "off", "disable", "without"}, strings.ToLower(e[0])) {
		return false
	}
	return slices.Contains(st.words("Types"), "deb") &&
		slices.ContainsFunc(st.words("Suites"), func(s string) bool { return ours(s, suites) }) &&
		slices.Contains(st.words("Components"), "main")
}

// render writes the entries in their two styles, with components added.
func (s sources) render(components []string) (oneline, deb822 string) {
	add := func(have []string) string {
		have = slices.Clone(have)
		for _, c := range components {
			if !slices.Contains(have, c) {
				have = append(have, c)
			}
		}
		return strings.Join(have, " ")
	}
	var b strings.Builder
	for _, l := range s.lines {
		fmt.Fprintf(&b, "%s %s\n", l.head, add(l.components))
	}
	oneline = b.String()
	b.Reset()
	for _, st := range s.stanza {
		for _, f := range st {
			switch strings.ToLower(f.key) {
			case "types":
				f.value = "deb" // no sources
			case "components":
				f.value = add(strings.Fields(f.value))
			}
			fmt.Fprintf(&b, "%s: %s\n", f.key, f.value)
		}
		b.WriteByte('\n')
	}
	return oneline, b.String()
}
