// Package grub works out what a GRUB configuration would boot without a hand on
// the keyboard: it runs the script as GRUB does, on the file systems of one
// disk, and returns the default entry.
//
// It knows the part of the language that grub-mkconfig, blscfg and image
// builders emit (GNU GRUB manual 2.12, "Writing your own configuration file").
// The script is hostile: steps, sizes and nesting are bounded, nothing is
// written, and only the volumes handed in are read.
package grub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/teeth-metal/teeth/kexec/internal/rootfs"
)

// ErrNotLinux is wrapped where the default entry starts something else than a
// Linux kernel: another boot loader, a hypervisor, the firmware's setup.
var ErrNotLinux = errors.New("the default entry does not start a Linux kernel")

// ErrNoEntry is wrapped where the configuration offers nothing to boot.
var ErrNoEntry = errors.New("no menu entry")

// Volume is one file system of the disk.
type Volume struct {
	FS       fs.FS
	Name     string // as GRUB calls it: "hd0,gpt2"
	Type     string // "ext2", "xfs", "btrfs", "fat" …, as GRUB's probe says
	UUID     string // of the file system
	Label    string
	PartUUID string
}

// File is a file on a volume. Path is one that FS takes.
type File struct {
	Volume *Volume
	Path   string
}

// Choice is what would be booted.
type Choice struct {
	Title   string
	BLS     bool // from a Boot Loader Specification entry
	Kernel  File
	Initrds []File
	Cmdline string
}

// Run runs the configuration file at path on vol, one of vols. platform is
// GRUB's $grub_platform, "pc" or "efi".
func Run(ctx context.Context, vols []*Volume, vol *Volume, file, platform string) (*Choice, error) {
	cpu := "i386"
	if platform == "efi" {
		cpu = "x86_64"
	}
	m := &machine{ctx: ctx, vols: vols, vars: make(map[string]string), funcs: make(map[string]script), menu: new(menu)}
	for k, v := range map[string]string{
		"root": vol.Name, "prefix": "(" + vol.Name + ")/" + path.Dir(file), "cmdpath": "(" + vol.Name + ")/" + path.Dir(file),
		"grub_platform": platform, "grub_cpu": cpu,
		// What GRUB 2.02 and later set, and grub-mkconfig asks for.
		"feature_menuentry_id": "y", "feature_menuentry_options": "y", "feature_platform_search_hint": "y",
		"feature_default_font_path": "y", "feature_all_video_module": "y", "feature_timeout_style": "y",
		"feature_chainloader_bpb": "y", "feature_ntldr": "y", "feature_200_final": "y", "feature_nativedisk_cmd": "y",
	} {
		if err := m.set(k, v); err != nil {
			return nil, err
		}
	}
	err := m.config("(" + vol.Name + ")/" + file)
	if err != nil && !errors.Is(err, errMenu) {
		if errors.Is(err, errBoot) {
			return m.choice("")
		}
		return nil, err
	}
	return m.boot()
}

// boot runs the default entry of the current menu, then its fallbacks.
func (m *machine) boot() (*Choice, error) {
	wanted := append([]string{m.vars["default"]}, strings.Fields(m.vars["fallback"])...)
	var errs []error
	for i, w := range wanted {
		if i > 8 {
			break
		}
		menu := *m.menu
		c, err := m.entry(&menu, w, "", 0)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
		if m.ctx.Err() != nil || errors.Is(err, errLimit) {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// entry runs the entry of mn that wanted ("2", "title", "id" or
// "submenu>entry") names.
func (m *machine) entry(mn *menu, wanted, path string, depth int) (*Choice, error) {
	if len(mn.entries) == 0 {
		if m.unread != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoEntry, m.unread)
		}
		return nil, ErrNoEntry
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: menus within each other", errLimit)
	}
	name, rest := splitPath(wanted)
	e := mn.entries[mn.index(name)]
	title := path + e.title
	if e.bls != nil {
		return m.bootBLS(e, title)
	}
	m.linux, m.initrds, m.failed, m.other = nil, nil, nil, ""
	if err := m.set("chosen", title); err != nil {
		return nil, err
	}
	if e.submenu {
		outer := m.menu
		m.menu = new(menu)
		defer func() { m.menu = outer }()
		if err := m.set("default", rest); err != nil {
			return nil, err
		}
	}
	params := m.params
	m.params = e.params
	err := m.run(e.body)
	m.params = params
	switch {
	case errors.Is(err, errMenu): // the entry was a configfile command
		return m.boot()
	case err != nil && !errors.Is(err, errBoot):
		return nil, fmt.Errorf("menu entry %q: %w", title, err)
	case e.submenu && err == nil:
		return m.entry(m.menu, m.vars["default"], title+">", depth+1)
	}
	return m.choice(title)
}

// choice returns what the commands run so far have loaded.
func (m *machine) choice(title string) (*Choice, error) {
	switch {
	case m.failed != nil:
		return nil, fmt.Errorf("menu entry %q: %w", title, m.failed)
	case m.linux == nil && m.other != "":
		return nil, fmt.Errorf("menu entry %q uses %q: %w", title, m.other, ErrNotLinux)
	case m.linux == nil:
		return nil, fmt.Errorf("menu entry %q: %w", title, ErrNotLinux)
	}
	return &Choice{Title: title, Kernel: *m.linux, Initrds: m.initrds, Cmdline: m.cmdline}, nil
}

// splitPath splits "submenu>entry"; a doubled ">" stands for itself.
func splitPath(s string) (head, rest string) {
	for i := 0; i < len(s); i++ {
		if s[i] != '>' {
			continue
		}
		if i+1 < len(s) && s[i+1] == '>' {
			i++
			continue
		}
		return strings.ReplaceAll(s[:i], ">>", ">"), s[i+1:]
	}
	return strings.ReplaceAll(s, ">>", ">"), ""
}

// resolve turns a path in GRUB's notation, "(hd0,gpt2)/boot/x" or "/boot/x"
// below $root, into a file.
func (m *machine) resolve(name string) (File, error) {
	device := m.vars["root"]
	if strings.HasPrefix(name, "(") {
		i := strings.IndexByte(name, ')')
		if i < 0 {
			return File{}, fmt.Errorf("%.100q: the name of the device is not closed", name)
		}
		device, name = name[1:i], name[i+1:]
	} else if !strings.HasPrefix(name, "/") {
		return File{}, fmt.Errorf("%.100q: not an absolute path", name)
	}
	v := m.volume(device)
	if v == nil {
		return File{}, fmt.Errorf("%.100q: device %.60q is not a file system on this disk that can be read", name, device)
	}
	return File{v, rootfs.Clean(name)}, nil
}

// volume finds what GRUB calls name: "hd0,gpt2", "hd0,msdos2", "hd0,2".
func (m *machine) volume(name string) *Volume {
	for _, v := range m.vols {
		if v.Name == name {
			return v
		}
	}
	disk, part, ok := strings.Cut(name, ",")
	if !ok {
		return nil
	}
	number := strings.TrimPrefix(strings.TrimPrefix(part, "gpt"), "msdos")
	for _, v := range m.vols {
		vdisk, vpart, _ := strings.Cut(v.Name, ",")
		if vdisk == disk && strings.TrimLeft(vpart, "gptmsdo") == number {
			return v
		}
	}
	return nil
}
