package kexec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/teeth-metal/teeth/kexec/internal/bls"
	"github.com/teeth-metal/teeth/kexec/internal/rootfs"
)

const (
	maxSections = 96       // the limit of Windows' loader, too
	maxText     = 64 << 10 // bytes of .cmdline or .osrel
)

// uki is a unified kernel image: a PE file with kernel, initrds and command
// line in sections (https://uapi-group.org/specifications/specs/unified_kernel_image/).
type uki struct {
	linux   piece
	initrds []piece  // .ucode before .initrd, as systemd-stub orders them
	names   []string // of initrds
	cmdline string
	entry   bls.Entry // what it sorts by
}

// readUKI reads the section table of name. It returns nil, nil where the file is
// an EFI program but no UKI.
func readUKI(fsys fs.FS, name string) (*uki, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	at, ok := f.(io.ReaderAt)
	if !ok || !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a plain file", name)
	}
	sections, err := peSections(at, st.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	u := &uki{entry: bls.Parse(strings.TrimSuffix(name, ".efi"), nil)}
	var ucode, initrd *piece
	for _, s := range sections {
		if s.name == ".profile" {
			break // what follows belongs to alternative profiles
		}
		p := piece{fsys: fsys, name: name, off: s.off, size: s.size, part: true}
		switch s.name {
		case ".linux":
			u.linux = p
		case ".ucode":
			ucode = &p
		case ".initrd":
			initrd = &p
		case ".cmdline":
			text, err := p.text()
			if err != nil {
				return nil, err
			}
			u.cmdline = strings.TrimSpace(text)
		case ".osrel":
			text, err := p.text()
			if err != nil {
				return nil, err
			}
			u.osRelease(text)
		}
	}
	if !u.linux.part {
		return nil, nil
	}
	if ucode != nil && ucode.size > 0 {
		u.initrds, u.names = append(u.initrds, *ucode), append(u.names, name+":.ucode")
	}
	if initrd != nil && initrd.size > 0 {
		u.initrds, u.names = append(u.initrds, *initrd), append(u.names, name+":.initrd")
	}
	return u, nil
}

// text reads a short section, up to a NUL.
func (p piece) text() (string, error) {
	if p.size > maxText {
		return "", fmt.Errorf("%s: a text section larger than %d bytes", p.name, maxText)
	}
	r, f, _, err := p.open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, p.size)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", fmt.Errorf("%s: %w", p.name, err)
	}
	text, _, _ := strings.Cut(string(b), "\x00")
	return text, nil
}

// osRelease takes from .osrel what systemd-boot sorts and shows a UKI by.
func (u *uki) osRelease(text string) {
	v := make(map[string]string)
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			v[key] = strings.Trim(value, `"'`)
		}
	}
	first := func(keys ...string) string {
		for _, k := range keys {
			if v[k] != "" {
				return v[k]
			}
		}
		return ""
	}
	u.entry.Title = first("PRETTY_NAME", "NAME", "ID")
	u.entry.SortKey = first("IMAGE_ID", "ID")
	u.entry.Version = first("IMAGE_VERSION", "VERSION_ID", "BUILD_ID", "VERSION")
}

type section struct {
	name      string
	off, size int64
}

// peSections reads the section table of a PE file of the given size (Microsoft,
// "PE Format"). Sections that reach past the end of the file are an error.
func peSections(f io.ReaderAt, size int64) ([]section, error) {
	le := binary.LittleEndian
	read := func(off int64, n int) ([]byte, error) {
		b := make([]byte, n)
		if off < 0 || off+int64(n) > size {
			return nil, errors.New("not an EFI program: too short")
		}
		_, err := f.ReadAt(b, off)
		if err == io.EOF {
			err = nil // ReadAt may say so at the very end
		}
		return b, err
	}
	dos, err := read(0, 64)
	if err != nil {
		return nil, err
	}
	pe := int64(le.Uint32(dos[0x3c:]))
	if string(dos[:2]) != "MZ" {
		return nil, errors.New("not an EFI program: no MZ header")
	}
	coff, err := read(pe, 24)
	if err != nil {
		return nil, err
	}
	if string(coff[:4]) != "PE\x00\x00" {
		return nil, errors.New("not an EFI program: no PE header")
	}
	n := int(le.Uint16(coff[6:]))
	if n > maxSections {
		return nil, fmt.Errorf("%d sections, at most %d are allowed", n, maxSections)
	}
	const entrySize = 40
	table, err := read(pe+24+int64(le.Uint16(coff[20:])), n*entrySize)
	if err != nil {
		return nil, err
	}
	sections := make([]section, 0, n)
	for i := range n {
		e := table[i*entrySize:]
		s := section{name: strings.TrimRight(string(e[:8]), "\x00"), off: int64(le.Uint32(e[20:]))}
		// The raw size is padded to the file's alignment, the virtual size is not.
		s.size = int64(min(le.Uint32(e[8:]), le.Uint32(e[16:])))
		if s.off+s.size > size {
			return nil, fmt.Errorf("section %q reaches past the end of the file", s.name)
		}
		sections = append(sections, s)
	}
	return sections, nil
}

func ukiTarget(p *Partition, name string, u *uki) *Target {
	return &Target{
		Source: "uki", Title: u.entry.Name(), Device: p.Device, Config: name,
		Kernel: name + ":.linux", Initrds: u.names, Cmdline: u.cmdline,
		kernel: u.linux, initrds: u.initrds,
	}
}

// defaultUKI looks for a UKI where firmware looks for a boot loader.
func (f *finder) defaultUKI() (*Target, error) {
	for i := range f.parts {
		p := &f.parts[i]
		if p.FSType != "vfat" {
			continue
		}
		names, err := rootfs.Names(p.FS, "EFI/BOOT")
		if err != nil {
			continue
		}
		for _, n := range sorted(names) {
			if !isEFI(n) {
				continue
			}
			file := "EFI/BOOT/" + n
			u, err := readUKI(p.FS, file)
			if err != nil {
				f.skip(p, err)
			} else if u != nil {
				return ukiTarget(p, file, u), nil
			}
		}
	}
	return nil, nil
}
