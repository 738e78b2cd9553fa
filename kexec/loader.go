package kexec

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/teeth-metal/teeth/kexec/internal/bls"
	"github.com/teeth-metal/teeth/kexec/internal/grub"
	"github.com/teeth-metal/teeth/kexec/internal/rootfs"
)

const (
	maxInitrds = 64  // files of one entry
	maxUKIs    = 128 // looked at on all file systems; each may keep 2 * maxText bytes
)

func sorted(names []string) []string { slices.Sort(names); return names }

func isEFI(name string) bool { return strings.EqualFold(path.Ext(name), ".efi") }

func exists(fsys fs.FS, name string) bool {
	_, err := rootfs.Size(fsys, name)
	return err == nil
}

// candidate is an entry of systemd-boot's menu.
type candidate struct {
	bls.Entry
	part *Partition
	file string // the .conf or .efi
	uki  *uki
	root string // what Entry's paths are relative to
}

// systemdBoot looks where systemd-boot would, if one is installed: at entries
// and UKIs on the EFI system partition and the extended boot loader partition.
func (f *finder) systemdBoot() (*Target, error) {
	installed := false
	f.ukisRead = 0
	var list []candidate
	for i := range f.parts {
		p := &f.parts[i]
		if p.FSType != "vfat" { // the firmware that systemd-boot reads with knows no other
			continue
		}
		if rootfs.IsDir(p.FS, "EFI/systemd") || exists(p.FS, "loader/loader.conf") || exists(p.FS, "loader/entries.srel") {
			installed = true
		}
		list = append(list, f.entries(p, "loader/entries", ".")...)
		list = append(list, f.ukis(p)...)
	}
	if !installed {
		return nil, nil
	}
	return f.choose(list), nil
}

// bareEntries looks at entries and UKIs that lie there with no loader that we
// know.
func (f *finder) bareEntries() (*Target, error) {
	f.ukisRead = 0
	var list []candidate
	for i := range f.parts {
		p := &f.parts[i]
		list = append(list, f.entries(p, "loader/entries", ".")...)
		// Paths are relative to the file system; written for a separate /boot they
		// are found below boot.
		list = append(list, f.entries(p, "boot/loader/entries", "boot")...)
		list = append(list, f.ukis(p)...)
	}
	return f.choose(list), nil
}

func (f *finder) entries(p *Partition, dir, root string) []candidate {
	entries, skipped, err := bls.ReadDir(p.FS, dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.skip(p, err)
	}
	for _, err := range skipped {
		f.skip(p, err)
	}
	var list []candidate
	for _, e := range entries {
		list = append(list, candidate{Entry: e, part: p, file: path.Join(dir, e.ID+".conf"), root: root})
	}
	return list
}

func (f *finder) ukis(p *Partition) []candidate {
	names, err := rootfs.Names(p.FS, "EFI/Linux")
	if err != nil {
		return nil
	}
	var list []candidate
	for _, n := range sorted(names) {
		if !isEFI(n) {
			continue
		}
		file := "EFI/Linux/" + n
		if f.ukisRead++; f.ukisRead > maxUKIs {
			f.skip(p, fmt.Errorf("%s: more than %d UKIs, the rest is left out", file, maxUKIs))
			break
		}
		u, err := readUKI(p.FS, file)
		switch {
		case err != nil:
			f.skip(p, err)
		case u != nil:
			list = append(list, candidate{Entry: u.entry, part: p, file: file, uki: u})
		}
	}
	return list
}

// choose takes the entry that loader.conf names as the default, else the first
// in systemd-boot's order; entries whose files are missing are passed over.
func (f *finder) choose(list []candidate) *Target {
	entries := make([]bls.Entry, len(list))
	byKey := make(map[string]candidate, len(list))
	for i, c := range list {
		entries[i] = c.Entry
		byKey[key(c.Entry)] = c
	}
	bls.Sort(entries)
	if pattern := f.defaultPattern(); pattern != "" {
		slices.SortStableFunc(entries, func(a, b bls.Entry) int {
			x, y := byKey[key(a)].matches(pattern), byKey[key(b)].matches(pattern)
			switch {
			case x && !y:
				return -1
			case y && !x:
				return 1
			}
			return 0
		})
	}
	for _, e := range entries {
		c := byKey[key(e)]
		t, err := f.target(c)
		if err == nil {
			err = t.check()
		}
		if err == nil {
			return t
		}
		f.skip(c.part, fmt.Errorf("%s: %w", c.file, err))
	}
	return nil
}

