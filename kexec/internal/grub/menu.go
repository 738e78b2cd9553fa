package grub

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/teeth-metal/teeth/kexec/internal/bls"
	"github.com/teeth-metal/teeth/kexec/internal/rootfs"
)

type menu struct{ entries []menuEntry }

type menuEntry struct {
	title, id string
	submenu   bool
	body      script
	params    []string
	bls       *bls.Entry
	volume    *Volume // of bls
}

// index finds the entry with this number, title or id; like GRUB it takes the
// first where there is none.
func (mn *menu) index(name string) int {
	if n, err := strconv.Atoi(name); err == nil {
		if 0 <= n && n < len(mn.entries) {
			return n
		}
		return 0
	}
	for i, e := range mn.entries {
		if name != "" && (e.title == name || e.id == name) {
			return i
		}
	}
	return 0
}

func (m *machine) add(e menuEntry) error {
	if len(m.menu.entries) >= maxMenu {
		return fmt.Errorf("%w: more than %d menu entries", errLimit, maxMenu)
	}
	m.menu.entries = append(m.menu.entries, e)
	m.ok(true)
	return nil
}

// addEntry is menuentry TITLE [OPTIONS] { … } and submenu.
func (m *machine) addEntry(c command, name string, args []string) error {
	e := menuEntry{submenu: name == "submenu", body: c.block}
	for i := 0; i < len(args); i++ {
		opt, value, has := strings.Cut(args[i], "=")
		switch opt {
		case "--class", "--users", "--hotkey", "--source", "--id":
			if !has && i+1 < len(args) {
				i++
				value = args[i]
			}
			switch opt {
			case "--id":
				e.id = value
			case "--source":
				body, err := parse(value)
				if err != nil {
					return fmt.Errorf("%s: line %d: %w", m.file, c.line, err)
				}
				e.body = body
				c.hasBl = true
			}
		case "--unrestricted":
		default:
			e.params = append(e.params, args[i])
		}
	}
	if len(e.params) == 0 || !c.hasBl {
		m.ok(false)
		return nil
	}
	e.title = e.params[0]
	return m.add(e)
}

// blscfg adds the Boot Loader Specification entries of the volume that $root
// names, newest first, as Fedora's GRUB does.
func (m *machine) blscfg() error {
	for _, e := range m.menu.entries {
		if e.bls != nil { // "blscfg non-default" of Fedora 30, after "blscfg default"
			m.ok(true)
			return nil
		}
	}
	dirs := []string{m.vars["blsdir"], "/loader/entries", "/boot/loader/entries"}
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		f, err := m.resolve(dir)
		if err != nil {
			continue
		}
		entries, _, err := bls.ReadDir(f.Volume.FS, f.Path)
		if err != nil || len(entries) == 0 {
			continue
		}
		slices.SortStableFunc(entries, func(a, b bls.Entry) int {
			return cmp.Or(bls.CompareVersions(b.ID, a.ID), cmp.Compare(b.ID, a.ID))
		})
		for _, e := range entries {
			if err := m.add(menuEntry{title: e.Name(), id: e.ID, bls: &e, volume: f.Volume}); err != nil {
				return err
			}
		}
		return nil
	}
	m.ok(false)
	return nil
}

