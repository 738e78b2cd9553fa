package grub

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/teeth-metal/teeth/kexec/internal/rootfs"
)

const maxInitrds = 64

// What changes only the looks of the menu, asks the user, or writes to the disk
// does nothing here and succeeds.
var ignored = words(`insmod rmmod export true echo sleep loadfont terminal_input terminal_output terminal serial
	play background_image background_color clear password password_pbkdf2 save_env videoinfo
	increment decrement cutmem badram acpi outb outw outl keymap nativedisk hdparm parttool`)

// What starts something else than Linux.
var foreign = words(`chainloader multiboot multiboot2 module module2 xen_hypervisor xen_module ntldr freedos
	fwsetup appleloader kfreebsd knetbsd kopenbsd legacy_kernel`)

func words(s string) map[string]bool {
	set := make(map[string]bool)
	for _, w := range strings.Fields(s) {
		set[w] = true
	}
	return set
}

func (m *machine) command(c command) error {
	args, err := m.expand(c.words)
	if err != nil || len(args) == 0 {
		return err
	}
	name, args := args[0], args[1:]
	if name == "!" && len(args) > 0 {
		c.words = c.words[1:]
		err := m.command(c)
		m.ok(m.status != 0)
		return err
	}
	if body, ok := m.funcs[name]; ok {
		return m.function(body, args)
	}
	switch name {
	case "set":
		return m.setCommand(args)
	case "unset":
		for _, a := range args {
			m.unset(a)
		}
		m.ok(true)
	case "test":
		m.ok(m.test(args))
	case "[":
		n := len(args)
		m.ok(n > 0 && args[n-1] == "]" && m.test(args[:max(n-1, 0)]))
	case "false":
		m.ok(false)
	case "return":
		if m.ok(true); len(args) > 0 {
			m.status, _ = strconv.Atoi(args[0])
		}
		if m.scopes == 0 { // GRUB complains, and goes on
			m.ok(false)
			return nil
		}
		return errReturn
	case "break", "continue":
		switch {
		case m.loops == 0:
			m.ok(false)
			return nil
		case name == "break":
			return errBreak
		}
		return errContinue
	case "shift":
		m.ok(len(m.params) > 0)
		m.params = m.params[min(1, len(m.params)):]
	case "setparams":
		m.params = args
		m.ok(true)
	case "menuentry", "submenu":
		return m.addEntry(c, name, args)
	case "blscfg":
		return m.blscfg()
	case "search", "search.fs_uuid", "search.fs_label", "search.file":
		return m.search(name, args)
	case "probe":
		return m.probe(args)
	case "load_env":
		return m.loadEnv(args)
	case "linux", "linux16", "linuxefi":
		m.kernel(name, args)
	case "initrd", "initrd16", "initrdefi":
		m.initrd(name, args)
	case "boot":
		if m.linux == nil && m.other == "" {
			m.ok(false)
			return nil
		}
		return errBoot
	case "exit", "halt", "reboot":
		m.linux, m.other = nil, name
		return errBoot
	case "source", ".", "configfile", "normal", "extract_entries_configfile":
		return m.include(name, args)
	default:
		switch key, value, ok := strings.Cut(name, "="); {
		case ok:
			m.ok(true)
			return m.set(key, value)
		case foreign[name]:
			m.other = name
			m.ok(true)
		default:
			m.ok(ignored[name]) // an unknown command fails, and GRUB goes on
		}
	}
	return nil
}

func (m *machine) ok(yes bool) {
	m.status = 1
	if yes {
		m.status = 0
	}
}

func (m *machine) setCommand(args []string) error {
	m.ok(true)
	if len(args) == 0 {
		return nil
	}
	key, value, ok := strings.Cut(args[0], "=")
	if !ok {
		m.ok(false)
		return nil
	}
	return m.set(key, value)
}

func (m *machine) include(name string, args []string) error {
	var file string
	switch {
	case len(args) > 0:
		file = args[0]
	case name == "normal":
		file = m.vars["prefix"] + "/grub.cfg"
	default:
		m.ok(false)
		return nil
	}
	var err error
	if name == "source" || name == "." || name == "extract_entries_configfile" {
		err = m.source(file)
	} else {
		err = m.config(file)
	}
	if err == nil || errors.Is(err, errMenu) || errors.Is(err, errBoot) || errors.Is(err, errLimit) ||
		isJump(err) || m.ctx.Err() != nil {
		return err
	}
	// GRUB prints that it cannot read the file, and goes on.
	if m.unread == nil {
		m.unread = fmt.Errorf("%s %.200s: %w", name, file, err)
	}
	m.ok(false)
	return nil
}

