// Package bls reads Boot Loader Specification entries of type 1, the text files
// below loader/entries that systemd-boot and Fedora's GRUB boot from
// (https://uapi-group.org/specifications/specs/boot_loader_specification/).
package bls

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/teeth-metal/teeth/kexec/internal/rootfs"
)

const (
	maxEntry = 64 << 10  // bytes of one entry file
	maxDir   = 256 << 10 // bytes of all entry files in a directory; real ones are half a kilobyte each
)

// Entry is one bootable thing. Paths are as written: relative to the root of
// the file system that the entry lies on.
type Entry struct {
	ID        string // file name without ".conf" and the count of tries
	Title     string
	Version   string
	MachineID string
	SortKey   string
	Linux     string
	Initrds   []string // in order, one line each; GRUB allows several paths in a line
	Options   []string // one for each line
	EFI       string   // path of an EFI program, such as a UKI, to start instead of Linux
	Bad       bool     // boot counting has used up its tries
}

// Name returns what a menu would show.
func (e Entry) Name() string { return cmp.Or(e.Title, e.ID) }

// Parse reads the entry in file name. It accepts anything: lines that it does
// not know are for other loaders.
func Parse(name string, text []byte) Entry {
	var e Entry
	e.ID, e.Bad = splitTries(strings.TrimSuffix(path.Base(name), ".conf"))
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		i := strings.IndexAny(line, " \t")
		if i < 0 || line[0] == '#' {
			continue
		}
		key, value := line[:i], strings.TrimSpace(line[i:])
		switch key {
		case "title":
			e.Title = value
		case "version":
			e.Version = value
		case "machine-id":
			e.MachineID = value
		case "sort-key":
			e.SortKey = value
		case "linux":
			e.Linux = value
		case "initrd":
			e.Initrds = append(e.Initrds, value)
		case "options":
			e.Options = append(e.Options, value)
		case "efi", "uki":
			e.EFI = value
		}
	}
	return e
}

// splitTries takes the boot counter ("name+LEFT" or "name+LEFT-DONE") off id.
func splitTries(id string) (name string, bad bool) {
	i := strings.LastIndexByte(id, '+')
	if i <= 0 {
		return id, false
	}
	left, done, two := strings.Cut(id[i+1:], "-")
	n, err := strconv.ParseUint(left, 10, 16)
	if err != nil {
		return id, false
	}
	if two {
		if _, err := strconv.ParseUint(done, 10, 16); err != nil {
			return id, false
		}
	}
	return id[:i], n == 0
}

// ReadDir returns the entries in dir, in no order. Entries that cannot be read
// are left out and named in skipped.
func ReadDir(fsys fs.FS, dir string) (entries []Entry, skipped []error, err error) {
	names, err := rootfs.Names(fsys, dir)
	if err != nil {
		return nil, nil, err
	}
	slices.Sort(names)
	total := 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".conf") || name[0] == '.' {
			continue
		}
		file := path.Join(dir, name)
		text, err := rootfs.ReadFile(fsys, file, maxEntry)
		if err != nil {
			skipped = append(skipped, fmt.Errorf("boot entry: %w", err))
			continue
		}
		if total += len(text); total > maxDir {
			skipped = append(skipped, fmt.Errorf("boot entries in %s: more than %d bytes, from %s on they are left out", dir, maxDir, name))
			break
		}
		entries = append(entries, Parse(name, text))
	}
	return entries, skipped, nil
}

// Sort puts first what systemd-boot would put first: entries with a sort key by
// sort key, machine and falling version, then the others by falling name;
// entries whose tries are used up go last.
func Sort(entries []Entry) {
	slices.SortStableFunc(entries, func(a, b Entry) int {
		if c := cmpBool(a.Bad, b.Bad); c != 0 {
			return c
		}
		if c := cmpBool(a.SortKey == "", b.SortKey == ""); c != 0 {
			return c
		}
		if a.SortKey != "" {
			if c := cmp.Or(
				cmp.Compare(a.SortKey, b.SortKey),
				cmp.Compare(a.MachineID, b.MachineID),
				CompareVersions(b.Version, a.Version)); c != 0 {
				return c
			}
		}
		return CompareVersions(b.ID, a.ID)
	})
}

func cmpBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// CompareVersions orders version strings by the UAPI group's version format
// specification, which agrees with rpm on what distributions use.
func CompareVersions(a, b string) int {
	for {
		a, b = strings.TrimLeftFunc(a, ignored), strings.TrimLeftFunc(b, ignored)
		// A tilde sorts before everything, even the end.
		if c, done := separator(&a, &b, '~'); done {
			if c != 0 {
				return c
			}
			continue
		}
		if a == "" || b == "" {
			return cmp.Compare(min(len(a), 1), min(len(b), 1))
		}
		separated := false
		for _, sep := range []byte{'-', '^', '.'} {
			c, done := separator(&a, &b, sep)
			if c != 0 {
				return c
			}
			if done {
				separated = true
				break
			}
		}
		if separated {
			continue
		}
		if isDigit(a[0]) || isDigit(b[0]) {
			x, y := span(&a, isDigit), span(&b, isDigit)
			if c := cmpBool(x != "", y != ""); c != 0 {
				return c
			}
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); c != 0 {
				return c
			}
			continue
		}
		x, y := span(&a, isAlpha), span(&b, isAlpha)
		if c := cmp.Compare(x, y); c != 0 {
			return c
		}
	}
}

// separator compares where only one of a and b starts with sep (that one is
// less), and takes it off both where both do. done says that sep was there.
func separator(a, b *string, sep byte) (c int, done bool) {
	x, y := *a != "" && (*a)[0] == sep, *b != "" && (*b)[0] == sep
	if !x && !y {
		return 0, false
	}
	if x && y {
		*a, *b = (*a)[1:], (*b)[1:]
		return 0, true
	}
	return cmpBool(!x, !y), true
}

func span(s *string, class func(byte) bool) string {
	i := 0
	for i < len(*s) && class((*s)[i]) {
		i++
	}
	head := (*s)[:i]
	*s = (*s)[i:]
	return head
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isAlpha(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func ignored(r rune) bool {
	return r > 127 || !isDigit(byte(r)) && !isAlpha(byte(r)) && !strings.ContainsRune("~-^.", r)
}
