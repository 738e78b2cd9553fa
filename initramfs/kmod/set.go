package kmod

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Set is a choice of modules that is closed under dependencies.
type Set struct {
	Modules []*Module // sorted by path

	// Missing lists what was asked for, by name or as a soft dependency
	// ("crypto-foo of bar"), and is neither a module nor part of the kernel.
	// modprobe tolerates a missing soft dependency; so does Select.
	Missing []string

	tree   *Tree
	byName map[string]*Module
}

// Select chooses the named modules, every module below one of the directories
// or matching one of the path patterns (path.Match, with a last element of **
// for everything below), and all that these depend on. A hard dependency that
// is not in the tree is an error.
func (t *Tree) Select(names, patterns []string) (*Set, error) {
	s := &Set{tree: t, byName: make(map[string]*Module)}
	for _, name := range names {
		if err := s.want(name, name); err != nil {
			return nil, err
		}
	}
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return nil, fmt.Errorf("module pattern %q: %w", p, err)
		}
		dir, below := strings.CutSuffix(p, "/**")
		for _, m := range t.Modules {
			match := below && strings.HasPrefix(m.Path(), dir+"/")
			if !below {
				match, _ = path.Match(p, m.Path())
			}
			if match {
				if err := s.add(m); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, m := range s.byName {
		s.Modules = append(s.Modules, m)
	}
	slices.SortFunc(s.Modules, func(a, b *Module) int { return strings.Compare(a.Path(), b.Path()) })
	slices.Sort(s.Missing)
	s.Missing = slices.Compact(s.Missing)
	return s, nil
}

// want adds the module called name, or all that have it as an exact alias.
func (s *Set) want(name, label string) error {
	name = canonical(name)
	if m := s.tree.Modules[name]; m != nil {
		return s.add(m)
	}
	_, builtin := s.tree.builtinNames[name]
	providers := s.tree.aliases[name]
	if len(providers) == 0 && !builtin {
		s.Missing = append(s.Missing, label)
	}
	for _, p := range providers {
		if err := s.add(s.tree.Modules[p]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Set) add(m *Module) error {
	if s.byName[m.Name] != nil {
		return nil
	}
	s.byName[m.Name] = m
	for _, d := range m.Depends {
		dep := s.tree.Modules[d]
		if dep == nil {
			if _, builtin := s.tree.builtinNames[d]; builtin {
				continue
			}
			return fmt.Errorf("module %s needs %s, which kernel %s in %s does not have", m.Name, d, s.tree.Version, s.tree.Dir)
		}
		if err := s.add(dep); err != nil {
			return err
		}
	}
	for _, soft := range slices.Concat(m.Pre, m.Post) {
		if err := s.want(soft, soft+" of "+m.Name); err != nil {
			return err
		}
	}
	return nil
}

// Dep returns modules.dep: for each module all it depends on, directly or not,
// in depmod's order: to be loaded from the last to the first.
func (s *Set) Dep() []byte {
	var b bytes.Buffer
	for _, m := range s.Modules {
		order := s.loadOrder(m, nil, map[string]bool{})
		slices.Reverse(order)
		fmt.Fprintf(&b, "%s:", m.Path())
		for _, d := range order[1:] { // the first is m itself
			fmt.Fprintf(&b, " %s", d.Path())
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func (s *Set) loadOrder(m *Module, order []*Module, seen map[string]bool) []*Module {
	seen[m.Name] = true
	for _, d := range m.Depends {
		if dep := s.byName[d]; dep != nil && !seen[d] {
			order = s.loadOrder(dep, order, seen)
		}
	}
	return append(order, m)
}

// Alias returns modules.alias.
func (s *Set) Alias() []byte {
	var b bytes.Buffer
	b.WriteString("# Aliases extracted from modules themselves.\n")
	for _, m := range s.Modules {
		for _, a := range m.Alias {
			fmt.Fprintf(&b, "alias %s %s\n", a, m.Name)
		}
	}
	return b.Bytes()
}

// Softdep returns modules.softdep.
func (s *Set) Softdep() []byte {
	var b bytes.Buffer
	b.WriteString("# Soft dependencies extracted from modules themselves.\n")
	for _, m := range s.Modules {
		if len(m.Pre)+len(m.Post) == 0 {
			continue
		}
		fmt.Fprintf(&b, "softdep %s", m.Name)
		if len(m.Pre) > 0 {
			fmt.Fprintf(&b, " pre: %s", strings.Join(m.Pre, " "))
		}
		if len(m.Post) > 0 {
			fmt.Fprintf(&b, " post: %s", strings.Join(m.Post, " "))
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// Builtin returns modules.builtin: the paths of what is part of the kernel.
func (s *Set) Builtin() []byte {
	if len(s.tree.builtin) == 0 {
		return nil
	}
	return []byte(strings.Join(s.tree.builtin, "\n") + "\n")
}

// Firmware returns what the modules of the set ask for, sorted, without
// repetition: paths below /lib/firmware that may hold wildcards.
func (s *Set) Firmware() []string {
	var fw []string
	for _, m := range s.Modules {
		fw = append(fw, m.Firmware...)
	}
	slices.Sort(fw)
	return slices.Compact(fw)
}