// bootBLS turns an entry into a choice; its fields may use GRUB's variables.
func (m *machine) bootBLS(e menuEntry, title string) (*Choice, error) {
	fail := func(err error) (*Choice, error) {
		return nil, fmt.Errorf("boot entry %q: %w", e.bls.ID, err)
	}
	if e.bls.Linux == "" {
		return fail(ErrNotLinux)
	}
	m.linux, m.initrds, m.failed = nil, nil, nil
	options := e.bls.Options
	if len(options) == 0 {
		options = []string{m.vars["default_kernelopts"]}
	}
	file := func(name string) string {
		if strings.HasPrefix(name, "(") {
			return name
		}
		return "(" + e.volume.Name + ")" + path.Join("/", name)
	}
	kernel, err := m.fields([]string{e.bls.Linux})
	if err != nil {
		return fail(err)
	}
	opts, err := m.fields(options)
	if err != nil {
		return fail(err)
	}
	initrds, err := m.fields(append([]string{m.vars["early_initrd"]}, e.bls.Initrds...))
	if err != nil {
		return fail(err)
	}
	if len(kernel) == 0 {
		return fail(ErrNotLinux)
	}
	m.kernel("linux", []string{file(kernel[0])})
	if len(opts) > 0 {
		m.cmdline += " " + strings.Join(opts, " ")
	}
	for i, f := range initrds {
		initrds[i] = file(f)
	}
	if len(initrds) > 0 && m.failed == nil {
		m.initrd("initrd", initrds)
	}
	if m.failed != nil {
		return fail(m.failed)
	}
	c, err := m.choice(title)
	if err == nil {
		c.BLS = true
	}
	return c, err
}

// fields replaces $variables in the values of a BLS field and splits them.
func (m *machine) fields(values []string) ([]string, error) {
	var out []string
	total := 0
	for _, v := range values {
		text := ExpandVariables(v, m.vars)
		if total += len(text); total > maxText {
			return nil, fmt.Errorf("%w: a field longer than %d bytes", errLimit, maxText)
		}
		out = append(out, strings.Fields(text)...)
	}
	return out, nil
}

// ExpandVariables replaces $name and ${name} in a field of a BLS entry. The
// result is cut short, past 64 KiB, where it would grow without end.
func ExpandVariables(s string, vars map[string]string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	p := parser{text: s}
	for p.pos < len(s) && b.Len() <= maxText {
		if s[p.pos] == '$' {
			if name, ok := p.variable(); ok {
				b.WriteString(vars[name])
				continue
			}
		}
		b.WriteByte(s[p.pos])
		p.pos++
	}
	return b.String()
}

const (
	envHeader = "# GRUB Environment Block\n"
	maxEnv    = 64 << 10 // it is 1024 bytes; some tools make it larger
)

// ParseEnv reads a GRUB environment block (grubenv). It returns false where the
// header is missing.
func ParseEnv(text []byte) (map[string]string, bool) {
	s, ok := strings.CutPrefix(string(text), envHeader)
	if !ok {
		return nil, false
	}
	vars := make(map[string]string)
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] == '#' { // the rest of the line is padding or a comment
			for i < len(s) && s[i] != '\n' {
				i++
			}
			i++
			continue
		}
		b.Reset()
		for i < len(s) && s[i] != '\n' {
			if s[i] == '\\' && i+1 < len(s) {
				i++
			}
			b.WriteByte(s[i])
			i++
		}
		i++
		if key, value, ok := strings.Cut(b.String(), "="); ok && key != "" {
			vars[key] = value
		}
	}
	return vars, true
}

// loadEnv is load_env [--file FILE] [--skip-sig] [NAME…].
func (m *machine) loadEnv(args []string) error {
	file := m.vars["prefix"] + "/grubenv"
	var only []string
	for i := 0; i < len(args); i++ {
		opt, value, has := strings.Cut(args[i], "=")
		switch {
		case opt == "--file" && has:
			file = value
		case (opt == "--file" || opt == "-f") && i+1 < len(args):
			i++
			file = args[i]
		case strings.HasPrefix(opt, "-"):
		default:
			only = append(only, args[i])
		}
	}
	m.ok(false)
	f, err := m.resolve(file)
	if err != nil {
		return nil
	}
	text, err := rootfs.ReadFile(f.Volume.FS, f.Path, maxEnv)
	if err != nil {
		return nil
	}
	vars, ok := ParseEnv(text)
	if !ok {
		return nil
	}
	for k, v := range vars {
		if len(only) == 0 || slices.Contains(only, k) {
			if err := m.set(k, v); err != nil {
				return err
			}
		}
	}
	m.ok(true)
	return nil
}