// key tells two entries apart; one of the same name on two partitions counts once.
func key(e bls.Entry) string { return e.ID + "\x00" + e.Title + "\x00" + e.Version }

func (c candidate) matches(pattern string) bool {
	suffix := path.Ext(c.file)
	for _, id := range []string{c.ID, c.ID + suffix, path.Base(c.file)} {
		if ok, err := path.Match(pattern, strings.ToLower(id)); err == nil && ok {
			return true
		}
	}
	return false
}

// defaultPattern returns the "default" of the first loader.conf, in lower case.
func (f *finder) defaultPattern() string {
	for i := range f.parts {
		p := &f.parts[i]
		text, err := rootfs.ReadFile(p.FS, "loader/loader.conf", maxText)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if w := strings.Fields(line); len(w) == 2 && w[0] == "default" && len(w[1]) < 256 {
				return strings.ToLower(w[1])
			}
		}
	}
	return ""
}

// target finds the files that an entry names.
func (f *finder) target(c candidate) (*Target, error) {
	if c.uki != nil {
		return ukiTarget(c.part, c.file, c.uki), nil
	}
	vars := f.grubenv(c.part)
	expand := func(s string) string { return strings.TrimSpace(grub.ExpandVariables(s, vars)) }
	options := expand(strings.Join(c.Options, " "))
	if c.Linux == "" {
		if c.EFI == "" {
			return nil, errors.New("names no kernel")
		}
		u, err := readUKI(c.part.FS, rootfs.Clean(c.EFI))
		if err != nil {
			return nil, err
		}
		if u == nil {
			return nil, fmt.Errorf("%s: starts no Linux kernel", c.EFI)
		}
		t := ukiTarget(c.part, rootfs.Clean(c.EFI), u)
		t.Title, t.Config = c.Name(), c.file
		if options != "" {
			t.Cmdline = options
		}
		return t, nil
	}
	t := &Target{Source: "bls", Title: c.Name(), Device: c.part.Device, Config: c.file, Cmdline: options}
	var err error
	if t.Kernel, t.kernel, err = c.find(expand(c.Linux)); err != nil {
		return nil, err
	}
	for _, line := range c.Initrds {
		for _, name := range strings.Fields(expand(line)) {
			if len(t.Initrds) == maxInitrds {
				return nil, fmt.Errorf("more than %d initrds", maxInitrds)
			}
			file, p, err := c.find(name)
			if err != nil {
				return nil, err
			}
			t.Initrds, t.initrds = append(t.Initrds, file), append(t.initrds, p)
		}
	}
	return t, nil
}

// find resolves a path of an entry.
func (c candidate) find(name string) (string, piece, error) {
	file := rootfs.Clean(name)
	p, err := wholeFile(c.part.FS, file)
	if err != nil && c.root != "." {
		below := path.Join(c.root, file)
		if p, err := wholeFile(c.part.FS, below); err == nil {
			return "/" + below, p, nil
		}
	}
	return "/" + file, p, err
}

// grubenv returns the variables that entries written for GRUB may use, such as
// $kernelopts.
func (f *finder) grubenv(p *Partition) map[string]string {
	for _, name := range []string{"grub2/grubenv", "boot/grub2/grubenv", "grub/grubenv", "boot/grub/grubenv"} {
		text, err := rootfs.ReadFile(p.FS, name, maxText)
		if err != nil {
			continue
		}
		if vars, ok := grub.ParseEnv(text); ok {
			return vars
		}
	}
	return nil
}