// search sets a variable to the volume with the given UUID, label or file.
func (m *machine) search(name string, args []string) error {
	kind, key := strings.TrimPrefix(name, "search."), "root"
	setVar := kind != "search" // search.fs_uuid UUID VAR HINT…
	var rest []string
	for i := 0; i < len(args); i++ {
		opt, value, has := strings.Cut(args[i], "=")
		switch {
		case opt == "--fs-uuid" || opt == "-u":
			kind = "fs_uuid"
		case opt == "--label" || opt == "--fs-label" || opt == "-l":
			kind = "fs_label"
		case opt == "--part-uuid" || opt == "--partuuid" || opt == "-p":
			kind = "part_uuid"
		case opt == "--file" || opt == "-f":
			kind = "file"
		case opt == "--set" || opt == "-s":
			setVar = true
			if has && value != "" {
				key = value
			}
		case strings.HasPrefix(opt, "--hint") || opt == "-h":
			if !has {
				i++
			}
		case strings.HasPrefix(opt, "-"):
		default:
			rest = append(rest, args[i])
		}
	}
	if len(rest) == 0 {
		m.ok(false)
		return nil
	}
	want := rest[0]
	if len(rest) > 1 {
		if name == "search" { // the old form: --set VAR NAME
			key, want = rest[0], rest[1]
		} else {
			key = rest[1]
		}
	}
	for _, v := range m.vols {
		var found bool
		switch kind {
		case "fs_uuid":
			found = strings.EqualFold(v.UUID, want)
		case "part_uuid":
			found = strings.EqualFold(v.PartUUID, want)
		case "fs_label":
			found = v.Label == want
		case "file":
			_, err := rootfs.Size(v.FS, rootfs.Clean(want))
			found = err == nil
		}
		if found && want != "" {
			m.ok(true)
			if !setVar {
				return nil
			}
			return m.set(key, v.Name)
		}
	}
	m.ok(false)
	return nil
}

// probe sets a variable to a property of a device.
func (m *machine) probe(args []string) error {
	var key, what, device string
	for i := 0; i < len(args); i++ {
		opt, value, has := strings.Cut(args[i], "=")
		switch {
		case opt == "--set" && has:
			key = value
		case (opt == "--set" || opt == "-s") && i+1 < len(args):
			i++
			key = args[i]
		case strings.HasPrefix(opt, "-"):
			what = opt
		default:
			device = strings.Trim(args[i], "()")
		}
	}
	v := m.volume(device)
	m.ok(v != nil)
	if v == nil {
		return nil
	}
	var value string
	switch what {
	case "--fs-uuid", "-u":
		value = v.UUID
	case "--label", "-l":
		value = v.Label
	case "--fs", "-f":
		value = v.Type
	case "--part-uuid":
		value = v.PartUUID
	default:
		m.ok(false)
		return nil
	}
	if key == "" {
		return nil
	}
	return m.set(key, value)
}

// kernel is the linux command.
func (m *machine) kernel(name string, args []string) {
	m.linux, m.initrds = nil, nil
	if len(args) == 0 {
		m.fail(fmt.Errorf("%s: no kernel named", name))
		return
	}
	f, err := m.bootFile(args[0])
	if err != nil {
		m.fail(fmt.Errorf("%s: %w", name, err))
		return
	}
	m.linux = &f
	line := []string{"BOOT_IMAGE=" + args[0]}
	for _, a := range args[1:] {
		line = append(line, quote(a))
	}
	m.cmdline = strings.Join(line, " ")
	m.ok(true)
}

func (m *machine) initrd(name string, args []string) {
	m.initrds = nil
	for _, a := range args {
		if len(m.initrds) == maxInitrds {
			m.fail(fmt.Errorf("%s: more than %d files", name, maxInitrds))
			return
		}
		f, err := m.bootFile(a)
		if err != nil {
			m.fail(fmt.Errorf("%s: %w", name, err))
			return
		}
		m.initrds = append(m.initrds, f)
	}
	m.ok(len(args) > 0)
}

// fail keeps the first error only: a script can fail a hundred thousand times.
func (m *machine) fail(err error) {
	if m.failed == nil {
		m.failed = err
	}
	m.ok(false)
}

// bootFile resolves name and sees that the file is there.
func (m *machine) bootFile(name string) (File, error) {
	f, err := m.resolve(name)
	if err != nil {
		return f, err
	}
	if _, err := rootfs.Size(f.Volume.FS, f.Path); err != nil {
		return f, fmt.Errorf("(%s): %w", f.Volume.Name, err)
	}
	return f, nil
}

// quote writes an argument on the kernel's command line as GRUB does.
func quote(arg string) string {
	var b strings.Builder
	for i := range len(arg) {
		if strings.IndexByte(`\'"`, arg[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(arg[i])
	}
	if strings.IndexByte(arg, ' ') >= 0 {
		return `"` + b.String() + `"`
	}
	return b.String()
}
