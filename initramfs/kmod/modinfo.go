// Package kmod reads a tree of Linux kernel modules, chooses some of them with
// everything they depend on, and writes the index files (modules.dep and its
// siblings, depmod(8)) for just that choice.
//
// It reads the .modinfo section of the modules themselves, so that neither
// depmod nor a running kernel of that version is needed, and its output depends
// on nothing but its input.
package kmod

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// maxModinfo bounds the .modinfo section; the largest of Debian 12 is 60 KiB.
const maxModinfo = 4 << 20

// Info is what a module says about itself in its .modinfo section.
type Info struct {
	Name     string // empty in modules older than Linux 4.13
	Version  string
	Vermagic string
	Depends  []string // modules whose symbols it uses
	Pre      []string // soft dependencies to load before it, if there are any
	Post     []string // soft dependencies to load after it
	Alias    []string // patterns of modaliases it serves
	Firmware []string // files below /lib/firmware, may hold wildcards
}

// ReadInfo reads the .modinfo section of an uncompressed module.
func ReadInfo(r io.ReaderAt) (Info, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return Info{}, fmt.Errorf("not a kernel module: %w", err)
	}
	s := f.Section(".modinfo")
	if s == nil {
		return Info{}, errors.New("not a kernel module: no .modinfo section")
	}
	if s.Size > maxModinfo || s.FileSize > maxModinfo {
		return Info{}, fmt.Errorf(".modinfo section of %d bytes is more than %d", s.Size, maxModinfo)
	}
	if s.Type == elf.SHT_NOBITS || s.Flags&elf.SHF_COMPRESSED != 0 {
		return Info{}, errors.New(".modinfo section holds no plain bytes")
	}
	b, err := s.Data()
	if err != nil {
		return Info{}, fmt.Errorf("read .modinfo: %w", err)
	}
	return ParseInfo(b)
}

// ParseInfo reads the content of a .modinfo section: NUL-terminated strings of
// the form key=value. Keys it has no use for are skipped; values that would
// break out of the text files or the directories they end up in are an error.
func ParseInfo(b []byte) (Info, error) {
	var m Info
	for field := range bytes.SplitSeq(b, []byte{0}) {
		key, value, ok := strings.Cut(string(field), "=")
		if !ok {
			continue // padding
		}
		if err := m.set(key, value); err != nil {
			return Info{}, fmt.Errorf("modinfo %s=%q: %w", key, value, err)
		}
	}
	return m, nil
}

func (m *Info) set(key, value string) error {
	switch key {
	case "name":
		if !validName(value) {
			return errors.New("not a module name")
		}
		m.Name = canonical(value)
	case "version":
		m.Version = strings.ToValidUTF8(value, "?")
	case "vermagic":
		m.Vermagic = strings.ToValidUTF8(value, "?")
	case "depends":
		for d := range strings.SplitSeq(value, ",") {
			if d == "" {
				continue
			}
			if !validName(d) {
				return fmt.Errorf("%q is not a module name", d)
			}
			m.Depends = append(m.Depends, canonical(d))
		}
	case "softdep":
		return m.setSoft(value)
	case "alias":
		if !validWord(value) {
			return errors.New("an alias is one word of printable ASCII")
		}
		m.Alias = append(m.Alias, value)
	case "firmware":
		if value == "" {
			return nil // parameter of a driver configured without
		}
		if !validWord(value) || !fs.ValidPath(value) {
			return errors.New("not a path below the firmware directory")
		}
		m.Firmware = append(m.Firmware, value)
	}
	return nil
}

// setSoft reads "pre: a b post: c", as modprobe.d(5) has it.
func (m *Info) setSoft(value string) error {
	var list *[]string
	for _, w := range strings.Fields(value) {
		switch {
		case w == "pre:":
			list = &m.Pre
		case w == "post:":
			list = &m.Post
		case list == nil:
			// Words in front of either are without effect in modprobe too; cifs
			// has some.
		case !validWord(w):
			return fmt.Errorf("%q is neither a module nor an alias", w)
		default:
			*list = append(*list, w) // dashes count: it may be an alias
		}
	}
	return nil
}

// canonical is the name under which the kernel knows a module: dashes and
// underscores are the same in file names, /proc/modules has only underscores.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func validName(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && !strings.ContainsRune("_-.+()", rune(c)) {
			return false
		}
	}
	return true
}

func validWord(s string) bool {
	if s == "" || len(s) > 1024 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
